"""Any length in constant memory: chunked == whole with bounded attention, what a chunk may see, what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmcodec import assets
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.streaming.api import open_decoder, open_encoder
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import latency, make_plan
from llmcodec.codec.token_prior import BigramPrior
from llmcodec.io import audio

from ..small import HOP, RATE, noise, pieces, reach, small_codec, whole

ROTARY = 1e-7  # the angles of AUV's rotary embedding are float32, so positions shift rounding even in float64
GEOMETRIES = [dict(), dict(n_fft=8), dict(n_fft=24), dict(n_fft=64, attention_window=1, conv_kernel_size=1)]


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    return small_codec()


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    """20 s of the bundled recordings, one after the other."""
    folder = assets.speech_manifest().parent
    clips = [audio.load(path, 16000) for path in sorted(folder.rglob("*.flac"))[::7]]
    return torch.from_numpy(np.concatenate(clips)[: 20 * 16000])


@pytest.fixture(scope="module")
def tiny() -> LLMCodec:
    return LLMCodec.from_pretrained(assets.codec_folder()).eval()


def chunked(codec, wav, frames, cuts=(), length=None, **options):
    codes = torch.cat(list(encode_blocks(codec, pieces(wav, list(cuts)), frames * HOP / RATE, **options)), dim=-1)
    out = decode_blocks(codec, pieces(codes, list(cuts)), length or len(wav), frames * HOP / RATE, **options)
    return codes, torch.cat(list(out))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])
def test_the_stated_context_is_all_that_a_frame_sees(geometry, causal):
    codec = small_codec(causal=causal, **geometry)
    assert reach(codec, "encoder") == codec.config.encoder_context
    assert reach(codec, "decoder") == codec.config.decoder_context
    assert codec.context_frames == (max(codec.config.encoder_context), max(codec.config.decoder_context))


@given(
    samples=st.integers(1, 500),
    frames=st.integers(4, 40),
    cuts=st.lists(st.integers(0, 700), max_size=5),
    floor=st.booleans(),
)
@example(samples=1, frames=1, cuts=[], floor=False)
@example(samples=400, frames=50, cuts=[], floor=False)
@settings(max_examples=20, deadline=None)
def test_chunked_is_whole(codec, samples, frames, cuts, floor):
    codec.config.auv_floor_frames = floor
    try:
        samples = max(samples, 13) if floor else samples
        wav = noise(samples, seed=samples)
        codes, again = whole(codec, wav)
        got, got_again = chunked(codec, wav, frames, cuts)
        assert torch.equal(got, codes)
        torch.testing.assert_close(got_again, again, rtol=0, atol=ROTARY)
    finally:
        codec.config.auv_floor_frames = False


@pytest.mark.parametrize("geometry", GEOMETRIES[1:], ids=str)
def test_chunked_is_whole_in_other_geometries(geometry):
    codec = small_codec(**geometry)
    for samples in (1, 7, 8, 65, 513):
        codes, again = whole(codec, noise(samples))
        got, got_again = chunked(codec, noise(samples), 5, [3, 100])
        assert torch.equal(got, codes)
        torch.testing.assert_close(got_again, again, rtol=0, atol=ROTARY)


def test_one_frame_less_of_look_ahead_is_not_exact(codec):
    plan = make_plan(codec, "decoder", 0.2, None)
    assert plan.exact and (plan.left_frames, plan.right_frames) == codec.config.decoder_context
    short = (plan.right_frames - 1) * HOP / RATE
    assert not make_plan(codec, "decoder", 0.2, short).exact and not latency(codec, 0.2, short).exact
    codes, again = whole(codec, noise(800))
    exact = torch.cat(list(decode_blocks(codec, [codes], 800, 0.2)))
    less = torch.cat(list(decode_blocks(codec, [codes], 800, 0.2, lookahead_seconds=short)))
    assert len(less) == 800 and (exact - again).abs().max() < ROTARY < (less - again).abs().max()


def test_trained_tokens_are_those_of_the_whole_clip(tiny, speech):
    whole_codes = tiny.encode(speech[None, None]).audio_codes[0]
    codes = torch.cat(list(encode_blocks(tiny, speech.split(7777), chunk_seconds=4.0)), dim=-1)
    double = LLMCodec.from_pretrained(assets.codec_folder(), dtype=torch.float64).eval()
    query = double.encode_latents(speech[None].double()).query_BTC[0]
    best = (query @ double.codebook_VC.T).topk(2).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert torch.equal(codes[0, clear], whole_codes[0, clear])
    assert (codes == whole_codes).float().mean() >= 0.999 and clear.float().mean() > 0.99
    again = torch.cat(list(decode_blocks(tiny, codes.split(99, dim=-1), len(speech), 4.0)))
    expected = tiny.decode(codes[None], length=len(speech)).audio_values[0, 0]
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_global_attention_is_close_on_speech_and_says_that_it_is_not_exact(tiny, speech):
    windowless = LLMCodec(LLMCodecConfig.from_dict(tiny.config.to_dict() | {"attention_window": None})).eval()
    windowless.load_state_dict(tiny.state_dict())
    assert not latency(windowless).exact and latency(tiny).exact
    whole_codes = windowless.encode(speech[None, None]).audio_codes[0]
    codes = torch.cat(list(encode_blocks(windowless, [speech], chunk_seconds=10.0)), dim=-1)
    without = torch.cat(list(encode_blocks(windowless, [speech], chunk_seconds=10.0, lookahead_seconds=0)), dim=-1)
    agreement = (codes == whole_codes).float().mean()
    assert codes.shape == whole_codes.shape and (without == whole_codes).float().mean() < agreement
    assert agreement > 0.7
    everything = torch.cat(list(encode_blocks(windowless, [speech], chunk_seconds=1.0, lookahead_seconds=60)), dim=-1)
    assert torch.equal(everything, whole_codes), "a look-ahead longer than the clip is the whole clip"


def test_memory_does_not_grow_with_the_signal(codec, monkeypatch):
    seen: list[int] = []
    encode, decode = codec.encode, codec.decode
    monkeypatch.setattr(codec, "encode", lambda wav, **kw: (seen.append(wav.shape[-1]), encode(wav, **kw))[1])
    monkeypatch.setattr(codec, "decode", lambda c, **kw: (seen.append(c.shape[-1] * HOP), decode(c, **kw))[1])
    frames = 20
    encoder, decoder = open_encoder(codec, frames * HOP / RATE), open_decoder(codec, frames * HOP / RATE)
    largest = HOP * (frames + 2 * max(codec.context_frames))
    for seed, size in enumerate([5000] + 200 * [37]):  # one huge piece, then many small ones
        codes = encoder.push(noise(size, seed))
        wav = decoder.push(codes)
        for session, unit in ((encoder, 1), (decoder, HOP)):
            held = sum(part.untyped_storage().nbytes() // part.element_size() for part in session.tail.parts)
            assert held * unit <= 2 * largest
        assert len(wav) <= codes.shape[-1] * HOP + largest
    assert max(seen) <= largest and len(seen) > 50


class Foreign:
    """A codec of another kind: two codebooks that hold each frame's sign and its rounded level, no config."""

    sample_rate, hop_samples, frame_rate, num_codebooks, codebook_size = 1000, 10, 100.0, 2, 1000

    def encode(self, input_values, padding_mask=None):
        frames = torch.nn.functional.pad(input_values[0, 0], (0, -input_values.shape[-1] % 10)).reshape(-1, 10)
        level = (frames.abs().sum(1) * 100).round().long()
        return SimpleNamespace(audio_codes=torch.stack((frames[:, 0].gt(0).long(), level.clamp(max=999)))[None])

    def decode(self, audio_codes, padding_mask=None, *, length=None):
        wav = (audio_codes[0, 1] * (2 * audio_codes[0, 0] - 1)).float().repeat_interleave(10) / 1000
        assert length is not None and length <= len(wav)
        return SimpleNamespace(audio_values=wav[None, None, :length])


