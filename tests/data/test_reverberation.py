"""reverberation.py: the reverberation time asked for is the one measured, first echoes are where they must be."""

from __future__ import annotations

import numpy as np
import pytest

from llmcodec.data.reverberation import SAMPLE_RATE, SOUND, Room, draw_room, impulse_response, recorded_response
from llmcodec.io import audio


def measured_t60(response: np.ndarray) -> float:
    """Schroeder's backward integration, the fall from -5 to -25 dB, extrapolated to 60 dB (T20)."""
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0] + 1e-12)
    start, stop = np.argmax(level < -5), np.argmax(level < -25)
    return 3 * (stop - start) / SAMPLE_RATE


@pytest.mark.parametrize("t60", [0.25, 0.5, 0.9])
def test_reverberation_time(t60):
    found = []
    for seed in range(4):
        draw = np.random.default_rng(seed)
        room = draw_room(draw, (t60, t60 * 1.0001))
        assert room.t60_seconds == pytest.approx(t60, rel=1e-3)
        found.append(measured_t60(impulse_response(room, draw)))
    assert np.mean(found) == pytest.approx(t60, rel=0.3)


def test_the_floor_echo_is_where_geometry_puts_it():
    room = Room((6.0, 5.0, 3.0), 0.4, (2.0, 2.5, 1.0), (4.0, 2.5, 1.0))
    response = impulse_response(room, np.random.default_rng(0))
    assert response[0] == 1.0
    delay = (np.hypot(2.0, 2.0) - 2.0) / SOUND  # up from the floor, 1 m below both
    around = np.abs(response[round(delay * SAMPLE_RATE) - 1 : round(delay * SAMPLE_RATE) + 2])
    assert around.max() > 0.3
    assert np.abs(response[1 : round(delay * SAMPLE_RATE) - 1]).max() < 1e-9  # nothing arrives between them
    assert room.describe() == "6.0 x 5.0 x 3.0 m, T60 0.40 s, 2.0 m away"


def test_rooms_are_drawn_inside_their_walls():
    draw = np.random.default_rng(1)
    for _ in range(50):
        room = draw_room(draw)
        assert 0.15 <= room.t60_seconds <= 1.1
        for side, *places in zip(room.size_m, room.source_m, room.microphone_m, strict=True):
            assert all(0 < place < side for place in places)


def test_recorded_responses_start_at_the_direct_sound(tmp_path):
    wav = np.zeros(3000, np.float32)
    wav[400], wav[900] = -0.5, 0.25
    audio.write(tmp_path / "a.wav", wav, SAMPLE_RATE)
    response = recorded_response(tmp_path / "a.wav")
    assert response[0] == 1.0 and response[500] == pytest.approx(-0.5, abs=1e-3)
    audio.write(tmp_path / "b.wav", np.zeros(100, np.float32), SAMPLE_RATE)
    with pytest.raises(ValueError, match="silent"):
        recorded_response(tmp_path / "b.wav")
