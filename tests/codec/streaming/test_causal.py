"""The causal variant sees no future, streams as it codes whole signals at every split, at constant cost, and trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcodec import assets
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.conformer import rotary_tables
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import latency
from llmcodec.data.manifest import read_manifest
from llmcodec.metrics.stoi import measure_stoi
from llmcodec.training.tracking import read_log
from llmcodec.training.trainer import Trainer

from ...miniature import everything_on, miniature_codec
from ..small import HOP, noise, small_codec, whole


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    return small_codec(causal=True)


def test_streaming_is_offline_at_every_split_point(codec):
    wav = noise(61)
    codes, again = whole(codec, wav)
    for split in range(1, 61):
        stream = codec.streaming()
        got = [stream.encode(wav[:split]), stream.encode(wav[split:]), stream.finish_encode()]
        assert torch.equal(torch.cat(got, -1), codes), split
        if split < codes.shape[-1]:
            heard = [stream.decode(codes[:, :split]), stream.decode(codes[:, split:]), stream.finish_decode(61)]
            torch.testing.assert_close(torch.cat(heard), again, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 8, 9, 13, 221])
@pytest.mark.parametrize(
    "geometry",
    [dict(), dict(n_fft=8), dict(n_fft=24, conv_kernel_size=1), dict(attention_window=1), dict(auv_floor_frames=True)],
    ids=str,
)
def test_streaming_is_offline_for_any_length_step_and_geometry(samples, geometry):
    codec, wav = small_codec(causal=True, encoder_layers=1, decoder_layers=1, **geometry), noise(samples, 5)
    if codec.config.auv_floor_frames and samples < 13:
        with pytest.raises(ValueError, match="more than 12 samples"):
            list(encode_blocks(codec, [wav]))
        return
    codes, again = whole(codec, wav)
    for seconds in (0.02, 0.1, 30.0):
        got = torch.cat(list(encode_blocks(codec, wav.split(11), seconds)), -1)
        heard = torch.cat(list(decode_blocks(codec, codes.split(2, -1), samples, seconds)))
        assert torch.equal(got, codes)
        torch.testing.assert_close(heard, again, rtol=0, atol=1e-12)


def test_the_real_size_streams_speech_like_samples_in_float32():
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig.causal_tiny()).eval()
    wav = noise(16000 * 2 + 123, dtype=torch.float32)
    codes, again = whole(codec, wav)
    stream = codec.streaming()
    got = torch.cat([stream.encode(block) for block in wav.split(320)] + [stream.finish_encode()], -1)
    double = LLMCodec(codec.config).eval()
    double.load_state_dict(codec.state_dict())
    query = double.double().encode_latents(wav[None].double()).query_BTC[0]
    best = (query @ double.codebook_VC.T).topk(2).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert torch.equal(got[0, clear], codes[0, clear]) and clear.float().mean() > 0.9
    heard = torch.cat([stream.decode(code) for code in codes.split(1, -1)] + [stream.finish_decode(len(wav))])
    torch.testing.assert_close(heard, again, rtol=0, atol=1e-5)


def test_the_future_changes_nothing_that_is_certain(codec):
    wav, other = noise(400), noise(400)
    other[200:] = noise(200, 9)
    (codes, again), (codes_other, again_other) = whole(codec, wav), whole(codec, other)
    certain = (200 - 12) // HOP  # half an STFT overlap is looked ahead
    assert torch.equal(codes[:, :certain], codes_other[:, :certain]) and not torch.equal(codes, codes_other)
    changed = int((codes != codes_other)[0].nonzero()[0])
    assert torch.equal(again[: changed * HOP - 12], again_other[: changed * HOP - 12])
    assert not torch.equal(again[: changed * HOP], again_other[: changed * HOP])


def test_batch_is_single(codec):
    clips = [noise(n, n) for n in (1, 130, 64, 333)]
    wav = torch.stack([torch.nn.functional.pad(clip, (0, 333 - len(clip)), value=0.7) for clip in clips])
    mask = torch.stack([torch.arange(333) < len(clip) for clip in clips])
    codes = codec.encode(wav[:, None], mask).audio_codes
    out = codec.decode(codes, mask).audio_values
    for row, clip in enumerate(clips):
        alone, again = whole(codec, clip)
        assert torch.equal(codes[row, :, : alone.shape[-1]], alone)
        torch.testing.assert_close(out[row, 0, : len(clip)], again, rtol=0, atol=1e-12)


def test_without_caches_chunks_give_the_same(codec):
    wav = noise(777)
    codes, again = whole(codec, wav)
    packed = small_codec(causal=True)
    packed.__class__ = type("Packed", (LLMCodec,), {"keeps_caches": False})
    plan = packed.streaming(0.1).encoder.plan
    assert not plan.stateful and plan.exact and (plan.left_frames, plan.right_frames) == codec.config.encoder_context
    assert torch.equal(torch.cat(list(encode_blocks(packed, [wav], 0.1)), -1), codes)
    heard = torch.cat(list(decode_blocks(packed, [codes], 777, 0.1)))
    torch.testing.assert_close(heard, again, rtol=0, atol=1e-12)


def test_the_state_and_the_work_of_a_step_are_constant(codec):
    stream, sizes, works = codec.streaming(), [], []
    for step in range(40):
        with FlopCounterMode(display=False) as counter:
            stream.decode(stream.encode(noise(HOP, step)))
        held = []
        for session in (stream.encoder, stream.decoder):
            states = session.states
            held += [t.untyped_storage().nbytes() for s in states for t in (s.key, s.value, s.convolution)]
            held += [part.untyped_storage().nbytes() for part in session.tail.parts]
        held.append(0 if stream.decoder.hidden_BTD is None else stream.decoder.hidden_BTD.untyped_storage().nbytes())
        sizes.append(sum(held))
        works.append(counter.get_total_flops())
    assert len(set(sizes[20:])) == len(set(works[20:])) == 1
    assert sizes[0] < sizes[20] < 20_000 and works[0] < works[20] < 100_000


def test_the_ring_holds_the_window_and_no_more(codec):
    states = codec.encoder.conformer.open_stream()
    hidden = noise(16 * 40, 3).reshape(1, 40, 16)
    expected = codec.encoder.conformer(hidden)
    got = []
    for size in (1, 2, 3, 1, 13, 20):
        at = sum(part.shape[1] for part in got)
        got.append(codec.encoder.conformer(hidden[:, at : at + size], states=states))
        assert all(state.key.shape[2] == min(at + size, 3) for state in states)
    torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=0, atol=1e-12)


def test_rotary_angles_are_exact_where_streams_need_them():
    cos, sin = rotary_tables(20_001, 8, torch.zeros(1), exact=True)
    angle = 20_000 * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(cos[-1, :4].numpy(), np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(sin[-1, 4:].numpy(), np.sin(angle), atol=1e-6)
    assert cos.dtype == torch.float32


def test_the_configuration(tmp_path, codec):
    config = LLMCodecConfig.causal_tiny()
    assert config.causal and config.attention_window == 64
    assert config.hidden_size == LLMCodecConfig.tiny().hidden_size and not LLMCodecConfig.tiny().causal
    assert LLMCodecConfig.causal_tiny(attention_window=16).encoder_context == (3 * (16 + 30) + 2, 2)
    with pytest.raises(ValueError, match="causal needs attention_window"):
        LLMCodecConfig(causal=True)
    single = small_codec(torch.float32, causal=True)
    single.save_pretrained(tmp_path)
    loaded = LLMCodec.from_pretrained(tmp_path)
    assert loaded.config.causal and torch.equal(
        whole(loaded, noise(99).float())[0], whole(single, noise(99).float())[0]
    )
    old = {key: value for key, value in LLMCodecConfig.tiny().to_dict().items() if key != "causal"}
    assert LLMCodecConfig.from_dict(old).causal is False
    weights = {key: value.shape for key, value in small_codec().state_dict().items()}
    assert weights == {key: value.shape for key, value in codec.state_dict().items()}, "weights may be carried over"


def test_it_trains_and_the_result_streams(tmp_path, monkeypatch):
    monkeypatch.setattr("llmcodec.training.trainer.plot_curves", lambda *_: None)
    sizes = {key: getattr(miniature_codec().config, key) for key in ("hidden_size", "head_dim", "codebook_size")}
    overrides = sizes | dict(encoder_layers=1, decoder_layers=1, attention_window=8)
    options = dict(codec__start="causal_tiny", codec__overrides=overrides, steps=6, accumulate=1)
    trainer = Trainer(everything_on("control", tmp_path, "run", **options), show_progress=False)
    before = {key: value.clone() for key, value in trainer.codec.state_dict().items()}
    trained = LLMCodec.from_pretrained(trainer.run()).double().eval()
    losses = [row["recon/multi_mel"] for row in read_log(tmp_path / "run" / "log.jsonl")]
    assert len(losses) == 6 and np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])
    moved = [key for key, value in trained.state_dict().items() if not torch.equal(value, before[key].double())]
    assert trained.config.causal and any("encoder" in key for key in moved) and any("decoder" in key for key in moved)
    wav = noise(5000)
    codes, again = whole(trained, wav)
    stream = trained.streaming()
    assert torch.equal(torch.cat([stream.encode(b) for b in wav.split(701)] + [stream.finish_encode()], -1), codes)
    heard = torch.cat([stream.decode(codes), stream.finish_decode(5000)])
    torch.testing.assert_close(heard, again, rtol=0, atol=1e-10)


def test_the_causal_codec_of_the_package_answers_after_80_ms_and_streams_as_it_codes_files():
    codec = LLMCodec.from_pretrained("causal_base").eval()
    assert latency(codec).round_trip_seconds <= 0.1 and codec.codebook_size == 8192
    wav = torch.from_numpy(read_manifest(assets.speech_manifest("test"))[0].load(codec.sample_rate))
    with codec.streaming(0.1) as stream:
        codes = torch.cat([*map(stream.encode, wav.split(700)), stream.finish_encode()], dim=1)
        heard = torch.cat([stream.decode(codes), stream.finish_decode(len(wav))])
    whole = codec.encode(wav[None, None]).audio_codes
    assert (codes == whole[0]).float().mean() >= 0.999
    with torch.no_grad():
        quiet = codec.decode(codec.encode(torch.zeros(1, 1, 16000)).audio_codes).audio_values
    assert quiet.square().mean().log10() * 10 < -60
    assert measure_stoi(wav.numpy(), heard.numpy(), codec.sample_rate) > 0.8
