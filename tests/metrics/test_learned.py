"""The small networks, where installed: ranks that anyone would give, and named failures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.metrics.base import NoScore
from llmcodec.metrics.learned import measure_dnsmos, measure_speaker
from llmcodec.metrics.registry import METRICS, check_metrics


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.load(read_manifest(speech_manifest("train"), languages=["en"])[0].path, 16_000)


def noisy(wav: np.ndarray, level: float) -> np.ndarray:
    return wav + level * np.random.default_rng(0).standard_normal(wav.size).astype(np.float32)


def test_dnsmos_ranks_noise_below_speech(speech: np.ndarray) -> None:
    pytest.importorskip("speechmos.dnsmos")
    clean, spoilt = measure_dnsmos(speech, speech), measure_dnsmos(speech, noisy(speech, 0.05))
    assert 2.5 < clean < 5 and spoilt < clean - 0.5
    for wav, reason in ((np.zeros(16_000, np.float32), "^digital silence"), (speech[:1600], "shorter than")):
        with pytest.raises(NoScore, match=reason):
            measure_dnsmos(wav, wav)


def test_speaker_similarity_is_one_for_the_recording_itself(speech: np.ndarray) -> None:
    pytest.importorskip("resemblyzer")
    assert measure_speaker(speech, speech) == pytest.approx(1.0, abs=1e-5)
    assert measure_speaker(speech, noisy(speech, 0.03)) < 0.97
    with pytest.raises(NoScore, match="^reconstruction: shorter than 0.5 s$"):
        measure_speaker(speech, speech[:1600])


@pytest.mark.parametrize("name", ["dnsmos", "speaker"])
def test_a_missing_package_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, METRICS[name].package, None)
    wav = np.ones(16_000, np.float32)
    with pytest.raises(ValueError, match="pip install 'llmcodec\\[perceptual\\]' && pip install --no-deps"):
        METRICS[name].score(wav, wav, 16_000)
    with pytest.raises(ValueError, match=f"{name} needs the package"):
        check_metrics([name])