def test_any_codec_of_the_protocol():
    codec, wav = Foreign(), noise(6543, dtype=torch.float32)
    expected = codec.encode(wav[None, None]).audio_codes
    codes = list(encode_blocks(codec, wav.split(100), chunk_seconds=1.0))
    assert len(codes) > 1 and torch.equal(torch.cat(codes, dim=-1), expected[0])
    again = torch.cat(list(decode_blocks(codec, codes, 6543, chunk_seconds=0.5)))
    assert torch.equal(again, codec.decode(expected, length=6543).audio_values[0, 0])
    assert len(torch.cat(list(decode_blocks(codec, codes)))) == 6550
    with pytest.raises(ValueError, match="is hop_samples 5 right"):
        codec.hop_samples = 5
        list(encode_blocks(codec, [wav], chunk_seconds=1.0))


@pytest.mark.parametrize(("causal", "lookahead_seconds"), [(False, 0.0), (False, None), (True, None)])
def test_what_has_no_frame_is_silent_at_the_end(causal, lookahead_seconds):
    """`auv_floor_frames` has no frame for a last part of a hop."""
    codec = small_codec(auv_floor_frames=True, causal=causal)
    codes = torch.randint(0, 64, (1, 20), generator=torch.Generator().manual_seed(0))
    for frames in (10, 20, 3):  # whole chunks, and one that is cut short
        length = frames * HOP + 5
        given = [codes[:, :frames]], length, 10 * HOP / codec.sample_rate
        wav = torch.cat(list(decode_blocks(codec, *given, lookahead_seconds=lookahead_seconds)))
        assert len(wav) == length and not wav[-5:].any() and wav[:-5].all()
    with pytest.raises(ValueError, match="100 samples were decoded, fewer than length=101"):
        list(decode_blocks(Foreign(), [codes[:, :10].repeat(2, 1)], 101, 0.1, lookahead_seconds=0.0))


