"""audio.py: round trips, seek against slice, streaming resampling, and every kind of broken file."""

from __future__ import annotations

import errno
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcodec.io import audio, audio_writer


def noise(num_samples: int, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    wav = 0.2 * np.random.default_rng(seed).standard_normal((num_samples, num_channels)).astype(np.float32)
    return wav[:, 0] if num_channels == 1 else wav


def tone(num_samples: int, sample_rate: int, hertz: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(num_samples) / sample_rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("ending", "largest_error"), [("wav", 4e-5), ("flac", 4e-5), ("ogg", 0.05), ("opus", 0.05), ("mp3", 0.05)]
)
def test_round_trip_in_every_format(tmp_path, ending, largest_error):
    wav = tone(16000, 16000, 300.0)
    path = tmp_path / "Größe 音声" / f"ünïcödé.{ending}"
    audio.write(path, wav, 16000)
    back, sample_rate = audio.read(path)
    assert sample_rate == 16000 and back.dtype == np.float32 and abs(len(back) - len(wav)) < 2000
    length = min(len(back), len(wav))
    assert np.abs(back[1000 : length - 1000] - wav[1000 : length - 1000]).max() < largest_error
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a temporary file was left behind"


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("start", [0, 1, 1153, 50001, 90000])
def test_seek_equals_slice(tmp_path, ending, start):
    path = tmp_path / f"a.{ending}"
    # A pure tone makes the sparse, variable-rate MP3 whose seek table misleads decoders.
    audio.write(path, tone(100000, 16000, 130.0), 16000)
    whole, _ = audio.read(path)
    part, _ = audio.read(path, start, 5000)
    assert len(part) == 5000
    np.testing.assert_allclose(part, whole[start : start + 5000], atol=1e-6)


def test_stereo_is_averaged_or_kept(tmp_path):
    wav = noise(500, num_channels=2)
    audio.write(tmp_path / "s.wav", wav, 8000, subtype="FLOAT")
    assert audio.info(tmp_path / "s.wav") == audio.AudioInfo(8000, 500, 2, "WAV")
    assert audio.info(tmp_path / "s.wav").seconds == 500 / 8000
    np.testing.assert_array_equal(audio.read(tmp_path / "s.wav", mono=False)[0], wav)
    np.testing.assert_allclose(audio.read(tmp_path / "s.wav")[0], (wav[:, 0] + wav[:, 1]) / 2, atol=1e-7)
    with pytest.raises(ValueError, match="samples, channels"):
        audio.to_mono(np.zeros((2, 2, 2), np.float32))


@pytest.mark.parametrize("source_rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_and_drops_what_does_not_fit(source_rate):
    wav = audio.resample(tone(source_rate, source_rate, 440.0), source_rate, 16000)
    assert len(wav) == 16000
    np.testing.assert_allclose(wav[2000:-2000], tone(16000, 16000, 440.0)[2000:-2000], atol=2e-3)
    if source_rate > 22000:
        aliased = audio.resample(tone(source_rate, source_rate, 10500.0), source_rate, 16000)
        assert np.abs(aliased[2000:-2000]).max() < 1e-3


@given(st.integers(1, 3000), st.sampled_from([8000, 11025, 16000, 44100, 48000]), st.sampled_from([8000, 16000, 24000]))
@settings(max_examples=60, deadline=None)
def test_resampled_length(num_samples, source_rate, target_rate):
    exact = num_samples * target_rate / source_rate
    length = len(audio.resample(noise(num_samples), source_rate, target_rate))
    assert length == audio.num_resampled(num_samples, source_rate, target_rate)
    assert length >= 1 and (length == 1 or abs(length - exact) <= 0.5)


@pytest.fixture(scope="module")
def files_by_rate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    for rate in (8000, 11025, 16000, 44100, 48000):
        audio.write(folder / f"{rate}.flac", noise(rate + 7, seed=rate), rate)
    return folder


@given(st.sampled_from([8000, 11025, 16000, 44100, 48000]), st.integers(0, 15900), st.integers(1, 20000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resampled_crop_equals_slice_of_resampled_whole(files_by_rate, rate, start, num_samples):
    path = files_by_rate / f"{rate}.flac"
    whole = audio.load(path, 16000)
    crop = audio.load(path, 16000, start, num_samples)
    assert len(crop) == len(whole[start : start + num_samples])
    np.testing.assert_allclose(crop, whole[start : start + num_samples], atol=2e-6)


@pytest.mark.parametrize("rate", [None, 8000, 16000, 24000])
@pytest.mark.parametrize("block_seconds", [0.0001, 0.033, 10.0])
def test_iterate_joins_to_the_whole_in_equal_blocks(tmp_path, rate, block_seconds):
    audio.write(tmp_path / "a.wav", noise(30011, 2), 16000, subtype="FLOAT")
    blocks = list(audio.iterate(tmp_path / "a.wav", rate, block_seconds))
    size = max(1, round(block_seconds * (rate or 16000)))
    assert {len(block) for block in blocks[:-1]} <= {size} and 1 <= len(blocks[-1]) <= size
    np.testing.assert_allclose(np.concatenate(blocks), audio.load(tmp_path / "a.wav", rate or 16000), atol=1e-6)


def sparse_wav(path, seconds: int, sample_rate: int) -> None:
    """A valid 16-bit WAV of silence that takes no room on disk."""
    size = 2 * seconds * sample_rate
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16))
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


def test_an_hour_is_iterated_in_constant_memory(tmp_path):
    path = tmp_path / "hour.wav"
    sparse_wav(path, 3600, 32000)
    tracemalloc.start()
    total = sum(len(block) for block in audio.iterate(path, sample_rate=16000, block_seconds=5.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 3600 * 16000
    assert peak < 8 * 5 * 16000 * 4, "more memory than a few blocks"


def test_writing_in_blocks_equals_writing_at_once_and_a_failure_keeps_the_old_file(tmp_path):
    wav = noise(5000)
    audio.write(tmp_path / "once.flac", wav, 16000)
    with audio.AudioWriter(tmp_path / "blocks.flac", 16000) as writer:
        for start in range(0, 5000, 777):
            writer.write(wav[start : start + 777])
    np.testing.assert_array_equal(audio.read(tmp_path / "once.flac")[0], audio.read(tmp_path / "blocks.flac")[0])
    before = (tmp_path / "once.flac").read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        audio.write(tmp_path / "once.flac", np.array([0.0, np.nan], np.float32), 16000)
    assert (tmp_path / "once.flac").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blocks.flac", "once.flac"]


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    audio.write(tmp_path / "a.wav", np.array([1.5, -1.5, 0.0], np.float32), 16000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], [1.0, -1.0, 0.0], atol=1e-4)


@pytest.mark.parametrize(("name", "rate"), [("a.xyz", 16000), ("a", 16000), ("a.opus", 44100), ("a.mp3", 12345)])
def test_writing_what_a_format_cannot_hold_is_refused(tmp_path, name, rate):
    with pytest.raises(ValueError, match="cannot"):
        audio.write(tmp_path / name, noise(100), rate)
    assert list(tmp_path.iterdir()) == []


def _hostile(tmp_path):
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("hello, I am a text\n" * 50)
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "headless.raw").write_bytes(b"\0" * 100)
    sf.write(tmp_path / "nothing.wav", np.zeros(0, np.float32), 16000)
    bad = noise(1000)
    bad[700] = np.inf
    sf.write(tmp_path / "inf.wav", bad, 16000, subtype="FLOAT")
    bad[300] = np.nan
    sf.write(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT")
    sf.write(tmp_path / "slow.wav", noise(1000), 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "no such audio file"),
        ("zero.wav", "empty"),
        ("text.wav", "not an audio file"),
        ("folder.wav", "folder"),
        ("headless.raw", "not an audio file"),
        ("nothing.wav", "no samples"),
        ("inf.wav", "sample 700 is NaN or infinite"),
        ("nan.wav", "sample 300 is NaN or infinite"),
        ("slow.wav", "3 Hz"),
    ],
)
def test_hostile_files_are_refused_in_one_line_that_names_them(tmp_path, name, words):
    _hostile(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        audio.load(tmp_path / name, 16000)
    assert name in str(caught.value) and "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("start", [-1, 1000, 5000])
def test_a_start_outside_the_file_is_refused(tmp_path, start):
    audio.write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises(ValueError, match="cannot start"):
        audio.read(tmp_path / "a.wav", start)
    with pytest.raises(ValueError, match="cannot start"):
        audio.load(tmp_path / "a.wav", 8000, start, 10)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_truncated_files_give_what_is_there_and_warn(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    audio.write(path, noise(64000), 16000)
    whole, _ = audio.read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match="truncated or damaged"):
        part, _ = audio.read(path)
    assert 10000 < len(part) < 40000
    np.testing.assert_array_equal(part, whole[: len(part)])


def test_the_header_of_a_live_stream_is_no_reason_to_warn(tmp_path):
    path = tmp_path / "stream.wav"
    audio.write(path, noise(1000), 16000)
    data = bytearray(path.read_bytes())
    at = data.find(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(audio.read(path)[0]) == 1000


def test_memory_follows_the_samples_not_the_claim_of_a_header(tmp_path):
    path = tmp_path / "claims.flac"
    audio.write(path, noise(4000), 16000)
    data = bytearray(path.read_bytes())
    data[21] = data[21] & 0xF0 | 0x0F  # STREAMINFO: 36 bits of total samples
    data[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert audio.info(path).num_frames > 6e10
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims 68719476735 frames, 4000 are there"):
        audio.read(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def patched(path, marker: bytes, offset: int, value: bytes):
    """The file at `path` with `value` written `offset` bytes behind `marker`."""
    data = bytearray(path.read_bytes())
    at = data.index(marker) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("file_format", "marker", "offset", "value", "said"),
    [
        ("WAV", b"data", 4, struct.pack("<I", 10**9), "claims 500000000 frames, 16000 are there"),
        ("WAV", b"data", 4, struct.pack("<I", 100), "claims 100 bytes of samples in a file of 32044"),
        ("RF64", b"ds64", 16, struct.pack("<Q", 10**13), "claims 49838.* frames, 16000 are there"),
        ("W64", b"data", 16, struct.pack("<Q", 10**13), "claims 49838.* frames, 16000 are there"),
    ],
)
def test_a_length_field_that_lies_is_refused(tmp_path, file_format, marker, offset, value, said):
    path = tmp_path / "lies.wav"
    sf.write(path, noise(16000), 16000, format=file_format, subtype="PCM_16")
    patched(path, marker, offset, value)
    with pytest.raises(ValueError, match=said):
        audio.read(path)
    with pytest.raises(ValueError, match="ffmpeg"):
        list(audio.iterate(path, 8000))


@pytest.mark.parametrize("claim", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_header_of_unknown_length_is_read_to_the_end(tmp_path, claim):
    sf.write(tmp_path / "piped.wav", noise(16000), 16000)
    assert len(audio.read(patched(tmp_path / "piped.wav", b"data", 4, struct.pack("<I", claim)))[0]) == 16000


@pytest.mark.parametrize("ending", ["ogg", "opus"])
def test_an_ogg_stream_cut_short_is_read_with_a_warning(tmp_path, ending):
    path = tmp_path / f"cut.{ending}"
    audio.write(path, noise(160000), 16000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(audio.read(path)[0]) == 160000
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="truncated: the Ogg stream has no end"):
        assert 16000 < len(audio.read(path)[0]) < 100000


@pytest.mark.parametrize("content", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "raw", "txt"])
def test_content_counts_not_the_ending(tmp_path, content, ending):
    audio.write(tmp_path / f"right.{content}", tone(8000, 16000, 300.0), 16000)
    (tmp_path / f"right.{content}").rename(tmp_path / f"wrong.{ending}")
    assert abs(len(audio.load(tmp_path / f"wrong.{ending}", 16000)) - 8000) < 2000


def test_one_channel_of_a_long_file(tmp_path):
    wav = noise(50000, num_channels=3)
    audio.write(tmp_path / "three.wav", wav, 16000, subtype="FLOAT")
    picked = np.concatenate(list(audio.iterate(tmp_path / "three.wav", block_seconds=0.7, channel=2)))
    np.testing.assert_array_equal(picked, wav[:, 2])
    halved = np.concatenate(list(audio.iterate(tmp_path / "three.wav", 8000, block_seconds=0.7, channel=1)))
    np.testing.assert_allclose(halved, audio.resample(wav[:, 1].copy(), 16000, 8000), atol=1e-5)
    with pytest.raises(ValueError, match="no channel 3"):
        list(audio.iterate(tmp_path / "three.wav", channel=3))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    writer = audio.AudioWriter(tmp_path / "a.wav", 16000)
    monkeypatch.setattr(writer._file, "_cdata_io", lambda *arguments: 0)  # libsndfile wrote none of it
    with pytest.raises(OSError, match="is the disk full"), writer:
        writer.write(noise(1000))
    assert list(tmp_path.iterdir()) == []


def test_a_rate_beyond_an_int_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="cannot be written at 9007199254740992 Hz"):
        audio.write(tmp_path / "a.flac", np.zeros(10, np.float32), 2**53)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("fails", ["first", "last"])
def test_a_write_that_fails_is_an_error_whichever_it_is(tmp_path, monkeypatch, ending, fails):
    """libsndfile passes over a final header that could not be written."""
    wav, calls = np.sin(np.arange(4000) / 9).astype(np.float32), []
    put = audio_writer._Disk.put
    monkeypatch.setattr(audio_writer._Disk, "put", lambda self, data: calls.append(1) or put(self, data))
    audio.write(tmp_path / f"whole.{ending}", wav, 16_000)
    at, seen = (1 if fails == "first" else len(calls)), []

    def broken(self, data):
        seen.append(1)
        if len(seen) == at:
            raise OSError(errno.EIO, "Input/output error")
        return put(self, data)

    monkeypatch.setattr(audio_writer._Disk, "put", broken)
    with pytest.raises((OSError, ValueError), match="cannot be written"):
        audio.write(tmp_path / f"broken.{ending}", wav, 16_000)
    assert [path.name for path in tmp_path.iterdir()] == [f"whole.{ending}"]
