"""Live streams: the same as chunked at any split, latency as stated, and every misuse in one line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.streaming.api import CodecStream
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import Latency, latency
from llmcodec.io import audio

from ..small import HOP, RATE, noise, pieces, small_codec, whole

KINDS = {
    "window": dict(encoder_layers=1, decoder_layers=1),
    "global": dict(encoder_layers=1, decoder_layers=1, attention_window=None),
    "causal": dict(causal=True),
}
PAGE = (Path(__file__).parents[3] / "docs" / "longform.md").read_text(encoding="utf-8")
CODECS = {kind: small_codec(torch.float32, **sizes) for kind, sizes in KINDS.items()}


def options(kind: str) -> dict[str, float]:
    return {"lookahead_seconds": 0.1} if kind == "global" else {}


@given(
    kind=st.sampled_from(list(KINDS)),
    samples=st.integers(1, 160),
    cuts=st.lists(st.integers(0, 160), max_size=8),
    frames=st.integers(1, 6),
)
@example(kind="window", samples=160, cuts=list(range(160)), frames=6)
@example(kind="global", samples=160, cuts=list(range(160)), frames=6)
@example(kind="causal", samples=160, cuts=list(range(160)), frames=1)
@example(kind="causal", samples=1, cuts=[], frames=6)
@settings(max_examples=20, deadline=None)
def test_streaming_is_chunked_bit_for_bit(kind, samples, cuts, frames):
    codec, wav, seconds = CODECS[kind], noise(samples, samples, torch.float32), frames * HOP / RATE
    codes = torch.cat(list(encode_blocks(codec, [wav], seconds, **options(kind))), dim=-1)
    again = torch.cat(list(decode_blocks(codec, [codes], samples, seconds, **options(kind))))
    with codec.streaming(seconds, **options(kind)) as stream:
        got = [stream.encode(block) for block in pieces(wav, cuts)] + [stream.finish_encode()]
        tokens = torch.cat(got, dim=-1)
        heard = [stream.decode(block) for block in pieces(tokens, [cut // HOP for cut in cuts])]
        heard.append(stream.finish_decode(samples))
    assert torch.equal(tokens, codes) and tokens.shape == (1, codec.num_frames(samples))
    assert torch.equal(torch.cat(heard), again) and len(again) == samples


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("frames", [1, 3])
def test_the_latency_is_the_stated_one(kind, frames):
    codec, seconds = CODECS[kind], frames * HOP / RATE
    stated = latency(codec.config, seconds, **options(kind))
    lags: dict[str, list[int]] = {"encode": [], "decode": [], "round_trip": []}
    tokens = heard = 0
    with warnings.catch_warnings(), codec.streaming(seconds, **options(kind)) as stream:
        warnings.simplefilter("ignore")
        for sample in range(1, 250):
            # just before a token or a sample comes the lag is largest: measured with the newest sample in hand
            lags["encode"].append(sample - tokens * HOP)
            lags["round_trip"].append(sample - heard)
            codes = stream.encode(noise(1, sample, torch.float32))
            for code in codes.split(1, dim=-1):
                lags["decode"].append((tokens + 1) * HOP - heard)
                tokens += code.shape[-1]
                heard += len(stream.decode(code))
                lags["decode"].append(tokens * HOP - heard)
    assert stream.latency == stated == latency(codec, seconds, **options(kind))
    assert max(lags["encode"]) == stated.encode_samples
    assert max(lags["round_trip"]) == stated.round_trip_samples
    assert max(lags["decode"][1::2]) == stated.decode_samples


def test_stated_figures_of_the_shipped_configurations():
    causal, tiny = latency(LLMCodecConfig.causal_tiny()), latency(LLMCodecConfig.tiny())
    assert isinstance(causal, Latency) and causal.exact and tiny.exact
    assert (causal.encode_seconds, causal.decode_seconds, causal.round_trip_seconds) == (0.05, 0.03, 0.08)
    assert (causal.encode_frames, causal.decode_frames) == (2.5, 1.5)
    # 3 layers x (32 + 15) + 2 frames and 4 layers x (32 + 15) + 2 frames ahead, chunks of 50 frames
    assert (tiny.encode_frames, tiny.decode_frames) == (50 + 143, 49 + 190)
    assert tiny.round_trip_seconds == pytest.approx((50 + 4 * 50 + 143) / 50)
    auv = latency(LLMCodecConfig.auv(), 1.0, 0.5)
    assert not auv.exact and auv.encode_seconds == 1.5 and auv.encoder.left_frames == 250


@pytest.mark.parametrize("kind", list(KINDS))
def test_after_its_end_a_stream_takes_nothing(kind):
    codec = CODECS[kind]
    with codec.streaming() as stream:
        stream.encode(noise(100, dtype=torch.float32))
        stream.decode(stream.finish_encode())
        with pytest.raises(ValueError, match="this stream has ended"):
            stream.encode(noise(8, dtype=torch.float32))
        with pytest.raises(ValueError, match="this stream has ended"):
            stream.finish_encode()
        stream.finish_decode()
        with pytest.raises(ValueError, match="this stream has ended"):
            stream.decode(torch.zeros(1, 1, dtype=torch.int64))
    with codec.streaming() as stream:
        pass
    with pytest.raises(ValueError, match="this stream has ended"):
        stream.encode(noise(8, dtype=torch.float32))
    with codec.streaming() as stream, pytest.raises(ValueError, match="the stream is empty: no samples"):
        stream.finish_encode()
    with codec.streaming() as stream, pytest.raises(ValueError, match="the stream is empty: no codes"):
        stream.finish_decode()


def test_leaving_without_the_end_is_said():
    codec = CODECS["causal"]
    with pytest.warns(UserWarning, match=r"without finish_encode\(\): its end is lost"), codec.streaming() as stream:
        stream.encode(noise(100, dtype=torch.float32))
    with pytest.warns(UserWarning, match=r"without finish_decode\(\)"), codec.streaming() as stream:
        stream.decode(torch.zeros(1, 3, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError), codec.streaming() as stream:
            stream.encode(noise(100, dtype=torch.float32))
            raise KeyError("an error of the caller is not drowned in warnings")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0.1, 0.2], "must be a tensor or a numpy array, got list"),
        (np.zeros(5, np.int64), "must be floats .* got int64"),
        (torch.zeros(1, 5), r"must be \(samples,\), mono, got \(1, 5\)"),
        (np.array([0.0, np.nan, np.inf], np.float32), "sample 11 is NaN or infinite"),
    ],
)
def test_bad_samples_leave_the_stream_as_it_was(kind, bad, message):
    codec, wav = CODECS[kind], noise(100, dtype=torch.float32)
    stream = CodecStream(codec, 0.04, **options(kind))
    codes = [stream.encode(wav[:10])]
    with pytest.raises(ValueError, match=message):
        stream.encode(bad)
    codes += [stream.encode(wav[10:]), stream.finish_encode()]
    assert torch.equal(torch.cat(codes, -1), torch.cat(list(encode_blocks(codec, [wav], 0.04, **options(kind))), -1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[1]], "must be a tensor or a numpy array, got list"),
        (torch.zeros(1, 3), "must be integers, got torch.float32"),
        (torch.ones(1, 3, dtype=torch.bool), "must be integers"),
        (torch.zeros(3, dtype=torch.int64), r"must be \(1, frames\), got \(3,\)"),
        (torch.zeros(2, 3, dtype=torch.int64), r"must be \(1, frames\), got \(2, 3\)"),
        (np.array([[0, 64]]), r"code 64 of frame 3 is outside \[0, 64\)"),
        (torch.tensor([[-1]]), "code -1 of frame 2 is outside"),
    ],
)
def test_bad_codes_leave_the_stream_as_it_was(bad, message):
    codec = CODECS["causal"]
    stream, reference = codec.streaming(), codec.streaming()
    wav = [stream.decode(torch.tensor([[1, 2]]))]
    with pytest.raises(ValueError, match=message):
        stream.decode(bad)
    wav += [stream.decode(np.array([[3]], np.uint16)), stream.finish_decode()]
    expected = [reference.decode(torch.tensor([[1, 2, 3]], dtype=torch.int32)), reference.finish_decode()]
    assert torch.equal(torch.cat(wav), torch.cat(expected)) and len(torch.cat(wav)) == 24


def test_a_length_that_is_out_already_is_refused():
    stream = CODECS["causal"].streaming()
    out = stream.decode(torch.zeros(1, 10, dtype=torch.int64))
    assert len(out) == 10 * HOP - 12
    with pytest.raises(ValueError, match="length=20, but 68 samples were already returned"):
        stream.finish_decode(20)
    with pytest.raises(ValueError, match="10 frames do not cover length=81 samples"):
        stream.finish_decode(81)
    assert len(stream.finish_decode(75)) == 7


def test_a_stream_whose_length_is_out_already_can_be_finished_and_cut():
    """With windows of two hops a causal codec gives all but half a hop at once: ends within the last hop are out."""
    codec, wav = small_codec(torch.float32, causal=True, n_fft=2 * HOP), noise(9 * HOP + 1, 0, torch.float32)
    codes, expected = whole(codec, wav)
    stream = codec.streaming()
    heard = [stream.decode(codes)]
    with pytest.raises(ValueError, match="finish without it and cut them, or give it at the start"):
        stream.finish_decode(len(wav))
    heard.append(stream.finish_decode())
    torch.testing.assert_close(torch.cat(heard)[: len(wav)], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", list(KINDS))
def test_integer_samples_give_the_codes_of_their_floats(kind):
    """int16, as most microphones give it, also read backwards (which torch cannot take as it is)."""
    codec = CODECS[kind]
    wav = (noise(100) * 32768).round().to(torch.int16).numpy()
    expected = list(encode_blocks(codec, [torch.from_numpy(wav / np.float32(32768))], 0.04, **options(kind)))
    backwards = np.ascontiguousarray(wav[::-1])[::-1]
    for blocks in ([wav[:30], torch.from_numpy(wav[30:])], [backwards]):
        got = list(encode_blocks(codec, blocks, 0.04, **options(kind)))
        assert torch.equal(torch.cat(got, -1), torch.cat(expected, -1))


def test_a_stream_of_a_codec_with_broken_weights_says_so():
    codec = small_codec(torch.float32, causal=True, attention_window=4)
    torch.nn.init.zeros_(codec.quantizer.in_proj.magnitude)
    with pytest.raises(ValueError, match="weights or the audio are broken"):
        list(encode_blocks(codec, [noise(100, dtype=torch.float32)]))


def test_the_callers_buffer_may_be_reused():
    codec, wav = CODECS["causal"], noise(200, dtype=torch.float32)
    stream, buffer, codes = codec.streaming(), torch.zeros(20), []
    for block in wav.split(20):
        buffer.copy_(block)
        codes.append(stream.encode(buffer.numpy()))
        buffer.zero_()
    codes.append(stream.finish_encode())
    assert torch.equal(torch.cat(codes, -1), torch.cat(list(encode_blocks(codec, [wav], HOP / RATE)), -1))


def test_arguments_that_contradict_the_codec():
    with pytest.raises(ValueError, match="a causal codec has a look-ahead of its own"):
        CODECS["causal"].streaming(lookahead_seconds=0.5)
    with pytest.raises(ValueError, match="call codec.eval"):
        LLMCodec(CODECS["window"].config).train().streaming()


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio.write("three_hours.flac", noise(24000).numpy().astype(np.float32), 24000)
    names: dict = {"microphone": [np.zeros(1000, np.float32)] * 3}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
        for line, value in re.findall(r"^(latency.*?)\s+# ([\d.]+)$", block, re.MULTILINE):
            assert eval(line, names) == pytest.approx(float(value)), line
    assert audio.info("again.wav").num_frames == 16000


@pytest.mark.parametrize(
    ("name", "config", "chunk", "ahead"),
    [
        ("`causal_tiny`", LLMCodecConfig.causal_tiny(), None, None),
        ("`causal_tiny(n_fft=640)`", LLMCodecConfig.causal_tiny(n_fft=640), None, None),
        ("`tiny`", LLMCodecConfig.tiny(), None, None),
        ("`tiny`", LLMCodecConfig.tiny(), 0.2, None),
        ("`tiny`, `lookahead_seconds=1`", LLMCodecConfig.tiny(), 0.2, 1),
        ("`auv`", LLMCodecConfig.auv(), 1.0, None),
        ("`auv`, `lookahead_seconds=0.5`", LLMCodecConfig.auv(), 1.0, 0.5),
    ],
)
def test_the_table_of_the_page(name, config, chunk, ahead):
    stated = latency(config, chunk, ahead)
    seconds = (stated.encode_seconds, stated.decode_seconds, stated.round_trip_seconds)
    row = re.escape(name) + r" \|.*\| " + " \\| ".join(f"{value:.2f}" for value in seconds)
    assert re.search(f"^\\| {row} \\| {'yes' if stated.exact else 'no'} \\|$", PAGE, re.MULTILINE)
