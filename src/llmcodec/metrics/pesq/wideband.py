"""Wide-band PESQ (ITU-T P.862.2): how listeners would score one signal against another, 1.04 to 4.64.

ITU-T P.862 and P.862.2, with the numbers of the package `pesq`, which settles what the recommendations leave open;
rewritten over arrays of frames, bands and candidate delays, which takes less than half of the package's time. Two known
differences: the package uses 32-bit floats where we use 64, and overwrites its own memory when it finds more than 50
utterances (a few minutes of speech). Needs scipy.
Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

import functools
import math
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.metrics.base import SAMPLE_RATE, NoScore, check_pair, check_rate, load_metric_package
from llmcodec.metrics.pesq.alignment import find_utterances
from llmcodec.metrics.pesq.model import raw_score
from llmcodec.metrics.pesq.tables import HIGH_PASS, MARGIN, RATE, SHORTEST, TAIL

TARGET_POWER = 1e7
LEVEL_BAND_HZ = ((300, 350), (3250, 3500))
"""Edges of the band whose power defines the level: the gain rises, and falls, by 500 dB."""
SLOPE_DB = 500
FADE_SAMPLES = 15


def measure_pesq(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """MOS-LQO, higher is better; 16 kHz only.

    Raises:
        NoScore: less than a quarter second, no utterance of 0.2 s in the reference, or silence.
        ValueError: another sample rate, or scipy is missing.
    """
    check_rate(sample_rate, "wide-band PESQ")
    load_metric_package("scipy", "PESQ")
    check_pair(reference_S, reconstruction_S)
    if not np.any(reconstruction_S):
        raise NoScore("reconstruction is digital silence")
    if reference_S.size < SHORTEST:
        raise NoScore("Buffer needs to be at least 1/4 of a second long")
    peak = max(np.abs(wav_S).max() for wav_S in (reference_S, reconstruction_S))
    pair_2S = np.zeros((2, reference_S.size + 2 * MARGIN + TAIL), np.float32)
    for padded_S, wav_S in zip(pair_2S, (reference_S, reconstruction_S), strict=True):
        padded_S[MARGIN : MARGIN + wav_S.size] = _input_filter(_at_level((wav_S / peak).astype(np.float32)))
    utterances = find_utterances(pair_2S[:, :-TAIL])
    if not utterances:
        raise NoScore("No utterances detected")
    return 0.999 + 4 / (1 + math.exp(3.8224 - 1.3669 * raw_score(pair_2S, utterances)))


def _at_level(wav_S: np.ndarray) -> np.ndarray:
    """Scale the signal to TARGET_POWER, measured from 300 to 3400 Hz."""
    from scipy.fft import irfft, rfft

    num_samples = wav_S.size + TAIL
    length = 1 << (num_samples - 1).bit_length()
    spectrum = rfft(wav_S, length)
    (low, low_end), (high, high_end) = (tuple(math.ceil(hz * length / RATE) for hz in slope) for slope in LEVEL_BAND_HZ)
    spectrum[:low] = 0  # 500 dB down
    spectrum[low:low_end] *= _slope(np.arange(low, low_end) * RATE / length, *LEVEL_BAND_HZ[0])
    spectrum[high:high_end] *= _slope(np.arange(high, high_end) * RATE / length, *LEVEL_BAND_HZ[1][::-1])
    spectrum[high_end:] = 0
    band_S = irfft(spectrum, length, overwrite_x=True)[:num_samples]
    power = float(np.square(band_S, dtype=np.float64).sum()) / num_samples
    if power == 0:
        raise NoScore("one signal is silent compared with the other")
    level_S: np.ndarray = wav_S * np.float32(math.sqrt(TARGET_POWER / power))
    return level_S


def _slope(hz: np.ndarray, silent_hz: float, full_hz: float) -> np.ndarray:
    gain: np.ndarray = 10 ** (-SLOPE_DB / 20 * (hz - full_hz) / (silent_hz - full_hz))
    return gain.astype(np.float32)


def _input_filter(wav_S: np.ndarray) -> np.ndarray:
    """Fade in and out over 15 samples, then high-pass; modifies its input."""
    fade = (np.arange(1, FADE_SAMPLES + 1) / (FADE_SAMPLES + 1)).astype(np.float32)
    wav_S[:FADE_SAMPLES] *= fade
    wav_S[-FADE_SAMPLES:] *= fade[::-1]
    return _high_pass(wav_S)


def _high_pass(wav_S: np.ndarray) -> np.ndarray:
    """P.862.2's filter with the package's roundings to 32 bits, bit for bit.

    The model hears them as noise where there is little but an offset or a rumble: with 64 bits, scores differ by up to
    2e-3, under loud hum by up to 0.1. Which noise they make hangs on the last bit of the level, so that under loud hum
    the package and we differ by up to 1e-2, as the package does from itself (docs/results/pesq.md).
    The package subtracts from each input the last state, then the one before, which is the order in which `sosfilt`
    treats an input of the sample before.
    """
    numerator, denominator = np.array(HIGH_PASS, np.float32)
    late_section = np.array([[0, 1, 0, *denominator]], np.float32)
    state_S = np.zeros(wav_S.size + 3, np.float32)
    state_S[2:-1] = wav_S
    state_S[2:] = _recursion()(late_section, state_S[2:])
    filtered_S: np.ndarray = numerator[0] * state_S[3:] + numerator[1] * state_S[2:-1] + numerator[2] * state_S[1:-2]
    return filtered_S


@functools.lru_cache
def _recursion() -> Any:
    """`scipy.signal.sosfilt` for one section and one signal in 32 bits.

    If possible, only its compiled loop is loaded: `import scipy.signal` imports 450 modules and adds half a second to
    every start.
    """
    import scipy

    def filtered(section: np.ndarray, wav_S: np.ndarray) -> np.ndarray:
        out_1S = np.ascontiguousarray(wav_S[None])
        module._sosfilt(section, out_1S, np.zeros((1, 1, 2), np.float32))  # in place
        filtered_S: np.ndarray = out_1S[0]
        return filtered_S

    spec = PathFinder.find_spec("_sosfilt", [str(Path(place) / "signal") for place in scipy.__path__])
    try:
        if spec is None or spec.loader is None:
            raise ImportError
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        filtered(np.array([[0, 1, 0, 1, 0, 0]], np.float32), np.zeros(4, np.float32))
    except (ImportError, AttributeError, TypeError, ValueError):  # another scipy
        from scipy.signal import sosfilt

        return sosfilt
    return filtered
