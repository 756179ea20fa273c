"""Distances between spectrograms: Codec-SUPERB's Mel and STFT distance, and a multi-scale log-mel distance.

Source: github voidful/Codec-SUPERB, SoundCodec/metrics.py. Shapes: S samples, N frequency bins, M mel bands, F frames.
Waveforms are numpy float32 (S,). Numpy, no torch, so that worker processes start at once.
Test: tests/metrics/test_spectral.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llmcodec.metrics.base import SAMPLE_RATE, NoScore, check_pair

MEL_BANDS = {2048: 150, 512: 80}
"""Codec-SUPERB: window length in samples -> number of mel bands; hop is a quarter of the window."""
LOG_MEL_BANDS = {2048: 160, 1024: 80, 512: 40, 256: 20}
"""Multi-scale log-mel: window length -> mel bands; hop is a quarter of the window."""
CLAMP = 1e-5


def measure_mel_stft(
    reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE
) -> dict[str, float]:
    """Codec-SUPERB's `mel` and `stft` distances (lower is better), both from one STFT per window.

    For windows 2048 and 512 (hop a quarter), summed: L1 of log10(clamp(X, 1e-5)^2) plus L1 of X, where X is the
    magnitude spectrogram (`stft`) or its slaney mel bands, 150 and 80 (`mel`).

    Raises:
        NoScore: at most 1,024 samples, which cannot be reflect-padded for the long window.
    """
    pair_2S, mel, stft = _as_pair(reference_S, reconstruction_S, MEL_BANDS), 0.0, 0.0
    for window, num_mels in MEL_BANDS.items():
        pair_2FN = magnitudes_2FN(pair_2S, window)
        stft += _log_and_linear_l1(pair_2FN)
        mel += _log_and_linear_l1(pair_2FN @ mel_filters_NM(window, num_mels, sample_rate))
    return {"mel": mel, "stft": stft}


def measure_log_mel(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Multi-scale log-mel distance in nats, lower is better: mean |ln mel(x) - ln mel(y)| over four windows.

    Windows 2048, 1024, 512, 256 with 160, 80, 40, 20 slaney bands of magnitudes, clamped at 1e-5. Unlike `mel` it has
    no linear term, so a recording's loudness hardly matters.

    Raises:
        NoScore: at most 1,024 samples.
    """
    pair_2S = _as_pair(reference_S, reconstruction_S, LOG_MEL_BANDS)
    scales = (
        _log_l1(magnitudes_2FN(pair_2S, window) @ mel_filters_NM(window, num_mels, sample_rate))
        for window, num_mels in LOG_MEL_BANDS.items()
    )
    return math.log(10) * sum(scales) / len(LOG_MEL_BANDS)


def _as_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray, bands: Mapping[int, int]) -> np.ndarray:
    """Both signals as one array, float32 (2, S), if they are long enough for the longest window."""
    check_pair(reference_S, reconstruction_S, silence=True)
    if reference_S.size < max(bands) // 2 + 1:
        raise NoScore(f"clip too short for a {max(bands)}-sample window")
    return np.stack([reference_S, reconstruction_S]).astype(np.float32)


@functools.lru_cache
def mel_filters_NM(window: int, num_mels: int, sample_rate: int) -> np.ndarray:
    """Slaney-scaled, area-normalised triangles from 0 Hz to Nyquist, as librosa builds them; float32.

    The scale is linear up to 1 kHz (200/3 Hz a step), then logarithmic (6.4 times in 27 steps).
    """
    top = sample_rate / 2
    top_mel = top * 3 / 200 if top < 1000 else 15 + 27 * math.log(top / 1000) / math.log(6.4)
    mels = np.linspace(0, top_mel, num_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    hz_N1 = np.linspace(0, top, window // 2 + 1)[:, None]
    rising = (hz_N1 - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz_N1) / (edges[2:] - edges[1:-1])
    triangles_NM = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    filters_NM: np.ndarray = triangles_NM.astype(np.float32)
    return filters_NM


@functools.lru_cache
def _hann(window: int) -> np.ndarray:
    """Periodic Hann window, float32."""
    return np.hanning(window + 1)[:-1].astype(np.float32)


def magnitudes_2FN(pair_2S: np.ndarray, window: int) -> np.ndarray:
    """Magnitude STFT of both signals: periodic Hann window, hop window/4, frames centred, edges reflected; float32."""
    half = window // 2
    padded_2S = np.pad(pair_2S, ((0, 0), (half, half)), mode="reflect")
    framed = sliding_window_view(padded_2S, window, axis=1)[:, :: window // 4]
    try:
        from scipy.fft import rfft  # does several frames at once
    except ImportError:
        from numpy.fft import rfft
    magnitude_2FN: np.ndarray = np.abs(rfft(framed * _hann(window), axis=2))
    return magnitude_2FN


def _log_l1(pair_2FN: np.ndarray) -> float:
    """Mean |log10 clamp(x, 1e-5) - log10 clamp(y, 1e-5)|, as one logarithm of the quotient."""
    clamped = np.maximum(pair_2FN, np.float32(CLAMP))
    return float(np.abs(np.log10(clamped[0] / clamped[1])).mean(dtype=np.float64))


def _log_and_linear_l1(pair_2FN: np.ndarray) -> float:
    """L1(log10(clamp(x, 1e-5)^2)) + L1(x), each a mean over all bins and frames."""
    return 2 * _log_l1(pair_2FN) + float(np.abs(pair_2FN[0] - pair_2FN[1]).mean(dtype=np.float64))
