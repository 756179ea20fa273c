"""The gate for waveforms that come from Python, not from files: type, shape, scale, and no NaN. numpy alone.

    wav_S = check_waveform(np.zeros(5, np.int16), "encode: clip 0")     # float32 in [-1, 1]

`codec.inputs.check_samples` does the same for tensors, where they are. Shapes: S samples.
Test: tests/io/test_waveform.py.
"""

from __future__ import annotations

import warnings
from math import isfinite
from typing import Any

import numpy as np

FULL_SCALE = {"uint8": (128, 1 << 7), "int16": (0, 1 << 15), "int32": (0, 1 << 31)}
"""Integer type -> the value that means silence, and full scale, as in WAV files."""
LOUDEST = 100.0
"""No float recording is meant to be that loud, nominally [-1, 1]; speech in int16 is louder."""
TOO_LOUD = 1e15
"""The power of a spectrum of louder samples overflows float32."""


def scale_of(dtype: object, where: str) -> tuple[int, int]:
    """Silence and full scale of samples of a numpy or torch type; (0, 1) for floats.

    Raises:
        ValueError: other integers, whose full scale nobody knows, bool, complex, text and objects.
    """
    name = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
    if name.startswith(("float", "bfloat")):
        return 0, 1
    if name not in FULL_SCALE:
        raise ValueError(
            f"{where}: samples must be floats in [-1, 1] or {', '.join(FULL_SCALE)}, which are scaled by their full "
            f"range; got {name}"
        )
    return FULL_SCALE[name]


def on_cpu(samples: Any) -> Any:
    """Samples that numpy can read: a torch tensor, wherever it is and of whatever float type, as one of the CPU."""
    if not hasattr(samples, "detach"):
        return samples
    detached = samples.detach()
    return (detached.float() if detached.is_floating_point() else detached).cpu()  # numpy has no bfloat16


def sound_peaks(low: float, high: float) -> bool:
    """Whether samples from `low` to `high` can be coded; False for NaN. Warns where only integer samples reach so far.

    The warning has one text and one place, so that Python's filters show it once for all clips and pieces.
    """
    sound = low >= -TOO_LOUD and high <= TOO_LOUD
    if sound and max(high, -low) > LOUDEST:
        warnings.warn(
            f"samples reach beyond {LOUDEST:g}, but floats are taken to be in [-1, 1]: give the integers themselves, "
            "or divide by their full scale (32,768 for int16)",
            stacklevel=1,
        )
    return sound


def refuse_sample(where: str, sample: int, value: float) -> ValueError:
    """The error for a sample that is no number, or none that any recording has."""
    kind = f"{value:.3g}, absurdly loud" if isfinite(value) else "NaN or infinite"
    return ValueError(f"{where}: sample {sample} is {kind}; repair or drop the audio")


def check_waveform(wav: Any, where: str, first: int = 0) -> np.ndarray:
    """One mono clip as float32 (S,), nominally in [-1, 1].

    Args:
        wav: an array, a tensor or a list (S,), S may be 0.
        where: which clip of what, for the message.
        first: position of its first sample in the signal, for the message.

    Raises:
        ValueError: another shape, a type that `scale_of` refuses, a sample that is NaN, infinite or beyond TOO_LOUD.
    """
    given = np.asarray(on_cpu(wav))
    if given.ndim != 1:
        raise ValueError(f"{where} has shape {given.shape}; give mono (samples,), several clips as a list")
    silence, full = scale_of(given.dtype, where)
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite and refused below
        samples_S = given.astype(np.float32, copy=False)
    if full != 1:
        samples_S = (samples_S - np.float32(silence)) / np.float32(full)
    if not sound_peaks(float(samples_S.min(initial=0)), float(samples_S.max(initial=0))):
        bad = int(np.argmin(np.abs(samples_S) <= TOO_LOUD))
        raise refuse_sample(where, first + bad, float(samples_S[bad]))
    return samples_S
