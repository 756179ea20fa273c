"""F0 correlation: how well the pitch contour is preserved, by Codec-SUPERB's definition.

Praat's autocorrelation pitch (package `praat-parselmouth`) of both signals, voiced frames in cents around their own
median, aligned by dynamic time warping, then Pearson's correlation over the warping path. Source: github
voidful/Codec-SUPERB, SoundCodec/metrics.py. Shapes: S samples, N and M voiced frames.
Test: tests/metrics/test_pitch.py.
"""

from __future__ import annotations

import math

import numpy as np

from llmcodec.metrics.base import SAMPLE_RATE, NoScore, check_pair, load_metric_package

LABEL_RATE = 22_050
"""Codec-SUPERB tells Praat that every file has this sample rate. At 16 kHz the pitch floor of 50 Hz is therefore 36 Hz
and the ceiling of 1,100 Hz is 798 Hz; the step remains 256 samples. Kept so that numbers match; cents around the median
are not affected."""
STEP_SAMPLES = 256
FLOOR_HZ, CEILING_HZ, VOICING_THRESHOLD = 50.0, 1100.0, 0.6
MAX_FRAMES = 5_000
"""Most voiced frames accepted (80 s of voice at 16 kHz); more would take over 400 MB for the warping."""


def measure_f0_correlation(
    reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE
) -> float:
    """Pearson correlation of the two pitch contours, -1 .. 1, higher is better; the sample rate is not used.

    Raises:
        NoScore: a signal is too short, has fewer than two voiced frames, or a constant pitch (Codec-SUPERB: 0.0).
    """
    check_pair(reference_S, reconstruction_S)
    contours = []
    for name, wav_S in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        cents = pitch_cents(wav_S)
        if cents.size < 2:
            raise NoScore(f"{name} has {cents.size} voiced frames; F0 correlation needs 2")
        if cents.size > MAX_FRAMES:
            raise NoScore(f"{name} has more than {MAX_FRAMES} voiced frames; cut the clip")
        contours.append(cents)
    i, j = dtw_path(*contours)
    a, b = contours[0][i], contours[1][j]
    a, b = a - a.mean(), b - b.mean()
    power = math.sqrt(float(a @ a) * float(b @ b))
    if power <= 1e-9:
        raise NoScore("the pitch is constant: no correlation")
    return float(a @ b) / power


def pitch_cents(wav_S: np.ndarray) -> np.ndarray:
    """Pitch of the voiced frames in cents above their median; empty where Praat finds none or the clip is too short."""
    parselmouth = load_metric_package("parselmouth")
    if wav_S.size * FLOOR_HZ < 3 * LABEL_RATE or not np.isfinite(wav_S).all():  # Praat's window: three periods
        return np.zeros(0)
    sound = parselmouth.Sound(np.asarray(wav_S, dtype=np.float64), LABEL_RATE)
    pitch = sound.to_pitch_ac(
        time_step=STEP_SAMPLES / LABEL_RATE,
        voicing_threshold=VOICING_THRESHOLD,
        pitch_floor=FLOOR_HZ,
        pitch_ceiling=CEILING_HZ,
    )
    hz: np.ndarray = pitch.selected_array["frequency"]
    cents: np.ndarray = 1200 * np.log2(hz[hz != 0] / 440)
    return cents - np.median(cents) if cents.size else cents


def dtw_path(a_N: np.ndarray, b_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cheapest monotonic alignment under |a - b|, steps (1,1), (0,1), (1,0): index pairs from the end to the start.

    Where steps cost the same, the first in that order is taken (as librosa does). Filled along anti-diagonals, whose
    cells do not depend on each other.
    """
    n, m = a_N.size, b_M.size
    backwards_M = b_M[::-1]
    total_DN = np.full((n + m + 1, n + 1), np.inf)  # cell (i, j) is at [i + j + 2, i + 1]: the borders are infinite
    for d in range(n + m - 1):
        low, high = max(0, d - m + 1), min(n - 1, d) + 1
        cost = np.abs(a_N[low:high] - backwards_M[m - 1 - d + low : m - 1 - d + high])
        if d > 0:
            best = np.minimum(total_DN[d, low:high], total_DN[d + 1, low + 1 : high + 1])
            np.minimum(best, total_DN[d + 1, low:high], out=best)
            cost += best
        total_DN[d + 2, low + 1 : high + 1] = cost
    i, j = n - 1, m - 1
    path = [(i, j)]
    while i or j:
        here, row = abs(float(a_N[i] - b_M[j])), i + j
        both = total_DN[row, i] + here
        along_b, along_a = total_DN[row + 1, i + 1] + here, total_DN[row + 1, i] + here
        if both <= along_b and both <= along_a:
            i, j = i - 1, j - 1
        elif along_b <= along_a:
            j -= 1
        else:
            i -= 1
        path.append((i, j))
    pairs = np.array(path)
    return pairs[:, 0], pairs[:, 1]
