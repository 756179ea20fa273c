"""Token rows -> sequences for a language model: audio only, text to audio, audio to text, and the two in turn.

    audio         <CODEC_BEGIN> code code .. <CODEC_END>
    tts           text <CODEC_BEGIN> code .. <CODEC_END>             targets: the audio
    tts_stream    N text tokens <CODEC_BEGIN> M codes, N text tokens, M codes, .. <CODEC_END>     targets: the audio
    tts_aligned   unit (and those that follow) <CODEC_BEGIN> its codes <CODEC_END>, unit .. its codes <CODEC_END>, ..
                  targets: the audio; needs times in the text (`data.timed_text`)
    asr           <CODEC_BEGIN> code .. <CODEC_END> text <eos>        targets: the text
    interleaved   clips of one speaker one after another, each randomly as text or as audio; targets: everything

With `voice_codes`, some speech of another clip of the speaker comes before the text: <CODEC_BEGIN> codes <CODEC_END>.

Nothing is dropped silently: sequences that do not fit are counted by reason (`Built.left_out`).
Test: `pytest tests/lm/test_sequences.py`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llmcodec.data.timed_text import timed_units, without_times
from llmcodec.io.digests import digest, digest_number
from llmcodec.lm.audio_tokens import AudioTokens
from llmcodec.transcode.flat_rows import FlatRow

FORMATS = ("audio", "tts", "tts_stream", "tts_aligned", "asr", "interleaved")
SPEAKS_TEXT = frozenset({"tts", "tts_stream", "tts_aligned"})
"""Formats that read a text and predict only audio."""
EMPTY_TEXT = "empty transcript"
TOO_LONG = "longer than the LM reads"
NO_SPEAKER = "no speaker is named, of whom other clips are needed"
NO_VOICE = "too little other speech of the speaker for a voice prompt"


def words_of(row: FlatRow) -> str:
    """The transcript without times and outer spaces."""
    return without_times(row.text).strip()


@dataclass(frozen=True)
class TokenSequence:
    """ids (L,) and loss positions: with `is_target[i]`, position i - 1 is trained to predict token i (never i = 0)."""

    ids: Tensor
    is_target: Tensor
    id: str

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Built:
    """Sequences, and the number of clips left out (or cut), by reason."""

    sequences: list[TokenSequence] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unit_codes: list[int] = field(default_factory=list)
    """Number of codes of every unit of tts_aligned."""
    units: set[str] = field(default_factory=set)
    """Names of the units of tts_aligned."""
    speakers: dict[tuple[str, str], list[FlatRow]] = field(default_factory=dict)
    """Clips by speaker and language, for voice prompts."""

    def report(self) -> str:
        """One line on what was left out; empty if nothing was."""
        return ", ".join(f"{count} x {reason}" for reason, count in sorted(self.left_out.items()))


@dataclass(frozen=True)
class SequenceBuilder:
    """Makes sequences for one language model.

    Args:
        max_tokens: longest sequence. Longer audio without text is cut into pieces; a text and its audio are kept whole
            or left out.
        text_template: template of a transcript; fields {text}, {speaker}, {language}.
        everywhere: loss at every position, not only on the target modality of the format.
        clips_per_sequence: clips in an interleaved sequence.
        seed: of the random choices.
        turns: text tokens and codes of a turn of tts_stream: the text stays a little ahead of the speech.
        units_ahead: units of tts_aligned that are read before their turn, besides the one to speak.
        voice_codes: codes of other clips of the speaker that come before a text to be spoken; whole frames.
        frame_rate, num_codebooks: of the codec; they determine where a unit of tts_aligned ends.
    """

    tokenizer: Any
    tokens: AudioTokens
    max_tokens: int
    text_template: str = "{text}"
    everywhere: bool = False
    clips_per_sequence: int = 4
    seed: int = 0
    turns: tuple[int, int] = (7, 20)
    units_ahead: int = 2
    frame_rate: float = 50.0
    num_codebooks: int = 1
    voice_codes: int = 0

    def build(self, rows: Iterable[FlatRow], formats: Sequence[str]) -> Built:
        """Build every clip once per format.

        Raises:
            ValueError: an unknown format, codes of another codec, or nothing left.
        """
        kept = list(rows)
        built = self.build_some(kept, formats)
        if not built.sequences:
            raise ValueError(f"no sequence for {', '.join(formats)} from {len(kept)} clips: {built.report() or 'none'}")
        return built

    def build_some(self, rows: Iterable[FlatRow], formats: Sequence[str]) -> Built:
        """As `build`, for a part of the clips, of which nothing may be left."""
        unknown = set(formats) - set(FORMATS)
        if unknown or not formats:
            raise ValueError(f"formats: {sorted(unknown) or 'none'} given; choose from {', '.join(FORMATS)}")
        kept = list(rows)
        built = Built()
        for row in kept if self.voice_codes else ():
            built.speakers.setdefault((row.speaker, row.language), []).append(row)
        for name in formats:
            if name == "interleaved":
                self._interleave(kept, built)
                continue
            for row in kept:
                if name == "audio":
                    self._audio(row, built)
                elif not words_of(row):
                    built.left_out[EMPTY_TEXT] += 1
                elif name == "tts_stream":
                    self._stream(row, built)
                elif name == "tts_aligned":
                    self._aligned(row, built)
                else:
                    self._pair(row, name, built)
        return built

    def text_ids(self, text: str, speaker: str = "", language: str = "") -> Tensor:
        """Token ids of a transcript in the template, without begin or end of text."""
        filled = self.text_template.format(text=without_times(text).strip(), speaker=speaker, language=language)
        return torch.tensor(self.tokenizer(filled, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    def text_turns(self, text: str, speaker: str = "", language: str = "") -> list[Tensor]:
        """Token ids of a transcript in turns of `turns[0]`; what the template puts before the text is in the first."""
        before, _, after = self.text_template.partition("{text}")
        text = without_times(text).strip()
        fields = {"text": text, "speaker": speaker, "language": language}
        ids = self.tokenizer(text + after.format(**fields), add_special_tokens=False)
        head = self.tokenizer(before.format(**fields), add_special_tokens=False)["input_ids"]
        turns = list(torch.tensor(ids["input_ids"], dtype=torch.int64).split(self.turns[0]))
        return [torch.cat([torch.tensor(head, dtype=torch.int64), turns[0]]), *turns[1:]]

    def unit_turns(self, units: Sequence[str], speaker: str = "", language: str = "") -> list[Tensor]:
        """Token ids read before each unit is spoken: the unit and the next `units_ahead`, in the template at first."""
        spoken = [" ".join(units[place : place + 1 + self.units_ahead]) for place in range(len(units))]
        spoken[0] = self.text_template.format(text=spoken[0], speaker=speaker, language=language)
        rows = self.tokenizer(spoken, add_special_tokens=False)["input_ids"]
        return [torch.tensor(row, dtype=torch.int64) for row in rows]

    def voice_ids(self, codes_T: Tensor) -> Tensor:
        """Token ids of a voice prompt."""
        return self._marked(self.tokens.ids(codes_T))

    def _voice_of(self, row: FlatRow, built: Built) -> Tensor | None:
        """Codes of a speaker's other clips, from a place that the clip's id chooses; None if they are too few. Views
        of the clip itself (ID#SAMPLES) are not other clips."""
        own = row.id.partition("#")[0]
        others = [one for one in built.speakers[row.speaker, row.language] if one.id.partition("#")[0] != own]
        found: list[Tensor] = []
        start = digest_number(f"{self.seed}:voice:{row.id}") % max(1, len(others))
        for one in [*others[start:], *others[:start]]:
            found.append(torch.as_tensor(one.codes).long())
            if sum(map(len, found)) >= self.voice_codes:
                return torch.cat(found)[: self.voice_codes]
        return None

    def audio_ids(self, row: FlatRow) -> Tensor:
        """Token ids of a clip's codes; ValueError names the clip whose codes are of another codec."""
        try:
            return self.tokens.ids(torch.as_tensor(row.codes))
        except ValueError as error:
            raise ValueError(f"clip {row.id}: {error}") from error

    def _audio(self, row: FlatRow, built: Built) -> None:
        ids = torch.cat([self.audio_ids(row), torch.tensor([self.tokens.end])])
        room = self.max_tokens - 1
        if len(ids) > room:
            built.left_out[f"clips cut into pieces of {room} tokens"] += 1
        begin = torch.tensor([self.tokens.begin])
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            if len(piece) == 1 and start:
                continue  # nothing but the end token
            whole = torch.cat([begin, piece])
            built.sequences.append(TokenSequence(whole, torch.arange(len(whole)) > 0, row.id))

    def _pair(self, row: FlatRow, name: str, built: Built) -> None:
        text = self.text_ids(row.text, row.speaker, row.language)
        audio = self._marked(self.audio_ids(row))
        if len(text) == 0:
            built.left_out[EMPTY_TEXT] += 1
        elif name == "tts":
            self._joined([(text, False), (audio[:1], False), (audio[1:], True)], row, built)
        else:
            parts = [(audio, False), (text, True), (torch.tensor([self._end_of_text()]), True)]
            self._joined(parts, row, built, speaks=False)

    def _stream(self, row: FlatRow, built: Built) -> None:
        text = self.text_turns(row.text, row.speaker, row.language)
        voice = list(self.audio_ids(row).split(self.turns[1]))
        begin, end = torch.tensor([self.tokens.begin]), torch.tensor([self.tokens.end])
        parts: list[tuple[Tensor, bool]] = [(text[0], False), (begin, False)]
        for turn, codes in enumerate(voice):
            if 0 < turn < len(text):
                parts.append((text[turn], False))
            parts.append((codes, True))
        parts.append((end, True))
        if self._joined(parts, row, built) and len(text) > len(voice):
            built.left_out["text cut where the speech had ended (shorter turns of text fit faster speakers)"] += 1

    def _aligned(self, row: FlatRow, built: Built) -> None:
        try:
            units = timed_units(row.text)
        except ValueError as error:
            raise ValueError(f"clip {row.id}: {error}") from error
        codes = self.audio_ids(row)
        frames = len(codes) // self.num_codebooks
        starts = [min(frames, round(time * self.frame_rate)) for _, time in units]
        if not units[-1][0]:
            units = units[:-1]
        bounds = [0, *starts[1 : len(units)], frames]  # what lies outside goes to the first and the last
        text = self.unit_turns([name for name, _ in units], row.speaker, row.language)
        end = torch.tensor([self.tokens.end])
        parts: list[tuple[Tensor, bool]] = []
        for turn, (first, last) in enumerate(pairwise(bounds)):
            parts.append((text[turn], False))
            if not turn:
                parts.append((torch.tensor([self.tokens.begin]), False))
            parts.append((torch.cat([codes[first * self.num_codebooks : last * self.num_codebooks], end]), True))
        if self._joined(parts, row, built):
            built.unit_codes += [(last - first) * self.num_codebooks for first, last in pairwise(bounds)]
            built.units.update(name for name, _ in units)

    def _joined(self, parts: Sequence[tuple[Tensor, bool]], row: FlatRow, built: Built, speaks: bool = True) -> bool:
        """Add one sequence of parts, each marked as target or not, behind a voice if it is to be spoken in one; False
        if it is too long, or there is no voice."""
        if speaks and self.voice_codes:
            voice = self._voice_of(row, built) if row.speaker else None
            if voice is None:
                built.left_out[NO_VOICE if row.speaker else NO_SPEAKER] += 1
                return False
            parts = [(self.voice_ids(voice), False), *parts]
        ids = torch.cat([part for part, _ in parts])
        if len(ids) > self.max_tokens:
            built.left_out[TOO_LONG] += 1
            return False
        is_target = torch.cat([torch.full((len(part),), spoken or self.everywhere) for part, spoken in parts])
        is_target[0] = False
        built.sequences.append(TokenSequence(ids, is_target, row.id))
        return True

    def _interleave(self, rows: Sequence[FlatRow], built: Built) -> None:
        speakers: dict[tuple[str, str, int], list[FlatRow]] = {}
        views: Counter[str] = Counter()
        for row in rows:
            if not row.speaker:
                built.left_out[NO_SPEAKER] += 1
                continue
            own = row.id.partition("#")[0]  # ID#SAMPLES are views of one clip; a sequence never repeats it
            speakers.setdefault((row.speaker, row.language, views[own]), []).append(row)
            views[own] += 1
        for clips in speakers.values():
            parts: list[Tensor] = []
            names: list[str] = []
            for row in clips:
                part = self._one_way(row)
                if len(part) > self.max_tokens:
                    built.left_out[TOO_LONG] += 1
                    continue
                full = sum(len(one) for one in parts) + len(part) > self.max_tokens
                if parts and (full or len(parts) == self.clips_per_sequence):
                    self._join(parts, names, built)
                    parts, names = [], []
                parts.append(part)
                names.append(row.id)
            if parts:
                self._join(parts, names, built)

    def _one_way(self, row: FlatRow) -> Tensor:
        """A clip as text or as audio; always audio if it has no text."""
        key = digest(f"{self.seed}:{row.id}")
        if words_of(row) and random.Random(key).random() < 0.5:
            return torch.cat([self.text_ids(row.text, row.speaker, row.language), torch.tensor([self._end_of_text()])])
        return self._marked(self.audio_ids(row))

    def _join(self, parts: list[Tensor], names: list[str], built: Built) -> None:
        ids = torch.cat(parts)
        built.sequences.append(TokenSequence(ids, torch.arange(len(ids)) > 0, "+".join(names)))

    def _marked(self, codes: Tensor) -> Tensor:
        return torch.cat([torch.tensor([self.tokens.begin]), codes, torch.tensor([self.tokens.end])])

    def _end_of_text(self) -> int:
        end: int | None = self.tokenizer.eos_token_id
        if end is None:
            raise ValueError("tokenizer: it has no end-of-text token, which the formats asr and interleaved need")
        return end
