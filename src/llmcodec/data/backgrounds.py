"""Background sounds for consistency suites: nine synthetic kinds, each with many instances, or a folder of recordings.

An instance of a kind has its own drawn character (pitch, rate, band, ...) that stays the same however long it is
rendered; two instances of one kind sound alike and are not the same. Shapes: S samples at 16 kHz, unit RMS.
Test: tests/data/test_backgrounds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from llmcodec.io import audio

SAMPLE_RATE = 16_000
_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
Draw = np.random.Generator


def unit_rms(wav_S: np.ndarray) -> np.ndarray:
    """Scaled to a root mean square of 1, without its mean; silence stays silent."""
    centred_S = np.asarray(wav_S, np.float64) - np.mean(wav_S)
    level = np.sqrt(np.mean(centred_S**2))
    return np.asarray(centred_S / level) if level > 1e-9 else centred_S


def shaped(draw: Draw, num_samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Gaussian noise whose magnitude spectrum follows gain(frequencies in Hz)."""
    size = 1 << max(1, num_samples - 1).bit_length()
    spectrum = np.fft.rfft(draw.standard_normal(size)) * gain(np.fft.rfftfreq(size, 1 / SAMPLE_RATE))
    return np.fft.irfft(spectrum, size)[:num_samples]


def band(low: float, high: float) -> Callable[[np.ndarray], np.ndarray]:
    """Smooth pass band (second-order slopes)."""
    return lambda f: 1 / np.sqrt((1 + (low / np.maximum(f, 1.0)) ** 4) * (1 + (f / high) ** 4))


def slow(draw: Draw, num_samples: int, rate_hz: float) -> np.ndarray:
    """A slowly wandering curve around 0, standard deviation 1."""
    return unit_rms(shaped(draw, num_samples, lambda f: 1 / (1 + (f / rate_hz) ** 4)))


def _time(num_samples: int) -> np.ndarray:
    return np.arange(num_samples) / SAMPLE_RATE


