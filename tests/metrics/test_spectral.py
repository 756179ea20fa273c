"""Spectral distances against their definitions written out again in numpy float64, and in librosa's words."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest

from llmcodec.metrics.spectral import LOG_MEL_BANDS, measure_log_mel, measure_mel_stft

from ..speech import speech_like


def hz_to_mel(hz: float) -> float:
    """Slaney's scale (Auditory Toolbox, 1998): linear to 1 kHz, then logarithmic."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def mel_to_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def mel_filters(window: int, num_mels: int) -> np.ndarray:
    top = hz_to_mel(8000.0)
    edges = [mel_to_hz(top * i / (num_mels + 1)) for i in range(num_mels + 2)]
    filters = np.zeros((num_mels, window // 2 + 1))
    for m in range(num_mels):
        low, centre, high = edges[m : m + 3]
        for k in range(window // 2 + 1):
            hz = k * 16_000 / window
            rise, fall = (hz - low) / (centre - low), (high - hz) / (high - centre)
            filters[m, k] = max(0.0, min(rise, fall)) * 2 / (high - low)
    return filters


def magnitudes(wav: np.ndarray, window: int) -> np.ndarray:
    hop, half = window // 4, window // 2
    padded = np.concatenate([wav[1 : half + 1][::-1], wav, wav[-half - 1 : -1][::-1]]).astype(np.float64)
    hann = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / window) for n in range(window)])
    frames = [padded[i : i + window] * hann for i in range(0, len(padded) - window + 1, hop)]
    return np.abs(np.fft.rfft(frames, axis=1))


def distance(x: np.ndarray, y: np.ndarray) -> float:
    logs = [np.log10(np.maximum(z, 1e-5) ** 2) for z in (x, y)]
    return float(np.mean(np.abs(logs[0] - logs[1])) + np.mean(np.abs(x - y)))


def test_mel_and_stft_distances_equal_their_definition() -> None:
    reference, other = speech_like(0.7), speech_like(0.7, seed=3)
    mel = stft = 0.0
    for window, num_mels in ((2048, 150), (512, 80)):
        x, y = magnitudes(reference, window), magnitudes(other, window)
        filters = mel_filters(window, num_mels)
        stft += distance(x, y)
        mel += distance(x @ filters.T, y @ filters.T)
    measured = measure_mel_stft(reference, other)
    assert measured["stft"] == pytest.approx(stft, rel=2e-5)
    assert measured["mel"] == pytest.approx(mel, rel=2e-5)


def spectrogram(wav: np.ndarray, window: int) -> np.ndarray:
    return np.abs(librosa.stft(wav, n_fft=window, hop_length=window // 4, pad_mode="reflect"))


def test_published_formulas_in_librosas_words() -> None:
    """Codec-SUPERB's two losses with librosa's STFT and mel filters, at two sample rates; and the log-mel distance."""
    reference, other = speech_like(1.1), speech_like(1.1, seed=3)
    for rate in (16_000, 24_000):
        expected = {"mel": 0.0, "stft": 0.0}
        for window, num_mels in ((2048, 150), (512, 80)):
            x, y = (spectrogram(wav, window) for wav in (reference, other))
            basis = librosa.filters.mel(sr=rate, n_fft=window, n_mels=num_mels)
            expected["stft"] += distance(x, y)
            expected["mel"] += distance(basis @ x, basis @ y)
        assert measure_mel_stft(reference, other, rate) == pytest.approx(expected, rel=2e-5)
        log_mel = []
        for window, num_mels in LOG_MEL_BANDS.items():
            x, y = (spectrogram(wav, window) for wav in (reference, other))
            basis = librosa.filters.mel(sr=rate, n_fft=window, n_mels=num_mels)
            log_mel.append(np.mean(np.abs(np.log(np.maximum(basis @ x, 1e-5)) - np.log(np.maximum(basis @ y, 1e-5)))))
        assert measure_log_mel(reference, other, rate) == pytest.approx(np.mean(log_mel), rel=2e-5)
