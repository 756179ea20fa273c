"""Speech that token language models generate: is it understood, whose voice is it, does it loop, fall silent, end?

    rows = measure_generation(lm, runtime, passages, GenerationConfig(draws=3), metrics=("wer", "speaker"))
    print(figure([rows], "wer").format())                       # one LM; several seeds: a list of their rows

Three tasks. `read`: the LM speaks texts that it has not been trained on. `voice`: it speaks them in the voice of
another recording, to whose first seconds the voice is compared. `continue`: it goes on after the first seconds of a
recording.
`measure_recordings` gives the same figures for the recordings through the codec: what a perfect LM would reach.
Shapes: S samples, T codes.
Test: tests/evaluation/test_generation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.generation_results import FIGURES, METRICS, PACKAGES, GeneratedRow
from llmcodec.evaluation.wer import OFFLINE, Transcriber, check_languages, load_transcriber, recognise, word_row
from llmcodec.io import audio
from llmcodec.lm.sampling import Prompt, SamplingConfig, sample, speech_prompt, text_prompt
from llmcodec.lm.speech import encode_flat, frames_of
from llmcodec.lm.token_lm import TokenLM
from llmcodec.metrics.base import Measured, NoScore, load_metric_package
from llmcodec.metrics.learned import embed_voice, measure_dnsmos
from llmcodec.runtime.base import Runtime

Task = Literal["read", "voice", "continue"]
RATE = 16_000
"""Of recogniser, voice and DNSMOS."""
BATCH = 32
"""Passages sampled at once."""
SILENT_DB = 40.0
"""A 20 ms frame this far below the recording's speech is silent."""
LOOP_SECONDS = 0.5
"""A stretch of codes that repeats itself for at least this long is a loop ..."""
LOOP_PERIOD = 1.0
"""... if what is repeated is no longer than this."""


@dataclass(frozen=True)
class GenerationConfig:
    """What is drawn, and how."""

    task: Task = "read"
    """read: texts; voice: texts in the voice of a prompt; continue: the first seconds of recordings."""
    draws: int = 3
    """Draws of each passage."""
    seconds: float = 8.0
    """Most new audio of a draw."""
    prompt_seconds: float = 2.0
    """continue, voice: what of a recording the LM hears."""
    temperature: float = 0.8
    """As `SamplingConfig`."""
    top_p: float = 0.95
    """As `SamplingConfig`."""
    repetition_penalty: float = 1.0
    """As `SamplingConfig`."""
    seed: int = 0
    """Of sampling."""

    def __post_init__(self) -> None:
        if self.task not in ("read", "voice", "continue"):
            raise ValueError(f"generation: task must be read, voice or continue, got {self.task!r}")
        if self.draws < 1 or not self.seconds > 0 or not self.prompt_seconds > 0:
            raise ValueError(
                "generation: draws must be at least 1, seconds and prompt_seconds positive, got "
                f"{self.draws}, {self.seconds:g} and {self.prompt_seconds:g}"
            )

    def sampling(self, draw: int, batch: int, runtime: Runtime) -> SamplingConfig:
        """Of one batch of one draw; continuations have a fixed length, readings end by themselves."""
        whole = runtime.identity.num_codebooks
        most = max(1, round(self.seconds * runtime.identity.frame_rate)) * whole
        return SamplingConfig(
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            max_codes=most,
            min_codes=most if self.task == "continue" else 0,
            seed=(self.seed * 1000 + draw) * 1000 + batch,
        )


@dataclass(frozen=True)
class Passage:
    """A recording, and what the LM reads of it."""

    clip: Clip
    """`text` is what a recogniser should hear."""
    text: str
    """What the LM reads: the same words, or phonemes."""
    voice: Clip | None = None
    """Task voice: another recording of the speaker."""


