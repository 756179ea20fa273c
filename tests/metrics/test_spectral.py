"""Metrics against their definitions written out again in numpy float64, and failures that stay failures."""

from __future__ import annotations

import math
import subprocess
import sys

import librosa
import numpy as np
import pytest

from llmcodec.io import audio
from llmcodec.metrics import spectral as metrics

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
    measured = metrics.spectral_distances(reference, other)
    assert measured["stft"].value == pytest.approx(stft, rel=2e-5)
    assert measured["mel"].value == pytest.approx(mel, rel=2e-5)


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
        measured = metrics.spectral_distances(reference, other, rate)
        assert {name: m.value for name, m in measured.items()} == pytest.approx(expected, rel=2e-5)
        log_mel = []
        for window, num_mels in metrics.LOG_MEL_BANDS.items():
            x, y = (spectrogram(wav, window) for wav in (reference, other))
            basis = librosa.filters.mel(sr=rate, n_fft=window, n_mels=num_mels)
            log_mel.append(np.mean(np.abs(np.log(np.maximum(basis @ x, 1e-5)) - np.log(np.maximum(basis @ y, 1e-5)))))
        assert metrics.measure_log_mel(reference, other, rate).value == pytest.approx(np.mean(log_mel), rel=2e-5)


def test_other_sample_rates_are_resampled_where_a_metric_needs_16_khz() -> None:
    wav = speech_like(1.5)
    noisy = wav + 0.005 * np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)
    at_24 = [audio.resample(x, 16_000, 24_000) for x in (wav, noisy)]
    here, there = metrics.measure_pair(wav, noisy), metrics.measure_pair(*at_24, 24_000)
    assert there["pesq"].value == pytest.approx(here["pesq"].value, abs=0.05)
    assert there["stoi"].value == pytest.approx(here["stoi"].value, abs=0.01)


def test_worker_processes_need_no_torch() -> None:
    code = "import sys, llmcodec.evaluation.workers; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_perfect_reconstruction() -> None:
    wav = speech_like(1.5)
    measured = metrics.measure_pair(wav, wav.copy())
    assert measured["mel"].value == 0.0 and measured["stft"].value == 0.0
    assert measured["stoi"].value == pytest.approx(1.0, abs=1e-6)
    assert measured["pesq"].value == pytest.approx(4.644, abs=0.01)  # the top of the wide-band scale
    assert measured["sdr"].failure.startswith("reconstruction is identical")


def test_worse_reconstructions_score_worse() -> None:
    wav = speech_like(2.0)
    noise = np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)
    light, heavy = (metrics.measure_pair(wav, wav + level * noise) for level in (0.001, 0.03))
    for name in metrics.SUPERB:
        higher = metrics.HIGHER_IS_BETTER[name]
        better, worse = light[name].value, heavy[name].value
        assert better is not None and worse is not None
        assert (better > worse) == higher, name


def test_sdr_by_hand() -> None:
    measured = metrics.measure_sdr(np.array([3.0, 4.0], np.float32), np.array([3.0, 3.5], np.float32))
    assert measured.value == pytest.approx(10 * math.log10(25 / 0.25), abs=1e-9)


@pytest.mark.parametrize("num_samples", [1, 320, 1024])
def test_short_clips_fail_by_name(num_samples: int) -> None:
    wav = 0.1 * np.ones(num_samples, np.float32)
    measured = metrics.measure_pair(wav, 0.9 * wav)
    for name in ("mel", "stft", "pesq", "stoi", "f0corr"):
        assert not measured[name].ok and measured[name].failure, name


def test_too_little_speech_for_stoi_is_no_score() -> None:
    wav = speech_like(1.0)
    wav[3200:] = 0
    measured = metrics.measure_stoi(wav, wav)
    assert not measured.ok and "frames of speech" in measured.failure


def test_silence_and_broken_samples_fail_by_name() -> None:
    wav, silence = speech_like(1.0), np.zeros(16_000, np.float32)
    for name, result in metrics.measure_pair(silence, wav).items():
        assert name in ("mel", "stft") or result.failure == "reference is digital silence"
    assert metrics.measure_pesq(wav, silence).failure == "reconstruction is digital silence"
    broken = wav.copy()
    broken[5] = np.nan
    for name, result in metrics.measure_pair(wav, broken).items():
        assert not result.ok, name


def test_unequal_lengths_and_rates_are_errors() -> None:
    wav = speech_like(0.5)
    with pytest.raises(ValueError, match="8000 samples but the reconstruction 7999"):
        metrics.measure_pair(wav, wav[:-1])
    with pytest.raises(ValueError, match="one channel"):
        metrics.measure_sdr(np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(ValueError, match="resample both"):
        metrics.measure_pesq(wav, wav, sample_rate=24_000)


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="pip install no_such_metric"):
        metrics.load_metric_package("no_such_metric")
    with pytest.raises(ValueError, match="no metric 'visqol': choose among mel, stft"):
        metrics.check_metrics(["mel", "visqol"])


def test_measured_is_a_number_or_a_reason() -> None:
    assert metrics.Measured.of(math.nan, "x").failure == "x is nan"
    with pytest.raises(AssertionError):
        metrics.Measured(None)
    with pytest.raises(AssertionError):
        metrics.Measured(1.0, "why")
