"""Published shapes with random weights: rates as published, seeds, and tokens that are not all the same."""

import pytest
import torch

from llmcodec.adapters import random_weights
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.random_weights import OURS, PRESETS, build_random, random_codec
from llmcodec.adapters.registry import FAMILIES

from .tiny_codecs import TINY, noise, tiny_codec

# sample rate, frame rate, tokens per frame, codes: from the papers and model cards
PUBLISHED = {
    "dac_16khz": (16_000, 50, 12, 1024),
    "dac_24khz": (24_000, 75, 32, 1024),
    "dac_44khz": (44_100, 86.1328125, 9, 1024),
    "encodec_24khz": (24_000, 75, 8, 1024),
    "encodec_32khz": (32_000, 50, 4, 2048),
    "encodec_48khz": (48_000, 150, 5, 1024),
    "mimi": (24_000, 12.5, 8, 2048),
    "snac_24khz": (24_000, 11.71875, 7, 4096),
    "snac_32khz": (32_000, 10.416667, 15, 4096),
    "snac_44khz": (44_100, 14.355469, 15, 4096),
    "xcodec": (16_000, 50, 8, 1024),
    "xcodec2": (16_000, 50, 1, 65_536),
    "neucodec": (24_000, 50, 1, 65_536),
    "auv": (16_000, 50, 1, 20_480),
    "bigcodec": (16_000, 80, 1, 8192),
    "wavtokenizer_75": (24_000, 75, 1, 4096),
    "wavtokenizer_40": (24_000, 40, 1, 4096),
    "unicodec": (24_000, 75, 1, 16_384),
    "speechtokenizer": (16_000, 50, 8, 1024),
    "soundstream_16khz": (16_000, 50, 8, 1024),
    "s3tokenizer_v1": (16_000, 50, 1, 4096),
    "s3tokenizer_v1_25hz": (16_000, 25, 1, 4096),
    "s3tokenizer_v2_25hz": (16_000, 25, 1, 6561),
    "hubert_units": (16_000, 50, 1, 500),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_rates(name):
    """Without the memory: on the meta device."""
    family, sizes = PRESETS[name]
    with torch.device("meta"):
        codec = FAMILIES[family].build_codec(sizes)
    got = (codec.sample_rate, codec.frame_rate, codec.num_codebooks, codec.codebook_size)
    assert got == pytest.approx(PUBLISHED[name])


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="builds gigabytes of weights: run with -m slow")
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_shapes(name):
    codec = build_random(name)
    got = (codec.sample_rate, codec.frame_rate, codec.num_codebooks, codec.codebook_size)
    assert got == pytest.approx(PUBLISHED[name])
    wav = noise(codec.sample_rate // 2, sample_rate=codec.sample_rate)[None, None]
    codes = codec.encode(wav).audio_codes
    assert codes.unique().numel() > 2
    if not codec.can_decode:
        return
    assert codec.decode(codes, length=wav.shape[-1]).audio_values.shape == wav.shape


def test_every_preset_is_listed_with_its_published_rates():
    assert set(PUBLISHED) == set(PRESETS)


def test_our_own_shapes():
    codec = load_codec("random:llmcodec_tiny")
    assert codec.codebook_size == 4096 and not codec.training
    again = load_codec("random:llmcodec_tiny", seed=1)
    assert not torch.equal(codec.codebook_VC, again.codebook_VC)
    with pytest.raises(ValueError, match="LLMCodec here has 1 codebooks: 2 cannot be used"):
        load_codec("random:llmcodec_tiny:2")


def test_the_seed_decides_and_the_global_generator_is_left_alone(monkeypatch):
    monkeypatch.setattr(random_weights, "PRESETS", {"small": TINY["encodec"]})
    state = torch.get_rng_state()
    first, again, other = (build_random("small", 4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    wav = noise(2000)[None, None]
    assert torch.equal(first.encode(wav).audio_codes, again.encode(wav).audio_codes)
    assert not torch.equal(first.encode(wav).audio_codes, other.encode(wav).audio_codes)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match="no codec random:encodec .near: EnCodec: .*; there are auv, bigcodec, dac_16khz, .*llmcodec_tiny",
    ):
        build_random("encodec")
    assert set(OURS) == {"llmcodec_auv", "llmcodec_tiny"}


@pytest.mark.parametrize("name", sorted(TINY))
def test_tokens_vary(name):
    codec = tiny_codec(name)
    codes = codec.encode(noise(40 * codec.hop_samples, sample_rate=codec.sample_rate)[None, None]).audio_codes[0]
    used = [codebook.unique().numel() for codebook in codes]
    assert min(used[1:] if getattr(codec, "normalize", False) else used) >= 5, used


def test_codebooks_that_a_library_draws_by_itself_stay(monkeypatch):
    torch.manual_seed(0)
    drawn = random_codec(*TINY["dac"]).model.quantizer.quantizers[0].codebook.weight
    monkeypatch.setattr(random_weights, "fill_codebooks", lambda codec: None)
    torch.manual_seed(0)
    assert torch.equal(random_codec(*TINY["dac"]).model.quantizer.quantizers[0].codebook.weight, drawn)