def measure_generation(
    lm: TokenLM,
    runtime: Runtime,
    passages: Sequence[Passage],
    config: GenerationConfig,
    metrics: Sequence[str] = METRICS,
    asr: str | Transcriber = OFFLINE,
    on_progress: Callable[[float], None] | None = None,
    keep: Callable[[Passage, int, np.ndarray], None] | None = None,
) -> list[GeneratedRow]:
    """Draw every passage `config.draws` times and measure each draw.

    Args:
        lm: the model. runtime: its codec.
        passages: texts or recordings; see `check_passages`.
        metrics: of `METRICS`. asr: recogniser of `wer` and `cer`.
        on_progress: called with the share that is done.
        keep: takes passage, draw and waveform (S,) at the codec's rate, a continuation with its prompt.

    Raises:
        ValueError: passages that the task cannot use, an LM that cannot do it, or packages that are missing.
    """
    listeners = Listeners(passages, runtime, config, metrics, asr)
    rows: list[GeneratedRow] = []
    batches = [range(at, min(at + BATCH, len(passages))) for at in range(0, len(passages), BATCH)]
    for draw in range(config.draws):
        for batch, places in enumerate(batches):
            prompts, heard = _prompts(
                lm, runtime, [listeners.wavs[n] for n in places], [passages[n] for n in places], config
            )
            sampling = config.sampling(draw, batch, runtime)
            for n, before, codes in zip(places, heard, sample(lm, prompts, sampling), strict=True):
                codes = codes[: len(codes) // runtime.identity.num_codebooks * runtime.identity.num_codebooks]
                wav_S = _decoded(runtime, torch.cat([before, codes]))
                row = listeners.row(n, draw, codes.numpy(), wav_S, len(codes) < sampling.max_codes)
                rows.append(row)
                if keep is not None:
                    keep(passages[n], draw, wav_S)
            if on_progress is not None:
                on_progress((draw + (batch + 1) / len(batches)) / config.draws)
    return rows


def measure_recordings(
    runtime: Runtime,
    passages: Sequence[Passage],
    config: GenerationConfig,
    metrics: Sequence[str] = METRICS,
    asr: str | Transcriber = OFFLINE,
) -> list[GeneratedRow]:
    """The same figures for the recordings through the codec: what a perfect LM would reach."""
    listeners = Listeners(passages, runtime, config, metrics, asr)
    rows = []
    for n, wav_S in enumerate(listeners.wavs):
        codes = encode_flat(runtime, [wav_S])[0].numpy()
        rows.append(
            listeners.row(n, 0, codes[listeners.prompt_codes :], _decoded(runtime, torch.from_numpy(codes)), True)
        )
    return rows


def check_passages(passages: Sequence[Passage], config: GenerationConfig) -> None:
    """Raise ValueError for passages that the task cannot use, by name."""
    if not passages:
        raise ValueError("generation: no passage is left; see --split, --speakers and the length of the clips")
    for passage in passages:
        if config.task == "continue" and passage.clip.duration <= config.prompt_seconds + 0.5:
            raise ValueError(
                f"generation: {passage.clip.id} lasts {passage.clip.duration:g} s, too short to be continued after "
                f"{config.prompt_seconds:g} s"
            )
        if config.task == "voice" and (passage.voice is None or passage.voice.duration < config.prompt_seconds):
            raise ValueError(
                f"generation: {passage.clip.id} has no other recording of its speaker of {config.prompt_seconds:g} s"
            )
        if config.task != "continue" and not passage.text.strip():
            raise ValueError(f"generation: {passage.clip.id} has no text to read")


class Listeners:
    """Everything that judges what was generated, with the recordings that it is compared to."""

    def __init__(
        self,
        passages: Sequence[Passage],
        runtime: Runtime,
        config: GenerationConfig,
        metrics: Sequence[str],
        asr: str | Transcriber,
    ):
        unknown = [name for name in metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"generation: no figure {unknown[0]!r}: choose among {', '.join(METRICS)}")
        check_passages(passages, config)
        self.passages, self.metrics, self.identity = passages, set(metrics), runtime.identity
        self.task = config.task
        if config.task == "continue":
            self.metrics -= {"wer", "cer"}  # nobody wrote down what it ought to say
        for name in sorted(self.metrics):
            load_metric_package(PACKAGES[name], FIGURES[name].label)
        self.hear = (load_transcriber(asr) if isinstance(asr, str) else asr) if self.metrics & {"wer", "cer"} else None
        if self.hear is not None:
            check_languages(self.hear, [passage.clip.language or "en" for passage in passages])
        rate, hop = self.identity.sample_rate, self.identity.hop_samples
        frames = round(config.prompt_seconds * rate) // hop if config.task == "continue" else 0
        self.prompt_samples, self.prompt_codes = frames * hop, frames * self.identity.num_codebooks
        self.wavs = [passage.clip.load(rate) for passage in passages]
        if config.task == "continue":
            self.wavs = [wav_S[: self.prompt_samples + round(config.seconds * rate)] for wav_S in self.wavs]
        self.voices: list[np.ndarray | None] = [None] * len(passages)
        if "speaker" in self.metrics:
            heard = [wav_S[: self.prompt_samples or None] for wav_S in self.wavs]
            if config.task == "voice":
                heard = voice_prompts(passages, config, runtime)
            self.voices = [_voice(audio.resample(wav_S, rate, RATE)) for wav_S in heard]

    def row(self, n: int, draw: int, codes_T: np.ndarray, wav_S: np.ndarray, ended: bool) -> GeneratedRow:
        """Measure one draw of passage `n`: its new codes, and its waveform (S,) with the prompt."""
        clip, identity = self.passages[n].clip, self.identity
        new_S = wav_S[self.prompt_samples :]
        row = GeneratedRow(
            clip.id,
            draw,
            new_S.size / identity.sample_rate,
            None if self.task == "continue" else ended,
            share_in_loops(codes_T, identity.frame_rate * identity.num_codebooks),
            share_of_silence(new_S, self.wavs[n], identity.sample_rate),
        )
        spoken_S = audio.resample(new_S, identity.sample_rate, RATE) if new_S.size else np.zeros(1, np.float32)
        if self.hear is not None:
            language = clip.language or "en"
            heard = recognise(self.hear, spoken_S, language) if new_S.size else ""
            words = word_row(clip.id, clip.text, heard, language)
            both = [text.replace(" ", "") if words.by_character else text for text in (words.text, words.heard)]
            row = replace(row, words=words, characters=character_errors(*both))
        if "dnsmos" in self.metrics:
            row.measured["dnsmos"] = _try(lambda: measure_dnsmos(spoken_S, spoken_S))
        if "speaker" in self.metrics:
            row.measured.update(self._voices_of(n, spoken_S))
        return row

    def _voices_of(self, n: int, spoken_S: np.ndarray) -> dict[str, Measured]:
        """Cosine to the own recording, and how much more that is than to other speakers of its language and source."""
        own, clip = self.voices[n], self.passages[n].clip
        if own is None:
            failed = Measured(None, "the recording has too little voice")
            return {"speaker": failed, "margin": failed}
        try:
            voice = embed_voice(spoken_S, "what was generated")
        except NoScore as reason:
            return dict.fromkeys(("speaker", "margin"), Measured(None, str(reason)))
        rivals = [
            other
            for other, passage in zip(self.voices, self.passages, strict=True)
            if other is not None
            and (passage.clip.language, passage.clip.source) == (clip.language, clip.source)
            and passage.clip.speaker != clip.speaker
        ]
        alike = float(voice @ own)
        if not rivals:
            return {"speaker": Measured(alike), "margin": Measured(None, "no other speaker beside it")}
        return {"speaker": Measured(alike), "margin": Measured(alike - float(np.mean(rivals @ voice)))}


def _prompts(
    lm: TokenLM, runtime: Runtime, wavs: Sequence[np.ndarray], passages: Sequence[Passage], config: GenerationConfig
) -> tuple[list[Prompt], list[torch.Tensor]]:
    """The LM's prompts, and the codes in them."""
    if config.task != "continue":
        voices: Sequence[torch.Tensor | None] = [None] * len(passages)
        if config.task == "voice":
            if lm.card.voice_seconds != config.prompt_seconds:
                takes = f"voice prompts of {lm.card.voice_seconds:g} s" if lm.card.voice_seconds else "no voice prompts"
                raise ValueError(f"generation: this LM takes {takes}, not of {config.prompt_seconds:g} s")
            voices = encode_flat(runtime, voice_prompts(passages, config, runtime))
        read = [
            text_prompt(lm, one.text, one.clip.speaker, one.clip.language, voice_T)
            for one, voice_T in zip(passages, voices, strict=True)
        ]
        return read, [torch.zeros(0, dtype=torch.int64)] * len(read)
    hop = runtime.identity.hop_samples
    length = round(config.prompt_seconds * runtime.identity.sample_rate) // hop * hop
    codes = encode_flat(runtime, [wav_S[:length] for wav_S in wavs])
    return [speech_prompt(lm, codes_T) for codes_T in codes], codes


def voice_prompts(passages: Sequence[Passage], config: GenerationConfig, runtime: Runtime) -> list[np.ndarray]:
    """The first seconds of the recordings (S,) that give the voice, whole frames."""
    identity = runtime.identity
    length = round(config.prompt_seconds * identity.frame_rate) * identity.hop_samples
    return [one.voice.load(identity.sample_rate)[:length] for one in passages if one.voice is not None]


def _decoded(runtime: Runtime, codes: torch.Tensor) -> np.ndarray:
    if not len(codes):
        return np.zeros(0, np.float32)
    return runtime.decode_batch([frames_of(codes, runtime)])[0]


def _voice(wav_S: np.ndarray) -> np.ndarray | None:
    try:
        return embed_voice(wav_S, "recording")
    except NoScore:
        return None


def _try(score: Callable[[], float]) -> Measured:
    try:
        return Measured.of(score(), "it")
    except NoScore as reason:
        return Measured(None, str(reason))


def character_errors(text: str, heard: str) -> tuple[int, int]:
    """Characters to change from what was heard to the text (jiwer), and the number of the text's."""
    found = load_metric_package("jiwer").process_characters(text, heard)
    return found.substitutions + found.deletions + found.insertions, len(text)


def share_in_loops(codes_T: np.ndarray, token_rate: float) -> float:
    """Share of the codes in stretches that repeat themselves (`LOOP_SECONDS`, `LOOP_PERIOD`); 0 for no codes.

    A stretch of period p counts where each code equals the one p before it, for two periods at least: three times the
    same. Pauses of a recording are one code over and over, so compare with the recordings' own share.
    """
    inside_T = np.zeros(len(codes_T), bool)
    for period in range(1, min(int(LOOP_PERIOD * token_rate), len(codes_T) - 1) + 1):
        same = np.concatenate([[False], codes_T[period:] == codes_T[:-period], [False]])
        starts, ends = np.flatnonzero(~same[:-1] & same[1:]), np.flatnonzero(same[:-1] & ~same[1:])
        for start, end in zip(starts, ends, strict=True):
            if end - start >= max(2 * period, LOOP_SECONDS * token_rate - period):
                inside_T[start : end + period] = True
    return float(inside_T.mean()) if len(codes_T) else 0.0


def share_of_silence(wav_S: np.ndarray, recording_S: np.ndarray, sample_rate: int) -> float:
    """Share of 20 ms frames `SILENT_DB` below the louder half of the recording's; 1 where nothing was said."""
    mine, reference = _frame_power(wav_S, sample_rate), _frame_power(recording_S, sample_rate)
    if not mine.size or not reference.size:
        return 1.0
    level = reference[reference >= np.median(reference)].mean()
    return float((mine < level * 10 ** (-SILENT_DB / 10)).mean())


def _frame_power(wav_S: np.ndarray, sample_rate: int) -> np.ndarray:
    size = sample_rate // 50
    frames: np.ndarray = np.square(wav_S[: wav_S.size // size * size].reshape(-1, size), dtype=np.float64).mean(1)
    return frames
