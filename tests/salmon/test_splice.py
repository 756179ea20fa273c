"""salmon/splice.py: levels, joints and rooms against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from llmcodec.salmon.splice import (
    CROSS,
    FADE,
    PAUSE,
    SPEECH_LEVEL,
    at_level,
    change_noise,
    change_rooms,
    common_gain,
    join,
    quiet_cut,
    ramps,
    speech_level,
    trim_silence,
    with_noise,
)

RATE = 16_000


def noise(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num)


def test_levels_are_of_speech_not_of_pauses():
    wav = np.concatenate([np.zeros(RATE), 0.3 * noise(RATE), np.zeros(3 * RATE)])
    assert speech_level(wav) == pytest.approx(0.3, rel=0.03)
    assert speech_level(at_level(wav)) == pytest.approx(SPEECH_LEVEL)
    assert speech_level(np.zeros(RATE)) == 0.0 and not at_level(np.zeros(100)).any()
    assert len(trim_silence(wav)) == RATE and trim_silence(np.zeros(500)).size == 0


def test_the_cut_is_in_the_pause():
    wav = noise(RATE)
    wav[7000:8000] *= 0.01
    assert 7300 < quiet_cut(wav) < 7700
    wav[1000:2000] = 0  # quieter, but not in the middle
    assert 7300 < quiet_cut(wav) < 7700


def test_halves_are_joined_by_a_pause_with_fades():
    first, second = np.ones(2000), 2 * np.ones(3000)
    joined = join(first, second)
    assert len(joined) == 5000 + PAUSE and not joined[2000 : 2000 + PAUSE].any()
    assert joined[2000 - FADE // 2] == pytest.approx(0.5, abs=0.02) and joined[1000] == 1
    assert np.abs(np.diff(joined)).max() < 0.025  # no click anywhere
    assert np.array_equal(join(first, second, hard=True), np.concatenate([first, second]))


def test_ramps_sum_to_one_and_noise_keeps_its_power_through_the_change():
    before, behind = ramps(4000, 2000)
    np.testing.assert_allclose(before + behind, 1)
    assert before[2000 - CROSS] == 1 and behind[2000 + CROSS] == 1 and behind[2000] == pytest.approx(0.5, abs=0.01)
    levels = [change_noise(noise(4000, s), noise(4000, s + 500), 2000)[1900:2100] ** 2 for s in range(300)]
    assert np.mean(levels) == pytest.approx(1, rel=0.03)


def test_signal_to_noise_ratio():
    speech = np.concatenate([np.zeros(RATE), 0.2 * noise(RATE)])
    added = with_noise(speech, noise(2 * RATE, 1), 12.0) - speech
    assert 20 * np.log10(0.2 / np.sqrt(np.mean(added**2))) == pytest.approx(12.0, abs=0.3)


def test_one_room_throughout_is_plain_convolution_and_echoes_ring_on():
    speech, joint = noise(8000), 4000
    x, y = np.array([1.0, 0, 0.5]), np.r_[1.0, np.zeros(1999), 0.9]
    xx, xy, yy, yx = change_rooms(speech, x, y, joint)
    for same, kernel in ((xx, x), (yy, y)):
        plain = np.convolve(speech, kernel)[:8000]
        np.testing.assert_allclose(same, plain * np.sqrt(np.mean(speech**2) / np.mean(plain**2)), atol=1e-9)
    np.testing.assert_allclose(xy[: joint - CROSS], xx[: joint - CROSS], atol=1e-9)
    np.testing.assert_allclose(yx[-1000:], xx[-1000:], atol=1e-9)  # the old room's echo has died away
    ringing = yx[joint + CROSS : joint + 1900] - xx[joint + CROSS : joint + 1900]
    assert np.abs(ringing).max() > 0.3  # room y still rings behind the joint


def test_one_gain_for_all():
    quiet, loud = common_gain([0.5 * np.ones(3), 2 * np.ones(3)])
    assert loud[0] == pytest.approx(0.95) and quiet[0] == pytest.approx(0.2375)
    assert common_gain([0.1 * np.ones(2)])[0][0] == 0.1 and not common_gain([np.zeros(2)])[0].any()
