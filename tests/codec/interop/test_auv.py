"""Parity with the published `auv` package (PyPI auv 0.1.1) on shared random weights, both ways."""

import sys
import types

import pytest
import torch

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.interop.auv import auv_key, from_auv, to_auv


@pytest.fixture(scope="module")
def auv_package():
    """auv imports torchaudio only for `resample`, which 16 kHz input never calls: a stand-in is enough."""
    pytest.importorskip("einops")
    names = ("torchaudio", "torchaudio.functional")
    saved = {name: sys.modules.get(name) for name in names}
    functional = types.ModuleType(names[1])
    functional.resample = lambda *args, **kwargs: pytest.fail("the test must not resample")  # type: ignore[attr-defined]
    package = types.ModuleType(names[0])
    package.functional = functional  # type: ignore[attr-defined]
    sys.modules.update(dict(zip(names, (package, functional), strict=True)))
    yield pytest.importorskip("auv.modules.codec")
    for name, module in saved.items():
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module


def published(auv_package, config: LLMCodecConfig):
    """The published encoder and decoder at our sizes, as `AUV.from_pretrained` builds them."""
    sizes = dict(
        hop_length=config.hop_samples,
        hidden_size=config.hidden_size,
        ffn_mult=config.ffn_mult,
        max_position_embeddings=4096,
    )
    vq = dict(
        vq_type="fvq",
        num_quantizers=1,
        dim=config.hidden_size,
        codebook_size=config.codebook_size,
        codebook_dim=8,
        commitment=0.25,
    )
    partitions = {k: list(v) for k, v in config.codebook_partitions.items()}
    model = torch.nn.Module()
    model.tokenizer = auv_package.AUVCodecEncWithVQ(
        sample_rate=16000,
        enc_conf=sizes | dict(num_layers=config.encoder_layers),
        vq_conf=vq | dict(codebook_partition_maps=partitions),
    )
    model.token2wav = auv_package.AUVCodecDec(dec_conf=sizes | dict(num_layers=config.decoder_layers))
    for module in model.modules():  # statistics that differ from their initial values
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    for module in model.modules():  # the package's own train() returns None, so eval() cannot be chained
        module.training = False
    return model


@pytest.fixture(scope="module", params=["auv", "small"])
def pair(request, auv_package):
    torch.manual_seed(3)
    config = LLMCodecConfig.auv(auv_floor_frames=True)
    if request.param == "small":
        config = LLMCodecConfig(
            hidden_size=128, encoder_layers=2, decoder_layers=2, codebook_size=512, auv_floor_frames=True
        )
    theirs = published(auv_package, config)
    return theirs, from_auv(theirs.state_dict())


def speech_like(samples: int) -> torch.Tensor:
    time = torch.arange(samples) / 16000
    tone = sum(torch.sin(2 * torch.pi * f * time) / f**0.5 for f in (120, 240, 900, 2500))
    return 0.2 * tone * (1 + torch.sin(2 * torch.pi * 3 * time)) / 2 + 0.01 * torch.randn(samples)


@pytest.mark.parametrize("samples", [481, 640, 1599, 16000, 33333])
def test_tokens_and_waveform_equal_the_published_package(pair, samples):
    theirs, ours = pair
    wav = speech_like(samples)[None]
    with torch.no_grad():
        expected = theirs.tokenizer(wav)
        codes = ours.encode(wav[:, None]).audio_codes
        assert torch.equal(codes[:, 0], expected["tokens"][0])
        decoded = ours.decode(codes).audio_values
        reference = theirs.token2wav(theirs.tokenizer.vq2emb(codes.transpose(1, 2)))
    torch.testing.assert_close(decoded, reference, rtol=0, atol=1e-5)


def test_partitions_equal_the_published_package(pair):
    theirs, ours = pair
    wav = torch.stack([speech_like(6400), speech_like(6400)])
    with torch.no_grad():
        expected = theirs.tokenizer(wav, wav_types=["speech", "other"])["tokens"][0]
    assert torch.equal(ours.encode(wav[:, None], audio_kinds=["speech", "other"]).audio_codes[:, 0], expected)


def test_training_losses_equal_the_published_package(pair):
    theirs, ours = pair
    latent = torch.randn(2, 20, ours.config.hidden_size)
    vq = theirs.tokenizer.vq.quantizers[0]
    vq.training = True
    _, codes, expected = vq(latent.transpose(1, 2))
    vq.training = False
    codes_BT, _, _, losses = ours.quantizer(latent)
    assert torch.equal(codes_BT, codes)
    torch.testing.assert_close((losses["vq/commit"] + losses["vq/codebook"]).mean(1), expected)


def test_round_trip_of_the_state_dict(pair):
    theirs, ours = pair
    state = theirs.state_dict()
    back = to_auv(ours)
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key


def test_wrong_checkpoints_are_refused():
    codec = LLMCodec(LLMCodecConfig(hidden_size=64, encoder_layers=1, decoder_layers=1, codebook_size=32))
    state = to_auv(codec)
    with pytest.raises(ValueError, match="is missing"):
        from_auv({k: v for k, v in state.items() if "conv_norm.running_var" not in k})
    with pytest.raises(ValueError, match="unknown keys"):
        from_auv(state | {"extra.weight": torch.zeros(1)})
    key = auv_key("encoder.conformer.layers.0.attn.to_out.weight")
    with pytest.raises(ValueError, match="has shape"):
        from_auv(state | {key: torch.zeros(3, 3)})
