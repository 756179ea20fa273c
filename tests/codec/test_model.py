"""The contract of the codec: lengths, masks, batches, bounded attention, files."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from llmcodec.assets import codec_folder
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.conformer import ConvolutionModule, attention_mask, fast_attention
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.token_prior import BigramPrior
from llmcodec.protocol import AdaptableCodec, HasFeatures

SIZES = dict(hidden_size=32, encoder_layers=2, decoder_layers=2, head_dim=16, codebook_size=64)


def make(**overrides) -> LLMCodec:
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig(**(SIZES | overrides)))
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
    return codec.eval()


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    return make()


ONE_FRAME = torch.zeros(1, 1, 1, dtype=torch.long)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def batch_of(lengths):
    clips = [noise(n, i) for i, n in enumerate(lengths)]
    longest = max(lengths)
    wav = torch.stack(
        [torch.nn.functional.pad(c, (0, longest - len(c)), value=0.7) for c in clips]
    )  # garbage in the padding
    mask = torch.stack([torch.arange(longest) < n for n in lengths])
    return clips, wav[:, None], mask


def assert_same_codes(codec, clip, expected, got):
    """Equal wherever float64 separates the two best codes by more than 1e-5."""
    double = make(**{k: getattr(codec.config, k) for k in ("attention_window", "auv_floor_frames")}).double()
    double.load_state_dict(codec.state_dict())
    query = double.encode_latents(clip[None].double()).query_BTC
    best = (query @ double.codebook_VC.T)[0].topk(2).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert torch.equal(expected[clear], got[clear])
    assert clear.float().mean() > 0.99 or (expected == got).float().mean() >= 0.999


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("lengths", [(1, 7000, 320), (640, 641, 5000, 161), (3200, 9600)])
def test_batch_equals_single(window, lengths):
    codec = make(attention_window=window)
    clips, wav, mask = batch_of(lengths)
    encoded = codec.encode(wav, mask)
    assert encoded.audio_codes_mask.sum(-1).flatten().tolist() == [math.ceil(n / 320) for n in lengths]
    decoded = codec.decode(encoded.audio_codes, padding_mask=mask).audio_values
    for i, clip in enumerate(clips):
        alone = codec.encode(clip[None, None]).audio_codes
        frames = alone.shape[-1]
        assert_same_codes(codec, clip, alone[0, 0], encoded.audio_codes[i, 0, :frames])
        wav_alone = codec.decode(encoded.audio_codes[i : i + 1, :, :frames], length=len(clip)).audio_values
        torch.testing.assert_close(decoded[i, 0, : len(clip)], wav_alone[0, 0], rtol=0, atol=1e-5)
        assert not decoded[i, 0, len(clip) :].any() and not codec(wav, mask).audio_values[i, 0, len(clip) :].any()


def test_decode_takes_the_mask_of_encode_however_far_it_is_padded():
    codec = make()
    _, wav, mask = batch_of((900, 641))
    encoded, expected = codec.encode(wav, mask), codec(wav, mask).audio_values
    wide_wav, wide_mask = (torch.nn.functional.pad(one, (0, 4100)) for one in (wav, mask))
    assert torch.equal(codec.encode(wide_wav, wide_mask).audio_codes, encoded.audio_codes)
    for wide in (
        codec.decode(encoded.audio_codes, wide_mask).audio_values,
        codec(wide_wav, wide_mask, audio_codes=encoded.audio_codes).audio_values,
    ):
        assert wide.shape == (2, 1, 5000) and torch.equal(wide[..., :900], expected) and not wide[..., 900:].any()
    of_batch = codec.decode(encoded.audio_codes[1:], mask[1:]).audio_values  # with the frames of the longest clip
    torch.testing.assert_close(of_batch, expected[1:], rtol=0, atol=1e-5)


def test_decode_refuses_a_mask_that_contradicts_the_codes():
    codec = make()
    encoded = codec.encode(noise(16000)[None, None], torch.ones(1, 16000))
    for mask in (torch.ones(1, 8000), encoded.audio_codes_mask, torch.ones(1, 17000)):
        with pytest.raises(ValueError, match="audio_codes 50; give the mask that encode was given"):
            codec.decode(encoded.audio_codes, mask)


@given(samples=st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_every_length_is_kept(codec, samples):
    out = codec(noise(samples)[None, None])
    assert out.audio_codes.shape == (1, 1, codec.num_frames(samples)) == (1, 1, math.ceil(samples / 320))
    assert out.audio_values.shape == (1, 1, samples)
    assert out.audio_values.isfinite().all()


@pytest.mark.parametrize("samples", [640, 960, 6400])
def test_floor_and_ceil_agree_where_the_hop_divides(codec, samples):
    floored = make(auv_floor_frames=True)
    wav = noise(samples)[None, None]
    assert torch.equal(codec.encode(wav).audio_codes, floored.encode(wav).audio_codes)
    with pytest.raises(ValueError, match="more than 480"):
        floored.encode(noise(480)[None, None])


def test_bounded_attention_makes_slices_exact():
    codec = make(attention_window=2, conv_kernel_size=5)
    encoder_context, decoder_context = codec.context_frames
    assert (encoder_context, decoder_context) == (2 * (2 + 2) + 2, 2 * (2 + 2) + 2)
    wav = noise(320 * 60)
    whole = codec.double().encode(wav.double()[None, None]).audio_codes
    start, stop = 15, 50
    part = codec.encode(wav.double()[None, None, start * 320 : stop * 320]).audio_codes
    inner = slice(encoder_context, stop - start - encoder_context)
    assert torch.equal(part[0, 0, inner], whole[0, 0, start:stop][inner])
    audio = codec.decode(whole).audio_values[0, 0]
    piece = codec.decode(whole[..., start:stop]).audio_values[0, 0]
    inside = slice(decoder_context * 320, (stop - start - decoder_context) * 320)
    torch.testing.assert_close(piece[inside], audio[start * 320 : stop * 320][inside], rtol=0, atol=1e-7)
    outside = codec.encode(wav.double()[None, None, 30 * 320 : 50 * 320]).audio_codes[0, 0, 0]
    assert inner.start > 0 and outside.shape == ()  # the context is not claimed to be zero


def test_the_codec_meets_the_protocol(codec):
    assert isinstance(codec, AdaptableCodec)
    assert (codec.sample_rate, codec.hop_samples, codec.frame_rate, codec.codebook_size) == (16000, 320, 50.0, 64)
    assert codec.bitrate == pytest.approx(300.0)
    _, wav, mask = batch_of((3200, 1600))
    encoding = codec.encode_latents(wav[:, 0], mask.sum(-1))
    similarity = encoding.query_BTC @ codec.codebook_VC.T
    assert torch.equal(similarity.argmax(-1)[encoding.mask_BT], encoding.codes_BT[encoding.mask_BT])
    assert encoding.mask_BT.sum(1).tolist() == [10, 5]
    assert similarity.abs().max() <= 1 + 1e-6


def test_features_are_what_the_quantiser_reads(codec):
    assert isinstance(codec, HasFeatures)
    clips, wav, mask = batch_of((1500, 4000))
    features = codec.encode_features(wav, mask)
    codes = codec.encode(wav, mask)
    assert features.shape == (2, codes.audio_codes.shape[-1], codec.config.hidden_size)
    assert not features[0, 5:].any() and features[0, :5].any()
    again = codec.quantizer(features)[0]
    assert torch.equal(again[codes.audio_codes_mask[:, 0]], codes.audio_codes[codes.audio_codes_mask])
    with pytest.raises(ValueError, match="mono"):
        codec.encode_features(wav[:, 0])


def test_gradients_reach_every_parameter():
    codec = make().train()
    _, wav, mask = batch_of((6400, 3200))
    encoding = codec.encode_latents(wav[:, 0], mask.sum(-1))
    out = codec.decode_latents(encoding.quantized_BTD, encoding.mask_BT)
    (out.square().mean() + sum(v.mean() for v in encoding.losses.values())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.parameters())


@pytest.mark.parametrize(("width", "frames", "causal"), [(32, 1, False), (100, 64, False), (48, 40, True)])
def test_the_depthwise_convolution_is_pytorchs_conv1d(width, frames, causal):
    """The same bits in float32, and a result in the order in which the next layers read it."""
    torch.manual_seed(0)
    module = ConvolutionModule(width, 31, causal)
    hidden_BTD = torch.randn(3, frames + module.past, width)
    with torch.no_grad():
        out_BTD = module.depthwise(hidden_BTD)
        assert torch.equal(out_BTD, module.depthwise_conv(hidden_BTD.transpose(1, 2)).transpose(1, 2))
    assert out_BTD.shape == (3, frames, width) and out_BTD.is_contiguous()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_short_windows_in_training_is_the_fused_one_up_to_rounding(masked):
    """In bfloat16 it is not further from float64, on average, than PyTorch's fused function is."""
    torch.manual_seed(0)
    qkv = [torch.randn(2, 3, 40, 16).bfloat16() for _ in range(3)]
    mask = attention_mask(40, torch.arange(40) < torch.tensor([[40], [25]]), (8, 8), torch.device("cpu"))
    weight = torch.randn(2, 3, 40, 16)
    results = []
    for attend, dtype in (
        (torch.nn.functional.scaled_dot_product_attention, torch.float64),
        (torch.nn.functional.scaled_dot_product_attention, torch.bfloat16),
        (fast_attention, torch.bfloat16),
    ):
        inputs = [x.to(dtype).requires_grad_() for x in qkv]
        out = attend(*inputs, attn_mask=mask if masked else None)
        assert out.dtype == dtype
        slopes = torch.autograd.grad((out.double() * weight).sum(), inputs)
        results.append([x.detach().double() for x in (out, *slopes)])
    for exact, fused, ours in zip(*results, strict=True):
        assert 0 < (ours - exact).abs().mean() <= 1.1 * (fused - exact).abs().mean()
    assert torch.isfinite(results[-1][0]).all()


