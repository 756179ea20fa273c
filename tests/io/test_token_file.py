"""io/token_file.py: token files come back as they went in; what does not add up is refused in one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcodec.io.tensor_file import read_arrays, write_arrays
from llmcodec.io.token_file import TokenClip, TokenProvenance, load_token_file, read_token_facts, save_token_file

PROVENANCE = TokenProvenance("rate/codec", "ab" * 32, 16000, 320, 1, 4096, "c0ffee")


def provenance(num_codebooks: int = 1, codebook_size: int = 4096) -> TokenProvenance:
    return dataclasses.replace(PROVENANCE, num_codebooks=num_codebooks, codebook_size=codebook_size)


def random_codes(shape: tuple[int, ...], size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, shape)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 60)),
    st.sampled_from([2, 1024, 65536, 65537, 200_000]),
    st.integers(1, 319),
    st.sampled_from([8000, 16000, 22050, 44100, 192000]),
    st.integers(1, 8),
)
@settings(max_examples=40, deadline=None)
def test_a_clip_comes_back(tmp_path_factory, shape, size, cut, rate, channels):
    path = tmp_path_factory.mktemp("t") / "clip.safetensors"
    num_samples = shape[2] * 320 - cut
    clip = TokenClip(random_codes(shape, size), num_samples, rate, round(num_samples * rate / 16000), channels)
    save_token_file(path, clip, provenance(shape[1], size))
    back, source = load_token_file(path)
    np.testing.assert_array_equal(back.codes, clip.codes)
    assert back.codes.dtype == np.int64 and source == provenance(shape[1], size)
    assert dataclasses.replace(back, codes=clip.codes) == clip
    facts, again = read_token_facts(path)
    assert again == source and facts["channels"] == shape[0] and facts["num_samples"] == num_samples
    stored = read_arrays(path, 1 << 20)[0]["codes"]
    assert stored.dtype == (np.uint16 if size <= 65536 else np.int32)


def test_the_metadata_names_everything_that_decoding_needs(tmp_path):
    save_token_file(
        tmp_path / "a.safetensors", TokenClip(random_codes((1, 1, 50), 9), 16000, 44100, 44100, 2), PROVENANCE
    )
    metadata = read_arrays(tmp_path / "a.safetensors", 1 << 20)[1]
    assert metadata == {
        "format": "llmcodec-tokens-1",
        "codec": "rate/codec",
        "weights_sha256": "ab" * 32,
        "sample_rate": "16000",
        "frame_rate": "50.0",
        "hop_samples": "320",
        "num_codebooks": "1",
        "codebook_size": "4096",
        "manifest_hash": "c0ffee",
        "num_samples": "16000",
        "original_sample_rate": "44100",
        "original_num_samples": "44100",
        "original_channels": "2",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"format": None}, "it names no format"),
        ({"weights_sha256": "ab"}, "64 hex digits"),
        ({"sample_rate": "1e3"}, "sample_rate in its metadata is '1e3'"),
        ({"sample_rate": "-16000"}, "sample_rate"),
        ({"hop_samples": "0"}, "hop_samples"),
        ({"hop_samples": None}, "hop_samples in its metadata is ''"),
        ({"num_codebooks": "2"}, "the codec has 2 codebooks"),
        ({"codebook_size": "4"}, r"code 40\d\d is outside \[0, 4\)"),
        ({"num_samples": "17000"}, "17000 samples claimed, 50 frames cover at most 16320"),
        ({"num_samples": "0"}, "num_samples"),
        ({"num_samples": str(10**13)}, "samples claimed"),
        ({"num_samples": "9" * 5000}, "num_samples"),
        ({"original_num_samples": str(10**12)}, "1000000000000 original samples at 44100 Hz are not its 16000"),
        ({"original_sample_rate": "12"}, "12 Hz cannot be right"),
        ({"original_channels": "0"}, "original_channels"),
        ({"num_samples": "٣"}, "num_samples"),  # a digit, but not an ASCII one
    ],
)
def test_metadata_that_lies_is_refused(tmp_path, change, said):
    path = tmp_path / "a.safetensors"
    codes = random_codes((1, 1, 50), 4096)
    codes[0, 0, 0] = 4095
    save_token_file(path, TokenClip(codes, 16000, 44100, 44100, 2), PROVENANCE)
    arrays, metadata = read_arrays(path, 1 << 20)
    write_arrays(path, arrays, {k: v for k, v in (metadata | change).items() if v is not None})
    with pytest.raises(ValueError, match=said) as failure:
        load_token_file(path)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 400


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"tokens": np.zeros((1, 1, 50), np.uint16)}, "one tensor `codes`"),
        ({"codes": np.zeros((1, 50), np.uint16)}, "one tensor `codes`"),
        ({"codes": np.zeros((1, 1, 0), np.uint16)}, "one tensor `codes`"),
        ({"codes": np.zeros((1, 1, 50), np.uint16), "b": np.zeros(1)}, "one tensor `codes`"),
        ({"codes": np.zeros((1, 1, 50), np.float32)}, "codes are float32"),
        ({"codes": np.zeros((1, 1, 50), np.uint64)}, "codes are uint64"),
        ({"codes": np.full((1, 1, 50), -1, np.int32)}, r"code -1 is outside"),
        ({"codes": np.full((1, 1, 50), 4096, np.uint16)}, r"code 4096 is outside \[0, 4096\) of codec 'rate/codec'"),
    ],
)
def test_tensors_that_are_no_tokens_are_refused(tmp_path, arrays, said):
    facts = {"num_samples": "16000", "original_sample_rate": "0", "original_num_samples": "0", "original_channels": "1"}
    write_arrays(tmp_path / "a.safetensors", arrays, PROVENANCE.metadata() | facts)
    with pytest.raises(ValueError, match=said):
        load_token_file(tmp_path / "a.safetensors")


def test_codes_are_checked_before_they_are_written(tmp_path):
    for codes, said in (
        (np.zeros((1, 5), int), "channels, codebooks, frames"),
        (np.zeros((1, 2, 5), int), "1 codebooks"),
        (np.full((1, 1, 5), 5000), "code 5000"),
        (np.zeros((1, 1, 0), int), "no tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            save_token_file(tmp_path / "a.safetensors", TokenClip(codes, 5), PROVENANCE)
    assert not list(tmp_path.iterdir())


def test_a_claim_of_terabytes_takes_no_memory(tmp_path):
    path = tmp_path / "a.safetensors"
    save_token_file(path, TokenClip(random_codes((1, 1, 50), 9), 16000), PROVENANCE)
    data = path.read_bytes().replace(
        b'"shape":[1,1,50],"data_offsets":[0,100]', b'"shape":[1,1,5000000000000],"data_offsets":[0,10000000000000]'
    )
    text = data[8 : data.rindex(b"}") + 1]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[-100:])
    tracemalloc.start()
    with pytest.raises(ValueError, match="10000000000000 bytes of tensors claimed, 100 are there"):
        load_token_file(path)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_reading_tokens_needs_no_torch():
    code = (
        "import sys, llmcodec.io.token_shards; print(sorted({'torch', 'transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
