"""Consistency: does a sound keep its tokens if a slice is encoded alone, or after a shift, a phase change, light noise?

    result = measure_consistency(encoded, clips, [Change("slice", 0.5), Change("phase", 180.0)])
    print(result.share(Change("slice", 0.5)).format())

A listener hears no difference in any of them; a language model that reads other tokens has to learn several spellings
of one sound. Slices are the measure of Liu et al., ACL 2025 (arXiv 2409.19283).
Shapes: Q codebooks, T frames, S samples. Test: tests/evaluation/test_consistency.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.io.digests import digest_number
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_ratio, compare_shared
from llmcodec.protocol import Codec

LABELS = {
    "slice": "slice of {:g} s",
    "shift": "shift by {:g} frame",
    "phase": "phase {:g} deg",
    "noise": "noise at {:g} dB",
}


@dataclass(frozen=True)
class Change:
    """One alteration of a sound before it is encoded again."""

    kind: str
    """`slice` (amount: seconds that are cut out, from a frame boundary on), `shift` (share of a frame by which the
    frames start later, up to 0.5), `phase` (degrees added to every frequency; 180 turns the sign), `noise`
    (signal-to-noise ratio in dB of added white noise)."""
    amount: float

    @property
    def label(self) -> str:
        return LABELS[self.kind].format(self.amount)


SLICES = tuple(Change("slice", seconds) for seconds in (0.2, 0.5, 1.0, 2.0))


@dataclass(frozen=True)
class ConsistencyRow:
    """One clip (or slice) under one change: how many tokens stayed the same."""

    id: str
    change: Change
    same: int
    total: int


@dataclass(frozen=True)
class ConsistencyResult:
    """Rows of all clips and changes, and the agreement by chance."""

    rows: list[ConsistencyRow]
    chance: float = 0.0
    """Probability that two tokens drawn at random from these clips are equal (per codebook, averaged)."""

    @property
    def changes(self) -> list[Change]:
        return list(dict.fromkeys(row.change for row in self.rows))

    def by_clip(self, change: Change | None = None) -> dict[str, tuple[int, int]]:
        """Unchanged tokens, and all tokens, of every clip under a change; None: under all changes."""
        counts: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            if change is None or row.change == change:
                same, total = counts.get(row.id, (0, 0))
                counts[row.id] = same + row.same, total + row.total
        return counts

    def share(self, change: Change | None = None) -> Interval:
        """Share of unchanged tokens, with a 95 % bootstrap interval over clips."""
        counts = self.by_clip(change)
        order = sorted(counts)
        return bootstrap_ratio([counts[name][0] for name in order], [counts[name][1] for name in order])


def compare_consistency(a: ConsistencyResult, b: ConsistencyResult, change: Change) -> PairedComparison:
    """B against A, shares of the clips that both have. Raises ValueError without any."""
    shares = [{name: same / total for name, (same, total) in r.by_clip(change).items()} for r in (a, b)]
    return compare_shared(shares[0], shares[1])


def measure_consistency(
    encoded: EncodedCorpus,
    clips: Sequence[Clip],
    changes: Sequence[Change] = SLICES,
    slices_per_clip: int = 2,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> ConsistencyResult:
    """Compare the tokens of altered copies with those of the original clips, frame by frame.

    Places of slices and noise depend only on the seed, the clip's id and the length, so every codec of the same frame
    rate gets the same slices and the same noise. Clips too short for a slice are left out of it.

    Raises:
        ValueError: no clips, a change of unknown kind or size, or no clip longer than any slice.
    """
    if not clips:
        raise ValueError("no clips: the manifest or the filter left none")
    for change in changes:
        if change.kind not in LABELS:
            raise ValueError(f"no change {change.kind!r}: choose {', '.join(LABELS)}")
        if change.kind == "shift" and not 0 < change.amount <= 0.5:
            raise ValueError(f"a shift is above 0 and at most 0.5 of a frame, not {change.amount}")
        if not math.isfinite(change.amount) or change.kind == "slice" and change.amount <= 0:
            raise ValueError(f"{change.label}: give a finite number, of a slice above 0")
    if slices_per_clip < 1:
        raise ValueError(f"at least one slice of each length per clip, not {slices_per_clip}")
    codec, whole = encoded.codec, dict(zip(clips, encoded.codes(clips), strict=True))

    def copies() -> Iterator[tuple[tuple[Clip, Change, int], np.ndarray]]:
        for number, clip in enumerate(clips):
            if on_progress is not None:
                on_progress(number / len(clips))
            wav_S = encoded.wav(clip)
            for change in changes:
                for start, copy_S in altered(wav_S, change, codec, clip.id, seed, slices_per_clip):
                    yield (clip, change, start), copy_S

    rows = []
    for (clip, change, start), copy_QT in encoded.encode_copies(copies()):
        whole_QT = whole[clip][:, start:]
        frames = min(whole_QT.shape[1], copy_QT.shape[1])
        same = int((whole_QT[:, :frames] == copy_QT[:, :frames]).sum())
        rows.append(ConsistencyRow(clip.id, change, same, frames * whole_QT.shape[0]))
    if on_progress is not None:
        on_progress(1.0)
    slices = [change for change in changes if change.kind == "slice"]
    if slices and not any(row.change in slices for row in rows):
        shortest = min(change.amount for change in slices)
        raise ValueError(f"no clip is longer than the shortest slice ({shortest} s): nothing to compare")
    return ConsistencyResult(rows, _chance(torch.cat(list(whole.values()), dim=1), codec.codebook_size))


def _chance(codes_QT: torch.Tensor, codebook_size: int) -> float:
    counts_QV = torch.stack([torch.bincount(codes_T, minlength=codebook_size) for codes_T in codes_QT]).double()
    return float((counts_QV / counts_QV.sum(1, keepdim=True)).square().sum(1).mean())


def altered(
    wav_S: np.ndarray, change: Change, codec: Codec, clip_id: str, seed: int, slices: int
) -> list[tuple[int, np.ndarray]]:
    """Copies of a clip: the frame where each begins, and its samples. No slices if none fits."""
    hop = codec.hop_samples
    if change.kind != "slice":
        return [(0, changed(wav_S, change, hop, seed, clip_id))]
    num_frames = max(1, round(change.amount * codec.frame_rate))
    last = wav_S.size // hop - num_frames
    if last < 1:
        return []
    draw = np.random.default_rng(digest_number(seed, clip_id, change.amount, "slice"))
    starts = draw.integers(0, last + 1, slices).tolist()
    return [(start, wav_S[start * hop : (start + num_frames) * hop]) for start in starts]


def changed(wav_S: np.ndarray, change: Change, hop_samples: int, seed: int, clip_id: str) -> np.ndarray:
    """The waveform after a change; a shift drops the first samples, so frame t still lies nearest to frame t."""
    if change.kind == "shift":
        return wav_S[round(change.amount * hop_samples) :] if wav_S.size > hop_samples else wav_S
    if change.kind == "phase":
        return rotated(wav_S, change.amount)
    return noisy(wav_S, change.amount, seed, clip_id)


def noisy(wav_S: np.ndarray, snr_db: float, seed: int, clip_id: str) -> np.ndarray:
    """The waveform with white noise, float32; the noise depends on seed, clip and length alone."""
    level = np.sqrt(np.mean(np.square(wav_S, dtype=np.float64))) * 10 ** (-snr_db / 20)
    noise_S = np.random.default_rng(digest_number(seed, clip_id, "noise")).standard_normal(wav_S.size)
    return np.asarray(wav_S + level * noise_S, dtype=np.float32)


def rotated(wav_S: np.ndarray, degrees: float) -> np.ndarray:
    """The same magnitudes at every frequency, the phase moved by a constant (an all-pass; 0 Hz and Nyquist scaled)."""
    spectrum = np.fft.rfft(wav_S.astype(np.float64))
    angle = np.deg2rad(degrees)
    turned = spectrum * np.exp(1j * angle)
    turned[0] = spectrum[0].real * np.cos(angle)
    if wav_S.size % 2 == 0:
        turned[-1] = spectrum[-1].real * np.cos(angle)
    return np.asarray(np.fft.irfft(turned, wav_S.size), dtype=np.float32)
