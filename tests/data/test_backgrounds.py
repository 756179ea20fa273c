"""backgrounds.py: every kind sounds, an instance keeps its character, recordings are found by domain."""

from __future__ import annotations

import numpy as np
import pytest

from llmcodec.data.backgrounds import SYNTHETIC, babble, convolve, excerpt, noise_files, render, unit_rms
from llmcodec.io import audio

RATE = 16_000


def spectrum(wav: np.ndarray) -> np.ndarray:
    """Log power in 24 bands, averaged over the excerpt."""
    power = np.abs(np.fft.rfft(wav)) ** 2
    edges = np.geomspace(40, len(power), 25).astype(int)
    return np.log([power[a:b].mean() + 1e-9 for a, b in zip(edges[:-1], edges[1:], strict=True)])


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_excerpts_of_one_instance_are_alike_and_of_another_less(kind):
    num = 3 * RATE
    near, far = [], []
    for character in range(6):
        one, other = render(kind, character, 10, num), render(kind, character, 11, num)
        assert one.shape == (num,) and np.isfinite(one).all() and np.sqrt(np.mean(one**2)) == pytest.approx(1)
        assert np.array_equal(one, render(kind, character, 10, num))
        near.append(np.abs(spectrum(one) - spectrum(other)).mean())
        far.append(np.abs(spectrum(one) - spectrum(render(kind, character + 50, 11, num))).mean())
    assert np.mean(near) < 0.8 * np.mean(far), (kind, np.mean(near), np.mean(far))


def test_babble_sums_looped_voices_at_equal_level():
    loud, soft = np.sin(np.arange(800) / 3), 0.01 * np.sin(np.arange(500) / 7)
    mixed = babble([loud, soft], 2000)
    expected = unit_rms(np.resize(unit_rms(loud), 2000) + np.resize(unit_rms(soft), 2000))
    np.testing.assert_allclose(mixed, expected)
    assert np.array_equal(unit_rms(np.zeros(5)), np.zeros(5))


def test_convolution_is_numpys():
    rng = np.random.default_rng(0)
    signal, kernel = rng.standard_normal(1000), rng.standard_normal(70)
    np.testing.assert_allclose(convolve(signal, kernel), np.convolve(signal, kernel)[:1000], atol=1e-10)


def test_recordings_by_domain(tmp_path):
    for name in ("street/b.wav", "street/deep/a.wav", "c.wav"):
        audio.write(tmp_path / name, np.linspace(-0.5, 0.5, 8000).astype(np.float32), RATE)
    (tmp_path / "street" / "notes.txt").write_text("no audio")
    found = noise_files(str(tmp_path))
    assert {name: [p.name for p in paths] for name, paths in found.items()} == {
        "street": ["b.wav", "a.wav"],
        tmp_path.name: ["c.wav"],
    }
    first, second = (excerpt(tmp_path / "c.wav", part, 6000) for part in (0, 1))
    assert len(first) == len(second) == 6000 and not np.allclose(first, second + 1)
    np.testing.assert_allclose(first[:2000], first[4000:], atol=1e-9)  # looped
    with pytest.raises(ValueError, match="no such folder"):
        noise_files(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no audio files"):
        (tmp_path / "empty").mkdir()
        noise_files(str(tmp_path / "empty"))
