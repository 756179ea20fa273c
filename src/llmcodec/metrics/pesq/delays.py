"""PESQ's delay of one signal relative to the other: by envelopes, then by the votes of many short frames.

ITU-T P.862, section 10.1, after the package `pesq`; frames, stretches and breakpoints are arrays here. Shapes: S
samples of the padded signals (`tables`), W windows of 4 ms, F frames, N frequency bins, L lags, K lags that have
votes, B stretches or breakpoints. Positions without a unit in their name are windows; delays are samples, positive
where the second signal is late. Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llmcodec.metrics.pesq.activity import TAPS
from llmcodec.metrics.pesq.tables import MARGIN, WINDOW, hann

FRAME, HOP = 1024, 256
FRAMES_AT_ONCE = 128
"""Few enough that the frames stay in the processor's cache."""
KERNEL = FRAME // 64


@dataclass(frozen=True)
class Signals:
    """Both signals as the time alignment sees them."""

    pair_2S: np.ndarray
    loudness_2W: np.ndarray
    """Log power over the threshold of speech, 0 where there is none."""
    speech: list[tuple[int, int]]
    """Stretches of speech in the reference."""
    counted: dict[tuple[int, int], _Votes] = field(default_factory=dict)
    """Votes counted so far: parts of an utterance that is split need the frames of the whole again."""

    @property
    def num_windows(self) -> int:
        return int(self.loudness_2W.shape[1])

    @functools.cached_property
    def frames_2FS(self) -> np.ndarray:
        return sliding_window_view(self.pair_2S, FRAME, axis=1)

    def votes(self, phase: int, delay: int) -> _Votes:
        """Votes of the frames that start `phase` samples after a multiple of the hop."""
        if (phase, delay) not in self.counted:
            num_samples = self.pair_2S.shape[1]
            start_F = phase + HOP * np.arange(num_samples // HOP)
            # Frames in a margin are all zeros and have no vote.
            counted_F = (start_F < MARGIN - FRAME + max(0, -delay)) | (start_F > num_samples - MARGIN + TAPS - delay)
            self.counted[phase, delay] = _Votes(counted_F)
        return self.counted[phase, delay]


def envelope_delays(signals: Signals, start_B: np.ndarray, end_B: np.ndarray, estimate: int) -> np.ndarray:
    """Delay of every stretch of the reference by the cross-correlation of the loudness; the estimate if there is none.

    The other signal is read over the same windows, shifted by the estimate.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    num_windows, shift = signals.num_windows, estimate // WINDOW
    start_B = np.maximum(start_B, -shift)
    first, last = int(start_B.min()), int(end_B.max())
    delay_B = np.full(start_B.size, estimate)
    if last - first < 2:
        return delay_B
    window_W = np.arange(first, last)
    inside_BW = (window_W >= start_B[:, None]) & (window_W < end_B[:, None])
    low, high = first + shift, min(last + shift, num_windows)
    if high - low < 1:
        return delay_B
    loudness_2W = np.zeros((2, last - first), np.float32)
    loudness_2W[0] = signals.loudness_2W[0, first:last]
    loudness_2W[1, : high - low] = signals.loudness_2W[1, low:high]
    length = next_fast_len(2 * window_W.size, real=True)
    spectrum, other = rfft(loudness_2W[:, None] * inside_BW, length)
    np.conj(spectrum, out=spectrum)
    spectrum *= other
    correlation_BL = irfft(spectrum, length, overwrite_x=True)
    lag_B = correlation_BL.argmax(axis=1)
    found_B = correlation_BL[np.arange(lag_B.size), lag_B] > 0
    num_other_B = np.minimum(end_B, num_windows - shift) - start_B
    found_B &= (end_B - start_B > 1) & (num_other_B > 1)
    lag_B = np.where(lag_B > length // 2, lag_B - length, lag_B)
    delay_B += WINDOW * np.where(found_B, lag_B, 0)
    return delay_B


@functools.lru_cache
def _triangle() -> np.ndarray:
    """Weight of a vote by its circular distance from a lag; there are FRAME lags."""
    distance_L = np.minimum(np.arange(FRAME), FRAME - np.arange(FRAME))
    return np.maximum(0, 1 - distance_L / KERNEL)


@dataclass
class _Votes:
    """Votes for lags, one per entry: the frame (its first sample over HOP), the lag, the weight."""

    counted_F: np.ndarray
    frame: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    lag: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    weight: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def count(self, signals: Signals, frame_F: np.ndarray, phase: int, delay: int) -> None:
        """Votes for the lags within 1 % of a frame's largest cross-correlation, weighted by its eighth root."""
        correlation_FL = _correlations(signals, phase + HOP * frame_F, delay)
        top_F = correlation_FL.max(axis=1) * np.float32(0.99)
        row, lag = np.divmod(np.flatnonzero(correlation_FL > top_F[:, None]).astype(np.int32), np.int32(FRAME))
        self.frame = np.concatenate([self.frame, frame_F[row]])
        self.lag = np.concatenate([self.lag, lag])
        self.weight = np.concatenate([self.weight, top_F[row].astype(np.float64) ** 0.125])
        self.counted_F[frame_F] = True


def _correlations(signals: Signals, start_F: np.ndarray, delay: int) -> np.ndarray:
    """|cross-correlation| of windowed frames at these samples of the reference: (F, L)."""
    from scipy.fft import irfft, rfft

    frames_2FS = np.empty((2, start_F.size, FRAME), np.float32)
    np.multiply(signals.frames_2FS[0, start_F], hann(FRAME), out=frames_2FS[0])
    np.multiply(signals.frames_2FS[1, start_F + delay], hann(FRAME), out=frames_2FS[1])
    reference_FN, other_FN = rfft(frames_2FS, axis=2)
    np.conj(reference_FN, out=reference_FN)
    reference_FN *= other_FN
    correlation_FL: np.ndarray = irfft(reference_FN, FRAME, axis=1, overwrite_x=True)
    np.abs(correlation_FL, out=correlation_FL)
    return correlation_FL


def find_lags(
    signals: Signals, first: int, step: int, num_frames_B: np.ndarray, delay: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lag with most votes among the first `num_frames_B` frames from sample `first` on, and its share of the votes.

    Neighbouring lags count by a triangle. 0 and 0 where there are no votes. `num_frames_B` must not decrease.
    """
    num_frames, (first_frame, phase) = int(num_frames_B[-1]), divmod(first, HOP)
    frame_F = first_frame + step * np.arange(num_frames)
    votes = signals.votes(phase, delay)
    missing_F = frame_F[~votes.counted_F[frame_F]]
    for begin in range(0, missing_F.size, FRAMES_AT_ONCE):
        votes.count(signals, missing_F[begin : begin + FRAMES_AT_ONCE], phase, delay)
    place = (votes.frame - first_frame) * step
    here = np.flatnonzero((place >= 0) & (place < num_frames))
    if not here.size:
        return np.zeros(num_frames_B.size, int), np.zeros(num_frames_B.size)
    has_votes_L = np.zeros(FRAME, bool)
    has_votes_L[votes.lag[here]] = True
    lag_K, column = np.flatnonzero(has_votes_L), (has_votes_L.cumsum() - 1)[votes.lag[here]]
    row = np.searchsorted(num_frames_B, place[here], side="right")
    counts = np.bincount(row * lag_K.size + column, votes.weight[here], num_frames_B.size * lag_K.size)
    votes_BK = counts.reshape(num_frames_B.size, lag_K.size).cumsum(axis=0)
    # A maximum of the sum of triangles lies at one of their tops.
    smooth_BK = votes_BK @ _triangle()[lag_K[:, None] - lag_K]
    most_B, total_B = smooth_BK.max(axis=1), votes_BK.sum(axis=1)
    # Neighbours with equal votes differ only by rounding: take the first.
    lag_B = lag_K[(smooth_BK >= most_B[:, None] * (1 - 1e-9)).argmax(axis=1)]
    lag_B = np.where(total_B > 0, np.where(lag_B >= FRAME // 2, lag_B - FRAME, lag_B), 0)
    return lag_B, np.divide(most_B, total_B, out=np.zeros_like(most_B), where=total_B > 0)
