"""Metrics by small pretrained networks, each optional: DNSMOS (a predicted opinion score) and speaker similarity.

DNSMOS: package `speechmos` (Reddy et al. 2021, models inside). Speaker similarity: package `resemblyzer` (GE2E, Wan et
al. 2018, weights inside). Both are imported where used. Waveforms are numpy float32 (S,) at 16 kHz.
Test: tests/metrics/test_learned.py.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

from llmcodec.metrics.base import SAMPLE_RATE, NoScore, check_rate, load_metric_package

MIN_SECONDS = 0.5


def measure_dnsmos(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """DNSMOS P.835 overall quality of the reconstruction alone, 1 .. 5, higher is better.

    Raises:
        NoScore: silence, or less than half a second.
    """
    package = load_metric_package("speechmos.dnsmos", "DNSMOS")
    check_rate(sample_rate, "DNSMOS")
    _check_audible(reconstruction_S)
    score = package.run(np.clip(reconstruction_S.astype(np.float32), -1.0, 1.0), SAMPLE_RATE)
    return float(score["ovrl_mos"])


def measure_speaker(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Cosine of the two speaker embeddings, higher is more alike; 1 for the recording itself.

    Raises:
        NoScore: silence, or less than half a second of voice, in either signal.
    """
    check_rate(sample_rate, "speaker similarity")
    return float(embed_voice(reference_S, "reference") @ embed_voice(reconstruction_S, "reconstruction"))


def embed_voice(wav_S: np.ndarray, name: str) -> np.ndarray:
    """Speaker embedding of 16 kHz speech, of unit norm (256,).

    Raises:
        NoScore: silence, or less than half a second of voice; the reason begins with `name`.
    """
    package, encoder = load_metric_package("resemblyzer", "speaker similarity"), _speaker_encoder()
    _check_audible(wav_S, f"{name}: ")
    voiced_S = package.preprocess_wav(wav_S.astype(np.float32), source_sr=SAMPLE_RATE)
    if voiced_S.size < MIN_SECONDS * SAMPLE_RATE:
        raise NoScore(f"{name} has less than {MIN_SECONDS} s of voice")
    embedding = encoder.embed_utterance(voiced_S)
    unit: np.ndarray = embedding / np.linalg.norm(embedding)
    return unit


def _check_audible(wav_S: np.ndarray, name: str = "") -> None:
    if not np.isfinite(wav_S).all():
        raise NoScore(f"{name}samples that are not finite")
    if wav_S.size < MIN_SECONDS * SAMPLE_RATE:
        raise NoScore(f"{name}shorter than {MIN_SECONDS} s")
    if not np.any(wav_S):
        raise NoScore(f"{name}digital silence")


@functools.lru_cache(maxsize=1)
def _speaker_encoder() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecated imports
        return load_metric_package("resemblyzer").VoiceEncoder("cpu", verbose=False)
