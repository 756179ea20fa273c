"""Do tokens stay when the sound does? Time shifts below a frame, phase changes and light noise, all inaudible.

A listener hears no difference after any of these; a language model that reads other tokens has to learn several
spellings of one sound. Shapes: Q codebooks, T frames, S samples. In the spirit of Liu et al., ACL 2025
(arXiv 2409.19283), whose slices are in `consistency.py`. Test: `pytest tests/evaluation/test_stability.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmcodec.data.manifest import Clip
from llmcodec.io import audio
from llmcodec.io.digests import digest_number
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_ratio, compare_paired
from llmcodec.metrics.token_statistics import encode_wav
from llmcodec.protocol import Codec


@dataclass(frozen=True)
class Change:
    """One change that nobody hears."""

    kind: str
    """`shift` (amount: share of a frame by which the frames start later, up to 0.5), `phase` (degrees added to every
    frequency; 180 turns the sign), `noise` (signal-to-noise ratio in dB of added white noise)."""
    amount: float

    @property
    def label(self) -> str:
        names = {"shift": "shift by {:g} frame", "phase": "phase {:g} deg", "noise": "noise at {:g} dB"}
        return names[self.kind].format(self.amount)


CHANGES = (
    Change("shift", 0.125),
    Change("shift", 0.25),
    Change("shift", 0.5),
    Change("phase", 90.0),
    Change("phase", 180.0),
    Change("noise", 40.0),
    Change("noise", 30.0),
)


@dataclass(frozen=True)
class StabilityRow:
    """One clip under one change: how many tokens stayed."""

    id: str
    change: Change
    same: int
    total: int


@dataclass(frozen=True)
class StabilityResult:
    """Rows of all clips and changes, and what chance would give."""

    rows: list[StabilityRow]
    chance: float
    """Probability that two tokens drawn at random from these clips are equal (per codebook, averaged)."""

    @property
    def changes(self) -> list[Change]:
        return list(dict.fromkeys(row.change for row in self.rows))

    def of(self, change: Change) -> list[StabilityRow]:
        return [row for row in self.rows if row.change == change]

    def share(self, change: Change) -> Interval:
        """Share of tokens that stayed, with a 95 % bootstrap interval over clips."""
        rows = self.of(change)
        return bootstrap_ratio([row.same for row in rows], [row.total for row in rows])


def compare_stability(a: StabilityResult, b: StabilityResult, change: Change) -> PairedComparison:
    """B against A on the same clips, per-clip shares. Errors: ValueError unless the clips are the same."""
    rows_a, rows_b = a.of(change), b.of(change)
    if [row.id for row in rows_a] != [row.id for row in rows_b]:
        raise ValueError("the two results are about different clips: measure both on the same manifest")
    return compare_paired([row.same / row.total for row in rows_a], [row.same / row.total for row in rows_b])


def measure_stability(
    codec: Codec,
    clips: Sequence[Clip],
    changes: Sequence[Change] = CHANGES,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> StabilityResult:
    """Encode every clip as it is and under each change; compare frame by frame.

    Noise depends on the seed and the clip's id alone, so every codec hears the same noise at the same sample rate.
    Errors: ValueError for no clips, or a change of unknown kind or size.
    """
    if not clips:
        raise ValueError("no clips: the manifest or the filter left none")
    rows: list[StabilityRow] = []
    counts_QV = np.zeros((codec.num_codebooks, codec.codebook_size))
    for number, clip in enumerate(clips, start=1):
        wav_S = audio.load(clip.path, codec.sample_rate)
        plain_QT = encode_wav(codec, wav_S)
        for book, codes_T in enumerate(plain_QT.numpy()):
            counts_QV[book] += np.bincount(codes_T, minlength=codec.codebook_size)
        for change in changes:
            other_QT = encode_wav(codec, changed(wav_S, change, codec.hop_samples, seed, clip.id))
            frames = min(plain_QT.shape[1], other_QT.shape[1])
            same = int((plain_QT[:, :frames] == other_QT[:, :frames]).sum())
            rows.append(StabilityRow(clip.id, change, same, frames * plain_QT.shape[0]))
        if on_progress is not None:
            on_progress(number / len(clips))
    shares_QV = counts_QV / counts_QV.sum(1, keepdims=True)
    return StabilityResult(rows, float((shares_QV**2).sum(1).mean()))


def changed(wav_S: np.ndarray, change: Change, hop_samples: int, seed: int, clip_id: str) -> np.ndarray:
    """The waveform after a change; a shift drops the first samples, so frame t still lies nearest to frame t."""
    if change.kind == "shift":
        if not 0 < change.amount <= 0.5:
            raise ValueError(f"a shift is above 0 and at most 0.5 of a frame, not {change.amount}")
        return wav_S[round(change.amount * hop_samples) :] if wav_S.size > hop_samples else wav_S
    if change.kind == "phase":
        return rotated(wav_S, change.amount)
    if change.kind == "noise":
        rng = np.random.default_rng(_key(seed, clip_id))
        level = np.sqrt(np.mean(wav_S.astype(np.float64) ** 2)) * 10 ** (-change.amount / 20)
        return (wav_S + level * rng.standard_normal(wav_S.size)).astype(np.float32)
    raise ValueError(f"no change {change.kind!r}: choose shift, phase or noise")


def rotated(wav_S: np.ndarray, degrees: float) -> np.ndarray:
    """The same magnitudes at every frequency, the phase moved by a constant (an all-pass; 0 Hz and Nyquist scaled)."""
    spectrum = np.fft.rfft(wav_S.astype(np.float64))
    angle = np.deg2rad(degrees)
    turned = spectrum * np.exp(1j * angle)
    turned[0] = spectrum[0].real * np.cos(angle)
    if wav_S.size % 2 == 0:
        turned[-1] = spectrum[-1].real * np.cos(angle)
    return np.fft.irfft(turned, wav_S.size).astype(np.float32)


def _key(seed: int, clip_id: str) -> int:
    return digest_number(f"{seed}|{clip_id}|noise")