def _hiss(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Steady coloured noise: air conditioning, tape."""
    slope, centre = character.uniform(-1.0, 1.2), character.uniform(300, 4_000)
    return shaped(draw, num, lambda f: np.clip(np.maximum(f, 50.0) / centre, 0.02, 50.0) ** -slope)


def _hum(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Mains or motor hum: harmonics of one low tone over faint noise."""
    base, count, fall = character.uniform(45, 180), int(character.integers(6, 30)), character.uniform(0.4, 1.4)
    weights = character.uniform(0.2, 1.0, count) / np.arange(1, count + 1) ** fall
    phase = 2 * np.pi * base * _time(num)
    tone = sum(w * np.sin(k * phase + draw.uniform(0, 6.28)) for k, w in enumerate(weights, 1))
    return unit_rms(np.asarray(tone)) + 0.15 * unit_rms(shaped(draw, num, band(40, 1_500)))


def _wind(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Low rushing noise in gusts."""
    cutoff, rate, depth = character.uniform(120, 900), character.uniform(0.3, 2.0), character.uniform(0.3, 1.0)
    return shaped(draw, num, band(30, cutoff)) * np.exp(depth * slow(draw, num, rate))


def _rain(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Drops: short resonant impulses at random times over faint noise."""
    per_second, tone = character.uniform(30, 500), character.uniform(700, 5_000)
    decay, spread = character.uniform(0.001, 0.008), character.uniform(0.05, 0.5)
    drops = (draw.random(num) < per_second / SAMPLE_RATE) * draw.exponential(1.0, num) * draw.choice([-1, 1], num)
    t = _time(int(0.06 * SAMPLE_RATE))
    pitches = tone * (1 + spread * np.linspace(-0.5, 0.5, 4))
    ring = sum(np.exp(-t / decay) * np.sin(2 * np.pi * p * t) for p in pitches)
    return unit_rms(convolve(drops, np.asarray(ring))) + 0.2 * unit_rms(shaped(draw, num, band(500, 6_000)))


def _machine(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Noise that beats at a fixed rate, with a whine: engines, pumps."""
    rate, low = character.uniform(3, 25), character.uniform(100, 1_200)
    whine, amount = character.uniform(200, 2_500), character.uniform(0.05, 0.5)
    sharp = character.uniform(1, 6)
    phase = 2 * np.pi * rate * _time(num) + draw.uniform(0, 6.28)
    beat = ((1 + np.sin(phase)) / 2) ** sharp + 0.1
    noise = unit_rms(shaped(draw, num, band(low, 3 * low)) * beat)
    return np.asarray(noise + amount * np.sqrt(2) * np.sin(2 * np.pi * whine * _time(num) + draw.uniform(0, 6.28)))


def _birds(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Chirps: short sweeps of one species' pitch, at random times."""
    pitch, sweep = character.uniform(1_800, 5_000), character.uniform(-0.4, 0.4)
    length, rate = character.uniform(0.04, 0.18), character.uniform(2.0, 6.0)
    out = 0.03 * unit_rms(shaped(draw, num, band(500, 5_000)))
    size = int(length * SAMPLE_RATE)
    t = _time(size)
    for start in np.flatnonzero(draw.random(num) < rate / SAMPLE_RATE).tolist():
        p = pitch * draw.uniform(0.95, 1.05)
        chirp = np.hanning(size) * np.sin(2 * np.pi * p * (t + sweep * t**2 / (2 * length)))
        stop = min(num, start + size)
        out[start:stop] += draw.uniform(0.4, 1.0) * chirp[: stop - start]
    return out


def _bells(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """A repeated struck tone with inharmonic partials: phones, bells."""
    pitch, period, decay = character.uniform(400, 1_600), character.uniform(0.15, 0.5), character.uniform(0.05, 0.3)
    partials = np.array([1.0, 2.0, 2.8, 4.1]) * character.uniform(0.97, 1.03, 4)
    weights = character.uniform(0.1, 1.0, 4)
    t = _time(int(min(1.0, 5 * decay) * SAMPLE_RATE))
    strike = sum(
        w * np.exp(-t * p / decay) * np.sin(2 * np.pi * pitch * p * t) for w, p in zip(weights, partials, strict=True)
    )
    times = np.zeros(num)
    starts = (np.arange(draw.uniform(0, period), num / SAMPLE_RATE, period) * SAMPLE_RATE).astype(int)
    times[starts[starts < num]] = 1.0
    return unit_rms(convolve(times, np.asarray(strike))) + 0.05 * unit_rms(draw.standard_normal(num))


def _chords(character: Draw, draw: Draw, num: int) -> np.ndarray:
    """Music-like: chords of one scale and timbre, changing at one tempo."""
    root, beat, partials = character.uniform(110, 260), character.uniform(0.25, 0.6), int(character.integers(2, 8))
    scale = root * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    size = int(beat * SAMPLE_RATE)
    t, out = _time(size), np.zeros(num + size)
    swell = np.minimum(1, t / 0.01) * np.exp(-t / beat)
    for start in range(0, num, size):
        for pitch in draw.choice(scale, 3, replace=False):
            out[start : start + size] += swell * sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, partials))
    return out[:num] + 0.01 * draw.standard_normal(num)


SYNTHETIC: dict[str, Callable[[Draw, Draw, int], np.ndarray]] = {
    "hiss": _hiss,
    "hum": _hum,
    "wind": _wind,
    "rain": _rain,
    "machine": _machine,
    "birds": _birds,
    "bells": _bells,
    "chords": _chords,
}
BABBLE = "babble"
BABBLE_VOICES = 6


def convolve(wav_S: np.ndarray, kernel_K: np.ndarray) -> np.ndarray:
    """Linear convolution by FFT, cut to the length of the signal."""
    size = 1 << (len(wav_S) + len(kernel_K) - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(wav_S, size) * np.fft.rfft(kernel_K, size), size)[: len(wav_S)]


def render(kind: str, character_seed: int, part_seed: int, num_samples: int) -> np.ndarray:
    """An excerpt of one instance, (S,) unit RMS: the same character_seed is the same source of sound."""
    wav_S = SYNTHETIC[kind](np.random.default_rng(character_seed), np.random.default_rng(part_seed), num_samples)
    return unit_rms(wav_S)


def babble(voices: Sequence[np.ndarray], num_samples: int) -> np.ndarray:
    """Many talkers at once: the voices looped, at equal level, summed; (S,) unit RMS."""
    looped = [np.resize(unit_rms(voice), num_samples) for voice in voices if len(voice)]
    return unit_rms(np.sum(looped, axis=0))


def noise_files(folder: str) -> Mapping[str, list[Path]]:
    """Recorded noises by domain: each subfolder is a domain; files directly in the folder are one more.

    Raises:
        ValueError: no such folder, or no audio in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder of recordings")
    domains: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _ENDINGS:
            relative = path.relative_to(root)
            domains.setdefault(relative.parts[0] if len(relative.parts) > 1 else root.name, []).append(path)
    if not domains:
        raise ValueError(f"{folder}: no audio files in it or its subfolders")
    return domains


def excerpt(path: Path, part: int, num_samples: int) -> np.ndarray:
    """Excerpt 0 or 1 of a recording, (S,) unit RMS: its first and its second half, looped where they are short."""
    wav_S = audio.load(path, SAMPLE_RATE)
    half = max(1, len(wav_S) // 2)
    return unit_rms(np.resize(wav_S[half * part : half * (part + 1)], num_samples))
