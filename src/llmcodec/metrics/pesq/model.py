"""PESQ's perceptual model: two aligned signals -> loudness over time and 49 Bark bands -> disturbance.

ITU-T P.862, section 10.2, after the package `pesq`; frames and bands are arrays here. Where frames differ implausibly,
their delay is searched again, and the smaller of the two disturbances counts. Shapes: S samples of the padded signals
(`tables`), F frames of 512 samples every 256, J Bark bands. Power and loudness are float64.
Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llmcodec.metrics.pesq.activity import stretches
from llmcodec.metrics.pesq.alignment import Utterance
from llmcodec.metrics.pesq.tables import (
    BAND_GAIN_J,
    HEARING_THRESHOLD_J,
    LOUDNESS_SCALE,
    MARGIN,
    MARGIN_WINDOWS,
    NUM_BINS_J,
    POWER_SCALE,
    TAIL,
    WIDTH_BARK_J,
    WINDOW,
    hann,
)

FRAME = 512
HOP = FRAME // 2
FRAMES_AT_ONCE, SAMPLES_AT_ONCE = 4096, 2048
SILENT_FIVE_SAMPLES = 500.0
"""Sum of five magnitudes below which a signal has not begun, or has ended."""
SILENT_FRAME = 1e7
BAD_FRAME = 30.0
SMOOTHING = 24
SMEAR, SHORTEST_BAD_INTERVAL, SEARCH = 2, 5, 4 * FRAME
SURE_CORRELATION = 0.5
LARGEST_DISTURBANCE = 45.0
SYLLABLE_FRAMES = 20
SYMMETRIC_WEIGHT, ASYMMETRIC_WEIGHT = 0.1, 0.0309


def raw_score(pair_2S: np.ndarray, utterances: Sequence[Utterance]) -> float:
    """PESQ's raw score, at most 4.5, of reference (first row) and other signal, with margins and tail.

    `utterances` are those of the reference, at least one.
    """
    first, last = _frames_heard(pair_2S[0])
    start_F = MARGIN + HOP * np.arange(last + 1)
    delay_F = _delays_at(start_F, utterances)
    reference_FJ = _power(pair_2S[0], start_F)
    delayed_F = start_F + delay_F
    inside_F = (delayed_F > 0) & (delayed_F + FRAME < pair_2S.shape[1])
    other_FJ = np.zeros_like(reference_FJ)
    other_FJ[inside_F] = _power(pair_2S[1], delayed_F[inside_F])
    _compensate_response(reference_FJ, other_FJ, num_frames=(pair_2S.shape[1] - 2 * MARGIN) // HOP - 1)
    audible_F = _audible(reference_FJ, 1)
    disturbance_2F = _disturbances(reference_FJ, other_FJ, audible_F)
    bad = bool((disturbance_2F[0] > BAD_FRAME).any())
    for begin, end in _skipped(utterances):
        disturbance_2F[:, begin : min(end, last)] = 0
    if bad:
        _realign(pair_2S, utterances, reference_FJ, audible_F, disturbance_2F)
    disturbance_2F /= ((audible_F + 1e5) / 1e7) ** 0.04
    np.minimum(disturbance_2F, LARGEST_DISTURBANCE, out=disturbance_2F)
    weight_F = _recency(last + 1, num_frames=(pair_2S.shape[1] - 2 * MARGIN - TAIL) // HOP - 1)
    symmetric, asymmetric = _over_time(disturbance_2F[:, first:], weight_F)
    return float(4.5 - SYMMETRIC_WEIGHT * symmetric - ASYMMETRIC_WEIGHT * asymmetric)


# Frames


def _frames_heard(reference_S: np.ndarray) -> tuple[int, int]:
    """First and last frame between which the reference is not digitally silent."""
    most = (reference_S.size - TAIL) // 2
    signal_S = reference_S[MARGIN:-MARGIN]
    before, behind = (_silent_samples(wav_S, most) for wav_S in (reference_S[MARGIN:], signal_S[::-1]))
    return before // HOP, (signal_S.size - behind) // HOP - 1


def _silent_samples(wav_S: np.ndarray, most: int) -> int:
    """Samples before the first five whose magnitudes sum to 500."""
    for start in range(0, most, SAMPLES_AT_ONCE):
        sums = np.convolve(np.abs(wav_S[start : start + SAMPLES_AT_ONCE + 4]), np.ones(5), "valid")
        reached = np.flatnonzero(sums >= SILENT_FIVE_SAMPLES)
        if reached.size:
            return min(most, start + int(reached[0]))
    return most


def _delays_at(position_S: np.ndarray, utterances: Sequence[Utterance]) -> np.ndarray:
    """Delay at these samples of the reference: that of the last utterance begun so far, or of the first."""
    starts = np.array([utterance.start * WINDOW for utterance in utterances])
    from_here_on = np.minimum.accumulate(starts[::-1])[::-1]  # starts may overlap: the last that has begun counts
    begun_S = np.searchsorted(from_here_on, position_S, side="right")
    return np.array([utterance.delay for utterance in utterances])[np.maximum(begun_S - 1, 0)]


@functools.lru_cache
def _bands_NJ() -> np.ndarray:
    """Sums of bins without the one at 0 Hz; float32."""
    bands_NJ = np.zeros((FRAME // 2, NUM_BINS_J.size), np.float32)
    bands_NJ[np.arange(FRAME // 2), np.repeat(np.arange(NUM_BINS_J.size), NUM_BINS_J)] = 1
    bands_NJ[0] = 0
    return bands_NJ


def _power(wav_S: np.ndarray, start_F: np.ndarray) -> np.ndarray:
    """Power density in Bark bands of the frames at these samples: (F, J)."""
    from scipy.fft import rfft

    frames_FS = sliding_window_view(wav_S, FRAME)
    power_FJ = np.empty((start_F.size, NUM_BINS_J.size))
    for begin in range(0, start_F.size, FRAMES_AT_ONCE):
        some = slice(begin, begin + FRAMES_AT_ONCE)
        spectrum_FN = rfft(frames_FS[start_F[some]] * hann(FRAME), axis=1)
        power_FJ[some] = np.square(np.abs(spectrum_FN[:, : FRAME // 2])) @ _bands_NJ()
    power_FJ *= BAND_GAIN_J * POWER_SCALE
    return power_FJ


def _audible(power_FJ: np.ndarray, factor: float) -> np.ndarray:
    """Total power of the bands above `factor` times the hearing threshold, without the lowest band."""
    audible_F: np.ndarray = np.where(power_FJ > factor * HEARING_THRESHOLD_J, power_FJ, 0)[:, 1:].sum(axis=1)
    return audible_F


def _compensate_response(reference_FJ: np.ndarray, other_FJ: np.ndarray, num_frames: int) -> None:
    """Apply the system's average frequency response, limited to 20 dB, to the reference (in place)."""
    spoken_F = _audible(reference_FJ, 100) >= SILENT_FRAME
    mean_2J = []
    for power_FJ in (reference_FJ, other_FJ):
        spoken_FJ = power_FJ[spoken_F]
        mean_2J.append(np.where(spoken_FJ > 100 * HEARING_THRESHOLD_J, spoken_FJ, 0).sum(axis=0) / num_frames)
    reference_FJ *= np.clip((mean_2J[1] + 1000) / (mean_2J[0] + 1000), 0.01, 100)


