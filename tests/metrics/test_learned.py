"""The small networks, where installed: ranks that anyone would give, and named failures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.metrics.learned import measure_dnsmos, measure_speaker


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.load(read_manifest(speech_manifest("train"), languages=["en"])[0].path, 16_000)


def noisy(wav: np.ndarray, level: float) -> np.ndarray:
    return wav + level * np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)


def test_dnsmos_ranks_noise_below_speech(speech: np.ndarray) -> None:
    pytest.importorskip("speechmos.dnsmos")
    clean, spoilt = measure_dnsmos(speech), measure_dnsmos(noisy(speech, 0.05))
    assert clean.value is not None and spoilt.value is not None
    assert 2.5 < clean.value < 5 and spoilt.value < clean.value - 0.5
    assert measure_dnsmos(np.zeros(16_000, np.float32)).failure == "digital silence"
    assert "shorter than" in measure_dnsmos(speech[:1600]).failure


def test_speaker_similarity_is_one_for_the_recording_itself(speech: np.ndarray) -> None:
    pytest.importorskip("resemblyzer")
    assert measure_speaker(speech, speech).value == pytest.approx(1.0, abs=1e-5)
    spoilt = measure_speaker(speech, noisy(speech, 0.03))
    assert spoilt.value is not None and spoilt.value < 0.97
    assert measure_speaker(speech, speech[:1600]).failure == "reconstruction: shorter than 0.5 s"


@pytest.mark.parametrize(
    ("package", "measure"), [("speechmos.dnsmos", "dnsmos"), ("resemblyzer", "speaker")], ids=["dnsmos", "speaker"]
)
def test_a_missing_package_says_what_to_install(package: str, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    wav = np.ones(16_000, np.float32)
    with pytest.raises(ValueError, match="pip install"):
        measure_dnsmos(wav) if measure == "dnsmos" else measure_speaker(wav, wav)
