"""Attacks on what comes in as sound: arrays, masks, codes, files. README.md lists what they found."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from llmcodec import LLMCodec
from llmcodec.io import audio
from llmcodec.io.token_file import load_token_file

from ..miniature import miniature_codec
from .attack import RATE, accepts, refuses, tone, wav

WAV = tone(4000)


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    return miniature_codec(0).eval()


@pytest.fixture(scope="module")
def folder(codec, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("codec") / "codec"
    codec.save_pretrained(place)
    return place


def codes_of(codec: LLMCodec, values: Any, **options: Any) -> torch.Tensor:
    return codec.encode(values, **options).audio_codes


# Arrays


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f4"),
        lambda x: x[..., ::-1].copy()[..., ::-1],
        lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
        lambda x: x.astype(np.float64),
        lambda x: np.asfortranarray(np.repeat(x, 2, 0))[:1],
        lambda x: x.tolist(),
    ],
    ids=["big endian", "reversed", "read-only", "float64", "strided", "lists"],
)
def test_an_odd_array(codec, change):
    """Right: the codes of the plain array (but for near ties: doubles are transformed as doubles)."""
    same = codes_of(codec, change(WAV[None, None])) == codes_of(codec, WAV[None, None])
    assert same.float().mean() > 0.8


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(complex),
        lambda x: x > 0,
        lambda x: (x * 32767).astype(np.int64),
        lambda x: (x * 127).astype(np.int8),
        lambda x: x.astype(np.longdouble),
        lambda x: np.ma.masked_array(x, mask=x > 0.2),
        lambda x: x[0],
        lambda x: x.transpose(0, 2, 1),
        lambda x: np.concatenate([x, -x], 1),
        lambda x: x[:0],
        lambda x: x[..., :0],
        lambda x: [[[0.1, 0.2], [0.1]]],
        lambda x: ["a", "b"],
        lambda x: None,
        lambda x: np.where(np.arange(x.size) == 7, 1e39, x.astype(float)),
    ],
    ids=[
        "complex",
        "bool",
        "int64",
        "int8",
        "longdouble",
        "masked",
        "2d",
        "transposed",
        "stereo",
        "no-clips",
        "empty",
        "ragged",
        "text",
        "none",
        "beyond",
    ],  # fmt: skip
)
def test_an_array_that_is_no_sound(codec, change):
    """Right: one line that names the argument."""
    with pytest.raises(ValueError, match="^encode: ") as refused:
        codes_of(codec, change(WAV[None, None]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "mask",
    [
        lambda m: m * 0.5,
        lambda m: m * float("nan"),
        lambda m: -m,
        lambda m: m * 2,
        lambda m: torch.where(torch.arange(4000) == 50, 0, m),
        lambda m: torch.where(torch.arange(4000) < 50, 0, m),
        lambda m: m * 0,
        lambda m: m[:, :10],
    ],
    ids=["half", "nan", "negative", "two", "hole", "left-padded", "zero", "short"],
)
def test_a_mask_that_is_none(codec, mask):
    """Right: refused; NaN and 0.5 were taken for "real"."""
    with pytest.raises(ValueError, match="^encode: (padding_mask|a clip is empty)"):
        codes_of(codec, WAV[None, None], padding_mask=mask(torch.ones(1, 4000)))


@pytest.mark.parametrize("length", [-5, 2.5, 4000.0, True, "4000", [4000], 10**6, float("nan")])
def test_a_length_that_is_none(codec, length):
    """Right: refused; -5 cut five samples off the end, True gave one sample."""
    with pytest.raises(ValueError, match="^decode: "):
        codec.decode(codes_of(codec, WAV[None, None]), length=length)


def test_lengths_of_numpy_and_torch(codec):
    """Right: they are whole numbers too."""
    codes = codes_of(codec, WAV[None, None])
    for length in (np.int32(3990), torch.tensor(3990), 3990):
        assert codec.decode(codes, length=length).audio_values.shape == (1, 1, 3990)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.float(),
        lambda c: c > 3,
        lambda c: -c - 1,
        lambda c: c + 64,
        lambda c: c[0],
        lambda c: c.transpose(1, 2),
        lambda c: c.repeat(1, 2, 1),
        lambda c: c[..., :0],
        lambda c: c.numpy().astype(complex),
    ],
    ids=["float", "bool", "negative", "beyond", "2d", "transposed", "two-books", "empty", "complex"],
)
def test_codes_that_are_none(codec, change: Callable[[torch.Tensor], Any]):
    """Right: refused in one line."""
    with pytest.raises(ValueError, match="^decode: "):
        codec.decode(change(codes_of(codec, WAV[None, None])))


# Files


def patched(path: Path, data_bytes: int) -> Path:
    """The wav file with another length in its data chunk."""
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", data_bytes)
    path.write_bytes(content)
    return path


def test_a_length_field_that_leaves_a_quarter_out(tmp_path):
    """Right: read as the header says, and it says how much is not read."""
    path = patched(wav(tmp_path / "a.wav"), 12000)
    with pytest.warns(UserWarning, match="bytes after the samples are not read"):
        assert len(audio.read(path)[0]) == 6000


def test_a_second_recording_behind_the_first(tmp_path):
    """Right: not half of it in silence; a program has appended to a finished file."""
    path = wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ValueError, match="not an audio file that can be read"):
        audio.read(path)


def test_a_stream_whose_header_knows_no_length(tmp_path):
    """Right: all of it, without a word."""
    assert len(audio.read(patched(wav(tmp_path / "a.wav"), 0xFFFFFFFF))[0]) == 8000


def test_id3_before_a_wav_and_an_odd_list_chunk(tmp_path):
    """Right: the samples."""
    content = wav(tmp_path / "a.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(b"ID3\x03\0\0\0\0\0\x0a" + b"\0" * 10 + content)
    (tmp_path / "c.wav").write_bytes(content[:12] + b"LIST" + struct.pack("<I", 5) + b"INFOx\0" + content[12:])
    for name in ("b.wav", "c.wav"):
        assert len(audio.read(tmp_path / name)[0]) == 8000


def test_cut_in_half(tmp_path):
    """Right: what is there, with a warning, whatever the format."""
    noise = np.random.default_rng(0).standard_normal(160_000) * 0.1
    for name in ("a.wav", "a.flac", "a.ogg"):
        soundfile.write(tmp_path / name, noise, RATE)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.warns(UserWarning, match="truncated"):
            assert 40_000 < len(audio.read(tmp_path / name)[0]) < 120_000


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_a_rate_that_cannot_be(folder, tmp_path, rate):
    """Right: the line says so."""
    soundfile.write(tmp_path / "a.wav", WAV, rate)
    said = refuses("encode", tmp_path / "a.wav", "-o", tmp_path / "o", "--codec", folder)
    assert f"its header says {rate} Hz, which cannot be right" in said


def test_channels_that_nearly_cancel(folder, tmp_path):
    """Right: coded, with a warning that says by how much."""
    soundfile.write(tmp_path / "a.wav", np.stack([WAV, -0.98 * WAV], 1), RATE, subtype="FLOAT")
    said = accepts("encode", tmp_path / "a.wav", "-o", tmp_path / "o", "--codec", folder)
    assert "its channels cancel: their mean is 40 dB below them" in said


def test_an_input_as_the_result(folder, tmp_path):
    """Right: refused, --overwrite or not, and the recording is as it was."""
    path = wav(tmp_path / "a.wav")
    before = path.read_bytes()
    assert "would overwrite an input" in refuses("reconstruct", path, "-o", path, "--codec", folder, "--overwrite")
    assert path.read_bytes() == before


# Token files


@pytest.fixture(scope="module")
def token_file(folder, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tokens")
    accepts("encode", wav(place / "a.wav", 6000), "-o", place / "a.safetensors", "--codec", folder)
    return place / "a.safetensors"


def edited(token_file: Path, target: Path, change: Any = lambda codes: codes, **facts: str) -> Path:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(token_file, "np") as file:
        save_file({"codes": change(file.get_tensor("codes"))}, target, {**file.metadata(), **facts})
    return target


@pytest.mark.parametrize(
    ("change", "facts", "said"),
    [
        (lambda c: c[..., :-1].copy(), {}, "18 frames of 320 samples cannot give 6000 samples"),
        (lambda c: np.concatenate([c, c[..., :1]], 2), {}, "20 frames for 6000 samples"),
        (lambda c: c, {"frame_rate": "25.0"}, "frame_rate is '25.0', by its other sizes it is 50.0"),
        (lambda c: c, {"num_samples": "6e3"}, "not a number from 1"),
        (lambda c: c, {"original_sample_rate": "8000"}, "are not its 6000 samples"),
        (lambda c: c, {"codebook_size": "128"}, "has 64; a damaged file?"),
        (lambda c: c.transpose(0, 2, 1).copy(), {}, "frames cover at most"),
        (lambda c: c.astype(np.float32), {}, "which no codec writes"),
    ],
    ids=["frame-less", "frame-more", "frame-rate", "exponent", "rate", "codebook", "transposed", "float"],
)
def test_a_token_file_that_was_edited(folder, token_file, tmp_path, change, facts, said):
    """Right: refused by `decode`; a frame less was filled up with silence, one more was dropped."""
    path = edited(token_file, tmp_path / "b.safetensors", change, **facts)
    assert said in refuses("decode", path, "-o", tmp_path / "b.wav", "--codec", folder)
    assert not (tmp_path / "b.wav").exists()


def test_tokens_of_another_codec(token_file, tmp_path):
    """Right: refused, both are named."""
    miniature_codec(1).save_pretrained(tmp_path / "other")
    said = refuses("decode", token_file, "-o", tmp_path / "b.wav", "--codec", tmp_path / "other")
    assert "name the right one with --codec" in said
    assert load_token_file(token_file)[0].codes.shape == (1, 1, 19)
