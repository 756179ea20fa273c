"""Slice consistency: does a frame keep its token when only a slice of the utterance is encoded?

A language model reads tokens as if they named sounds; where the same sound gets another token because its
neighbourhood was cut away, the tokens carry noise. Shapes: Q codebooks, T frames, S samples. Source of the measure:
Liu et al., ACL 2025 (arXiv 2409.19283). Test: `pytest tests/evaluation/test_consistency.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmcodec.data.manifest import Clip
from llmcodec.io import audio
from llmcodec.io.digests import digest_number
from llmcodec.metrics.statistics import Interval, bootstrap_ratio
from llmcodec.metrics.token_statistics import encode_wav
from llmcodec.protocol import Codec


@dataclass(frozen=True)
class SliceRow:
    """One slice of one clip: how many of its tokens equal those of the whole utterance."""

    id: str
    slice_seconds: float
    same: int
    total: int


@dataclass(frozen=True)
class ConsistencyResult:
    """Rows of all slice lengths."""

    rows: list[SliceRow]

    @property
    def slice_seconds(self) -> list[float]:
        return sorted({row.slice_seconds for row in self.rows})

    def share(self, slice_seconds: float | None = None) -> Interval:
        """Share of unchanged tokens for one slice length (None: all), with a 95 % bootstrap interval over clips."""
        rows = [row for row in self.rows if slice_seconds is None or row.slice_seconds == slice_seconds]
        ids = sorted({row.id for row in rows})
        same, total = ({key: 0 for key in ids} for _ in range(2))
        for row in rows:
            same[row.id] += row.same
            total[row.id] += row.total
        return bootstrap_ratio(list(same.values()), list(total.values()))


def slice_consistency(
    codec: Codec,
    clips: Sequence[Clip],
    slice_seconds: Sequence[float] = (0.2, 0.5, 1.0, 2.0),
    slices_per_clip: int = 2,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> ConsistencyResult:
    """Encode whole utterances and random slices that start at frame boundaries; compare token by token.

    Positions depend on the seed, the clip id and the length alone, so every codec of the same frame rate is asked
    about the same slices. Slices must be shorter than the clip; clips too short for a length are left out of that
    length.
    Errors: ValueError for no clips or when no clip is longer than any slice.
    """
    rows: list[SliceRow] = []
    for number, clip in enumerate(clips, start=1):
        wav_S = audio.load(clip.path, codec.sample_rate)
        whole_QT = encode_wav(codec, wav_S)
        for seconds in slice_seconds:
            num_frames = max(1, round(seconds * codec.frame_rate))
            last_start = wav_S.size // codec.hop_samples - num_frames
            if last_start < 1:
                continue
            rng = np.random.default_rng(_key(seed, clip.id, seconds))
            for start in rng.integers(0, last_start + 1, slices_per_clip).tolist():
                part_S = wav_S[start * codec.hop_samples : (start + num_frames) * codec.hop_samples]
                same_QT = encode_wav(codec, part_S) == whole_QT[:, start : start + num_frames]
                rows.append(SliceRow(clip.id, seconds, int(same_QT.sum()), same_QT.numel()))
        if on_progress is not None:
            on_progress(number / len(clips))
    if not rows:
        raise ValueError(f"no clip is longer than the shortest slice ({min(slice_seconds)} s): nothing to compare")
    return ConsistencyResult(rows)


def _key(seed: int, clip_id: str, seconds: float) -> int:
    text = f"{seed}|{clip_id}|{seconds}|slice"
    return digest_number(text)