def test_the_partition_is_kept(codec):
    low, high = codec.config.codebook_partitions["other"]
    for kind in (codec, small_codec(causal=True)):
        codes = torch.cat(list(encode_blocks(kind, [noise(999)], 0.3, audio_kind="other")), dim=-1)
        assert int(codes.min()) >= low and int(codes.max()) < high
        with pytest.raises(ValueError, match="unknown audio kind 'opera'"):
            list(encode_blocks(kind, [noise(999)], 0.3, audio_kind="opera"))


def test_a_codec_that_knows_no_kinds_says_so(codec):
    searching = SearchingCodec(codec, BigramPrior.fit([torch.arange(64)], 64))
    for unkind in (searching, Foreign()):
        with pytest.raises(ValueError, match=f"audio_kind 'other': {type(unkind).__name__} codes no kinds apart"):
            list(encode_blocks(unkind, [noise(999)], 0.3, audio_kind="other"))


def test_an_hour_in_pieces_of_any_size_and_of_single_samples():
    codec, frames = Foreign(), 0
    encoder = open_encoder(codec, 30.0)
    for second in range(3600):
        frames += encoder.push(np.full(1000, second / 3600, np.float32)).shape[-1]
        assert sum(part.numel() for part in encoder.tail.parts) <= 42_000 and len(encoder.tail.parts) < 20
    assert frames + encoder.flush().shape[-1] == 360_000
    encoder, wav = open_encoder(codec, 1.0), noise(9000, dtype=torch.float32)
    codes = [encoder.push(sample) for sample in wav.split(1)] + [encoder.flush()]
    assert torch.equal(torch.cat(codes, -1), codec.encode(wav[None, None]).audio_codes[0])


@pytest.mark.parametrize("causal", [False, True])
def test_length_cuts_and_must_be_covered(causal):
    codec = small_codec(causal=causal)
    codes, wav = whole(codec, noise(800))
    for length in (1, 9, 400, 793, 800):
        got = list(decode_blocks(codec, codes.split(3, dim=-1), length, 0.1))
        assert all(len(part) for part in got)
        torch.testing.assert_close(torch.cat(got), wav[:length], rtol=0, atol=1e-12 if causal else ROTARY)
    with pytest.raises(ValueError, match="100 frames do not cover length=801 samples"):
        list(decode_blocks(codec, [codes], 801, 0.1))
    with pytest.raises(ValueError, match="length must be at least 1 sample, got 0"):
        list(decode_blocks(codec, [codes], 0, 0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: list(encode_blocks(c, [])), "the stream is empty: no samples"),
        (lambda c: list(encode_blocks(c, [torch.zeros(0)])), "the stream is empty: no samples"),
        (lambda c: list(decode_blocks(c, [])), "the stream is empty: no codes"),
        (lambda c: list(encode_blocks(c, [noise(5)], chunk_seconds=0)), "chunk_seconds must be positive, got 0"),
        (lambda c: list(encode_blocks(c, [noise(5)], chunk_seconds=float("inf"))), "chunk_seconds must be positive"),
        (lambda c: list(encode_blocks(c, [noise(5)], lookahead_seconds=-1)), "lookahead_seconds must be 0 or more"),
        (lambda c: list(encode_blocks(c.train(), [noise(5)])), "call codec.eval"),
    ],
)
def test_bad_input_says_what_and_where(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_codec())
