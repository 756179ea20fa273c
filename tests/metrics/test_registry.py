"""The metrics by name: one pair of signals, failures that stay failures, errors for what is no pair."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from llmcodec.io import audio
from llmcodec.metrics.base import NoScore
from llmcodec.metrics.pesq.wideband import measure_pesq
from llmcodec.metrics.registry import METRICS, SUPERB, check_metrics, measure_pair
from llmcodec.metrics.sdr import measure_sdr

from ..speech import speech_like


def test_other_sample_rates_are_resampled_where_a_metric_needs_16_khz() -> None:
    wav = speech_like(1.5)
    noisy = wav + 0.005 * np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)
    at_24 = [audio.resample(x, 16_000, 24_000) for x in (wav, noisy)]
    here, there = measure_pair(wav, noisy), measure_pair(*at_24, 24_000)
    assert there["pesq"].value == pytest.approx(here["pesq"].value, abs=0.05)
    assert there["stoi"].value == pytest.approx(here["stoi"].value, abs=0.01)


def test_worker_processes_need_no_torch() -> None:
    code = "import sys, llmcodec.evaluation.workers; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_perfect_reconstruction() -> None:
    wav = speech_like(1.5)
    measured = measure_pair(wav, wav.copy())
    assert measured["mel"].value == 0.0 and measured["stft"].value == 0.0
    assert measured["stoi"].value == pytest.approx(1.0, abs=1e-6)
    assert measured["pesq"].value == pytest.approx(4.644, abs=0.01)  # the top of the wide-band scale
    assert measured["sdr"].failure.startswith("reconstruction is identical")


def test_worse_reconstructions_score_worse() -> None:
    wav = speech_like(2.0)
    noise = np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)
    light, heavy = (measure_pair(wav, wav + level * noise) for level in (0.001, 0.03))
    for name in SUPERB:
        higher = METRICS[name].higher_is_better
        better, worse = light[name].value, heavy[name].value
        assert better is not None and worse is not None
        assert (better > worse) == higher, name


@pytest.mark.parametrize("num_samples", [1, 320, 1024])
def test_short_clips_fail_by_name(num_samples: int) -> None:
    wav = 0.1 * np.ones(num_samples, np.float32)
    measured = measure_pair(wav, 0.9 * wav)
    for name in ("mel", "stft", "pesq", "stoi", "f0corr"):
        assert not measured[name].ok and measured[name].failure, name


def test_silence_and_broken_samples_fail_by_name() -> None:
    wav, silence = speech_like(1.0), np.zeros(16_000, np.float32)
    for name, result in measure_pair(silence, wav).items():
        assert name in ("mel", "stft") or result.failure == "reference is digital silence"
    with pytest.raises(NoScore, match="reconstruction is digital silence"):
        measure_pesq(wav, silence)
    broken = wav.copy()
    broken[5] = np.nan
    for name, result in measure_pair(wav, broken).items():
        assert not result.ok, name


def test_unequal_lengths_and_rates_are_errors() -> None:
    wav = speech_like(0.5)
    with pytest.raises(ValueError, match="8000 samples but the reconstruction 7999"):
        measure_pair(wav, wav[:-1])
    with pytest.raises(ValueError, match="one channel"):
        measure_sdr(np.zeros((2, 5)), np.zeros((2, 5)))
    with pytest.raises(ValueError, match="resample both"):
        measure_pesq(wav, wav, sample_rate=24_000)


def test_unknown_metrics_are_errors() -> None:
    with pytest.raises(ValueError, match="no metric 'visqol': choose among mel, stft"):
        check_metrics(["mel", "visqol"])


def test_a_metric_without_a_finite_number_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "sdr", replace(METRICS["sdr"], score=lambda *_: math.inf))
    assert measure_pair(speech_like(0.5), speech_like(0.5), names=["sdr"])["sdr"].failure == "SDR is inf"
