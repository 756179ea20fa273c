"""Input of PESQ's time alignment: the telephone band of both signals, and where it contains speech.

ITU-T P.862, section 10.1, after the package `pesq`. Shapes: S samples of the padded signals (`tables`), W windows
of 4 ms, N frequency bins. Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llmcodec.metrics.pesq.tables import ALIGNMENT_SECTIONS, MARGIN, WINDOW

TAPS, BLOCK, BLOCKS_AT_ONCE = 512, 3072, 64
"""Of the alignment filter, whose response is below 1e-14 after 512 taps."""
SHORTEST_SPEECH, LONGEST_GAP = 4, 50


@functools.lru_cache
def _telephone_response() -> np.ndarray:
    """Spectrum of the alignment filter."""
    delay_N = np.exp(-2j * np.pi * np.arange(BLOCK // 2 + 1) / BLOCK)
    powers_3N = np.stack([np.ones_like(delay_N), delay_N, delay_N**2])
    sections_KN = (ALIGNMENT_SECTIONS[:, :3] @ powers_3N) / (ALIGNMENT_SECTIONS[:, 3:] @ powers_3N)
    response_N: np.ndarray = sections_KN.prod(axis=0)
    return response_N


def telephone_band(pair_2S: np.ndarray) -> np.ndarray:
    """Remove the mean, fade in and out over 4 ms and apply the handset's band-pass; float32.

    Overlap-save in 64 bits: in silence, coarser rounding would vote on delays.
    """
    from scipy.fft import irfft, rfft

    num_samples, step = pair_2S.shape[1], BLOCK - TAPS
    size = num_samples - 2 * MARGIN
    num_blocks = -(-(size + TAPS) // step)
    blocks_2S = np.zeros((2, num_blocks * step + TAPS))
    sound_2S = blocks_2S[:, TAPS : TAPS + size]
    sound_2S += pair_2S[:, MARGIN : MARGIN + size]
    sound_2S -= sound_2S.sum(axis=1, keepdims=True) / num_samples  # the margins count
    fade = (0.5 + np.arange(WINDOW)) / WINDOW
    sound_2S[:, :WINDOW] *= fade
    sound_2S[:, -WINDOW:] *= fade[::-1]
    frames_2FS = sliding_window_view(blocks_2S, BLOCK, axis=1)[:, ::step]
    out_2S = np.zeros((2, MARGIN + num_blocks * step + MARGIN), np.float32)
    out_2FS = out_2S[:, MARGIN:-MARGIN].reshape(2, num_blocks, step)
    for begin in range(0, num_blocks, BLOCKS_AT_ONCE):
        some = slice(begin, begin + BLOCKS_AT_ONCE)
        spectrum = rfft(frames_2FS[:, some], axis=2)
        spectrum *= _telephone_response()
        out_2FS[:, some] = irfft(spectrum, BLOCK, axis=2, overwrite_x=True)[:, :, TAPS:]
    out_2S[:, MARGIN + size + TAPS :] = 0
    return out_2S[:, :num_samples]


def stretches(active_W: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of every run of True; the first and the last element are False."""
    edges = np.flatnonzero(active_W[1:] != active_W[:-1]) + 1
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def activity(wav_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of the speech windows (0 elsewhere), and its logarithm relative to the speech threshold."""
    num_windows = wav_S.size // WINDOW
    windows_WS = wav_S[: num_windows * WINDOW].reshape(num_windows, WINDOW)
    power_W = np.einsum("ws,ws->w", windows_WS, windows_WS).astype(np.float64) / WINDOW
    mean, floor = power_W.mean(), power_W.max() * 1e-4 or 1.0
    power_W = np.maximum(power_W, floor)
    threshold = _noise_threshold(power_W, mean)
    speech = _speech_stretches(power_W, threshold)
    active_W = np.zeros(num_windows, bool)
    for start, end in speech or [(1, num_windows - 1)]:
        active_W[start:end] = True
    for (_, end), (start, _) in zip(speech, speech[1:], strict=False):
        if start - end <= LONGEST_GAP:
            active_W[end:start], power_W[end:start] = True, floor
    vad_W = np.where(active_W, power_W, 0.0)
    for start, end in stretches(active_W):
        if 3 <= start < num_windows - 2:
            vad_W[start - 2 : start] = vad_W[start] * np.array([0.1, 0.3])
        if 3 <= end < num_windows - 2:
            vad_W[end : end + 2] = vad_W[end - 1] * np.array([0.3, 0.1])
    threshold = threshold if threshold > 0 else floor
    return vad_W, np.log(np.maximum(vad_W / threshold, 1.0))


def _noise_threshold(power_W: np.ndarray, first_guess: float) -> float:
    """Mean plus two standard deviations of the powers below it, iterated twelve times; -1 if all powers are below."""
    sorted_W = np.sort(power_W)
    sums, squares = np.cumsum(sorted_W), np.cumsum(sorted_W**2)
    threshold = first_guess
    for _ in range(12):
        num = int(np.searchsorted(sorted_W, threshold, side="right"))
        mean = sums[num - 1] / num if num else 0.0
        variance = squares[num - 1] / num - mean**2 if num else 0.0
        threshold = 1.001 * (mean + 2 * math.sqrt(max(variance, 0.0)))
    return threshold if sorted_W[-1] > threshold else -1.0


def _speech_stretches(power_W: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Runs above the threshold that are longer than 16 ms; against a very quiet background, also clearly above it."""
    active_W = power_W > threshold
    level = power_W[active_W].mean() if active_W.any() else 0.0
    noise = 1.0 if active_W.all() else power_W[~active_W].mean()
    active_W[[0, -1]] = False
    speech = [(start, end) for start, end in stretches(active_W) if end - start > SHORTEST_SPEECH]
    if level >= 1000 * noise:
        speech = [(start, end) for start, end in speech if power_W[start:end].mean() >= 3 * threshold]
    return speech