# Disturbance


def _disturbances(
    reference_FJ: np.ndarray, other_FJ: np.ndarray, audible_F: np.ndarray, gain_before: float | None = None
) -> np.ndarray:
    """Symmetric and asymmetric disturbance of every frame, (2, F); the other signal's level is followed first.

    `gain_before` is the gain of the frame before the first; None: the first frame's own.
    """
    gain_F = _smooth((audible_F + 5e3) / (_audible(other_FJ, 1) + 5e3), gain_before)
    other_FJ = other_FJ * np.clip(gain_F, 3e-4, 5)[:, None]
    loudness_FJ, other_loudness_FJ = _loudness(reference_FJ), _loudness(other_FJ)
    difference_FJ = other_loudness_FJ - loudness_FJ
    masked_FJ = 0.25 * np.minimum(other_loudness_FJ, loudness_FJ)
    size_FJ = np.maximum(np.abs(difference_FJ) - masked_FJ, 0)
    asymmetry_FJ = ((other_FJ + 50) / (reference_FJ + 50)) ** 1.2  # what was added disturbs more than what is missing
    asymmetry_FJ = np.where(asymmetry_FJ < 3, 0, np.minimum(asymmetry_FJ, 12))
    return np.stack([_over_bands(size_FJ, 2), _over_bands(size_FJ * asymmetry_FJ, 1)])


