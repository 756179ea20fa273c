"""Our STOI gives the numbers of the published package, and Octave's resampler those of scipy's polyphase."""

from __future__ import annotations

import numpy as np
import pystoi
import pytest
from pystoi.utils import resample_oct

from llmcodec.metrics.base import NoScore
from llmcodec.metrics.stoi import measure_stoi, resample

from ..speech import speech_like


@pytest.mark.parametrize("sample_rate", [16_000, 10_000, 24_000, 8_000])
@pytest.mark.parametrize("level", [0.0005, 0.02])
def test_the_numbers_are_those_of_pystoi(sample_rate: int, level: float) -> None:
    wav = speech_like(1.7, seed=sample_rate)
    wav[:5000] = 0  # a silent part, which is left out
    noisy = wav + level * np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)
    assert measure_stoi(wav, noisy, sample_rate) == pytest.approx(pystoi.stoi(wav, noisy, sample_rate), abs=1e-9)


@pytest.mark.parametrize(("target", "source"), [(10_000, 16_000), (10_000, 44_100), (10_000, 8_000), (3, 7)])
@pytest.mark.parametrize("num_samples", [1, 999, 4001])
def test_resampling_is_octaves(target: int, source: int, num_samples: int) -> None:
    wav = np.random.default_rng(1).standard_normal((2, num_samples))
    expected = np.stack([resample_oct(row, target, source) for row in wav])
    np.testing.assert_allclose(resample(wav, target, source), expected, atol=1e-9)


def test_too_little_speech_is_no_number() -> None:
    wav = speech_like(1.0)
    wav[3200:] = 0
    with pytest.raises(NoScore, match="30 are needed"):
        measure_stoi(wav, wav, 16_000)
    with pytest.raises(NoScore, match="only 0 frames"):
        measure_stoi(wav[:300], wav[:300], 16_000)
