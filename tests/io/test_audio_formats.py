"""audio_formats.py: chained streams and unknown lengths are read to their end, formats of PyAV, odd names."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from llmcodec.io import audio, audio_formats

RATE = 16_000


def tone(seconds: float, hertz: float) -> np.ndarray:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def encoded(wav: np.ndarray, rate: int = RATE, **how: str) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, wav, rate, **how)
    return buffer.getvalue()


def loudest_hertz(wav_S: np.ndarray) -> float:
    return float(np.fft.rfftfreq(len(wav_S), 1 / RATE)[np.abs(np.fft.rfft(wav_S)).argmax()])


CHAINS = {
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


@pytest.mark.parametrize("ending", CHAINS)
def test_streams_in_a_row_are_read_to_their_end(tmp_path, ending):
    parts = [encoded(tone(1.0, 300), **CHAINS[ending]), encoded(tone(1.5, 600), **CHAINS[ending])]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(parts[0] + parts[1])
    assert audio_formats.byte_ranges(path) == [(0, len(parts[0])), (len(parts[0]), len(parts[0] + parts[1]))]
    wav_S, rate = audio.read(path)
    assert rate == RATE and len(wav_S) == pytest.approx(2.5 * RATE, abs=0.2 * RATE)
    assert audio.info(path).num_frames == len(wav_S)
    assert loudest_hertz(wav_S[:RATE]) == pytest.approx(300, abs=3)
    assert loudest_hertz(wav_S[-RATE:]) == pytest.approx(600, abs=3)
    np.testing.assert_array_equal(audio.load(path, RATE, 20_000, 5000), wav_S[20_000:25_000])
    np.testing.assert_array_equal(np.concatenate(list(audio.iterate(path, block_seconds=0.3))), wav_S)


@pytest.mark.parametrize("ending", CHAINS)
def test_single_streams_stay_single(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(encoded(tone(1.0, 300), **CHAINS[ending]) + (b"TAG" + bytes(125)) * (ending == "mp3"))
    assert audio_formats.byte_ranges(path) == []
    assert len(audio.read(path)[0]) == pytest.approx(RATE, abs=2500)


def test_a_chain_that_changes_its_rate_is_refused(tmp_path):
    path = tmp_path / "a.ogg"
    path.write_bytes(encoded(tone(1.0, 300), **CHAINS["ogg"]) + encoded(tone(1.0, 300), 8000, **CHAINS["ogg"]))
    with pytest.raises(ValueError, match=r"a\.ogg: changes from 16000 Hz, 1 channels to 8000 Hz"):
        audio.read(path)


def test_flac_whose_header_does_not_know_its_length(tmp_path):
    content = bytearray(encoded(tone(1.0, 300), format="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # RFC 9639: 0 samples means unknown
    (tmp_path / "a.flac").write_bytes(content)
    sf.write(tmp_path / "known.flac", tone(1.0, 300), RATE)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.flac")[0], audio.read(tmp_path / "known.flac")[0])
    assert audio.info(tmp_path / "a.flac").num_frames == RATE


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("b.webm", "libopus"), ("c.aac", "aac"), ("d.mp4", "aac")]
)
def test_formats_of_pyav(tmp_path, name, codec):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="stereo")
        wav = np.stack([np.repeat(tone(1.0, 300), 3)] * 2)
        frame = av.AudioFrame.from_ndarray(wav, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    assert name.endswith(audio.AUDIO_ENDINGS)
    wav_SC, rate = audio.read(tmp_path / name, mono=False)
    assert rate == 48_000 and wav_SC.shape[1] == 2 and len(wav_SC) == pytest.approx(48_000, abs=2100)
    assert loudest_hertz(audio.load(tmp_path / name, RATE)) == pytest.approx(300, abs=3)


def test_damaged_or_silent_containers_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    if audio_formats.pyav_is_there():
        with pytest.raises(ValueError, match=r"a\.m4a: not an audio file that can be read"):
            audio.read(tmp_path / "a.m4a")
    monkeypatch.setattr(audio_formats, "pyav_is_there", lambda: False)
    with pytest.raises(ValueError, match=r"\.m4a needs PyAV: pip install 'llmcodec\[formats\]'"):
        audio.read(tmp_path / "a.m4a")


def test_names_that_are_no_utf8(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(raw, "wb") as file:
        file.write(encoded(tone(0.1, 300), format="WAV"))
    path = Path(os.fsdecode(raw))
    assert len(audio.read(path)[0]) == 1600 and audio.readable_name(path.name) == "caf%E9.wav"
    assert audio.readable_name("Zoë\u2028.wav") == "Zoë\u2028.wav"


def test_levels_that_cannot_be_meant_are_said(tmp_path):
    wav_S = tone(0.5, 300)
    sf.write(tmp_path / "pcm.wav", wav_S * 32768, RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"pcm\.wav: too loud: its peak is 6554, .* divide them by 32768"):
        audio.read(tmp_path / "pcm.wav")
    sf.write(tmp_path / "anti.wav", np.stack([wav_S, -wav_S], 1), RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match=r"anti\.wav: its channels cancel: their mean is 200 dB below them"):
        audio.read(tmp_path / "anti.wav")


def test_ordinary_levels_are_not_commented(tmp_path, recwarn):
    wav_S = tone(0.5, 300)
    noise = 0.1 * np.random.default_rng(0).standard_normal((8000, 2))
    sf.write(tmp_path / "two.wav", np.stack([wav_S, 0.5 * wav_S], 1), RATE)
    sf.write(tmp_path / "noise.wav", noise, RATE)
    sf.write(tmp_path / "loud.wav", 5 * wav_S, RATE, subtype="FLOAT")
    sf.write(tmp_path / "silent.wav", np.zeros((8000, 2)), RATE)
    for name in ("two", "noise", "loud", "silent"):
        audio.read(tmp_path / f"{name}.wav")
    audio.read(tmp_path / "two.wav", mono=False)
    assert not recwarn.list