def _smooth(gain_F: np.ndarray, before: float | None) -> np.ndarray:
    """Recursive smoothing: 0.2 of the previous result plus 0.8 of the value; powers of 0.2 soon vanish."""
    padded_F = np.concatenate([np.full(SMOOTHING, gain_F[0] if before is None else before), gain_F])
    return np.convolve(padded_F, 0.8 * 0.2 ** np.arange(SMOOTHING + 1), "valid")


@functools.lru_cache
def _exponent_J() -> np.ndarray:
    """Zwicker's exponent of every band, larger below 4 Bark."""
    centre_J = np.cumsum(WIDTH_BARK_J) - WIDTH_BARK_J / 2
    return 0.23 * np.where(centre_J < 4, np.minimum(6 / (centre_J + 2), 2), 1) ** 0.15


def _loudness(power_FJ: np.ndarray) -> np.ndarray:
    """Loudness density in sone per Bark, 0 below the hearing threshold."""
    exponent_J = _exponent_J()
    scale_J = LOUDNESS_SCALE * (HEARING_THRESHOLD_J / 0.5) ** exponent_J
    over_FJ = np.maximum(power_FJ / HEARING_THRESHOLD_J, 1)
    loudness_FJ: np.ndarray = scale_J * ((0.5 + 0.5 * over_FJ) ** exponent_J - 1)
    return loudness_FJ


def _over_bands(disturbance_FJ: np.ndarray, power: int) -> np.ndarray:
    """Norm over the bands, weighted by their widths, the lowest left out."""
    total = WIDTH_BARK_J[1:].sum()
    weighted_FJ = disturbance_FJ[:, 1:] * WIDTH_BARK_J[1:]
    norm_F: np.ndarray = total * ((weighted_FJ**power).sum(axis=1) / total) ** (1 / power)
    return norm_F


def _skipped(utterances: Sequence[Utterance]) -> list[tuple[int, int]]:
    """Frames (from, to) that are skipped because a delay is more than half a frame smaller than the one before."""
    found = []
    for before, utterance in zip(utterances, utterances[1:], strict=False):
        jump = utterance.delay - before.delay
        if jump >= -HOP:
            continue
        ends = (
            int(((position - MARGIN_WINDOWS) * WINDOW + delay) / HOP)
            for position, delay in ((utterance.start, utterance.delay), (before.end, before.delay))
        )
        last = int(((utterance.start - MARGIN_WINDOWS) * WINDOW - jump) / HOP) + 1
        found.append((max(0, min(ends)), last + 1))
    return found


# Frames that differ too much


