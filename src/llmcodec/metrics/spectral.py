"""How faithful one reconstruction is: Codec-SUPERB's Mel, STFT, PESQ, STOI, F0 correlation and SDR, and more.

Shapes: S samples, N frequency bins, M mel bands, F analysis frames. Waveforms are numpy float32 (S,), of equal length,
at the reference's sample rate. A metric that cannot be computed is a `Measured` with a named failure, never a default
score. PESQ needs scipy, pitch `praat-parselmouth` (`pip install llmcodec[metrics]`). Numpy, no torch, so that worker
processes start at once. Test: `pytest tests/metrics/test_spectral.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from llmcodec.io import audio
from llmcodec.metrics.learned import measure_dnsmos, measure_speaker
from llmcodec.metrics.measured import Measured, load_metric_package
from llmcodec.metrics.pesq.wideband import NoScore, wideband_pesq
from llmcodec.metrics.pitch import measure_f0_correlation
from llmcodec.metrics.stoi import TooLittleSpeech, stoi

SAMPLE_RATE = 16_000
MEL_BANDS = {2048: 150, 512: 80}
"""Codec-SUPERB: window length in samples -> number of mel bands; hop is a quarter of the window."""
LOG_MEL_BANDS = {2048: 160, 1024: 80, 512: 40, 256: 20}
"""Multi-scale log-mel: window length -> mel bands; hop is a quarter of the window."""
CLAMP = 1e-5
SUPERB = ("mel", "stft", "pesq", "stoi", "f0corr", "sdr")
"""Codec-SUPERB's metrics: what is measured unless something else is asked for."""
FAST = ("mel", "stft", "sdr")
HIGHER_IS_BETTER = {
    "mel": False,
    "stft": False,
    "pesq": True,
    "stoi": True,
    "f0corr": True,
    "sdr": True,
    "logmel": False,
    "dnsmos": True,
    "speaker": True,
}
"""All metrics by name."""


def _check_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> None:
    for name, wav in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        if wav.ndim != 1:
            raise ValueError(f"{name}: expected one channel of samples, got an array of shape {wav.shape}")
    if reference_S.size != reconstruction_S.size:
        raise ValueError(
            f"reference has {reference_S.size} samples but the reconstruction {reconstruction_S.size}: "
            "decode with length=S, or cut both to the same length"
        )


