"""The codec made ready to run: fp32 equals the plain one; masks, windows, lengths; how far the others are."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import soundfile
import torch

from llmcodec.assets import codec_folder, speech_manifest
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast import conformer, cpu_conformer, cpu_kernels, ends
from llmcodec.codec.fast.engine import (
    PRECISIONS,
    InferenceCodec,
    optimize_for_inference,
)
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.precision import AUTO

needs_kernels = pytest.mark.skipif(cpu_kernels.library() is None, reason=f"no kernels here: {cpu_kernels.why_not()}")
INTEGERS = ("int16", "int8")  # on our own kernels alone
SIZES = dict(hidden_size=32, encoder_layers=2, decoder_layers=2, head_dim=16, codebook_size=200)


def make(**overrides) -> LLMCodec:
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig(**(SIZES | overrides)))
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_()
            elif isinstance(module, torch.nn.LayerNorm):
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_(0, 0.3)
    return codec.eval()


def clip(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def assert_same(plain: LLMCodec, fast: LLMCodec, wav: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    """Equal tokens wherever the two best cosines differ by more than 1e-5, equal samples to 1e-5 on equal tokens."""
    lengths = None if mask is None else mask.sum(1)
    expected, got = plain.encode(wav, mask), fast.encode(wav, mask)
    query_BTC = plain.encode_latents(wav[:, 0], lengths).query_BTC
    best = (query_BTC @ plain.codebook_VC.T).topk(2).values
    clear = (best[..., 0] - best[..., 1] > 1e-5)[:, None] & expected.audio_codes_mask
    assert clear.float().sum() > 0.9 * expected.audio_codes_mask.sum()
    assert torch.equal(expected.audio_codes_mask, got.audio_codes_mask)
    assert torch.equal(expected.audio_codes[clear], got.audio_codes[clear])
    assert not got.audio_codes[~got.audio_codes_mask].any()
    wanted = plain.decode(expected.audio_codes, mask, length=wav.shape[-1]).audio_values
    values = fast.decode(expected.audio_codes, mask, length=wav.shape[-1]).audio_values
    torch.testing.assert_close(values, wanted, rtol=0, atol=1e-5)
    assert wanted.abs().max() > 1e-3


@pytest.fixture(params=[pytest.param("ours", marks=needs_kernels), "torch"])
def kernels(request, monkeypatch):
    """Our own kernels, or PyTorch's operators as on a machine without them."""
    if request.param == "torch":
        for module in (cpu_conformer, ends):
            monkeypatch.setattr(module, "library", lambda: None)
    return request.param


