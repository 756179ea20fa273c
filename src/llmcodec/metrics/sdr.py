"""Signal-to-distortion ratio: energy of the recording over energy of the sample-wise error.

Test: tests/metrics/test_sdr.py.
"""

from __future__ import annotations

import math

import numpy as np

from llmcodec.metrics.base import SAMPLE_RATE, NoScore, check_pair


def measure_sdr(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """10 log10(sum x^2 / sum (x - y)^2) in dB, the same at any sample rate; phase errors count fully.

    Raises:
        NoScore: a silent reference, or a perfect reconstruction.
    """
    check_pair(reference_S, reconstruction_S)
    reference, error = reference_S.astype(np.float64), reference_S.astype(np.float64) - reconstruction_S
    signal_power, error_power = float((reference**2).sum()), float((error**2).sum())
    if error_power == 0:
        raise NoScore("reconstruction is identical (infinite SDR)")
    return 10 * math.log10(signal_power / error_power)
