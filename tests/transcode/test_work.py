"""transcode/work.py on a codec that gives the audio back: lengths, rates, channels, streams as the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmcodec.io import audio
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import TokenShardWriter, read_token_shards
from llmcodec.transcode.pipeline import Item
from llmcodec.transcode.work import DecodeWork, EncodeWork, ReconstructWork

from ..pcm import ERROR, RATE, PCMRuntime, speech_like
from .conftest import read

QUANTISED = ERROR + 1 / 32768


def item(source: Path, target: Path | None) -> Item:
    return Item(source, target, str(source), source.stem)


def code(work, source: Path, target: Path | None, stream: bool = False) -> Item:
    one = item(source, target)
    one.seconds = work.measure(one)
    if stream:
        advanced: list[float] = []
        work.stream(one, advanced.append)
        assert sum(advanced) <= one.seconds + 1e-6
    else:
        work.write(one, work.code([work.read(one)])[0])
    return one


@given(
    st.integers(1, 30000),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000]),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 8000, 16000, 48000]),
)
@example(length=1, rate=11025, channels=1, split=False, stream=True, out_rate=48000)  # nearly all of a frame is padding
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_length_rate_and_channel_count_comes_back(tmp_path, length, rate, channels, split, stream, out_rate):
    runtime = PCMRuntime()
    wav = speech_like(length, rate, channels)
    source, tokens, again = (tmp_path / name for name in ("a.wav", "a.safetensors", "b.wav"))
    audio.write(source, wav, rate, subtype="FLOAT")
    code(EncodeWork(runtime, split), source, tokens, stream)
    clip, _ = load_token_file(tokens)
    assert clip.codes.shape[0] == (channels if split else 1)
    assert (clip.original_sample_rate, clip.original_num_samples, clip.original_channels) == (rate, length, channels)
    assert clip.num_samples == audio.num_resampled(length, rate, RATE)
    code(DecodeWork(runtime, out_rate), tokens, again, stream)
    result, result_rate = read(again)
    wanted = out_rate or rate
    expected_length = length if wanted == rate else audio.num_resampled(length, rate, wanted)
    assert result_rate == wanted and len(result) == expected_length
    assert result.ndim == 1 if clip.codes.shape[0] == 1 else result.shape[1] == channels
    code(ReconstructWork(runtime, split, out_rate), source, again, stream)
    directly, _ = read(again)
    assert directly.shape == result.shape
    np.testing.assert_allclose(directly, result, atol=2 * ERROR)
    if rate == wanted == RATE:
        expected = wav if split else audio.to_mono(wav)
        np.testing.assert_allclose(result, expected, atol=QUANTISED)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_resampling_forth_and_back_keeps_the_sound(tmp_path, rate):
    runtime, wav = PCMRuntime(), speech_like(3 * rate, rate)
    audio.write(tmp_path / "a.wav", wav, rate)
    code(EncodeWork(runtime, False), tmp_path / "a.wav", tmp_path / "a.safetensors")
    code(DecodeWork(runtime, None), tmp_path / "a.safetensors", tmp_path / "b.wav")
    middle = slice(rate // 2, -rate // 2)
    np.testing.assert_allclose(read(tmp_path / "b.wav")[0][middle], wav[middle], atol=5e-3)


def test_split_keeps_channels_apart_and_mix_is_their_mean(tmp_path):
    runtime = PCMRuntime()
    wav = np.stack([speech_like(5000), -0.5 * speech_like(5000, seed=1)], axis=1)
    audio.write(tmp_path / "a.wav", wav, RATE, subtype="FLOAT")
    for split, stream in ((True, False), (True, True), (False, False), (False, True)):
        code(ReconstructWork(runtime, split, None), tmp_path / "a.wav", tmp_path / "b.wav", stream)
        expected = wav if split else wav.mean(1)
        np.testing.assert_allclose(read(tmp_path / "b.wav")[0], expected, atol=QUANTISED)


def test_streams_go_through_the_streams_of_the_runtime(tmp_path, clip):
    runtime = PCMRuntime()
    source = clip("long.wav", 200_000, 22050, 2)
    code(EncodeWork(runtime, True), source, tmp_path / "a.safetensors", stream=True)
    code(DecodeWork(runtime, None), tmp_path / "a.safetensors", tmp_path / "b.wav", stream=True)
    code(ReconstructWork(runtime, True, None), source, tmp_path / "c.wav", stream=True)
    assert {name for name, _ in runtime.calls} == {"encode_stream", "decode_stream"}
    np.testing.assert_allclose(read(tmp_path / "b.wav")[0], read(tmp_path / "c.wav")[0], atol=2 * ERROR)


def test_shards_hold_what_token_files_hold(tmp_path, clip):
    runtime = PCMRuntime()
    sources = [clip(f"{i}.wav", 4000 + i, channels=1 + i % 2) for i in range(5)]
    with TokenShardWriter(tmp_path / "shards", runtime.identity) as shards:
        work = EncodeWork(runtime, True, shards)
        assert not work.write_in_threads
        for source in sources:
            code(work, source, None)
    for source, row in zip(sources, read_token_shards(tmp_path / "shards"), strict=True):
        code(EncodeWork(runtime, True), source, tmp_path / "one.safetensors")
        one, _ = load_token_file(tmp_path / "one.safetensors")
        np.testing.assert_array_equal(row.codes, one.codes)
        assert row.id == source.stem
        assert {name: getattr(row, name) for name in vars(one) if name != "codes"} == {
            name: value for name, value in vars(one).items() if name != "codes"
        }


def test_tokens_of_another_codec_are_refused_before_they_are_read(tmp_path, clip):
    code(EncodeWork(PCMRuntime(), False), clip("a.wav"), tmp_path / "a.safetensors")
    other = PCMRuntime(dataclasses.replace(PCMRuntime().identity, codec="other", weights_sha256="cd" * 32))
    with pytest.raises(ValueError, match="tokens of codec 'pcm' .* not of 'other' .*--codec"):
        DecodeWork(other, None).measure(item(tmp_path / "a.safetensors", None))
    with pytest.raises(ValueError, match="tokens of codec 'pcm'"):
        DecodeWork(other, None).read(item(tmp_path / "a.safetensors", None))
