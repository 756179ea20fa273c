"""Our wide-band PESQ gives the numbers of the package `pesq`, whatever was done to the second signal."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pesq import NoUtterancesError, pesq
from scipy.signal import sosfilt

from llmcodec.adapters.load import load_codec
from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.metrics.base import NoScore
from llmcodec.metrics.pesq import wideband
from llmcodec.metrics.pesq.activity import telephone_band
from llmcodec.metrics.pesq.model import _smooth
from llmcodec.metrics.pesq.tables import ALIGNMENT_SECTIONS, HIGH_PASS, NUM_BINS_J, WIDTH_BARK_J
from llmcodec.metrics.pesq.wideband import measure_pesq
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..speech import speech_like

RATE = 16_000
Rng = np.random.Generator


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Real speech, 1 to 6 s."""
    clips = read_manifest(speech_manifest())
    return [audio.load(clip.path, RATE)[: 6 * RATE] for clip in clips[:: len(clips) // 8]]


def noisy(wav: np.ndarray, snr_db: float, rng: Rng) -> np.ndarray:
    level = np.sqrt((wav**2).mean() / 10 ** (snr_db / 10))
    return (wav + level * rng.standard_normal(wav.size)).astype(np.float32)


def delayed(wav: np.ndarray, delay: int) -> np.ndarray:
    moved = np.zeros_like(wav)
    moved[max(0, delay) : wav.size + min(0, delay)] = wav[max(0, -delay) : wav.size - max(0, delay)]
    return moved


def delays_that_change(wav: np.ndarray, rng: Rng) -> np.ndarray:
    out = wav.copy()
    for at in rng.integers(0, wav.size // 2, 2):
        out[at:] = delayed(out[at:], int(rng.integers(-3000, 3000)))
    return out


def cut(wav: np.ndarray, rng: Rng) -> np.ndarray:
    at, size = int(rng.integers(0, wav.size // 2)), int(rng.integers(200, 5000))
    return np.pad(np.delete(wav, slice(at, at + size)), (0, size))


def dropouts(wav: np.ndarray, rng: Rng) -> np.ndarray:
    out = wav.copy()
    for at in rng.integers(0, wav.size, 5):
        out[at : at + int(rng.integers(200, 4000))] = 0
    return out


def faster(wav: np.ndarray, rng: Rng) -> np.ndarray:
    time = np.arange(wav.size) * (1 + rng.uniform(-0.01, 0.01))
    return np.interp(time, np.arange(wav.size), wav, right=0).astype(np.float32)


def coarse(wav: np.ndarray, rng: Rng) -> np.ndarray:
    return (np.round(wav * 100) / 100).astype(np.float32)


DAMAGE = {
    "identical": lambda wav, rng: wav.copy(),
    "noise": lambda wav, rng: noisy(wav, rng.uniform(-10, 50), rng),
    "delay": lambda wav, rng: delayed(noisy(wav, 30, rng), int(rng.integers(-4000, 4000))),
    "changing delay": lambda wav, rng: delays_that_change(noisy(wav, 30, rng), rng),
    "cut": cut,
    "gain": lambda wav, rng: noisy(wav, 25, rng) * np.float32(10 ** rng.uniform(-4, 4)),
    "clipped": lambda wav, rng: np.clip(wav * np.float32(rng.uniform(2, 40)), -0.3, 0.3),
    "dropouts": dropouts,
    "speed": faster,
    "coarse": coarse,
    "reversed": lambda wav, rng: wav[::-1].copy(),
    "other sign, low-passed": lambda wav, rng: -np.convolve(wav, np.ones(8, np.float32) / 8, "same"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_numbers_are_those_of_the_package(damage: str, recordings: list[np.ndarray]) -> None:
    for seed, wav in enumerate(recordings):
        other = DAMAGE[damage](wav, np.random.default_rng(seed))
        assert measure_pesq(wav, other) == pytest.approx(pesq(RATE, wav, other, "wb"), abs=2e-4), seed


def test_several_utterances_between_silences(recordings: list[np.ndarray]) -> None:
    """Digital silence around and between, another delay in each part: utterances, splits and realigned intervals."""
    rng = np.random.default_rng(5)
    parts, others = [], []
    for wav in recordings[:5]:
        pause = np.zeros(int(rng.integers(0, 12_000)), np.float32)
        parts += [pause, wav[: 3 * RATE]]
        others += [pause, delayed(noisy(wav[: 3 * RATE], 25, rng), int(rng.integers(-900, 900)))]
    for start in (0, 1):
        pair = [np.concatenate(signal[2 * start :]) for signal in (parts, others)]
        assert measure_pesq(*pair) == pytest.approx(pesq(RATE, *pair, "wb"), abs=1e-3)


def test_what_a_codec_makes(recordings: list[np.ndarray]) -> None:
    runtime = TorchRuntime(load_codec("bundled"), "bundled")
    for wav in recordings[:4]:
        (other,) = runtime.decode_batch(runtime.encode_batch([wav]), [len(wav)])
        assert measure_pesq(wav, other) == pytest.approx(pesq(RATE, wav, other, "wb"), abs=1e-4)


def test_a_constant_brings_out_the_packages_rounding(recordings: list[np.ndarray]) -> None:
    """A constant beside speech: the 32-bit high-pass makes noise of it, which is heard."""
    wav = recordings[0]
    other = noisy(wav, 40, np.random.default_rng(0)) + np.float32(0.3 * np.abs(wav).max())
    assert measure_pesq(wav, other) == pytest.approx(pesq(RATE, wav, other, "wb"), abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_under_loud_hum_the_package_scatters_by_as_much_as_the_two_differ(
    seed: int, recordings: list[np.ndarray]
) -> None:
    """Hum 40 times louder than the speech: the score hangs on the last bits of the level, also the package's own.

    The same pair, louder or softer, is normalised to the same peak but for the last bit of its samples.
    """
    rng = np.random.default_rng(seed)
    wav = 0.1 * recordings[seed] / np.abs(recordings[seed]).max()
    hum = (4 * np.sin(2 * np.pi * 50 * np.arange(len(wav)) / RATE)).astype(np.float32)
    pair = wav + hum, noisy(wav, 20, rng) + hum
    scales = [np.float32(1 / (1 + 0.1 * number)) for number in range(6)]
    theirs = [pesq(RATE, *(scale * one for one in pair), "wb") for scale in scales]
    scatter = max(theirs) - min(theirs)
    assert 2e-4 < scatter < 2e-2
    for scale in scales[:3]:
        ours = measure_pesq(*(scale * one for one in pair))
        assert min(theirs) - scatter <= ours <= max(theirs) + scatter, (ours, theirs)


@pytest.mark.parametrize("alone", [True, False])
def test_the_high_pass_is_the_packages_bit_for_bit(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through scipy's compiled loop by itself, and through `scipy.signal` where that is not found."""
    if not alone:
        monkeypatch.setattr(wideband.PathFinder, "find_spec", lambda name, path: None)
        monkeypatch.setattr(wideband, "_recursion", wideband._recursion.__wrapped__)
    wav = (1000 * np.random.default_rng(0).standard_normal(3000) + 500).astype(np.float32)
    (b0, b1, b2), (_, a1, a2) = np.array(HIGH_PASS, np.float32)
    z1 = z2 = np.float32(0)
    expected = []
    for sample in wav:
        z0 = (sample - a1 * z1) - a2 * z2
        expected.append(b0 * z0 + b1 * z1 + b2 * z2)
        z1, z2 = z0, z1
    np.testing.assert_array_equal(wideband._high_pass(wav), np.array(expected))


def test_scipys_signal_processing_is_not_imported() -> None:
    """It takes half a second; and it can still be imported afterwards."""
    code = (
        "import sys, numpy as np; from llmcodec.metrics.pesq.wideband import measure_pesq;"
        "wav = np.random.default_rng(0).standard_normal(20000).astype(np.float32);"
        "measure_pesq(wav, wav); assert 'scipy.signal' not in sys.modules, 'imported';"
        "import scipy.signal; scipy.signal.sosfilt([[1, 0, 0, 1, 0, 0]], wav); measure_pesq(wav, wav)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_alignment_filter_is_that_of_its_sections() -> None:
    pair = np.zeros((2, 30_000), np.float32)
    pair[:, 4800:-4800] = np.random.default_rng(0).standard_normal((2, 20_400))
    faded = pair.astype(np.float64)
    faded[:, 4800:-4800] -= faded.sum(axis=1, keepdims=True) / 30_000
    fade = (0.5 + np.arange(64)) / 64
    faded[:, 4800:4864] *= fade
    faded[:, -4864:-4800] *= fade[::-1]
    np.testing.assert_allclose(telephone_band(pair), sosfilt(ALIGNMENT_SECTIONS, faded), atol=1e-6)


def test_gains_are_smoothed_recursively() -> None:
    gain = np.random.default_rng(0).uniform(0, 9, 60)
    for before, first in ((None, gain[0]), (1.0, 0.2 + 0.8 * gain[0])):
        expected = [first]
        for value in gain[1:]:
            expected.append(0.2 * expected[-1] + 0.8 * value)
        np.testing.assert_allclose(_smooth(gain, before), expected, rtol=1e-12)


def test_the_bands_cover_the_spectrum() -> None:
    assert NUM_BINS_J.sum() == 256 and NUM_BINS_J.size == WIDTH_BARK_J.size == 49


def test_what_has_no_score() -> None:
    wav = speech_like(1.0)
    with pytest.raises(NoScore, match="1/4 of a second"):
        measure_pesq(wav[:3999], wav[:3999])
    wav, burst = np.tile(wav, 3), np.zeros(3 * RATE, np.float32)
    burst[20_000:21_500] = np.random.default_rng(0).standard_normal(1500)
    with pytest.raises(NoUtterancesError, match="No utterances detected"):
        pesq(RATE, burst, wav, "wb")
    with pytest.raises(NoScore, match="No utterances detected"):
        measure_pesq(burst, wav)
    with pytest.raises(NoScore, match="silent compared"):
        measure_pesq(np.float32(1e30) * wav, np.float32(1e-30) * wav)


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1e4, 1e36])
def test_loudness_does_not_matter(scale: float) -> None:
    wav = speech_like(1.0)
    other = noisy(wav, 20, np.random.default_rng(0))
    expected = measure_pesq(wav, other)
    assert measure_pesq(wav * np.float32(scale), other * np.float32(scale)) == pytest.approx(expected, abs=1e-4)


def test_more_utterances_than_the_package_has_memory_for(recordings: list[np.ndarray]) -> None:
    """Three minutes, 60 utterances: the package writes past its 50 entries; ours counts every one."""
    rng = np.random.default_rng(0)
    part = [np.concatenate([wav[: 2 * RATE], np.zeros(RATE, np.float32)]) for wav in recordings[:3]]
    wav = np.concatenate(part * 20)
    scores = [measure_pesq(wav, noisy(wav, snr, rng)) for snr in (40, 20, 0)]
    assert 4.5 > scores[0] > scores[1] > scores[2] > 1