def _realign(
    pair_2S: np.ndarray,
    utterances: Sequence[Utterance],
    reference_FJ: np.ndarray,
    audible_F: np.ndarray,
    disturbance_2F: np.ndarray,
) -> None:
    """Search the delay of every bad interval again, and keep the smaller disturbance of each frame (in place)."""
    intervals = _bad_intervals(disturbance_2F[0] > BAD_FRAME)
    if not intervals:
        return
    num_samples = pair_2S.shape[1]
    low, high = MARGIN, num_samples - MARGIN
    delayed_S = np.arange(low, high)
    delayed_S += _delays_at(delayed_S, utterances)
    aligned_S = np.zeros(num_samples, np.float32)
    aligned_S[low:high] = pair_2S[1][np.clip(delayed_S, low, high - 1)]
    realigned_S = aligned_S.copy()
    for begin, end in intervals:
        first, stop = begin * HOP + MARGIN, end * HOP + FRAME + MARGIN
        around = np.clip(np.arange(first - SEARCH, stop + SEARCH), low, high - 1)
        delay = _best_lag(pair_2S[0][first:stop], aligned_S[around])
        source_S = np.clip(np.arange(first, stop) + delay, 0, num_samples - TAIL - 1)
        realigned_S[first:stop] = aligned_S[source_S]
    for begin, end in intervals:
        other_FJ = _power(realigned_S, MARGIN + HOP * np.arange(begin, end))
        again_2F = _disturbances(reference_FJ[begin:end], other_FJ, audible_F[begin:end], gain_before=1.0)
        np.minimum(disturbance_2F[:, begin:end], again_2F, out=disturbance_2F[:, begin:end])


def _bad_intervals(bad_F: np.ndarray) -> list[tuple[int, int]]:
    """Runs of at least 5 frames that are bad or between bad frames at most two away on both sides."""
    bad_F = bad_F.copy()
    bad_F[0] = False
    smeared_F = np.zeros_like(bad_F)
    near_F: np.ndarray = sliding_window_view(bad_F, SMEAR + 1).max(axis=1)
    inner = slice(SMEAR, bad_F.size - 1 - SMEAR)
    smeared_F[inner] = near_F[: bad_F.size - 1 - 2 * SMEAR] & near_F[SMEAR : bad_F.size - 1 - SMEAR]
    return [(begin, end) for begin, end in stretches(smeared_F) if end - begin >= SHORTEST_BAD_INTERVAL]


def _best_lag(reference_S: np.ndarray, around_S: np.ndarray) -> int:
    """Lag of the magnitudes' best normalised correlation within 0.128 s, 0 where it is below one half.

    `around_S` begins 2048 samples before `reference_S` and ends as many after it.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    reference_S, around_S = np.abs(reference_S).astype(np.float64), np.abs(around_S).astype(np.float64)
    # As in the package, power is taken over the padded length, whose transform has the next power of two.
    padded = 1 << (2 * around_S.size - 1).bit_length()
    power = (reference_S @ reference_S, around_S @ around_S)
    if min(power) / padded <= 1e-6:
        return 0
    length = next_fast_len(around_S.size, real=True)
    spectrum = np.conj(rfft(reference_S, length)) * rfft(around_S, length)
    correlation = np.abs(irfft(spectrum, length)[: 2 * SEARCH])
    best = int(correlation.argmax())
    return best - SEARCH if correlation[best] >= SURE_CORRELATION * (power[0] * power[1]) ** 0.5 else 0


# Over time


def _recency(count: int, num_frames: int) -> np.ndarray:
    """Weight of every frame: in signals above 16 s, later frames weigh more."""
    if count <= 1000:
        return np.ones(count)
    share = min((num_frames - 1000) / 5500, 0.5)
    return 1 - share + share * np.arange(count) / num_frames


def _over_time(disturbance_2F: np.ndarray, weight_F: np.ndarray) -> np.ndarray:
    """Sixth-power mean over syllables of 0.32 s (half overlapping), then the weighted square mean of these: (2,)."""
    half = SYLLABLE_FRAMES // 2
    num_syllables = -(-disturbance_2F.shape[1] // half)
    powers_2F = np.zeros((2, (num_syllables + 1) * half))
    powers_2F[:, : disturbance_2F.shape[1]] = disturbance_2F**6
    halves_2 = powers_2F.reshape(2, -1, half).sum(axis=2)
    syllables_2 = ((halves_2[:, :-1] + halves_2[:, 1:]) / SYLLABLE_FRAMES) ** (1 / 6)
    weight = weight_F[: num_syllables * half : half]
    mean_2: np.ndarray = np.sqrt(((syllables_2 * weight) ** 2).sum(axis=1) / (weight**2).sum())
    return mean_2
