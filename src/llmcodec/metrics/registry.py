"""The metrics by name, and the measurement of one pair of signals.

A new metric is a function of two signals in a file of this package and a line in `METRICS`: tables, the report and
`llmcodec evaluate reconstruction --metrics` find it there. Test: tests/metrics/test_registry.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcodec.io import audio
from llmcodec.metrics.base import SAMPLE_RATE, Measure, Measured, Metric, NoScore, check_shapes, load_metric_package
from llmcodec.metrics.learned import measure_dnsmos, measure_speaker
from llmcodec.metrics.pesq.wideband import measure_pesq
from llmcodec.metrics.pitch import measure_f0_correlation
from llmcodec.metrics.sdr import measure_sdr
from llmcodec.metrics.spectral import measure_log_mel, measure_mel_stft
from llmcodec.metrics.stoi import measure_stoi

_LINES = (
    Metric(
        "mel", "Mel distance", 3, False, hint="Codec-SUPERB's distance between mel spectrograms", score=measure_mel_stft
    ),
    Metric("stft", "STFT distance", 3, False, hint="distance between magnitude spectrograms", score=measure_mel_stft),
    Metric(
        "pesq",
        "PESQ",
        2,
        True,
        hint="wide-band quality score, 1.0 to 4.6",
        score=measure_pesq,
        rate=16_000,
        package="scipy",
    ),
    Metric("stoi", "STOI", 3, True, hint="intelligibility score, 0 to 1", score=measure_stoi),
    Metric(
        "f0corr",
        "F0 correlation",
        3,
        True,
        hint="correlation of the pitch contours, -1 to 1",
        score=measure_f0_correlation,
        package="parselmouth",
    ),
    Metric("sdr", "SDR", 1, True, "dB", "signal to sample-exact error", score=measure_sdr),
    Metric("logmel", "Log-mel distance", 3, False, score=measure_log_mel),
    Metric("dnsmos", "DNSMOS", 2, True, score=measure_dnsmos, rate=16_000, package="speechmos.dnsmos"),
    Metric("speaker", "Speaker similarity", 3, True, score=measure_speaker, rate=16_000, package="resemblyzer"),
)
METRICS = {metric.key: metric for metric in _LINES}
"""All metrics by name, in the order of the tables."""
CLAP = Measure("clap", "CLAP similarity", 3, True, hint="cosine of the vectors of a CLAP")
"""Needs a model that no package brings: measured in evaluation, by `adapters.features.clap`."""
SUPERB = ("mel", "stft", "pesq", "stoi", "f0corr", "sdr")
"""Codec-SUPERB's metrics, measured by default."""
FAST = ("mel", "stft", "sdr")
"""Fast metrics that need no optional package."""


def check_metrics(names: Sequence[str]) -> None:
    """Reject metrics that cannot be computed here.

    Raises:
        ValueError: an unknown metric, or one whose package is not installed.
    """
    for name in names:
        if name == CLAP.key:
            raise ValueError("metric clap needs a model: leave it out and give --clap PLACE, a hub id or folder")
        if name not in METRICS:
            raise ValueError(f"no metric {name!r}: choose among {', '.join(METRICS)}")
        if METRICS[name].package:
            load_metric_package(METRICS[name].package, name)


def measure_pair(
    reference_S: np.ndarray,
    reconstruction_S: np.ndarray,
    sample_rate: int = SAMPLE_RATE,
    names: Sequence[str] = SUPERB,
) -> dict[str, Measured]:
    """Measure one reconstruction by several metrics; a metric without a score gives the reason instead.

    Args:
        reference_S: the recording, float32 (S,).
        reconstruction_S: its reconstruction, float32 (S,).
        sample_rate: of both, in Hz; they are resampled for metrics that are defined at a single rate.
        names: keys of `METRICS`.

    Returns:
        Results by name, in the order of `names`.

    Raises:
        ValueError: the arrays do not form a pair of signals.
    """
    check_shapes(reference_S, reconstruction_S)
    pairs = {sample_rate: (reference_S, reconstruction_S)}
    found: dict[str, Measured] = {}
    for name in names:
        metric = METRICS[name]
        rate = metric.rate or sample_rate
        if name in found:
            continue
        if rate not in pairs:
            resampled = [audio.resample(wav_S, sample_rate, rate) for wav_S in (reference_S, reconstruction_S)]
            pairs[rate] = (resampled[0], resampled[1])
        try:
            score = metric.score(*pairs[rate], rate)
        except NoScore as reason:
            found[name] = Measured(None, str(reason))
            continue
        scores = score if isinstance(score, dict) else {name: score}
        found |= {key: Measured.of(value, METRICS[key].label) for key, value in scores.items()}
    return {name: found[name] for name in names}