VARIANTS = [
    {},
    dict(attention_window=3),
    dict(attention_window=40),
    dict(attention_window=4, causal=True),
    dict(auv_floor_frames=True),
    dict(n_fft=960, conv_kernel_size=7),
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_fp32_equals_the_plain_codec(overrides, kernels):
    plain = make(**overrides)
    fast = optimize_for_inference(plain, "fp32")
    assert isinstance(fast.encoder.conformer, cpu_conformer.CpuConformer) == (kernels == "ours")
    for samples in (1, 319, 700, 33_000) if not overrides.get("auv_floor_frames") else (700, 33_000):
        assert_same(plain, fast, clip(samples)[None, None])
    lengths = torch.tensor([9000, 700, 9000, 5000])
    wav = torch.stack([clip(9000, seed) for seed in range(4)])  # garbage beyond the shorter clips' ends
    mask = torch.arange(9000) < lengths[:, None]
    assert_same(plain, fast, wav[:, None], mask)


@pytest.mark.parametrize("consume", [False, True])
def test_it_counts_the_weights_of_the_codec_it_was_made_from(consume):
    plain = make()
    count, line, card = plain.num_parameters(), repr(plain), plain.card("name")
    fast = optimize_for_inference(plain, "fp32", consume=consume)
    assert count == fast.num_parameters() > 0 == fast.num_parameters(only_trainable=True)
    assert repr(fast) == line.replace("LLMCodec", "InferenceCodec") and fast.card("name") == card


def test_what_it_gives_can_be_trained_on(kernels):
    fast = optimize_for_inference(make(), "fp32")
    encoded = fast.encode(clip(3200)[None, None])
    decoded = fast.decode(encoded.audio_codes).audio_values
    torch.nn.Embedding(fast.codebook_size, 2)(encoded.audio_codes).sum().backward()
    torch.nn.Linear(fast.latent_dim, 1)(encoded.quantized_representation.transpose(1, 2)).sum().backward()
    torch.nn.Conv1d(1, 1, 1)(decoded).sum().backward()


@pytest.mark.parametrize("precision", ["fp32", "mixed", "bf16", "int16", "int8"])
@pytest.mark.parametrize("window", [None, 5])
def test_a_batch_equals_its_clips(precision, window, kernels):
    if precision in INTEGERS and kernels == "torch":
        pytest.skip("integers run on our own kernels alone")
    fast = optimize_for_inference(make(attention_window=window), precision)
    lengths = [1, 6400, 641, 3000]
    wav = torch.full((4, 6400), 0.7)
    for row, n, seed in zip(wav, lengths, range(4), strict=True):
        row[:n] = clip(n, seed)
    mask = torch.arange(6400) < torch.tensor(lengths)[:, None]
    together = fast.encode(wav[:, None], mask)
    decoded = fast.decode(together.audio_codes, mask).audio_values
    for b, n in enumerate(lengths):
        alone = fast.encode(wav[b : b + 1, None, :n]).audio_codes[0, 0]
        frames = fast.num_frames(n)
        assert len(alone) == frames and int(together.audio_codes_mask[b].sum()) == frames
        assert (alone == together.audio_codes[b, 0, :frames]).float().mean() >= (1.0 if precision != "bf16" else 0.9)
        single = fast.decode(together.audio_codes[b : b + 1, :, :frames], length=n).audio_values[0, 0]
        torch.testing.assert_close(decoded[b, 0, :n], single, rtol=0, atol=1e-5 if precision != "bf16" else 1e-3)
        assert not decoded[b, 0, frames * 320 :].any()


def test_partitions_and_the_first_of_equal_codes(kernels):
    plain = make()
    with torch.no_grad():
        plain.quantizer.codebook[150] = plain.quantizer.codebook[7] * 3  # equal directions: the first one wins
    fast = optimize_for_inference(plain, "fp32")
    wav = torch.stack([clip(16_000, seed) for seed in range(2)])[:, None]
    for kinds in (["speech", "other"], ["other", "other"], None):
        assert torch.equal(
            plain.encode(wav, audio_kinds=kinds).audio_codes, fast.encode(wav, audio_kinds=kinds).audio_codes
        )
    codes = fast.codebook_VC[[7]].expand(3, -1)
    assert fast.quantizer.nearest(codes, (0, 200)).tolist() == [7, 7, 7]
    assert fast.quantizer.nearest(codes, (100, 200)).tolist() == [150, 150, 150]


def test_chunked_and_streamed_as_the_plain_codec():
    for overrides in (dict(attention_window=2, conv_kernel_size=5), dict(attention_window=3, causal=True)):
        plain = make(**overrides)
        fast = optimize_for_inference(plain, "fp32")
        wav = clip(40_000)
        whole = plain.encode(wav[None, None]).audio_codes[0]
        codes = torch.cat(list(encode_blocks(fast, wav.split(7001), chunk_seconds=0.5)), dim=1)
        assert (codes == whole).float().mean() > 0.99
        back = torch.cat(list(decode_blocks(fast, [whole], len(wav), chunk_seconds=0.5)))
        expected = plain.decode(whole[None], length=len(wav)).audio_values[0, 0]
        torch.testing.assert_close(back, expected, rtol=0, atol=1e-5)


def bundled_clips(split, count):
    manifest = speech_manifest(split)
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    rows = rows[:: max(1, len(rows) // count)][:count]
    return [torch.from_numpy(soundfile.read(manifest.parent / row["audio"], dtype="float32")[0]) for row in rows]


@pytest.fixture(scope="module")
def bundled():
    """The trained bundled codec, its codes and samples of held-out speech."""
    codec = LLMCodec.from_pretrained(str(codec_folder())).eval()
    clips = bundled_clips("test", 10)
    codes = [codec.encode(wav[None, None]).audio_codes for wav in clips]
    samples = [codec.decode(one).audio_values for one in codes]
    return codec, clips, codes, samples


@pytest.mark.parametrize(
    ("precision", "agreement", "snr"),
    [("fp32", 0.9995, 100), ("mixed", 0.98, 38), ("bf16", 0.955, 32), ("int16", 0.995, 50), ("int8", 0.93, 30)],
)
def test_precisions_on_trained_weights(bundled, precision, agreement, snr, kernels):
    if precision in INTEGERS and kernels == "torch":
        pytest.skip("integers run on our own kernels alone")
    codec, clips, codes, samples = bundled
    fast = optimize_for_inference(codec, precision)
    same = torch.cat(
        [(fast.encode(wav[None, None]).audio_codes == one).flatten() for wav, one in zip(clips, codes, strict=True)]
    )
    assert same.float().mean() >= agreement
    error = sum((fast.decode(one).audio_values - x).square().sum() for one, x in zip(codes, samples, strict=True))
    assert 10 * torch.log10(sum(x.square().sum() for x in samples) / error) >= snr
    assert precision == "fp32" or not bool(same.all()), "a low precision that is not low"


def test_auto_takes_what_the_machine_has(bundled, kernels, monkeypatch):
    codec, *_ = bundled
    for half, without in ((True, "torch, bf16 CPU"), (False, "torch")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda half=half: half)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        expected = {"ours": ("int16", "int8"), "torch": ("fp32", "bf16") if half else ("fp32", "fp32")}[kernels]
        assert tuple(AUTO["kernels" if kernels == "ours" else without].values()) == expected
        assert optimize_for_inference(codec).precisions == expected
    assert optimize_for_inference(codec, "bf16", encoder="fp32").precisions == ("fp32", "bf16")


@needs_kernels
def test_int8_holds_for_sound_that_is_no_speech(bundled):
    """Its ranges are each frame's own: noise and a tone are coded as well as speech."""
    codec, *_ = bundled
    fast = optimize_for_inference(codec, "int8")
    time = torch.arange(32_000) / 16_000
    for wav in (clip(32_000), 0.5 * torch.sin(2 * torch.pi * 440 * time)):
        codes = codec.encode(wav[None, None]).audio_codes
        wanted = codec.decode(codes).audio_values
        error = fast.decode(codes).audio_values - wanted
        assert 10 * torch.log10(wanted.square().sum() / error.square().sum()) > 25


@pytest.mark.parametrize("only", ["encoder", "decoder"])
def test_the_side_that_is_not_used_stays_plain_and_works(only):
    plain = make(attention_window=5)
    fast = optimize_for_inference(plain, "fp32", only=only)
    assert (fast.encoder is plain.encoder, fast.decoder is plain.decoder) == (only == "decoder", only == "encoder")
    assert_same(plain, fast, clip(9000)[None, None])
    with pytest.raises(ValueError, match="choose auto"):
        optimize_for_inference(plain, only=only, **{only: "int4"})
    other = {"encoder": "decoder", "decoder": "encoder"}[only]
    assert optimize_for_inference(plain, "fp32", only=only, **{other: "int4"}).precisions == ("fp32", "fp32")


def test_without_onednn_it_is_the_same_codec(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for module in (cpu_conformer, ends):
        monkeypatch.setattr(module, "library", lambda: None)
    plain = make(attention_window=5)
    assert_same(plain, optimize_for_inference(plain, "fp32"), clip(9000)[None, None])
    near = optimize_for_inference(plain, "bf16").decode(plain.encode(clip(9000)[None, None]).audio_codes)
    assert bool(near.audio_values.isfinite().all())
    for precision in INTEGERS:
        with pytest.raises(ValueError, match=f"{precision} runs on our own kernels, and not here"):
            optimize_for_inference(plain, precision)


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_what_a_gpu_runs_is_the_same_codec(overrides, monkeypatch):
    """Clips of one length together and large chunks, without oneDNN: as on a GPU, here on the CPU."""
    one_by_one, gpu = ends.equal_clips, torch.device("cuda")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for module in (cpu_conformer, ends):
        monkeypatch.setattr(module, "library", lambda: None)
    monkeypatch.setattr(ends, "equal_clips", lambda layout, _: one_by_one(layout, gpu))
    for module in (conformer, ends):
        monkeypatch.setattr(module, "rows_per_chunk", lambda _: 1 << 15)
    plain = make(**overrides)
    fast = optimize_for_inference(plain, "fp32")
    lengths = torch.tensor([9000, 9000, 700, 5000, 5000])
    wav = torch.stack([clip(9000, seed) for seed in range(5)])
    assert_same(plain, fast, wav[:, None])
    assert_same(plain, fast, wav[:, None], torch.arange(9000) < lengths[:, None])


@pytest.mark.parametrize("precision", ["fp32", "mixed", "bf16"])
def test_the_callers_autocast_changes_nothing(precision, kernels):
    """A packed codec computes in its own precisions: the same codes and samples, in the same type."""
    fast, wav = optimize_for_inference(make(), precision), clip(2 * 5000).view(2, 1, -1)
    mask = torch.ones(2, 5000)
    mask[1, 3000:] = 0
    expected = fast.encode(wav, mask)
    with torch.autocast("cpu", torch.bfloat16):
        got = fast.encode(wav, mask)
        heard = fast.decode(got.audio_codes, mask).audio_values
    for name in ("audio_codes", "quantized_representation"):
        assert torch.equal(got[name], expected[name])
    assert torch.equal(heard, fast.decode(expected.audio_codes, mask).audio_values)


def test_the_plain_codec_stays_or_is_consumed(kernels):
    plain = make()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    wav = clip(5000)[None, None]
    expected = plain.encode(wav).audio_codes
    fast = optimize_for_inference(plain, "fp32")
    assert torch.equal(fast.encode(wav).audio_codes, expected)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    consumed = optimize_for_inference(plain, "fp32", consume=True)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 0
    assert torch.equal(consumed.encode(wav).audio_codes, expected)
    assert torch.equal(fast.encode(wav).audio_codes, expected), "the first one kept weights of its own"


def test_what_is_refused(tmp_path):
    plain = make()
    fast = optimize_for_inference(plain, "fp32")
    assert isinstance(fast, InferenceCodec) and isinstance(fast, LLMCodec)
    for call, message in (
        (lambda: optimize_for_inference(plain, "fp8"), "choose auto, fp32"),
        (lambda: optimize_for_inference(make(hidden_size=40, head_dim=40), "int8"), "not here"),
        (lambda: optimize_for_inference(fast), "plain codec"),
        (lambda: optimize_for_inference(make().train()), "evaluation mode"),
        (lambda: fast.save_pretrained(tmp_path), "cannot be saved"),
        (lambda: fast.train(), "cannot be trained"),
        (lambda: fast.to(torch.bfloat16), "cannot be moved or cast"),
        (lambda: fast.encode(torch.zeros(1, 2, 100)), "mono"),
        (lambda: fast(torch.zeros(1, 1, 700), output_attentions=True), "has no attentions"),
        (lambda: fast.decode(torch.full((1, 1, 3), 200)), "outside"),
        (
            lambda: fast.decode(torch.zeros(1, 1, 3).long(), audio_codes_mask=torch.tensor([[0, 1, 1]])),
            "pad on the right",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert fast.eval() is fast and fast.to("cpu") is fast and not fast.state_dict()
    assert set(PRECISIONS["fp32"].values()) == {"fp32"}


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_copies_pickles_and_workers_have_equal_codes(precision, tmp_path, kernels):
    fast = optimize_for_inference(make(attention_window=5), precision)
    wav_BCS = 0.1 * torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(0))
    expected = fast.encode(wav_BCS).audio_codes
    sound = fast.decode(expected).audio_values
    pickled = pickle.dumps(fast)
    for copied in (copy.deepcopy(fast), pickle.loads(pickled)):
        assert torch.equal(copied.encode(wav_BCS).audio_codes, expected)
        assert torch.equal(copied.decode(expected).audio_values, sound)
    if precision == "fp32":
        return  # a new process takes seconds; one for each kind of kernels will do
    torch.save((wav_BCS, expected), tmp_path / "case.pt")
    (tmp_path / "fast.pkl").write_bytes(pickled)
    code = (
        "import pickle, sys, torch\n"
        f"wav, expected = torch.load({str(tmp_path / 'case.pt')!r}, weights_only=True)\n"
        f"fast = pickle.load(open({str(tmp_path / 'fast.pkl')!r}, 'rb'))\n"
        "assert torch.equal(fast.encode(wav).audio_codes, expected)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # as a spawned worker
    assert done.returncode == 0, done.stderr
