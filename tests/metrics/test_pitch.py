"""F0 correlation against the published formula: Praat, librosa's warping, numpy's Pearson."""

from __future__ import annotations

import librosa
import numpy as np
import parselmouth
import pytest

from llmcodec.metrics.base import NoScore
from llmcodec.metrics.pitch import dtw_path, measure_f0_correlation, pitch_cents
from llmcodec.metrics.registry import measure_pair

from ..speech import speech_like


def published(reference: np.ndarray, other: np.ndarray) -> float:
    """As Codec-SUPERB describes it: every file is called 22,050 Hz, step 256, voicing threshold .6, 50 to 1100 Hz."""
    contours = []
    for wav in (reference, other):
        pitch = parselmouth.Sound(wav.astype(np.float64)[None], 22050).to_pitch_ac(
            time_step=256 / 22050, voicing_threshold=0.6, pitch_floor=50, pitch_ceiling=1100
        )
        hz = pitch.selected_array["frequency"]
        cents = 1200 * np.log2(hz[hz != 0] / 440)
        contours.append(cents - np.median(cents))
    _, path = librosa.sequence.dtw(*contours, backtrack=True)
    return float(np.corrcoef(contours[0][path[:, 0]], contours[1][path[:, 1]])[0, 1])


def test_the_number_is_the_published_one() -> None:
    reference = speech_like(2.0, seed=1)
    noise = np.random.default_rng(0).standard_normal(reference.size).astype(np.float32)
    for other in (reference + 0.02 * noise, speech_like(2.0, seed=2), speech_like(2.0, seed=5)[::-1].copy()):
        assert measure_f0_correlation(reference, other) == pytest.approx(published(reference, other), abs=1e-6)
    assert measure_f0_correlation(reference, reference) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(6))
def test_the_warping_path_is_librosas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 60, 2)
    a, b = rng.normal(0, 100, n), rng.normal(0, 100, m)
    if seed % 2:  # many ties
        a, b = np.round(a / 100), np.round(b / 100)
    _, path = librosa.sequence.dtw(a, b, backtrack=True)
    np.testing.assert_array_equal(np.stack(dtw_path(a, b), axis=1), path)


def test_a_known_pitch_is_found() -> None:
    time = np.arange(16_000) / 16_000
    phase = 2 * np.pi * np.cumsum(np.where(time < 0.5, 150.0, 220.0)) / 16_000
    wav = sum(np.sin(k * phase) / k for k in range(1, 6)).astype(np.float32) * 0.1
    cents = pitch_cents(wav)
    assert np.ptp(cents) == pytest.approx(1200 * np.log2(220 / 150), abs=10)


def test_failures_are_named() -> None:
    wav, noise = speech_like(1.0), 0.01 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with pytest.raises(NoScore, match="reconstruction has 0 voiced frames"):
        measure_f0_correlation(wav, noise)
    with pytest.raises(NoScore, match="reference has 0 voiced frames"):
        measure_f0_correlation(wav[:500], wav[:500])
    time = np.arange(16_000) / 16_000
    steady = (0.1 * np.sign(np.sin(2 * np.pi * 200 * time))).astype(np.float32)
    measured = measure_pair(steady, steady, names=["f0corr"])["f0corr"]
    assert measured.ok or "constant" in measured.failure
