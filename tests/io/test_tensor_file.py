"""tensorfile.py: the library reads what we write and we read what it writes; no header can lie about sizes."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcodec.io.tensor_file import read_arrays, read_header, write_arrays

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: object = (2,), offsets: object = (0, 4), dtype: object = "U16") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_ours_and_the_librarys_are_the_same_format(tmp_path_factory, kinds, metadata):
    folder = tmp_path_factory.mktemp("t")
    arrays = {
        name: np.asarray(np.random.default_rng(0).integers(0, 100, shape)).astype(dtype)
        for name, (dtype, shape) in kinds.items()
    }
    write_arrays(folder / "ours", arrays, metadata)
    if arrays:
        theirs = safetensors.numpy.load_file(folder / "ours")
        assert set(theirs) == set(arrays)
        for name, array in arrays.items():
            assert theirs[name].dtype == array.dtype and theirs[name].shape == array.shape
            np.testing.assert_array_equal(theirs[name], array)
        safetensors.numpy.save_file(arrays, folder / "theirs", metadata=metadata or None)
        back, facts = read_arrays(folder / "theirs", 1 << 20)
        assert facts == metadata
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array)
            assert back[name].shape == array.shape
    assert (read_arrays(folder / "ours", 1 << 20)[1]) == metadata


def test_equal_content_gives_equal_bytes(tmp_path):
    facts = {str(i): "x" for i in range(20)}
    write_arrays(tmp_path / "a", {"x": np.arange(3), "y": np.arange(2)}, facts)
    write_arrays(tmp_path / "b", {"y": np.arange(2), "x": np.arange(3)}, dict(reversed(facts.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "only 0 bytes"),
        (b"1234567", "only 7 bytes"),
        ((10 * 2**40).to_bytes(8, "little") + b"{}", "a header of 10995116277760 bytes in 10"),
        (raw({"a": entry()}), "4 bytes of tensors claimed, 0 are there"),
        (raw({"a": entry()}, b"123"), "4 bytes of tensors claimed, 3 are there"),
        (raw({"a": entry()}, b"12345"), "4 bytes of tensors claimed, 5 are there"),
        (raw({"a": entry([5 * 2**40], [0, 10 * 2**40])}, b"1234"), "10995116277760 bytes of tensors claimed"),
        (raw({"a": entry([2**40], [0, 4])}, b"1234"), "does not fit"),
        (raw({"a": entry([2**62, 2**62], [0, 4])}, b"1234"), "does not fit"),
        (raw({"a": entry([-2], [0, 4])}, b"1234"), "impossible shape"),
        (raw({"a": entry([True, 2])}, b"1234"), "impossible shape"),
        (raw({"a": entry([1] * 40, [0, 2])}, b"12"), "impossible shape"),
        (raw({"a": entry(2)}, b"1234"), "impossible shape"),
        (raw({"a": entry((2,), (0, 4, 4))}, b"1234"), "impossible shape"),
        (raw({"a": entry(dtype="F9")}, b"1234"), "unknown dtype"),
        (raw({"a": entry(dtype=[1])}, b"1234"), "unknown dtype"),
        (raw({"a": entry(), "b": entry()}, b"1234"), "overlap"),
        (raw({"a": entry((2,), (2, 6))}, b"123456"), "hole at byte 0"),
        (raw({"a": {"dtype": "U8"}}), "is not {dtype, shape, data_offsets}"),
        (raw({"a": 3}), "is not {dtype, shape, data_offsets}"),
        (raw({"__metadata__": {"a": 1}}), "not a map of strings"),
        (raw({"__metadata__": [1]}), "not a map of strings"),
        (raw([1]), "not a JSON object"),
        (raw(b"{"), "safetensors header: not JSON"),
        (raw(b"\xff\xfe"), "safetensors header: not a text in UTF-8"),
        (raw(b"[" * 100_000), "nested too deeply"),
        (raw(b'{"a": 1, "a": 2}'), "the key 'a' stands twice"),
        (pickle.dumps({"a": 1}), "pickled"),
        (b"PK\x03\x04" + bytes(100), "pickled"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for reader in (read_header, lambda p: read_arrays(p, 1 << 20)):
        with pytest.raises(ValueError, match=said) as failure:
            reader(path)
        assert "\n" not in str(failure.value) and str(path) in str(failure.value)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name, said in (("nothing", "no such file"), ("", "is a folder"), ("pipe", "not a regular file")):
        with pytest.raises(ValueError, match=said):
            read_header(tmp_path / name)


def test_larger_than_allowed_is_not_read(tmp_path):
    write_arrays(tmp_path / "a", {"x": np.zeros(1000)}, {})
    with pytest.raises(ValueError, match="more than the 8000"):
        read_arrays(tmp_path / "a", 8000)
    with pytest.raises(ValueError, match="plausible"):
        read_header(tmp_path / "a", max_header_bytes=10)
    write_arrays(tmp_path / "b", {"x": np.zeros(4, bool).view("u1")}, {})
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes().replace(b'"U8"', b'"I8"').replace(b"[4]", b"[4]"))
    assert read_arrays(tmp_path / "b", 1000)[0]["x"].dtype == np.int8
    with pytest.raises(ValueError, match="cannot store complex128"):
        write_arrays(tmp_path / "c", {"x": np.zeros(1, complex)}, {})


@pytest.mark.parametrize("length", [640, 640 + 256, 640 + 512, 640 + 768])
def test_a_header_whose_length_looks_like_the_start_of_a_pickle(length, tmp_path):
    for padding in range(length):
        write_arrays(tmp_path / "a", {"x": np.arange(3)}, {"note": "-" * padding})
        if int.from_bytes((tmp_path / "a").read_bytes()[:8], "little") == length:
            break
    assert (tmp_path / "a").read_bytes()[0] == 0x80
    assert read_arrays(tmp_path / "a", 1 << 20)[0]["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("content", [b"RIFF", b"fLaC", b"OggS", b"ID3\x04"])
def test_audio_is_called_audio(content, tmp_path):
    (tmp_path / "a").write_bytes(content + bytes(100))
    with pytest.raises(ValueError, match="a: is audio, not tokens or weights; `llmcodec encode` makes tokens of it"):
        read_header(tmp_path / "a")
