"""What transformers promises of a model: gradients, checkpointing, a choice of attention, export and compilation.

`make hf-common` runs transformers' own tests besides.
"""

import copy

import pytest
import torch

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.stft import reflect_pad_each

SIZES = dict(
    hidden_size=32, encoder_layers=2, decoder_layers=2, head_dim=16, codebook_size=64, hop_samples=40, n_fft=160
)


def make(**overrides) -> LLMCodec:
    torch.manual_seed(0)
    return LLMCodec(LLMCodecConfig(**(SIZES | overrides))).eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded() -> dict[str, torch.Tensor]:
    """Three clips of 40, 26 and 3 frames, the last one without whole hops."""
    lengths = torch.tensor([1600, 1040, 101])
    mask = torch.arange(1600) < lengths[:, None]
    return {"input_values": noise(3, 1, 1600) * mask[:, None], "padding_mask": mask.int()}


# -- gradients ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_mask", [False, True])
def test_calling_the_model_carries_gradients_and_the_samples_of_decode(with_mask):
    codec, inputs = make(), padded()
    if not with_mask:
        del inputs["padding_mask"]
    inputs["input_values"].requires_grad_()
    out = codec(**inputs)
    with torch.no_grad():
        codes = codec.encode(**inputs).audio_codes
        assert torch.equal(out.audio_codes, codes)
        if with_mask:
            assert torch.equal(out.audio_values, codec.decode(codes, padding_mask=inputs["padding_mask"]).audio_values)
        else:
            assert torch.equal(out.audio_values, codec.decode(codes, length=1600).audio_values)
        assert torch.equal(codec(**inputs).audio_values, out.audio_values)
    (out.audio_values.square().mean() + out.loss).backward()
    gradient = inputs["input_values"].grad  # 0, not NaN, where a clip is digitally silent
    assert gradient.isfinite().all() and gradient[0].any() and not gradient[2, 0, 800:].any()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in codec.parameters())


def test_under_autocast_too_the_samples_are_those_of_decode():
    codec, wav = make(), noise(2, 1, 1600)
    codec.set_attn_implementation("eager")  # else with gradients in bf16 on a CPU it is `eager_attention`, without not
    with torch.autocast("cpu", torch.bfloat16):
        out = codec(wav)
        assert torch.equal(codec.decode(out.audio_codes, length=1600).audio_values, out.audio_values)
        with torch.no_grad():
            assert torch.equal(codec(wav).audio_values, out.audio_values)


def test_the_gradient_is_that_of_the_straight_through_latents():
    codec, wav = make(), noise(2, 1, 1600)
    codec(wav).audio_values.square().mean().backward()
    got = [parameter.grad for parameter in codec.parameters()]
    other = make()
    other.decode_latents(other.encode_latents(wav[:, 0]).quantized_BTD).square().mean().backward()
    for have, want in zip(got, [parameter.grad for parameter in other.parameters()], strict=True):
        if want is not None:
            torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-7)
    assert codec.quantizer.codebook.grad is None  # straight through; `loss` moves the codes


def test_loss_is_the_mean_over_real_frames():
    codec, inputs = make(), padded()
    encoding = codec.encode_latents(inputs["input_values"][:, 0], inputs["padding_mask"].sum(-1))
    terms = (encoding.losses["vq/commit"] + encoding.losses["vq/codebook"])[encoding.mask_BT]
    assert encoding.mask_BT.sum() == 40 + 26 + 3
    torch.testing.assert_close(codec(**inputs).loss, terms.mean())


def test_a_packed_codec_has_no_gradients():
    out = optimize_for_inference(make(), "fp32")(noise(1, 1, 1600))
    assert not out.audio_values.requires_grad and out.loss is None
    torch.testing.assert_close(out.audio_values, make()(noise(1, 1, 1600)).audio_values.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(reentrant):
    plain, checkpointed, inputs = make().train(), make().train(), padded()
    inputs["input_values"].requires_grad_()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    layer = checkpointed.decoder.conformer.layers[0].ffn1
    runs = []
    layer.register_forward_hook(lambda *_: runs.append(1))
    for codec in (plain, checkpointed):
        out = codec(**inputs)
        (out.audio_values.square().mean() + out.loss).backward()
    assert len(runs) == 2  # forwards, and again in the backward pass
    for (name, want), have in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(have.grad, want.grad, msg=name)
    for (name, want), have in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(have, want), name
    assert int(plain.encoder.conformer.layers[0].conv_module.conv_norm.num_batches_tracked) == 1


# -- attention ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overrides", [{}, {"attention_window": 3}, {"attention_window": 3, "causal": True}])
def test_eager_and_sdpa_agree_and_can_be_set(overrides, tmp_path):
    codec, inputs = make(**overrides).double(), padded()
    inputs["input_values"] = inputs["input_values"].double()
    assert codec.config._attn_implementation == "sdpa"
    called = []
    original = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(
            torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: called.append(1) or original(*a, **k)
        )
        sdpa = codec(**inputs)
        assert len(called) == 4
        codec.set_attn_implementation("eager")
        eager = codec(**inputs)
        assert len(called) == 4
    assert torch.equal(sdpa.audio_codes, eager.audio_codes)
    torch.testing.assert_close(sdpa.audio_values, eager.audio_values, rtol=0, atol=1e-12)
    codec.save_pretrained(tmp_path)
    assert LLMCodec.from_pretrained(tmp_path).config._attn_implementation == "sdpa"  # it is not a property of weights
    assert LLMCodec.from_pretrained(tmp_path, attn_implementation="eager").config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="Flash Attention"):
        LLMCodec.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


