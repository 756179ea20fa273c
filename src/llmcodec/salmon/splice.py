"""How the audio of a consistency pair is put together: halves, levels, joints. Both sides are processed alike.

Shapes: S samples at 16 kHz, float64. Test: tests/salmon/test_splice.py.
"""

from __future__ import annotations

import numpy as np

from llmcodec.data.backgrounds import SAMPLE_RATE, convolve, unit_rms

GRID = SAMPLE_RATE // 4
"""Lengths of finished clips are multiples of this, so that many share a length and are encoded in batches."""
SPEECH_LEVEL = 0.05
"""Root mean square of active speech (-26 dBFS)."""
BED_LEVEL = 0.0008
"""Faint noise under everything (-62 dBFS): masks the different noise floors of recordings."""
PAUSE = int(0.1 * SAMPLE_RATE)
FADE = int(0.01 * SAMPLE_RATE)
CROSS = int(0.02 * SAMPLE_RATE)
_FRAME = int(0.02 * SAMPLE_RATE)


def frame_levels(wav_S: np.ndarray) -> np.ndarray:
    """Root mean square of consecutive 20 ms frames."""
    whole = len(wav_S) // _FRAME * _FRAME
    return np.asarray(np.sqrt(np.mean(np.reshape(wav_S[:whole], (-1, _FRAME)) ** 2, axis=1)))


def trim_silence(wav_S: np.ndarray, below_db: float = 35.0) -> np.ndarray:
    """Remove the quiet ends (frames more than `below_db` under the loudest)."""
    levels = frame_levels(wav_S)
    if levels.size == 0 or levels.max() <= 1e-7:
        return wav_S[:0]
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-below_db / 20))
    return wav_S[loud[0] * _FRAME : (loud[-1] + 1) * _FRAME]


def speech_level(wav_S: np.ndarray) -> float:
    """Root mean square over the frames that hold speech (within 30 dB of the loudest); 0 for silence."""
    levels = frame_levels(wav_S)
    if levels.size == 0 or levels.max() <= 1e-7:
        return 0.0
    active = levels[levels > levels.max() * 10 ** (-30 / 20)]
    return float(np.sqrt(np.mean(active**2)))


def at_level(wav_S: np.ndarray, level: float = SPEECH_LEVEL) -> np.ndarray:
    """Scale so that active speech has this level."""
    present = speech_level(wav_S)
    return wav_S * (level / present) if present > 0 else wav_S


def quiet_cut(wav_S: np.ndarray, low: float = 0.35, high: float = 0.65) -> int:
    """Sample of the quietest place (40 ms) between two shares of the recording: a pause or a stop consonant."""
    size = 2 * _FRAME
    first, last = int(low * len(wav_S)), max(int(low * len(wav_S)) + 1, int(high * len(wav_S)))
    total = np.cumsum(np.pad(wav_S**2, (size // 2 + 1, size)))
    power = total[size:] - total[:-size]  # of the 40 ms around every sample
    return first + int(np.argmin(power[first:last]))


def faded(wav_S: np.ndarray) -> np.ndarray:
    """Apply raised-cosine fades of 10 ms at both ends."""
    out_S = wav_S.copy()
    size = min(FADE, len(out_S) // 2)
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / size)
    out_S[:size] *= ramp
    out_S[len(out_S) - size :] *= ramp[::-1]
    return out_S


def join(first_S: np.ndarray, second_S: np.ndarray, hard: bool = False) -> np.ndarray:
    """Two halves with a pause of 100 ms between them; `hard`: end to end, without pause and fades."""
    if hard:
        return np.concatenate([first_S, second_S])
    return np.concatenate([faded(first_S), np.zeros(PAUSE), faded(second_S)])


def ramps(num_samples: int, joint: int, width: int = CROSS) -> tuple[np.ndarray, np.ndarray]:
    """Linear cross-fade weights of what is before and after the joint; they sum to 1."""
    behind = np.clip((np.arange(num_samples) - (joint - width / 2)) / width, 0, 1)
    return 1 - behind, behind


def change_noise(first_S: np.ndarray, second_S: np.ndarray, joint: int) -> np.ndarray:
    """One background, then another, both as long as the clip; equal power through the cross-fade."""
    before, behind = ramps(len(first_S), joint)
    return np.asarray(np.sqrt(before) * first_S + np.sqrt(behind) * second_S)


def change_rooms(wav_S: np.ndarray, x_N: np.ndarray, y_N: np.ndarray, joint: int) -> list[np.ndarray]:
    """Speech in rooms x throughout, x then y, y throughout, y then x.

    At the joint the source changes rooms while the old room's echo rings on. With the same room twice this is plain
    convolution, so no cut is audible on one side only. Every room is as loud as the dry clip.
    """
    halves = []
    for response_N in (x_N, y_N):
        wet = [convolve(wav_S * weight, response_N) for weight in ramps(len(wav_S), joint)]
        power = float(np.mean((wet[0] + wet[1]) ** 2))
        gain = np.sqrt(np.mean(wav_S**2) / power) if power > 0 else 1.0
        halves.append([gain * half for half in wet])
    (x0, x1), (y0, y1) = halves
    return [x0 + x1, x0 + y1, y0 + y1, y0 + x1]


def with_noise(speech_S: np.ndarray, noise_S: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech plus noise of unit RMS at `snr_db` below the level of active speech."""
    return speech_S + noise_S * speech_level(speech_S) * 10 ** (-snr_db / 20)


def with_bed(wav_S: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Add the faint noise."""
    return wav_S + BED_LEVEL * unit_rms(draw.standard_normal(len(wav_S)))


def common_gain(wavs: list[np.ndarray], peak: float = 0.95) -> list[np.ndarray]:
    """One gain for all, so that none clips and their relative levels stay."""
    loudest = max(float(np.abs(wav).max()) for wav in wavs)
    return [wav * min(1.0, peak / loudest) for wav in wavs] if loudest > 0 else wavs