def test_batch_statistics_ignore_padding():
    lengths = (6400, 1920)
    padded, split = make().train(), make().train()
    clips, wav, mask = batch_of(lengths)
    norm = padded.encoder.conformer.layers[0].conv_module.conv_norm
    hidden = torch.randn(2, 20, 32)
    frames = torch.tensor([[True] * 20, [True] * 6 + [False] * 14])
    norm(hidden, frames)
    reference = split.encoder.conformer.layers[0].conv_module.conv_norm
    reference_in = torch.cat([hidden[0], hidden[1, :6]])[None]
    torch.nn.BatchNorm1d.forward(reference, reference_in.transpose(1, 2))
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.encode(torch.zeros(1, 2, 100)), "mono"),
        (lambda c: c.encode(torch.zeros(1, 100)), "batch, 1, samples"),
        (lambda c: c.encode(torch.zeros(1, 1, 0)), "empty"),
        (lambda c: c.encode(torch.zeros(1, 1, 10), torch.zeros(1, 10)), "empty"),
        (lambda c: c.encode(torch.zeros(1, 1, 4), torch.tensor([[0, 1, 1, 1]])), "pad on the right"),
        (lambda c: c.encode(torch.zeros(2, 1, 4), torch.ones(1, 4)), "does not fit"),
        (lambda c: c.encode(torch.zeros(1, 1, 400), audio_kinds=["opera"]), "unknown audio kind 'opera'"),
        (lambda c: c.decode(torch.full((1, 1, 3), 64)), "outside"),
        (lambda c: c.decode(torch.full((1, 1, 3), -1)), "outside"),
        (lambda c: c.decode(torch.zeros(1, 1, 0, dtype=torch.long)), "empty"),
        (lambda c: c.decode(torch.zeros(1, 2, 3, dtype=torch.long)), "batch, 1, frames"),
        (lambda c: c.decode(torch.zeros(1, 1, 3, dtype=torch.long), length=961), "fewer than length"),
        (lambda c: c.decode(ONE_FRAME, torch.ones(2, 320)), r"padding_mask \(2, 320\) does not fit 1 clips"),
        (lambda c: c.decode(ONE_FRAME, torch.tensor([[0, 1, 1]])), "pad on the right"),
        (lambda c: c.decode(ONE_FRAME, torch.tensor([[2, 2, 0]])), "other values"),
        (
            lambda c: c.decode(ONE_FRAME, audio_codes_mask=torch.ones(1, 1, 2)),
            "audio_codes_mask .* 1 clips of 1 frames",
        ),
        (lambda c: c.encode(np.zeros((1, 1, 400), np.int64)), "samples must be floats .* got int64"),
        (lambda c: c.encode(torch.ones(1, 1, 400, dtype=torch.bool)), "samples must be floats .* got bool"),
        (lambda c: c.encode(with_nan()), "encode: clip 1: sample 7 is NaN or infinite"),
        (lambda c: c.encode(with_nan().numpy()), "encode: clip 1: sample 7 is NaN or infinite"),
        (lambda c: c.encode_features(with_nan()), "encode: clip 1: sample 7 is NaN or infinite"),
        (lambda c: c(with_nan()), "encode: clip 1: sample 7 is NaN or infinite"),
        (lambda c: c.encode([[["a"]]]), "input_values must be numbers"),
        (lambda c: c.decode(torch.zeros(1, 1, 3)), "must be integers, got torch.float32"),
        (lambda c: c.decode([[[0.0, 1.0]]]), "must be integers, got torch.float64"),
        (lambda c: c.decode([[[True, False]]]), "must be integers, got torch.bool"),
        (lambda c: c.decode([[[0, 64]]]), "code 64 is outside"),
        (lambda c: c.decode(np.array([[[2**64 - 1]]], np.uint64)), "outside"),
    ],
)
def test_bad_input_says_what_and_where(codec, call, message):
    with pytest.raises(ValueError, match=message):
        call(codec)