def _not_finite(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> str:
    """Which signal has NaN or infinite samples, or an empty string."""
    if not np.isfinite(reference_S).all():
        return "reference has samples that are not finite"
    return "" if np.isfinite(reconstruction_S).all() else "reconstruction has samples that are not finite"


def _unusable(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> str:
    """Why a pair cannot be compared at all, or an empty string."""
    if reason := _not_finite(reference_S, reconstruction_S):
        return reason
    return "" if np.any(reference_S) else "reference is digital silence"


@functools.lru_cache
def mel_filters_NM(window: int, num_mels: int, sample_rate: int) -> np.ndarray:
    """Slaney-scaled, area-normalised triangles from 0 Hz to Nyquist, as librosa builds them; float32.

    The scale is linear up to 1 kHz (200/3 Hz a step), then logarithmic (6.4 times in 27 steps).
    """
    top = sample_rate / 2
    top_mel = top * 3 / 200 if top < 1000 else 15 + 27 * math.log(top / 1000) / math.log(6.4)
    mels = np.linspace(0, top_mel, num_mels + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * math.log(6.4) / 27))
    hz_N1 = np.linspace(0, top, window // 2 + 1)[:, None]
    rising = (hz_N1 - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz_N1) / (edges[2:] - edges[1:-1])
    triangles_NM = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return triangles_NM.astype(np.float32)


@functools.lru_cache
def _hann(window: int) -> np.ndarray:
    """Periodic Hann window, float32."""
    return np.hanning(window + 1)[:-1].astype(np.float32)


@functools.lru_cache
def real_fft() -> Callable[..., np.ndarray]:
    """scipy's transform, which does several frames at once, where scipy is installed; else numpy's."""
    try:
        from scipy.fft import rfft
    except ImportError:
        return np.fft.rfft
    return rfft


def magnitudes_2FN(pair_2S: np.ndarray, window: int) -> np.ndarray:
    """Magnitude STFT of both signals: periodic Hann window, hop window/4, frames centred, edges reflected; float32."""
    half = window // 2
    padded_2S = np.pad(pair_2S, ((0, 0), (half, half)), mode="reflect")
    framed = sliding_window_view(padded_2S, window, axis=1)[:, :: window // 4]
    spectrum = real_fft()(framed * _hann(window), axis=2)
    return np.abs(spectrum)


def _log_l1(pair_2FN: np.ndarray) -> float:
    """Mean |log10 clamp(x, 1e-5) - log10 clamp(y, 1e-5)|, as one logarithm of the quotient."""
    clamped = np.maximum(pair_2FN, np.float32(CLAMP))
    return float(np.abs(np.log10(clamped[0] / clamped[1])).mean(dtype=np.float64))


def _log_and_linear_l1(pair_2FN: np.ndarray) -> float:
    """L1(log10(clamp(x, 1e-5)^2)) + L1(x), each a mean over all bins and frames."""
    return 2 * _log_l1(pair_2FN) + float(np.abs(pair_2FN[0] - pair_2FN[1]).mean(dtype=np.float64))


def _as_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> np.ndarray:
    return np.stack([reference_S, reconstruction_S]).astype(np.float32)


def spectral_distances(
    reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE
) -> dict[str, Measured]:
    """Codec-SUPERB's `mel` and `stft` distances (lower is better), both from one STFT per window.

    For windows 2048 and 512 (hop a quarter), summed: L1 of log10(clamp(X, 1e-5)^2) plus L1 of X, where X is the
    magnitude spectrogram (`stft`) or its slaney mel bands, 150 and 80 (`mel`). Source: github voidful/Codec-SUPERB,
    SoundCodec/metrics.py.
    Clips of at most 1,024 samples cannot be reflect-padded for the long window: a failure.
    """
    _check_pair(reference_S, reconstruction_S)
    if reference_S.size < max(MEL_BANDS) // 2 + 1:
        failure = Measured(None, f"clip too short for a {max(MEL_BANDS)}-sample window")
        return {"mel": failure, "stft": failure}
    if reason := _not_finite(reference_S, reconstruction_S):
        return {"mel": Measured(None, reason), "stft": Measured(None, reason)}
    pair_2S, mel, stft = _as_pair(reference_S, reconstruction_S), 0.0, 0.0
    for window, num_mels in MEL_BANDS.items():
        pair_2FN = magnitudes_2FN(pair_2S, window)
        stft += _log_and_linear_l1(pair_2FN)
        mel += _log_and_linear_l1(pair_2FN @ mel_filters_NM(window, num_mels, sample_rate))
    return {"mel": Measured.of(mel, "mel distance"), "stft": Measured.of(stft, "stft distance")}


def measure_log_mel(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measured:
    """Multi-scale log-mel distance in nats, lower is better: mean |ln mel(x) - ln mel(y)| over four windows.

    Windows 2048, 1024, 512, 256 with 160, 80, 40, 20 slaney bands of magnitudes, clamped at 1e-5. Unlike `mel` it has
    no linear term, so a recording's loudness hardly matters.
    """
    _check_pair(reference_S, reconstruction_S)
    if reference_S.size < max(LOG_MEL_BANDS) // 2 + 1:
        return Measured(None, f"clip too short for a {max(LOG_MEL_BANDS)}-sample window")
    if reason := _not_finite(reference_S, reconstruction_S):
        return Measured(None, reason)
    pair_2S = _as_pair(reference_S, reconstruction_S)
    scales = (
        _log_l1(magnitudes_2FN(pair_2S, window) @ mel_filters_NM(window, num_mels, sample_rate))
        for window, num_mels in LOG_MEL_BANDS.items()
    )
    return Measured.of(math.log(10) * sum(scales) / len(LOG_MEL_BANDS), "log-mel distance")


def measure_pesq(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measured:
    """Wide-band PESQ (ITU-T P.862.2, MOS-LQO 1.04 .. 4.64, higher is better), the numbers of `pesq`; 16 kHz only.

    Less than a quarter second, or no utterance of 0.2 s in the reference, is a failure.
    """
    _check_pair(reference_S, reconstruction_S)
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"wide-band PESQ is defined at {SAMPLE_RATE} Hz, not at {sample_rate}: resample both signals first"
        )
    load_metric_package("scipy", "PESQ")
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    if not np.any(reconstruction_S):
        return Measured(None, "reconstruction is digital silence")
    try:
        return Measured.of(wideband_pesq(reference_S, reconstruction_S), "PESQ")
    except NoScore as reason:
        return Measured(None, str(reason))


def measure_stoi(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measured:
    """STOI (Taal et al. 2011; 0 .. 1, higher is better), the numbers of the package `pystoi`.

    Fewer than 30 frames (0.4 s) of speech are a failure, where pystoi answers 1e-5. Slightly negative correlations are
    cut to 0 as in Codec-SUPERB.
    """
    _check_pair(reference_S, reconstruction_S)
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    try:
        value = stoi(reference_S, reconstruction_S, sample_rate)
    except TooLittleSpeech as reason:
        return Measured(None, str(reason))
    return Measured.of(min(max(value, 0.0), 1.0) if math.isfinite(value) else value, "STOI")


def measure_sdr(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> Measured:
    """Signal-to-distortion ratio in dB, 10 log10(sum x^2 / sum (x - y)^2); phase errors count fully."""
    _check_pair(reference_S, reconstruction_S)
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    reference, error = reference_S.astype(np.float64), reference_S.astype(np.float64) - reconstruction_S
    signal_power, error_power = float((reference**2).sum()), float((error**2).sum())
    if error_power == 0:
        return Measured(None, "reconstruction is identical (infinite SDR)")
    return Measured.of(10 * math.log10(signal_power / error_power), "SDR")


def measure_f0corr(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> Measured:
    """F0 correlation (`pitch.measure_f0_correlation`)."""
    _check_pair(reference_S, reconstruction_S)
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    return measure_f0_correlation(reference_S, reconstruction_S)


At16k = Callable[[np.ndarray, np.ndarray], Measured]
_AT_16_KHZ: dict[str, At16k] = {
    "pesq": measure_pesq,
    "dnsmos": lambda _, reconstruction_S: measure_dnsmos(reconstruction_S),
    "speaker": measure_speaker,
}
_PACKAGES = {"pesq": "scipy", "f0corr": "parselmouth", "dnsmos": "speechmos.dnsmos", "speaker": "resemblyzer"}


def check_metrics(names: Sequence[str]) -> None:
    """Errors: ValueError for an unknown metric, or one whose package is not installed."""
    for name in names:
        if name not in HIGHER_IS_BETTER:
            raise ValueError(f"no metric {name!r}: choose among {', '.join(HIGHER_IS_BETTER)}")
        if name in _PACKAGES:
            load_metric_package(_PACKAGES[name], name)


def measure_pair(
    reference_S: np.ndarray,
    reconstruction_S: np.ndarray,
    sample_rate: int = SAMPLE_RATE,
    names: Sequence[str] = SUPERB,
) -> dict[str, Measured]:
    """Metrics of one pair, by name, in the order of `names`.

    Signals at another rate than 16 kHz are resampled for the metrics that are defined there (PESQ, DNSMOS, speaker).
    """
    _check_pair(reference_S, reconstruction_S)
    found: dict[str, Measured] = {}
    if "mel" in names or "stft" in names:
        found |= spectral_distances(reference_S, reconstruction_S, sample_rate)
    at_16_khz = [name for name in names if name in _AT_16_KHZ]
    if at_16_khz:
        pair = [audio.resample(wav_S, sample_rate, SAMPLE_RATE) for wav_S in (reference_S, reconstruction_S)]
        found |= {name: _AT_16_KHZ[name](*pair) for name in at_16_khz}
    if "stoi" in names:
        found["stoi"] = measure_stoi(reference_S, reconstruction_S, sample_rate)
    if "f0corr" in names:
        found["f0corr"] = measure_f0corr(reference_S, reconstruction_S)
    if "sdr" in names:
        found["sdr"] = measure_sdr(reference_S, reconstruction_S)
    if "logmel" in names:
        found["logmel"] = measure_log_mel(reference_S, reconstruction_S, sample_rate)
    return {name: found[name] for name in names}
