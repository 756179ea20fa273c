"""How faithful one reconstruction is: Codec-SUPERB Mel and STFT distances, wide-band PESQ, STOI, SDR.

Shapes: S samples, N frequency bins, M mel bands, F analysis frames. Waveforms are numpy float32 at 16 kHz, of equal
length.
A metric that cannot be computed is a `Measured` with a named failure, never a default score. PESQ and STOI come from
the published packages (`pip install llmcodec[metrics]`). Test: `pytest tests/unit/evaluation/test_metrics.py`.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
MEL_BANDS = {2048: 150, 512: 80}
"""Codec-SUPERB: window length in samples -> number of mel bands; hop is a quarter of the window."""
CLAMP = 1e-5
HIGHER_IS_BETTER = {"mel": False, "stft": False, "pesq": True, "stoi": True, "sdr": True}


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


def load_metric_package(name: str) -> ModuleType:
    """Import an optional metric package, or say how to get it. Errors: ValueError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"the {name} metric needs the package {name!r}: pip install {name} (or llmcodec[metrics])"
        ) from error


def _check_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> None:
    for name, wav in (("reference", reference_S), ("reconstruction", reconstruction_S)):
        if wav.ndim != 1:
            raise ValueError(f"{name}: expected one channel of samples, got an array of shape {wav.shape}")
    if reference_S.size != reconstruction_S.size:
        raise ValueError(
            f"reference has {reference_S.size} samples but the reconstruction {reconstruction_S.size}: "
            "decode with length=S, or cut both to the same length"
        )


def _unusable(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> str:
    """Why a pair cannot be compared at all, or an empty string."""
    if not np.isfinite(reference_S).all():
        return "reference has samples that are not finite"
    if not np.isfinite(reconstruction_S).all():
        return "reconstruction has samples that are not finite"
    return "" if np.any(reference_S) else "reference is digital silence"


@functools.lru_cache
def _mel_filters_NM(window: int, num_mels: int, sample_rate: int) -> Tensor:
    """Slaney-scaled, area-normalised triangles from 0 Hz to Nyquist, as librosa builds them."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        window // 2 + 1, num_mels, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
    )
    return torch.as_tensor(filters, dtype=torch.float32)


def _magnitude_FN(wav_S: np.ndarray, window: int) -> Tensor:
    """Magnitude STFT: periodic Hann window, hop window/4, frames centred, edges reflected."""
    wav = torch.as_tensor(np.ascontiguousarray(wav_S, dtype=np.float32))
    spectrum = torch.stft(
        wav, window, window // 4, window=torch.hann_window(window), center=True, pad_mode="reflect", return_complex=True
    )
    return spectrum.abs().T


def _log_and_linear_l1(reference: Tensor, reconstruction: Tensor) -> float:
    """L1(log10(clamp(x, 1e-5)^2)) + L1(x), each a mean over all bins and frames."""
    log_distance = 2 * (reference.clamp(min=CLAMP).log10() - reconstruction.clamp(min=CLAMP).log10()).abs().mean()
    return float(log_distance + (reference - reconstruction).abs().mean())


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
    shortest = max(MEL_BANDS) // 2 + 1
    if reference_S.size < shortest:
        failure = Measured(None, f"clip too short for a {max(MEL_BANDS)}-sample window")
        return {"mel": failure, "stft": failure}
    mel = stft = 0.0
    for window, num_mels in MEL_BANDS.items():
        filters_NM = _mel_filters_NM(window, num_mels, sample_rate)
        reference_FN, reconstruction_FN = _magnitude_FN(reference_S, window), _magnitude_FN(reconstruction_S, window)
        stft += _log_and_linear_l1(reference_FN, reconstruction_FN)
        mel += _log_and_linear_l1(reference_FN @ filters_NM, reconstruction_FN @ filters_NM)
    return {"mel": Measured.of(mel, "mel distance"), "stft": Measured.of(stft, "stft distance")}


def measure_pesq(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measured:
    """Wide-band PESQ (ITU-T P.862.2, MOS-LQO 1.04 .. 4.64, higher is better) by the `pesq` package; 16 kHz only."""
    _check_pair(reference_S, reconstruction_S)
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"wide-band PESQ is defined at {SAMPLE_RATE} Hz, not at {sample_rate}: resample both signals first"
        )
    package = load_metric_package("pesq")
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    if not np.any(reconstruction_S):
        return Measured(None, "reconstruction is digital silence")
    pesq_error: type[Exception] = package.PesqError  # base of what the package's C code reports
    try:
        return Measured.of(float(package.pesq(sample_rate, reference_S, reconstruction_S, "wb")), "PESQ")
    except pesq_error as error:
        text = error.args[0] if error.args else ""
        return Measured(None, (text.decode() if isinstance(text, bytes) else str(text)) or type(error).__name__)


def measure_stoi(reference_S: np.ndarray, reconstruction_S: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Measured:
    """STOI (Taal et al. 2011; 0 .. 1, higher is better) by the `pystoi` package.

    pystoi answers 1e-5 with a warning when fewer than 30 frames (0.4 s) of speech remain: a failure here. Slightly
    negative correlations are cut to 0 as in Codec-SUPERB.
    """
    _check_pair(reference_S, reconstruction_S)
    package = load_metric_package("pystoi")
    if reason := _unusable(reference_S, reconstruction_S):
        return Measured(None, reason)
    if reference_S.size < sample_rate * 256 // 10_000 + 1:
        return Measured(None, "clip shorter than one STOI frame")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = float(package.stoi(reference_S, reconstruction_S, sample_rate, extended=False))
        except RuntimeWarning as warning:
            return Measured(None, str(warning).split(".")[0])
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


SLOW_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Measured]] = {"pesq": measure_pesq, "stoi": measure_stoi}
"""Metrics worth a process of their own: one Python thread per clip, a good part of a second each."""


def measure_fast(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> dict[str, Measured]:
    """Mel, STFT and SDR of one pair at 16 kHz."""
    return {**spectral_distances(reference_S, reconstruction_S), "sdr": measure_sdr(reference_S, reconstruction_S)}


def measure_slow(pair: tuple[np.ndarray, np.ndarray]) -> dict[str, Measured]:
    """PESQ and STOI of one (reference, reconstruction) pair at 16 kHz; picklable, for process pools."""
    return {name: measure(*pair) for name, measure in SLOW_METRICS.items()}


def measure_pair(reference_S: np.ndarray, reconstruction_S: np.ndarray) -> dict[str, Measured]:
    """All metrics of one pair at 16 kHz, by name."""
    return {**measure_fast(reference_S, reconstruction_S), **measure_slow((reference_S, reconstruction_S))}
