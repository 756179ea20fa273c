"""Shared by all metrics: table columns, scores and failures, checks of a signal pair, optional packages.

A metric is a function of two signals that returns a number, or raises `NoScore` if there is none; its entry in
`registry.METRICS` says how it is called and displayed. Waveforms are numpy float32 (S,), S samples.
Test: tests/metrics/test_base.py.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import numpy as np

from llmcodec.metrics.statistics import PairedComparison

SAMPLE_RATE = 16_000
"""Default sample rate, Hz."""
INSTALL = {
    "scipy": "pip install 'llmcodec[metrics]'",
    "parselmouth": "pip install 'llmcodec[metrics]'",
    "jiwer": "pip install 'llmcodec[asr]'",
    "speechmos.dnsmos": "pip install 'llmcodec[perceptual]' && pip install --no-deps speechmos==0.0.1.1",
    "resemblyzer": "pip install 'llmcodec[perceptual]' && pip install --no-deps resemblyzer==0.1.4",
}


class NoScore(ValueError):
    """Why a metric has no number for this pair of signals."""


@dataclass(frozen=True)
class Measured:
    """A number, or the reason why there is none."""

    value: float | None
    failure: str = ""

    def __post_init__(self) -> None:
        assert (self.value is None) == bool(self.failure), "exactly one of value and failure"

    @property
    def ok(self) -> bool:
        """Whether there is a number."""
        return self.value is not None

    @staticmethod
    def of(value: float, name: str) -> Measured:
        """Wrap a value; a non-finite one becomes a failure."""
        if math.isfinite(value):
            return Measured(float(value))
        return Measured(None, f"{name} is {value}")


@dataclass(frozen=True)
class Measure:
    """A row of the result tables."""

    key: str
    label: str
    digits: int
    higher_is_better: bool | None
    """None if neither direction is better."""
    unit: str = ""
    hint: str = ""
    """A few words for the report page."""

    @property
    def arrow(self) -> str:
        """Which way is better: ↑, ↓ or nothing."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def title(self) -> str:
        """Label, direction and unit: `SDR ↑ (dB)`."""
        return f"{self.label} {self.arrow}".strip() + (f" ({self.unit})" if self.unit else "")

    def judge(self, result: PairedComparison) -> Literal["same", "changed", "better", "worse"]:
        """The paired comparison in one word; `same` if no difference is shown."""
        if not result.real:
            return "same"
        if self.higher_is_better is None:
            return "changed"
        return "better" if (result.difference.value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Metric(Measure):
    """A measure of one reconstruction against its reference."""

    score: Callable[[np.ndarray, np.ndarray, int], float | dict[str, float]] = field(kw_only=True)
    """(reference (S,), reconstruction (S,), sample rate) -> the score, or several scores by key. Raises NoScore."""
    rate: int | None = field(default=None, kw_only=True)
    """Set if the metric is defined at a single rate: both signals are then resampled to it."""
    package: str = field(default="", kw_only=True)
    """Optional module that it needs."""


def check_shapes(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> None:
    """Reject two arrays that do not form a pair.

    Raises:
        ValueError: a signal has several channels, or their lengths differ.
    """
    for name, wav in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        if wav.ndim != 1:
            raise ValueError(f"{name}: expected one channel of samples, got an array of shape {wav.shape}")
    if reference_S.size != reconstruction_S.size:
        raise ValueError(
            f"reference has {reference_S.size} samples but the reconstruction {reconstruction_S.size}: "
            "decode with length=S, or cut both to the same length"
        )


def check_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray, *, silence: bool = False) -> None:
    """Reject a pair that cannot be compared.

    Args:
        reference_S: the recording, float (S,).
        reconstruction_S: its reconstruction, float (S,).
        silence: accept a reference of digital silence.

    Raises:
        ValueError: the arrays do not form a pair (`check_shapes`).
        NoScore: samples that are not finite, or a silent reference.
    """
    check_shapes(reference_S, reconstruction_S)
    for name, wav_S in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        if not np.isfinite(wav_S).all():
            raise NoScore(f"{name} has samples that are not finite")
    if not silence and not np.any(reference_S):
        raise NoScore("reference is digital silence")


def check_rate(sample_rate: int, name: str) -> None:
    """Reject any sample rate other than 16 kHz.

    Raises:
        ValueError: the signals have another rate.
    """
    if sample_rate != SAMPLE_RATE:
        raise ValueError(f"{name} is defined at {SAMPLE_RATE} Hz, not at {sample_rate}: resample both signals first")


def load_metric_package(name: str, metric: str = "a metric") -> ModuleType:
    """Import an optional metric package.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = INSTALL.get(name, f"pip install {name}")
        raise ValueError(f"{metric} needs the package {name!r} ({error}): {how}") from error
