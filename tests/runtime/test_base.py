"""runtime/base.py: identities tell codecs apart, batches hold similar lengths within their bound, no torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcodec.runtime.base import Runtime, encode_many, length_batches, windows

from ..pcm import IDENTITY, PCMRuntime


@given(st.lists(st.integers(1, 1000), max_size=80), st.integers(1, 4000), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_batches_hold_everything_once_and_stay_within_their_bound(lengths, max_total, max_clips):
    batches = length_batches(lengths, max_total, max_clips)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_clips
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_total
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_batches_of_similar_lengths_waste_little():
    lengths = [100 + 7 * i % 900 for i in range(500)]
    batches = length_batches(lengths, 8000)
    padded = sum(len(batch) * lengths[batch[0]] for batch in batches)
    assert padded < 1.05 * sum(lengths) and len(batches) < 50


def test_many_clips_go_through_in_their_order_a_window_at_a_time():
    runtime = PCMRuntime()
    rate = IDENTITY.sample_rate
    wavs = [np.full(rate // divisor, 0.1, np.float32) for divisor in (1, 4, 2, 8, 1, 2)]
    asked: list[int] = []

    def clips():
        for number, wav in enumerate(wavs):
            asked.append(number)
            yield number, wav

    made = encode_many(runtime, clips(), window_seconds=1.2)
    first = next(made)
    assert asked == [0, 1]  # the second clip fills the window
    together = [first, *made]
    assert [number for number, _ in together] == list(range(6))
    for (_, codes), wav in zip(together, wavs, strict=True):
        assert np.array_equal(codes, runtime.encode_batch([wav])[0])
    assert list(windows([3, 1, 5, 2, 2], float, 4)) == [[3, 1], [5], [2, 2]]
    assert list(encode_many(runtime, [])) == []


def test_only_the_weights_decide_whether_tokens_belong():
    source = dataclasses.replace(IDENTITY, manifest_hash="c0ffee")
    assert source.frame_rate == IDENTITY.frame_rate == 2000 and source.manifest_hash == "c0ffee"
    IDENTITY.refuse_others(dataclasses.replace(source, codec="another name"), "a.safetensors")
    other = dataclasses.replace(source, codec="dac", weights_sha256="ef" * 32)
    with pytest.raises(
        ValueError, match=r"a.safetensors: tokens of codec 'dac' \(weights efefefefefef\), not of 'pcm'"
    ):
        IDENTITY.refuse_others(other, "a.safetensors")
    for field in ("sample_rate", "hop_samples", "num_codebooks", "codebook_size"):
        with pytest.raises(ValueError, match=f"{field} 7, but codec 'pcm' has"):
            IDENTITY.refuse_others(dataclasses.replace(source, **{field: 7}), "a")


def test_the_test_codec_is_a_runtime():
    assert isinstance(PCMRuntime(), Runtime)


def test_the_commands_load_neither_torch_nor_transformers():
    modules = "files, inputs, outputs, pipeline, work"
    code = (
        f"import sys; from llmcodec.transcode import {modules}; import llmcodec.cli.main, llmcodec.cli.transcode; "
        "print(sorted({'torch', 'transformers', 'pyarrow', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
