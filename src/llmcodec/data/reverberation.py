"""Impulse responses of rooms: shoebox rooms by the image-source method with a diffuse tail, or a folder of recordings.

Source of the method: Allen & Berkley, JASA 65 (1979). Shapes: N samples of the response at 16 kHz, direct sound at
sample 0 with amplitude 1. Test: tests/data/test_reverberation.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmcodec.data.backgrounds import SAMPLE_RATE
from llmcodec.io import audio

SOUND = 343.0
_ORDER = 6
_EARLY = 0.05
"""Seconds that are built from images; behind it the echoes are dense enough to be noise."""
_MAX_SECONDS = 1.2


@dataclass(frozen=True)
class Room:
    """A shoebox with one source and one microphone."""

    size_m: tuple[float, float, float]
    t60_seconds: float
    """Time in which the sound falls by 60 dB."""
    source_m: tuple[float, float, float]
    microphone_m: tuple[float, float, float]

    def describe(self) -> str:
        size = " x ".join(f"{side:.1f}" for side in self.size_m)
        return f"{size} m, T60 {self.t60_seconds:.2f} s, {math.dist(self.source_m, self.microphone_m):.1f} m away"


def draw_room(draw: np.random.Generator, t60_seconds: tuple[float, float] = (0.15, 1.1)) -> Room:
    """A random room; the reverberation time is drawn log-uniformly."""
    size = (draw.uniform(2.5, 12), draw.uniform(2.5, 9), draw.uniform(2.2, 4.5))
    t60 = math.exp(draw.uniform(math.log(t60_seconds[0]), math.log(t60_seconds[1])))
    source, microphone = (tuple(side * draw.uniform(0.15, 0.85) for side in size) for _ in range(2))
    return Room(size, t60, source, microphone)  # type: ignore[arg-type]


def impulse_response(room: Room, draw: np.random.Generator) -> np.ndarray:
    """(N,) float64. The walls absorb alike at all frequencies (Eyring); the diffuse tail darkens as in real rooms."""
    size = np.array(room.size_m)
    volume = float(size.prod())
    surface = 2 * float(size[0] * size[1] + size[1] * size[2] + size[0] * size[2])
    absorption = 1 - math.exp(-0.161 * volume / (surface * room.t60_seconds))
    reflection = math.sqrt(1 - min(0.99, absorption))
    length = int(min(_MAX_SECONDS, 1.1 * room.t60_seconds + 0.05) * SAMPLE_RATE)
    delays, gains = _images(room, reflection)
    direct = float(delays.min())
    response = np.zeros(length)
    positions = np.round((delays - direct) * SAMPLE_RATE).astype(int)
    early = positions < min(length, int(_EARLY * SAMPLE_RATE))
    np.add.at(response, positions[early], gains[early])
    response += _tail(response, length, room.t60_seconds, draw)
    return np.asarray(response / response[0])


def _images(room: Room, reflection: float) -> tuple[np.ndarray, np.ndarray]:
    """Delay in seconds and amplitude of every image source up to the order."""
    steps = np.arange(-_ORDER, _ORDER + 1)
    axes = []
    for side, source, microphone in zip(room.size_m, room.source_m, room.microphone_m, strict=True):
        plain = 2 * steps * side + source - microphone
        mirrored = 2 * steps * side - source - microphone
        offsets = np.concatenate([plain, mirrored])
        bounces = np.concatenate([2 * np.abs(steps), np.abs(2 * steps - 1)])
        axes.append((offsets, bounces))
    (x, bx), (y, by), (z, bz) = axes
    distance = np.sqrt(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None, :] ** 2).ravel()
    bounces = (bx[:, None, None] + by[None, :, None] + bz[None, None, :]).ravel()
    return distance / SOUND, reflection**bounces / np.maximum(distance, 0.1)


def _tail(early_N: np.ndarray, length: int, t60: float, draw: np.random.Generator) -> np.ndarray:
    """Decaying noise that sets in where the images end, at the level that they have there."""
    start = min(length, int(_EARLY * SAMPLE_RATE))
    time = np.arange(length) / SAMPLE_RATE
    noise = draw.standard_normal(length)
    dark = np.convolve(noise, np.ones(3) / 3, mode="same")
    share = np.minimum(1, time / max(t60, 1e-3))
    noise = (1 - share) * noise + share * dark
    last = early_N[start // 2 : start]
    middle = 0.75 * _EARLY
    level = math.sqrt(float(np.mean(last**2))) * 10 ** (3 * middle / t60) if start else 0.0
    tail = level * noise * 10 ** (-3 * time / t60)
    onset = np.clip((time - _EARLY / 2) / (_EARLY / 2), 0, 1)
    return tail * onset


def recorded_response(path: Path) -> np.ndarray:
    """A recorded impulse response, cut to start at its loudest sample (the direct sound), which becomes 1.

    Raises:
        ValueError: unreadable, or silent.
    """
    wav_N = audio.load(path, SAMPLE_RATE).astype(np.float64)
    peak = int(np.abs(wav_N).argmax())
    if abs(wav_N[peak]) < 1e-6:
        raise ValueError(f"{path}: the impulse response is silent")
    return np.asarray(wav_N[peak : peak + int(2 * SAMPLE_RATE)] / wav_N[peak])
