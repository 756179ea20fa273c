"""The numbers of wide-band PESQ at 16 kHz: layout of the padded signals, filters, 49 bands of the perceptual model.

Facts from ITU-T P.862 and P.862.2, as the package `pesq` states them. Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

import functools

import numpy as np

RATE = 16_000
WINDOW = 64
"""Samples of the 4 ms windows in which speech activity, utterances and breakpoints are counted."""
MARGIN_WINDOWS = 75
MARGIN = MARGIN_WINDOWS * WINDOW
"""Zeros before the signal, and after it, where they count as signal: room for delays of 0.3 s."""
TAIL = 320 * RATE // 1000
"""Further zeros after both, over which the model still runs."""
SHORTEST = RATE // 4

HIGH_PASS = ((2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794))
"""P.862.2's only input filter: numerator and denominator, 3 dB down near 100 Hz."""

ALIGNMENT_SECTIONS = np.array(
    [
        (0.325631521, -0.08678286, -0.238848661, 1, -1.07941649, 0.434583902),
        (0.403961804, -0.556985881, 0.153024077, 1, -0.415115835, 0.696590244),
        (4.73616277, 3.28725105, 1.75328902, 1, -1.85959905, 0.876284034),
        (0.365373469, 0, 0, 1, -0.634626531, 0),
        (0.884811506, 0, 0, 1, -0.256725271, 0.141536777),
        (0.723593055, -1.4471861, 0.723593044, 1, -1.12958747, 0.657232737),
        (1.64491086, -1.8172809, 1.24965806, 1, -1.7784039, 0.801724355),
        (0.633692689, -0.284644314, -0.319789663, 1, 0, 0),
        (1.03276303, 0.268428979, 0.602913323, 1, 0, 0),
        (1.00161636, -0.823749013, 0.439731942, 1, -0.885778255, 0),
        (0.752472096, -0.37538899, 0.188977609, 1, -0.077258216, 0.247230734),
        (1.02370057, 0.001661628, 0.52128424, 1, -0.183867259, 0.354324187),
    ]
)
"""Second-order sections of the telephone handset's band-pass, applied before delays are estimated."""

NUM_BINS_J = np.array(
    [1] * 8 + [2] + [1] * 5 + [2, 1, 1] + [2] * 8 + [3] * 4 + [4, 3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 9]
    + [12, 12, 15, 16, 18, 21, 25, 20]
)  # fmt: skip
"""Bins of the 512-sample spectrum in each band, 256 together (the one at Nyquist is left out)."""

WIDTH_BARK_J = np.array([
    0.157344, 0.317994, 0.322441, 0.326934, 0.331474, 0.336061, 0.340697, 0.345381, 0.350114, 0.354897, 0.359729,
    0.364611, 0.369544, 0.374529, 0.379565, 0.384653, 0.389794, 0.394989, 0.400236, 0.405538, 0.410894, 0.416306,
    0.421773, 0.427297, 0.432877, 0.438514, 0.444209, 0.449962, 0.455774, 0.461645, 0.467577, 0.473569, 0.479621,
    0.485736, 0.491912, 0.498151, 0.504454, 0.510819, 0.51725, 0.523745, 0.530308, 0.536934, 0.543629, 0.55039,
    0.55722, 0.564119, 0.571085, 0.578125, 0.585232,
])  # fmt: skip

BAND_GAIN_J = np.array([
    100.0, 99.999992, 100.0, 100.000008, 100.000008, 100.000015, 99.999992, 99.999969, 50.000027, 100.0, 99.999969,
    100.000015, 99.999947, 100.000061, 53.047077, 110.000046, 117.991989, 65.0, 68.760147, 69.999931, 71.428818,
    75.000038, 76.843384, 80.968781, 88.646126, 63.864388, 68.15535, 72.547775, 75.584831, 58.379192, 80.950836,
    64.135651, 54.384785, 73.821884, 64.437073, 59.176456, 65.521278, 61.399822, 58.144047, 57.004543, 64.126297,
    54.311001, 61.114979, 55.077751, 56.849335, 55.628868, 53.137054, 54.985844, 79.546974,
])  # fmt: skip
"""Factor that turns the sum of a band's bins into power density over its width in Bark."""

HEARING_THRESHOLD_J = np.array([
    51286152.0, 2454709.5, 70794.59375, 4897.788574, 1174.897705, 389.045166, 104.71286, 45.70882, 17.782795,
    9.772372, 4.897789, 3.090296, 1.905461, 1.258925, 0.977237, 0.724436, 0.562341, 0.457088, 0.389045, 0.331131,
    0.295121, 0.269153, 0.25704, 0.251189, 0.251189, 0.251189, 0.251189, 0.263027, 0.288403, 0.30903, 0.338844,
    0.371535, 0.398107, 0.436516, 0.467735, 0.489779, 0.501187, 0.501187, 0.512861, 0.524807, 0.524807, 0.524807,
    0.512861, 0.47863, 0.42658, 0.371535, 0.363078, 0.416869, 0.537032,
])  # fmt: skip
"""Power density below which a band is not heard."""

POWER_SCALE, LOUDNESS_SCALE = 6.910853e-6, 1.866055e-1
"""Calibration: a 1 kHz tone at 40 dB SPL has a loudness of 1 sone."""


@functools.lru_cache
def hann(length: int) -> np.ndarray:
    """Periodic Hann window, float32."""
    window: np.ndarray = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window.astype(np.float32)
