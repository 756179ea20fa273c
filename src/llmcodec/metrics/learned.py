"""Metrics by small pretrained networks, each optional: DNSMOS (a guessed opinion score) and speaker similarity.

DNSMOS: package `speechmos` (Reddy et al. 2021, models inside). Speaker similarity: package `resemblyzer` (GE2E, Wan et
al. 2018, weights inside). Both are imported where used. Waveforms are numpy float32 (S,) at 16 kHz.
Test: `pytest tests/metrics/test_learned.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any

import numpy as np

from llmcodec.metrics.measured import INSTALL, Measured, load_metric_package

MIN_SECONDS = 0.5
SAMPLE_RATE = 16_000


def measure_dnsmos(reconstruction_S: np.ndarray) -> Measured:
    """DNSMOS P.835 overall quality of one signal by itself, 1 .. 5, higher is better; the reference is not heard."""
    package = load_metric_package("speechmos.dnsmos")
    if reason := _unusable(reconstruction_S):
        return Measured(None, reason)
    score = package.run(np.clip(reconstruction_S.astype(np.float32), -1.0, 1.0), SAMPLE_RATE)
    return Measured.of(float(score["ovrl_mos"]), "DNSMOS")


def measure_speaker(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> Measured:
    """Cosine of the two speaker embeddings, higher is more alike; 1 for the recording itself."""
    package, encoder = load_metric_package("resemblyzer"), _speaker_encoder()
    embeddings = []
    for name, wav_S in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        if reason := _unusable(wav_S):
            return Measured(None, f"{name}: {reason}")
        voiced_S = package.preprocess_wav(wav_S.astype(np.float32), source_sr=SAMPLE_RATE)
        if voiced_S.size < MIN_SECONDS * SAMPLE_RATE:
            return Measured(None, f"{name} has less than {MIN_SECONDS} s of voice")
        embeddings.append(encoder.embed_utterance(voiced_S))
    a, b = embeddings
    return Measured.of(float(a @ b / np.sqrt((a @ a) * (b @ b))), "speaker similarity")


def _unusable(wav_S: np.ndarray) -> str:
    if not np.isfinite(wav_S).all():
        return "samples that are not finite"
    if wav_S.size < MIN_SECONDS * SAMPLE_RATE:
        return f"shorter than {MIN_SECONDS} s"
    return "" if np.any(wav_S) else "digital silence"


@functools.lru_cache(maxsize=1)
def _speaker_encoder() -> Any:
    if importlib.util.find_spec("resemblyzer") is None:
        raise ValueError(f"speaker similarity needs the package 'resemblyzer': {INSTALL['resemblyzer']}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecated imports
        return load_metric_package("resemblyzer").VoiceEncoder("cpu", verbose=False)
