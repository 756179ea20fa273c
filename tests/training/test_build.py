"""A pretrained codec that shall look less far: what it was for the past it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.streaming.latency import latency
from llmcodec.training import build
from llmcodec.training.build import build_codec, partition_of, with_other_reach, with_smaller_codebook
from llmcodec.training.recipe import CodecConfig, Recipe


def test_a_recipe_may_have_the_layers_of_the_codec_recomputed():
    for wanted in (False, True):
        small = dict(start="tiny", overrides={"encoder_layers": 1, "decoder_layers": 1}, gradient_checkpointing=wanted)
        layers = build_codec(replace(Recipe(), codec=CodecConfig(**small))).encoder.conformer.layers
        assert layers[0].gradient_checkpointing is wanted


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    torch.manual_seed(0)
    return LLMCodec(LLMCodecConfig.tiny(encoder_layers=1, decoder_layers=1, codebook_size=64)).eval()


def test_a_convolution_that_becomes_causal_is_the_old_one_without_its_future(codec):
    causal = with_other_reach(codec, {"causal": True})
    old, new = (one.encoder.conformer.layers[0].conv_module.depthwise_conv for one in (codec, causal))
    past = old.weight.detach().clone()
    past[..., old.kernel_size[0] // 2 + 1 :] = 0
    hidden_BDT = torch.randn(1, 144, 50)
    expected = F.conv1d(hidden_BDT, past, padding=old.padding, groups=144)
    found = F.conv1d(F.pad(hidden_BDT, (30, 0)), new.weight, groups=144)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    other = {name for name, tensor in causal.state_dict().items() if not torch.equal(tensor, codec.state_dict()[name])}
    assert other == {f"{side}.conformer.layers.0.conv_module.depthwise_conv.weight" for side in ("encoder", "decoder")}
    assert latency(causal).round_trip_seconds <= 0.1 < latency(codec).round_trip_seconds


def test_a_window_as_long_as_the_clip_changes_no_code(codec):
    wav = torch.randn(1, 1, 16000) / 10
    wider = with_other_reach(codec, {"attention_window": 64}).eval()
    narrow = with_other_reach(codec, {"attention_window": 1}).eval()
    assert wider.config.attention_window == 64 and codec.config.attention_window == 32
    whole = with_other_reach(codec, {"attention_window": 50}).eval().encode(wav).audio_codes
    assert torch.equal(wider.encode(wav).audio_codes, whole)
    assert not torch.equal(narrow.encode(wav).audio_codes, whole)


@pytest.mark.parametrize("changes", [{"hidden_size": 96}, {"causal": False}, {"causal": True, "codebook_size": 8}])
def test_what_the_weights_decide_stays(codec, changes, tmp_path):
    codec.save_pretrained(tmp_path / "codec")
    recipe = replace(Recipe(), codec=CodecConfig(start=str(tmp_path / "codec"), overrides=changes))
    with pytest.raises(ValueError, match="of a pretrained codec are causal: true and attention_window, not "):
        build_codec(recipe)


def test_every_code_that_a_smaller_codebook_keeps_can_be_reached(codec, monkeypatch):
    spans = {"speech": [0, 40], "other": [24, 64], "all": [0, 64]}
    config = LLMCodecConfig.from_dict(codec.config.to_dict() | {"codebook_partitions": spans})
    whole = LLMCodec(config)
    codes = torch.cat([torch.arange(20, 64), torch.arange(50, 60), torch.arange(30, 36)])
    for kind, size, kept in (("speech", 5, range(30, 35)), ("other", 30, range(24, 64)), (None, 12, range(64))):
        recipe = replace(Recipe(), codec=CodecConfig(audio_kind=kind, smaller_codebook=size))
        low, high = spans[kind or "all"]
        inside = codes[(codes >= low) & (codes < high)]
        monkeypatch.setattr(build, "training_codes", lambda *_, inside=inside: iter([inside]))
        smaller = with_smaller_codebook(whole, recipe, size)
        assert partition_of(recipe, smaller) in ((0, size), None)
        assert smaller.config.codebook_partitions == dict.fromkeys(spans, [0, size])
        rows = (smaller.quantizer.codebook[:, None] == whole.quantizer.codebook).all(-1).nonzero()[:, 1].tolist()
        assert len(rows) == size and set(rows) <= set(kept), kind
    with pytest.raises(ValueError, match=r"must be below the 40 codes of codec\.audio_kind speech, got 40"):
        with_smaller_codebook(whole, replace(Recipe(), codec=CodecConfig(audio_kind="speech")), 40)
    with pytest.raises(ValueError, match="below the 64 codes of the codec, got 64"):
        with_smaller_codebook(whole, Recipe(), 64)