def with_nan() -> torch.Tensor:
    wav = torch.zeros(2, 1, 400)
    wav[1, 0, 7:9] = torch.nan
    return wav


def test_integer_samples_arrays_and_lists_give_the_codes_of_their_floats(codec):
    ints = (noise(9600) * 32768).round().to(torch.int16)[None, None]
    wav = ints.float() / 32768
    expected = codec.encode(wav)
    assert expected.audio_codes.unique().numel() > 1
    for audio in (ints, ints.int() << 16, ints.numpy(), ints.numpy().astype(">i2"), wav.numpy(), wav.tolist()):
        assert torch.equal(codec.encode(audio).audio_codes, expected.audio_codes)
        assert torch.equal(codec(audio).audio_values, codec(wav).audio_values)
    coarse = (ints >> 8) + 128
    levels = (coarse - 128).float() / 128
    assert torch.equal(codec.encode(coarse.to(torch.uint8)).audio_codes, codec.encode(levels).audio_codes)
    mask = np.ones((1, 9600), np.int32)
    mask[:, 5000:] = 0
    by_array, by_tensor = codec.encode(wav.numpy(), mask), codec.encode(wav, torch.from_numpy(mask))
    assert torch.equal(by_array.audio_codes, by_tensor.audio_codes)


def test_codes_may_be_arrays_and_lists(codec):
    codes = codec.encode(noise(9600)[None, None]).audio_codes
    expected = codec.decode(codes).audio_values
    for numbers in (codes.numpy(), codes.tolist(), codes.numpy().astype(np.uint16), codes.int()):
        assert torch.equal(codec.decode(numbers).audio_values, expected)
    with_mask = codec.decode(codes.numpy(), np.ones((1, 9600), np.int32), audio_codes_mask=np.ones((1, 1, 30), bool))
    assert torch.equal(with_mask.audio_values, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_latents_may_be_of_any_float_type_and_must_be_finite(dtype):
    codec = make().to(dtype)
    latent = codec.encode(noise(3200)[None, None]).quantized_representation.to(torch.float16)
    for one in (codec, optimize_for_inference(codec, "fp32")):
        expected = one.decode(quantized_representation=latent.to(one.dtype)).audio_values
        for same in (latent, latent.double(), latent.float(), latent.double().numpy(), latent.tolist()):
            assert torch.equal(one.decode(quantized_representation=same).audio_values, expected)
        broken = latent.clone()
        broken[0, 3, 7] = torch.nan
        with pytest.raises(ValueError, match="quantized_representation: clip 0, frame 7 is NaN or infinite"):
            one.decode(quantized_representation=broken)


BROKEN = {
    "NaN weight": lambda c: c.encoder.frontend.input_proj.weight.fill_(torch.nan),
    "all weights zero": lambda c: [parameter.zero_() for parameter in c.parameters()],
    "projection zero": lambda c: c.quantizer.in_proj.magnitude.zero_(),
    "codebook zero": lambda c: c.quantizer.codebook.zero_(),
    "codebook NaN": lambda c: c.quantizer.codebook.fill_(torch.nan),
    "one NaN in the codebook": lambda c: c.quantizer.codebook[5].fill_(torch.nan),
}


@pytest.mark.parametrize("fault", list(BROKEN))
@pytest.mark.parametrize("kind", ["plain", "packed", "searching"])
def test_a_look_up_that_compares_nothing_is_an_error(fault, kind):
    codec = make()
    with torch.no_grad():
        BROKEN[fault](codec)
    with pytest.raises(ValueError, match="weights or the audio are broken|codec's weights are broken") as error:
        if kind == "packed":
            codec = optimize_for_inference(codec)
        elif kind == "searching":
            codec = SearchingCodec(codec, BigramPrior.fit([torch.arange(64)], 64))
        codec.encode(noise(9600)[None, None])
    assert "\n" not in str(error.value)


def test_digital_silence_is_no_fault(codec):
    """Alone and beside sound, plain and packed; padding, whose queries are nobody's, is not looked at."""
    wav, mask = torch.zeros(3, 1, 9600), torch.ones(3, 9600)
    wav[1, 0], mask[2, 1:] = noise(9600), 0
    for one in (codec, optimize_for_inference(codec, "fp32")):
        together = one.encode(wav, mask).audio_codes
        for clip, samples in enumerate((9600, 9600, 1)):
            alone = one.encode(wav[clip : clip + 1, :, :samples]).audio_codes
            assert torch.equal(together[clip, 0, : alone.shape[-1]], alone[0, 0])


def test_partitions_keep_to_their_codes(codec):
    wav = torch.stack([noise(9600, 1), noise(9600, 2)])[:, None]
    codes = codec.encode(wav, audio_kinds=["speech", "other"]).audio_codes
    (low, high), (other_low, other_high) = (codec.config.codebook_partitions[k] for k in ("speech", "other"))
    assert codes[0].min() >= low and codes[0].max() < high
    assert codes[1].min() >= other_low and codes[1].max() < other_high


def test_silence_and_extremes_stay_finite(codec):
    for wav in (torch.zeros(5000), torch.ones(5000), torch.full((5000,), -1.0), 1e4 * noise(5000)):
        assert codec(wav[None, None]).audio_values.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 1e-22, 1e-20, 10**-19.5, 1e-19, 1e-18, 1e-10])
