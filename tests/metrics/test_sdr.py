"""Signal-to-distortion ratio by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcodec.metrics.base import NoScore
from llmcodec.metrics.sdr import measure_sdr


def test_sdr_by_hand() -> None:
    measured = measure_sdr(np.array([3.0, 4.0], np.float32), np.array([3.0, 3.5], np.float32))
    assert measured == pytest.approx(10 * math.log10(25 / 0.25), abs=1e-9)


def test_a_perfect_reconstruction_has_no_number() -> None:
    with pytest.raises(NoScore, match="identical"):
        measure_sdr(np.ones(4, np.float32), np.ones(4, np.float32))
