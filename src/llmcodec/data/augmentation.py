"""Augmentation of training clips: levels, digital silence, speed, equalisation, noise, rooms and lossy codecs.

    augmentation = Augmentation(gain_share=0.8, gain_db=(-50.0, 6.0), silence_share=0.2)
    heard_S, wanted_S = augment(wav_S, 16_000, augmentation, seed=0, step=12, clip_id="a")

Every draw is keyed by seed, step, clip id and effect, so that batches, ranks and resumed runs hear the same, and one
effect does not change what another draws. `heard_S` goes into the encoder, `wanted_S` is what the decoder shall
rebuild: the same signal, except where noise and reverberation are to be removed (`clean_target_share`).

Shapes: S samples, float32. Test: `pytest tests/data/test_augmentation.py`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import soundfile

from llmcodec.data import backgrounds, reverberation
from llmcodec.data.sampler import clip_seed

LOSSY: dict[str, dict[str, str]] = {
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
LOSSY_RATES: dict[str, tuple[int, ...]] = {
    "mp3": (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "opus": (8000, 12_000, 16_000, 24_000, 48_000),
}
"""Sample rates that each of them takes, in Hz."""
COMPRESSION = (0.88, 0.98)
"""libsndfile's compression levels: about 38 to 10 kbit/s."""
DITHER = 2.0**-15


@dataclass(frozen=True)
class Augmentation:
    """How training clips are changed. A share is the probability of an effect for one clip in one step; 0 is off."""

    gain_share: float = 0.0
    """Clips that get another level."""
    gain_db: tuple[float, float] = (-50.0, 6.0)
    """Range of the change of level, drawn uniformly in decibels."""
    silence_share: float = 0.0
    """Clips with a stretch of digital zeros before, after or inside the speech."""
    silence_seconds: tuple[float, float] = (0.1, 0.8)
    """Length of that stretch, at most half of the clip."""
    silent_share: float = 0.0
    """Clips that become zeros as a whole."""
    dither_share: float = 0.0
    """Clips with 1-bit dither (of 16 bits) on top, pauses of zeros included."""
    speed_share: float = 0.0
    """Clips that are played faster or slower: pitch, formants and tempo move together."""
    speed_range: tuple[float, float] = (0.88, 1.14)
    """Range of the speed."""
    equaliser_share: float = 0.0
    """Clips through a random smooth equaliser."""
    equaliser_db: float = 8.0
    """Standard deviation of its gain from octave to octave, within +-1.5 times that."""
    band_share: float = 0.0
    """Clips with a band limit: from telephone (300 to 3,400 Hz) to nearly full band."""
    noise_share: float = 0.0
    """Clips with a synthetic background (hiss, hum, wind, rain, machine ...)."""
    noise_db: tuple[float, float] = (10.0, 40.0)
    """Range of the speech level over the background's."""
    reverb_share: float = 0.0
    """Clips in a simulated room."""
    t60_seconds: tuple[float, float] = (0.15, 0.6)
    """Range of its reverberation time."""
    clean_target_share: float = 0.0
    """Of the clips with noise or reverberation: share whose target stays without them."""
    lossy_share: float = 0.0
    """Clips coded and decoded by MP3 or Opus at a low rate; the decoder shall rebuild what comes out."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"recipe: data.augmentation.{item.name} must be in [0, 1], got {value}")
            if isinstance(value, (tuple, list)) and not (len(value) == 2 and value[0] <= value[1]):
                raise ValueError(f"recipe: data.augmentation.{item.name} is a range [low, high], got {value}")
        for name in ("silence_seconds", "speed_range", "t60_seconds"):
            if not getattr(self, name)[0] > 0:
                raise ValueError(f"recipe: data.augmentation.{name} must be positive, got {getattr(self, name)}")

    def check_rate(self, sample_rate: int) -> None:
        """Raise ValueError for an effect that clips of this rate cannot have."""
        if self.lossy_share and not any(sample_rate in rates for rates in LOSSY_RATES.values()):
            raise ValueError(
                f"recipe: data.augmentation.lossy_share: neither {' nor '.join(LOSSY)} takes {sample_rate:,} Hz; "
                "set it to 0"
            )

    @property
    def on(self) -> bool:
        """Whether any effect ever happens."""
        return any(getattr(self, item.name) for item in fields(self) if item.name.endswith("_share"))


class Draws:
    """Random numbers of one clip in one step, a generator for each effect."""

    def __init__(self, seed: int, step: int, clip_id: str) -> None:
        self.key = (seed, step, clip_id)

    def happens(self, effect: str, share: float) -> np.random.Generator | None:
        """The effect's generator where it happens, else None."""
        if not share:
            return None
        draw = np.random.default_rng(clip_seed(*self.key, f"augment {effect}"))
        return draw if draw.random() < share else None