def test_gradients_of_the_faintest_audio_are_finite(codec, level):
    wav = level * noise(1600)[None] / 0.1
    plain = codec.encoder.frontend.features(wav)
    features = codec.encoder.frontend.features(wav.requires_grad_())
    assert torch.equal(features, plain)
    features.sum().backward()
    assert wav.grad.isfinite().all() and (wav.grad.any() or level < 1e-18)


def test_gradients_of_a_fade_out_are_finite():
    codec = make().train()
    wav = (noise(3200) * torch.exp(-torch.arange(3200) / 30))[None, None].requires_grad_()
    codec(wav).audio_values.square().mean().backward()
    assert wav.grad.isfinite().all() and wav.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_saved_folder_gives_the_same_codec(codec, tmp_path, dtype):
    codec_to_save = make().to(dtype)
    codec_to_save.save_pretrained(tmp_path)
    loaded = LLMCodec.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32 and not loaded.training
    for key, value in codec_to_save.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.to(loaded.state_dict()[key].dtype)), key
    if dtype == torch.float32:
        wav = noise(4000)[None, None]
        assert torch.equal(loaded.encode(wav).audio_codes, codec.encode(wav).audio_codes)


def test_tiny_fits_its_promises():
    config = LLMCodecConfig.tiny()
    codec = LLMCodec(config)
    assert codec.bitrate <= 600 and config.codebook_size <= 4096
    assert 2 * sum(v.numel() for v in codec.state_dict().values()) <= 8_000_000
    assert config.codebook_partitions["speech"] == [0, 1638] and config.codebook_partitions["music"] == [0, 4096]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n_fft=1000), "multiple of hop_samples"),
        (dict(hidden_size=100), "head_dim must be even"),
        (dict(conv_kernel_size=4), "odd"),
        (dict(attention_window=0), "at least 1"),
        (dict(attention_window=2.5), "at least 1"),
        (dict(hop_samples=5, n_fft=15), "both even"),
        (dict(head_dim=0), "head_dim must be a positive integer"),
        (dict(head_dim=-2), "head_dim must be a positive integer"),
        (dict(conv_kernel_size=-1), "conv_kernel_size must be a positive integer"),
        (dict(log_floor=0.0), "log_floor must be positive"),
        (dict(max_magnitude=float("nan")), "max_magnitude must be positive"),
        (dict(codebook_partitions={"speech": [0, 99999]}), "not inside"),
        (dict(encoder_layers=0), "positive integer"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LLMCodecConfig(**changes)
    changed = LLMCodecConfig(**SIZES)
    for name, value in changes.items():
        setattr(changed, name, value)
    with pytest.raises(ValueError, match=message):
        LLMCodec(changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention_window=0), "at least 1"),
        (dict(causal=True, attention_window=None), "causal needs attention_window"),
        (dict(codebook_partitions={"speech": [0, 99999]}), "not inside"),
        (dict(hop_samples=300), "multiple of hop_samples"),
        (dict(hiden_size=100), "unknown setting 'hiden_size'; did you mean hidden_size"),
    ],
)
def test_what_replaces_a_setting_of_a_folder_is_checked_too(changes, message):
    folder = codec_folder("bundled")
    for load in (LLMCodec.from_pretrained, LLMCodecConfig.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(folder, **changes)
    assert LLMCodecConfig.from_pretrained(folder, attention_window=7).attention_window == 7


def test_import_of_the_package_stays_light():
    code = "import sys, llmcodec; assert not {'torch', 'transformers'} & set(sys.modules); llmcodec.LLMCodec"
    subprocess.run([sys.executable, "-c", code], check=True)
