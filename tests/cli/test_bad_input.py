"""Odd and bad input, each tried: odd but valid works; bad ends in one line that says what, where and what to do.

The table of docs/coding.md lists the same cases. Nothing is lost or half-written, and the exit code is not 0.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from llmcodec.io import audio
from llmcodec.io import tensor_file as tensorfile
from llmcodec.io.token_file import TokenClip, load_token_file, save_token_file

from ..pcm import IDENTITY, LEVELS, PCMRuntime, speech_like
from ..transcode.conftest import read
from .commands import finish, run, start

CLOSE = 3e-3


def left(folder: Path) -> list[str]:
    """Everything under `folder`, hidden and temporary files included; beside results, not the record of how made."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return [name for name in found if name not in (".encoded.json", ".decoded.json")] or found


def one_line(capsys, start: str) -> str:
    """The error of the command: one line on standard error beside the summary, nothing on standard output."""
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith(f"llmcodec {start}: ")]
    others = [line for line in shown.err.splitlines() if line not in lines]
    assert len(lines) == 1 and shown.out == ""
    assert all(line.startswith(("encoded 0 files", "decoded 0 files", "warning: ")) for line in others), others
    return lines[0]


# -- odd, but valid ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "wav", "rate", "how"),
    [
        ("1 sample.wav", speech_like(1) + 0.5, 16000, {}),
        ("silent.wav", np.zeros(5000, np.float32), 16000, {}),
        ("clipped.wav", np.sign(speech_like(5000)).astype(np.float32), 16000, {}),
        ("24 bit.wav", speech_like(5000), 16000, {"subtype": "PCM_24"}),
        ("32 bit float.wav", speech_like(5000), 16000, {"subtype": "FLOAT"}),
        ("8 bit.wav", speech_like(5000), 16000, {"subtype": "PCM_U8"}),
        ("8 kHz.wav", speech_like(5000, 8000), 8000, {}),
        ("192 kHz.wav", speech_like(50000, 192000), 192000, {}),
        ("7 channels.wav", speech_like(5000, num_channels=7), 16000, {}),
        ("Ünï cödé 音声 'quoted' $HOME.wav", speech_like(5000), 16000, {}),
        ("too loud.wav", 3 * speech_like(5000), 16000, {"subtype": "FLOAT"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_odd_but_valid_recordings_work(pcm, tmp_path, capsys, name, wav, rate, how, stream):
    audio.write(tmp_path / "in" / name, wav, rate, **how)
    long = ["--long_seconds", 1e-9] if stream else []
    assert run("encode", tmp_path / "in", "-o", tmp_path / "t", *long) == 0
    assert run("decode", tmp_path / "t", "-o", tmp_path / "w", *long) == 0
    back, back_rate = read(tmp_path / "w" / name)
    expected = np.clip(audio.to_mono(wav), -1, 1)
    assert back_rate == rate and back.shape == expected.shape and np.isfinite(back).all()
    if rate == 16000:
        np.testing.assert_allclose(back, expected, atol=CLOSE if "8 bit" not in name else 0.01)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["flac", "ogg", "mp3", "wav"])
@pytest.mark.parametrize("ending", ["wav", "mp3", "raw", "txt", ""])
def test_a_wrong_ending_over_good_content_works(pcm, clip, tmp_path, content, ending):
    clip(f"right.{content}", 16000).rename(tmp_path / f"wrong.{ending}")
    assert run("encode", tmp_path / f"wrong.{ending}", "-o", tmp_path / "a.safetensors") == 0
    assert abs(load_token_file(tmp_path / "a.safetensors")[0].original_num_samples - 16000) < 2400


@pytest.mark.slow
def test_an_hour_goes_through_in_constant_memory(tmp_path):
    with audio.AudioWriter(tmp_path / "hour.wav", 16000) as writer:
        for minute in range(60):
            writer.write(speech_like(60 * 16000, seed=minute))
    # Not ru_maxrss: a process that was forked off counts what its parent, with all tests in it, had in memory.
    own = "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    peak = f"import atexit; atexit.register(lambda: print({own}))"
    out = tmp_path / "again.wav"
    code, shown, error = finish(start("reconstruct", tmp_path / "hour.wav", "-o", out, before=peak))
    assert code == 0, error
    assert "1 h 00 min of audio" in error and audio.info(out).num_frames == 3600 * 16000
    assert int(shown) < 300_000  # KiB; the hour alone is 230 MB as float32, 460 MB as codes
    np.testing.assert_allclose(read_at(out, 3000), read_at(tmp_path / "hour.wav", 3000), atol=CLOSE)


def read_at(path: Path, second: int) -> np.ndarray:
    return audio.read(path, 16000 * second, 16000)[0]


# -- bad audio ---------------------------------------------------------------------------------------------------------
def nothing(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("Dear diary, this is no audio.\n" * 20)


def truncated_header(path: Path) -> None:
    audio.write(path, speech_like(5000), 16000)
    path.write_bytes(path.read_bytes()[:30])


def zero_length(path: Path) -> None:
    sf.write(path, np.zeros(0), 16000)


def not_finite(value: float):
    def write(path: Path) -> None:
        wav = speech_like(5000)
        wav[1234] = value
        sf.write(path, wav, 16000, subtype="FLOAT")

    return write


def lying(marker: bytes, value: bytes, **how):
    def write(path: Path) -> None:
        sf.write(path, speech_like(16000), 16000, **how)
        data = bytearray(path.read_bytes())
        at = data.index(marker) + 4
        data[at : at + len(value)] = value
        path.write_bytes(data)

    return write


def a_folder(path: Path) -> None:
    (path / "nothing inside").mkdir(parents=True)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def absurd_rate(path: Path) -> None:
    audio.write(path, speech_like(5000), 16000)
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)


BAD_AUDIO = [
    (nothing, "no such audio file"),
    (empty, "the file is empty (0 bytes)"),
    (text, "not an audio file that can be read (Format not recognised)"),
    (truncated_header, "not an audio file that can be read"),
    (zero_length, "no samples (empty or cut short)"),
    (not_finite(np.nan), "sample 1234 is NaN or infinite; repair or drop the file"),
    (not_finite(-np.inf), "sample 1234 is NaN or infinite; repair or drop the file"),
    (lying(b"data", struct.pack("<I", 50)), "claims 50 bytes of samples in a file of 32044"),
    (lying(b"data", struct.pack("<I", 2 * 10**9)), "claims 1000000000 frames, 16000 are there"),
    (lying(b"ds64", b"\x1c\0\0\0" + struct.pack("<QQ", 10**13, 10**13), format="RF64"), "frames, 16000 are there"),
    (a_folder, "no file in this folder ends in .wav"),
    (a_pipe, "the file is empty"),
    (absurd_rate, "its header says 2147483647 Hz, which cannot be right"),
]


@pytest.mark.parametrize(("make", "said"), BAD_AUDIO, ids=range(len(BAD_AUDIO)))
@pytest.mark.parametrize("command", ["encode", "reconstruct"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_recording_is_one_line(pcm, tmp_path, capsys, make, said, command, stream):
    path = tmp_path / "bad one.wav"
    make(path)
    long = ["--long_seconds", 1e-9] if stream else []
    assert run(command, path, "-o", tmp_path / "out", *long) == 1
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if "0 files" not in line]
    assert len(errors) == 1 and said in errors[0] and str(path) in errors[0] and shown.out == ""
    assert not (tmp_path / "out").exists() or left(tmp_path / "out") == []


def test_an_unreadable_file_is_one_line(pcm, clip, tmp_path, capsys, monkeypatch):
    source = clip("locked.wav")
    monkeypatch.setattr(sf, "SoundFile", None)

    def refuse(path):  # root may read everything, so the system's refusal is played
        raise sf.LibsndfileError(2, f"Error opening {str(path)!r}: ")

    monkeypatch.setattr(audio, "ForwardFile", refuse)
    assert run("encode", source, "-o", tmp_path / "out") == 1
    assert f"{source}: not an audio file that can be read (System error" in one_line(capsys, "encode")


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg"])
def test_a_file_cut_short_is_coded_with_a_warning(pcm, clip, tmp_path, capsys, ending):
    source = clip(f"cut.{ending}", 400_000)
    data = source.read_bytes()
    source.write_bytes(data[: 2 * len(data) // 3])
    assert run("encode", source, "-o", tmp_path / "out") == 0
    assert f"warning: {source}: truncated" in capsys.readouterr().err
    assert 150_000 < load_token_file(tmp_path / "out/cut.safetensors")[0].original_num_samples < 300_000


def test_a_loop_of_folders_ends_and_is_said(pcm, clip, tmp_path, capsys):
    clip("in/a.wav")
    clip("in/deep/b.wav")
    (tmp_path / "in/deep/again").symlink_to(tmp_path / "in")
    assert run("encode", tmp_path / "in", "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "encoded 2 files" in error and "again: a link back to a folder above it (a loop); not entered" in error
    assert left(tmp_path / "out") == ["a.safetensors", "deep/b.safetensors"]


# -- bad places --------------------------------------------------------------------------------------------------------
def test_a_link_out_of_the_output_folder_is_refused(pcm, clip, tmp_path, capsys):
    clip("in/sub/a.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    assert run("encode", tmp_path / "in", "-o", tmp_path / "out") == 1
    assert "leads out of the output folder" in one_line(capsys, "encode") and left(tmp_path / "elsewhere") == []


def test_two_inputs_for_one_result_are_refused(pcm, clip, tmp_path, capsys):
    first, second = clip("in/a.wav"), clip("other/a.wav")
    assert run("encode", first, second, "-o", tmp_path / "out") == 1
    error = one_line(capsys, "encode")
    assert str(first) in error and str(second) in error and not (tmp_path / "out").exists()


def test_two_inputs_that_differ_by_their_ending_keep_it(pcm, clip, tmp_path):
    clip("in/a.wav"), clip("in/a.flac")
    assert run("encode", tmp_path / "in", "-o", tmp_path / "out") == 0
    assert left(tmp_path / "out") == ["a.flac.safetensors", "a.wav.safetensors"]


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))"


@pytest.mark.parametrize("long", [1e-9, 60])
def test_a_full_disk_stops_with_one_line_and_no_half_file(clip, tmp_path, long):
    """The limit on file sizes plays the disk: three results fit, one does not."""
    for name, samples in (("a", 900), ("b", 900), ("z", 200_000)):
        clip(f"in/{name}.wav", samples)
    code, _, error = finish(
        start("encode", tmp_path / "in", "-o", tmp_path / "out", "--long_seconds", long, before=LIMIT)
    )
    assert code == 1 and "File too large" in error and "continue with --resume" in error and "Traceback" not in error
    assert set(left(tmp_path / "out")) <= {"a.safetensors", "b.safetensors"}
    for name in left(tmp_path / "out"):
        load_token_file(tmp_path / "out" / name)
    code, _, error = finish(start("reconstruct", tmp_path / "in/z.wav", "-o", tmp_path / "z.wav", before=LIMIT))
    assert code == 1 and "Traceback" not in error and "z.wav" in error and not (tmp_path / "z.wav").exists()
    assert finish(start("encode", tmp_path / "in", "-o", tmp_path / "out", "--resume"))[0] == 0
    assert left(tmp_path / "out") == ["a.safetensors", "b.safetensors", "z.safetensors"]


SLOW = """
encode = pcm.PCMRuntime.encode_batch
def slow(self, wavs):
    time.sleep(0.2)
    return encode(self, wavs)
pcm.PCMRuntime.encode_batch = slow
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 128 + signal.SIGUSR1),
        (signal.SIGKILL, -9),
    ],
)
def test_stopped_in_the_middle_nothing_is_half_written_and_resume_goes_on(clip, tmp_path, number, code):
    for i in range(30):
        clip(f"in/{i:02}.wav", 4000 + i)
    command = ("encode", tmp_path / "in", "-o", tmp_path / "out", "--batch_seconds", 0.5)
    process = start(*command, before=SLOW)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    returned, _, error = finish(process)
    assert returned == code and "Traceback" not in error
    done = sorted((tmp_path / "out").glob("*.safetensors"))
    assert 0 < len(done) < 30
    for path in done:
        load_token_file(path)
    if number != signal.SIGKILL:
        assert f"encoded {len(done)} file" in error and "--resume continues" in error
        assert f"llmcodec encode: stopped by {number.name}: " in error
        assert len(left(tmp_path / "out")) == len(done)
    before = {path: path.stat().st_mtime_ns for path in done}
    assert finish(start(*command, "--resume"))[0] == 0
    assert len(left(tmp_path / "out")) == 30 and all(path.stat().st_mtime_ns == at for path, at in before.items())


# -- bad tokens and checkpoints ----------------------------------------------------------------------------------------
def token_file(path: Path, change: dict[str, str] | None = None, code: int | None = None) -> Path:
    """A token file of the PCM codec, its metadata or its first code changed behind the writer's back."""
    save_token_file(path, TokenClip(PCMRuntime().encode_batch([speech_like(800)])[0][None], 800), IDENTITY)
    arrays, metadata = tensorfile.read_arrays(path, 1 << 20)
    codes = arrays["codes"].copy()
    codes[0, 0, 0] = codes[0, 0, 0] if code is None else code
    tensorfile.write_arrays(path, {"codes": codes}, metadata | (change or {}))
    return path


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({}, LEVELS, f"code {LEVELS} is outside [0, {LEVELS}) of codec 'pcm'"),
        ({"codebook_size": "8192"}, None, "codebook_size 8192, but codec 'pcm' has 4096; a damaged file?"),
        ({"num_codebooks": "4"}, None, "num_codebooks 4, but codec 'pcm' has 8"),
        (
            {"hop_samples": "16", "frame_rate": "1000.0", "num_samples": "1600"},
            None,
            "hop_samples 16, but codec 'pcm' has 8",
        ),
        ({"weights_sha256": "cd" * 32, "codec": "dac"}, None, "tokens of codec 'dac' (weights cdcdcdcdcdcd)"),
        ({"num_samples": str(10**13)}, None, "samples claimed"),
        ({"original_num_samples": str(10**13), "original_sample_rate": "16000"}, None, "original samples"),
    ],
)
def test_a_bad_token_file_is_one_line(pcm, tmp_path, capsys, change, code, said):
    path = token_file(tmp_path / "a.safetensors", change, code)
    assert run("decode", path, "-o", tmp_path / "out") == 1
    error = one_line(capsys, "decode")
    assert said in error and str(path) in error and not (tmp_path / "out").exists()


def test_a_header_that_claims_10_terabytes_takes_no_memory(pcm, tmp_path, capsys):
    path = token_file(tmp_path / "a.safetensors")
    path.write_bytes((10 * 2**40).to_bytes(8, "little") + path.read_bytes()[8:])
    assert run("decode", path, "-o", tmp_path / "out") == 1
    assert "a header of 10995116277760 bytes" in one_line(capsys, "decode")


@pytest.mark.parametrize("content", [pickle.dumps({"codes": [1]}), b"PK\x03\x04" + bytes(500), b"", b"text" * 99])
def test_what_is_no_token_file_is_one_line(pcm, tmp_path, capsys, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert run("decode", tmp_path / "a.safetensors", "-o", tmp_path / "out") == 1
    assert "a.safetensors" in one_line(capsys, "decode") and not (tmp_path / "out").exists()


def test_a_pickled_checkpoint_is_refused_unopened(clip, tmp_path, capsys):
    class Opened:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was run",))

    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llmcodec"}')
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Opened()))
    assert run("encode", clip("a.wav"), "--codec", folder, "--device", "cpu") == 1
    assert "pytorch_model.bin: pickled weights could run code" in one_line(capsys, "encode")
    assert not (tmp_path / "was run").exists() and not (tmp_path / "a.safetensors").exists()
