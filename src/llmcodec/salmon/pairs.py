"""The sounds of a consistency suite: two mirrored pairs from every planned set of clips.

Shapes: S samples at 16 kHz, float64. Test: tests/salmon/test_build.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmcodec.data.backgrounds import (
    BABBLE,
    BABBLE_VOICES,
    SAMPLE_RATE,
    SYNTHETIC,
    babble,
    excerpt,
    noise_files,
    render,
)
from llmcodec.data.manifest import Clip
from llmcodec.data.reverberation import draw_room, impulse_response, recorded_response
from llmcodec.io.digests import digest_number
from llmcodec.salmon.plan import MIN_CLIP_SECONDS, MIN_HALF_SECONDS, VoicePlan, choose_others, draw_others, fold_of
from llmcodec.salmon.splice import (
    GRID,
    PAUSE,
    at_level,
    change_noise,
    change_rooms,
    common_gain,
    faded,
    join,
    quiet_cut,
    trim_silence,
    with_bed,
    with_noise,
)

Sound = np.ndarray
Splice = Literal["both", "negative", "negative_hard"]


@dataclass
class Pair:
    """One pair as `suite.json` describes it."""

    index: int
    fold: int
    joint_seconds: float
    """Time at which the second half begins."""
    clips: list[str]
    splits: list[str]
    detail: dict[str, Any] = field(default_factory=dict)


Made = tuple[Pair, list[Sound]]
"""A pair and its positive and negative."""


def voice_pairs(plan: VoicePlan, part: str, seed: int, max_seconds: float, splice: Splice) -> list[Made] | None:
    """a1|a2 against a1|b2 and b1|b2 against b1|a2; None if a clip has too little speech."""
    longest, shortest = int(max_seconds * SAMPLE_RATE), int(MIN_HALF_SECONDS * SAMPLE_RATE)
    (a1, a1_rest), (_, a2), (b1, b1_rest), (_, b2) = (_halves(clip) for clip in plan.clips)
    behind = min(len(a2), len(b2), longest // 2 - PAUSE)
    if splice != "both":
        behind = min(behind, len(a1_rest) - PAUSE, len(b1_rest) - PAUSE)
    gap = 0 if splice == "negative_hard" else PAUSE
    bed = digest_number(seed, part, *(clip.id for clip in plan.clips))
    out: list[Made] = []
    for first, rest, same, other, order in ((a1, a1_rest, a2, b2, (0, 1, 3)), (b1, b1_rest, b2, a2, (2, 3, 1))):
        total = (min(len(first), longest // 2) + gap + behind) // GRID * GRID
        before = total - gap - behind
        if behind < shortest or before < shortest:
            return None
        first = first[-before:]
        sides = [join(at_level(first), at_level(half[:behind]), hard=gap == 0) for half in (same, other)]
        if splice != "both":
            sides[0] = at_level(np.concatenate([first, rest[: gap + behind]]))
        sides = common_gain([with_bed(faded(side), np.random.default_rng(bed)) for side in sides])
        used = [plan.clips[i] for i in order]
        detail = {
            "speakers": [clip.speaker for clip in used],
            "language": used[0].language,
            "source": used[0].source,
        }
        out.append((_pair(plan.fold, (before + gap) / SAMPLE_RATE, used, detail), sides))
    return out


@dataclass(frozen=True)
class Scenery:
    """Where backgrounds and rooms come from: recordings by domain, or None for generated ones."""

    clips: Sequence[Clip]
    """For babble."""
    noises: Mapping[str, Sequence[Path]] | None
    rooms: Sequence[Path] | None
    snr_db: tuple[float, float]
    t60_seconds: tuple[float, float]

    @staticmethod
    def open(
        clips: Sequence[Clip],
        noises: str | None,
        rooms: str | None,
        snr_db: tuple[float, float],
        t60_seconds: tuple[float, float],
    ) -> Scenery:
        """Raises ValueError for a folder without audio."""
        responses = [path for paths in noise_files(rooms).values() for path in paths] if rooms is not None else None
        return Scenery(clips, noise_files(noises) if noises is not None else None, responses, snr_db, t60_seconds)

    def scene_pairs(self, clip: Clip, part: str, kind: str, seed: int, max_seconds: float) -> list[Made] | None:
        """X throughout against X then Y, and Y throughout against Y then X, on one clip; None if it is too short.

        kind: `all` (backgrounds of two domains), `domain` (of one domain) or `room`.
        """
        wav_S = trim_silence(_read(clip))[: int(max_seconds * SAMPLE_RATE)]
        wav_S = wav_S[: len(wav_S) // GRID * GRID]
        if len(wav_S) < MIN_CLIP_SECONDS * SAMPLE_RATE:
            return None
        speech_S, joint = at_level(faded(wav_S)), len(wav_S) // 2
        draw = np.random.default_rng(digest_number(seed, part, clip.source, clip.id))
        if kind == "room":
            names, (x, y) = self._responses(draw)
            detail: dict[str, Any] = {"rooms": names}
            sides = change_rooms(speech_S, x, y, joint)
        else:
            snr = float(draw.uniform(*self.snr_db))
            names, ((x0, x1), (y0, y1)) = self._backgrounds(len(speech_S), kind == "domain", clip, draw)
            mixed = [(x0, x1), (x0, y1), (y0, y1), (y0, x1)]
            sides = [with_noise(speech_S, change_noise(*two, joint), snr) for two in mixed]
            detail = {"noises": names, "snr_db": round(snr, 2)}
        bed = digest_number(seed, part, clip.source, clip.id, "bed")
        wavs = common_gain([with_bed(side, np.random.default_rng(bed)) for side in sides])
        fold, at = fold_of(clip), joint / SAMPLE_RATE
        return [
            (_pair(fold, at, [clip], {**detail, "starts_with": order}), pair)
            for order, pair in ((0, wavs[:2]), (1, wavs[2:]))
        ]

    def _backgrounds(
        self, num: int, one_domain: bool, clip: Clip, draw: np.random.Generator
    ) -> tuple[list[str], list[tuple[Sound, Sound]]]:
        """Two noise sources, two excerpts of each: the positive is spliced as well, between excerpts of one source."""
        if self.noises is not None:
            files = _two_files(self.noises, one_domain, draw)
            return [f.name for f in files], [(excerpt(f, 0, num), excerpt(f, 1, num)) for f in files]
        kinds = list(SYNTHETIC)
        if len(choose_others(self.clips, clip)) >= 2 * BABBLE_VOICES:  # two babbles of few talkers would be one
            kinds.append(BABBLE)
        names = [kinds[int(i)] for i in draw.choice(len(kinds), 2, replace=False)]
        if one_domain:
            names = [names[0], names[0]]
        parts = []
        for kind in names:
            character, *excerpts = (int(draw.integers(2**32)) for _ in range(3))
            if kind == BABBLE:
                others = draw_others(self.clips, clip, BABBLE_VOICES, draw)
                talkers = [trim_silence(_read(other)) for other in others]
                parts.append((babble(talkers, num), babble([np.roll(t, len(t) // 2) for t in talkers], num)))
            else:
                parts.append((render(kind, character, excerpts[0], num), render(kind, character, excerpts[1], num)))
        return names, parts

    def _responses(self, draw: np.random.Generator) -> tuple[list[str], list[Sound]]:
        """Two impulse responses; generated rooms differ in reverberation time by at least half."""
        if self.rooms is not None:
            files = [self.rooms[int(i)] for i in draw.choice(len(self.rooms), 2, replace=False)]
            return [file.name for file in files], [recorded_response(file) for file in files]
        first, second = (draw_room(draw, self.t60_seconds) for _ in range(2))
        while abs(np.log(first.t60_seconds / second.t60_seconds)) < np.log(1.5):
            second = draw_room(draw, self.t60_seconds)
        rooms = (first, second)
        return [room.describe() for room in rooms], [impulse_response(room, draw) for room in rooms]


def _two_files(noises: Mapping[str, Sequence[Path]], one_domain: bool, draw: np.random.Generator) -> list[Path]:
    if one_domain:
        domains = [paths for paths in noises.values() if len(paths) >= 2]
        paths = domains[int(draw.integers(len(domains)))]
        return [paths[int(i)] for i in draw.choice(len(paths), 2, replace=False)]
    two = [list(noises.values())[int(i)] for i in draw.choice(len(noises), 2, replace=False)]
    return [paths[int(draw.integers(len(paths)))] for paths in two]


def _pair(fold: int, joint_seconds: float, clips: Sequence[Clip], detail: dict[str, Any]) -> Pair:
    return Pair(0, fold, joint_seconds, [clip.id for clip in clips], [clip.split for clip in clips], detail)


def _read(clip: Clip) -> Sound:
    return clip.load(SAMPLE_RATE).astype(np.float64)


def _halves(clip: Clip) -> tuple[Sound, Sound]:
    """The clip cut at the quietest place in the middle of the speech."""
    wav_S = trim_silence(_read(clip))
    if len(wav_S) < 2:
        return wav_S, wav_S
    cut = quiet_cut(wav_S)
    return wav_S[:cut], wav_S[cut:]