def test_hidden_states_and_attention_weights_on_request():
    codec, inputs = make(attention_window=3), padded()
    with torch.no_grad():
        out = codec(**inputs, output_hidden_states=True, output_attentions=True)
        plain = codec(**inputs)
        latent = codec.encode_latents(inputs["input_values"][:, 0], inputs["padding_mask"].sum(-1)).latent_BTD
    assert plain.hidden_states is None and plain.attentions is None
    assert [tuple(one.shape) for one in out.hidden_states] == 3 * [(3, 40, 32)]
    real = out.audio_codes_mask[:, 0]
    normed = codec.encoder.conformer.layer_norm(out.hidden_states[-1])
    torch.testing.assert_close(normed[real], latent[real], rtol=0, atol=1e-5)
    assert [tuple(one.shape) for one in out.attentions] == 2 * [(3, 2, 40, 40)]
    for weights in out.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 40))
        distance = (torch.arange(40)[:, None] - torch.arange(40)).abs()
        assert not weights[..., distance > 3].any() and not weights[1, :, :26, 26:].any()
    assert torch.equal(out.audio_codes, plain.audio_codes)


# -- export and compilation --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("window", [None, 3])
def test_export_with_dynamic_shapes(window):
    codec = make(attention_window=window)
    inputs = padded()
    auto = torch.export.Dim.AUTO
    shapes = {"input_values": {0: auto, 2: auto}, "padding_mask": {0: auto, 1: auto}}
    program = torch.export.export(codec, (), inputs, dynamic_shapes=shapes).module()
    mask = torch.arange(17000) < torch.tensor([[17000], [40]])  # 425 frames: attention in blocks
    for other in (inputs, {"input_values": noise(2, 1, 17000, seed=1) * mask[:, None], "padding_mask": mask.int()}):
        with torch.no_grad():
            want, have = codec(**other), program(**other)
        assert torch.equal(have.audio_codes, want.audio_codes)
        assert torch.equal(have.audio_codes_mask, want.audio_codes_mask)
        torch.testing.assert_close(have.audio_values, want.audio_values, rtol=0, atol=1e-5)


def test_encode_and_decode_export_alone():
    codec, wav = make(), noise(1, 1, 1600)

    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.codec = codec

        def forward(self, wav):
            return self.codec.encode(wav).audio_codes

    class Decode(Encode):
        def forward(self, codes):
            return self.codec.decode(codes).audio_values

    codes = codec.encode(wav).audio_codes
    assert torch.equal(torch.export.export(Encode(), (wav,)).module()(wav), codes)
    audio = torch.export.export(Decode(), (codes,)).module()(codes)
    torch.testing.assert_close(audio, codec.decode(codes).audio_values, rtol=0, atol=1e-6)


def test_a_full_graph_compiles_with_gradients():
    inputs = padded()
    plain, codec = make(), make()
    compiled = torch.compile(codec, fullgraph=True, backend="aot_eager")
    for call, model in ((compiled, codec), (plain, plain)):
        out = call(**inputs)
        (out.audio_values.square().mean() + out.loss).backward()
        model.kept = out
    assert torch.equal(codec.kept.audio_codes, plain.kept.audio_codes)
    torch.testing.assert_close(codec.kept.audio_values, plain.kept.audio_values, rtol=0, atol=1e-5)
    for (name, want), have in zip(plain.named_parameters(), codec.parameters(), strict=True):
        torch.testing.assert_close(have.grad, want.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_uncompiled_calls_still_check_their_input():
    codec = make()
    torch.compile(codec, fullgraph=True, backend="eager")(noise(1, 1, 1600))
    with pytest.raises(ValueError, match="sample 3 is NaN"):
        codec(torch.tensor([[[0.0, 0.0, 0.0, torch.nan]]]))


# -- the parts that this rests on --------------------------------------------------------------------------------------
def test_each_clip_is_reflected_at_its_own_end():
    wav = noise(3, 60)
    lengths = torch.tensor([60, 41, 13])
    got = reflect_pad_each(wav, lengths, 12, 70)
    for row, length in enumerate(lengths.tolist()):
        alone = torch.nn.functional.pad(wav[row : row + 1, :length], (12, 12), mode="reflect")[0]
        want = torch.nn.functional.pad(alone, (0, 100))[:70]
        assert torch.equal(got[row], want)


def test_missing_tensors_are_reported_where_the_caller_asks_for_the_report(tmp_path):
    from safetensors.torch import load_file, save_file

    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    left = {name: value for name, value in weights.items() if name != "quantizer.codebook"}
    save_file(left, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="quantizer.codebook"):
        LLMCodec.from_pretrained(tmp_path)
    _, report = LLMCodec.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"quantizer.codebook"}
    damaged = copy.deepcopy(left)
    damaged["decoder.head.output_proj.bias"][3] += 1
    save_file(damaged, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"decoder.head.output_proj.bias .* damaged"):
        LLMCodec.from_pretrained(tmp_path, output_loading_info=True)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"hidden_size": 32', '"hidden_size": 3200000'))
    with pytest.raises(ValueError, match="weights, which the files need not have"):
        LLMCodec.from_pretrained(tmp_path, output_loading_info=True)