def speed_of(config: Augmentation, seed: int, step: int, clip_id: str) -> float:
    """Factor at which a clip is played; 1 where its speed stays. Reading applies it, by resampling."""
    draw = Draws(seed, step, clip_id).happens("speed", config.speed_share)
    return 1.0 if draw is None else float(draw.uniform(*config.speed_range))


def augment(
    wav_S: np.ndarray, sample_rate: int, config: Augmentation, seed: int, step: int, clip_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the encoder hears and what the decoder shall rebuild, both float32 (S,). Speed is the reader's part."""
    draws = Draws(seed, step, clip_id)
    if draws.happens("silent", config.silent_share) is not None:
        silent_S = np.zeros_like(wav_S)
        return silent_S, silent_S
    clean_S = wav_S.astype(np.float64)
    noisy_S = clean_S
    if (draw := draws.happens("reverb", config.reverb_share)) is not None:
        noisy_S = in_a_room(noisy_S, sample_rate, draw, config.t60_seconds)
    if (draw := draws.happens("noise", config.noise_share)) is not None:
        noisy_S = with_background(noisy_S, sample_rate, draw, config.noise_db)
    denoise = noisy_S is not clean_S and draws.happens("clean", config.clean_target_share) is not None
    pair = [noisy_S, clean_S] if denoise else [noisy_S]
    for effect, share, change in (
        ("equaliser", config.equaliser_share, lambda x, d: equalised(x, sample_rate, d, config.equaliser_db)),
        ("band", config.band_share, lambda x, d: band_limited(x, sample_rate, d)),
        ("lossy", config.lossy_share, lambda x, d: lossy(x, sample_rate, d)),
        ("gain", config.gain_share, lambda x, d: x * 10 ** (d.uniform(*config.gain_db) / 20)),
        ("silence", config.silence_share, lambda x, d: with_silence(x, sample_rate, d, config.silence_seconds)),
        ("dither", config.dither_share, lambda x, d: x + DITHER * d.integers(-1, 2, len(x))),
    ):
        pair = _changed(pair, effect, share, change, draws)
    heard_S, wanted_S = pair[0].astype(np.float32), pair[-1].astype(np.float32)
    return heard_S, (wanted_S if denoise else heard_S)


def _changed(
    pair: list[np.ndarray],
    effect: str,
    share: float,
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    draws: Draws,
) -> list[np.ndarray]:
    """Both signals through one effect with the same draw."""
    if draws.happens(effect, share) is None:
        return pair
    changed = []
    for wav_S in pair:
        draw = draws.happens(effect, share)
        assert draw is not None
        changed.append(change(wav_S, draw))
    return changed


def level_of(wav_S: np.ndarray) -> float:
    """Root mean square of the louder half of 20 ms pieces: the level of the speech, whatever its pauses."""
    size = max(1, min(len(wav_S), 320))
    pieces = wav_S[: len(wav_S) // size * size].reshape(-1, size)
    power = np.sort(np.mean(pieces**2, axis=1))
    return math.sqrt(float(power[len(power) // 2 :].mean()))


def in_a_room(
    wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator, t60_seconds: tuple[float, float]
) -> np.ndarray:
    """Reverberated at its own level; the direct sound stays where it was. The response is made at 16 kHz."""
    response_N = reverberation.impulse_response(reverberation.draw_room(draw, t60_seconds), draw)
    wet_S = backgrounds.convolve(wav_S, _resampled(response_N, backgrounds.SAMPLE_RATE, sample_rate))
    return wet_S * (level_of(wav_S) / max(level_of(wet_S), 1e-12))


def with_background(
    wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator, noise_db: tuple[float, float]
) -> np.ndarray:
    """A synthetic background below the speech, for as long as the clip lasts."""
    kind = str(draw.choice(sorted(backgrounds.SYNTHETIC)))
    size = math.ceil(len(wav_S) * backgrounds.SAMPLE_RATE / sample_rate) + 1
    noise_S = backgrounds.render(kind, int(draw.integers(2**31)), int(draw.integers(2**31)), size)
    noise_S = _resampled(noise_S, backgrounds.SAMPLE_RATE, sample_rate)[: len(wav_S)]
    return wav_S + noise_S * level_of(wav_S) * 10 ** (-draw.uniform(*noise_db) / 20)


def equalised(wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator, deviation_db: float) -> np.ndarray:
    """Through a smooth random gain, drawn at octaves and interpolated between them; the level stays."""
    octaves = np.log2(np.maximum(62.5 * 2.0 ** np.arange(math.ceil(math.log2(sample_rate / 2 / 62.5)) + 1), 1.0))
    gains = np.clip(draw.normal(0, deviation_db, len(octaves)), -1.5 * deviation_db, 1.5 * deviation_db)
    return _filtered(wav_S, sample_rate, lambda f: 10 ** (np.interp(np.log2(np.maximum(f, 1.0)), octaves, gains) / 20))


def band_limited(wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator) -> np.ndarray:
    """Between a drawn low and high limit, steep as the filters of recorders and telephone lines."""
    telephone = draw.random() < 0.3
    low = 300.0 if telephone else math.exp(draw.uniform(math.log(20), math.log(250)))
    high = 3400.0 if telephone else min(0.95 * sample_rate / 2, math.exp(draw.uniform(math.log(3000), math.log(8000))))
    return band_passed(wav_S, sample_rate, low, high)


def band_passed(wav_S: np.ndarray, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Between two limits in Hz; the level stays."""

    def gain(f: np.ndarray) -> np.ndarray:
        return np.asarray(1 / np.sqrt((1 + (low / np.maximum(f, 1.0)) ** 8) * (1 + (f / high) ** 24)))

    return _filtered(wav_S, sample_rate, gain)


def lossy(wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator) -> np.ndarray:
    """MP3 or Opus at one of libsndfile's lower rates, there and back; scaled to full level on the way."""
    how = LOSSY[str(draw.choice([name for name in sorted(LOSSY) if sample_rate in LOSSY_RATES[name]]))]
    peak = float(np.abs(wav_S).max())
    if peak == 0.0:
        return wav_S
    buffer = io.BytesIO()
    full_S = np.clip(wav_S * (0.7 / peak), -1, 1)
    soundfile.write(buffer, full_S, sample_rate, compression_level=float(draw.uniform(*COMPRESSION)), **how)
    buffer.seek(0)
    coded_S = soundfile.read(buffer, dtype="float64")[0] * (peak / 0.7)
    return np.pad(coded_S, (0, max(0, len(wav_S) - len(coded_S))))[: len(wav_S)]


def with_silence(
    wav_S: np.ndarray, sample_rate: int, draw: np.random.Generator, seconds: tuple[float, float]
) -> np.ndarray:
    """Zeros at the start, at the end or somewhere inside, cut hard or with 5 ms edges; the length stays."""
    size = min(round(draw.uniform(*seconds) * sample_rate), len(wav_S) // 2)
    start = {0: 0, 1: len(wav_S) - size, 2: int(draw.integers(len(wav_S) - size + 1))}[int(draw.integers(3))]
    gain_S = np.ones(len(wav_S))
    gain_S[start : start + size] = 0.0
    if draw.random() < 0.5:
        edge = max(1, round(0.005 * sample_rate))
        gain_S = np.minimum(
            gain_S, np.convolve(np.pad(gain_S, edge, mode="edge"), np.ones(edge) / edge, "same")[edge:-edge]
        )
    return wav_S * gain_S


def _filtered(wav_S: np.ndarray, sample_rate: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Through a magnitude response without phase, at the level that it had."""
    size = 1 << (len(wav_S) + sample_rate // 20).bit_length()
    spectrum = np.fft.rfft(wav_S, size) * gain(np.fft.rfftfreq(size, 1 / sample_rate))
    out_S = np.fft.irfft(spectrum, size)[: len(wav_S)]
    return out_S * (level_of(wav_S) / max(level_of(out_S), 1e-12))


def _resampled(wav_S: np.ndarray, source: int, target: int) -> np.ndarray:
    if source == target:
        return wav_S
    import soxr

    return np.asarray(soxr.resample(wav_S, source, target))
