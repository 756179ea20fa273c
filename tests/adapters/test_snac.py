"""SNAC: the flat pattern and back, equality with the package, honest rates, reproducible noise."""

import pytest
import torch
import torch.nn.functional as F

from .tiny_codecs import noise, tiny_codec

pytest.importorskip("snac")


def test_pattern_is_in_time_order_coarse_before_fine():
    assert tiny_codec("snac").pattern == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3)]
    assert len(tiny_codec("snac_windows").pattern) == 1 + 2 + 4 + 8


@pytest.mark.parametrize("name", ["snac", "snac_windows"])
def test_flattening_loses_nothing(name):
    codec = tiny_codec(name)
    levels = [torch.arange(3 * codec.strides[0] // stride)[None] + 100 * i for i, stride in enumerate(codec.strides)]
    flat = codec.flatten(levels)
    assert flat.shape == (1, codec.num_codebooks, 3)
    assert sorted(flat.flatten().tolist()) == sorted(torch.cat(levels, 1)[0].tolist())
    for back, level in zip(codec.unflatten(flat), levels, strict=True):
        assert torch.equal(back, level)


def test_flat_tokens_of_one_frame_as_speech_models_expect_them():
    codec = tiny_codec("snac")
    coarse, middle, fine = torch.tensor([[10, 11]]), torch.tensor([[20, 21, 22, 23]]), torch.arange(30, 38)[None]
    assert codec.flatten([coarse, middle, fine])[0].T.tolist() == [
        [10, 20, 30, 31, 21, 32, 33],
        [11, 22, 34, 35, 23, 36, 37],
    ]


def test_rates_count_every_token_that_is_sent():
    codec = tiny_codec("snac")
    seconds = 4
    wav = noise(8000 * seconds, sample_rate=8000)[None, None]
    sent = sum(level.shape[1] for level in codec.model.encode(wav))
    assert codec.encode(wav).audio_codes.numel() == sent
    assert codec.frame_rate * codec.num_codebooks == sent / seconds
    assert codec.bitrate == pytest.approx(sent / seconds * 6)


@pytest.mark.parametrize("num_samples", [1, 31, 32, 33, 700])
def test_equal_to_the_package(num_samples):
    codec = tiny_codec("snac")
    wav = noise(num_samples, sample_rate=8000)[None, None]
    theirs = codec.model.encode(wav)
    encoded = codec.encode(wav)
    for mine, level in zip(codec.unflatten(encoded.audio_codes), theirs, strict=True):
        assert torch.equal(mine, level)
    torch.manual_seed(0)
    reference = codec.model.decode(theirs)[..., :num_samples]
    decoded = codec.decode(encoded.audio_codes, length=num_samples).audio_values
    assert torch.equal(decoded, reference)


@pytest.mark.parametrize("num_samples", [1, 128, 129, 1100])
def test_with_attention_windows_frames_of_padding_are_dropped(num_samples):
    codec = tiny_codec("snac_windows")
    assert codec.window_frames == 2 and codec.padded_samples(1) == 128
    wav = noise(num_samples, sample_rate=8000)[None, None]
    theirs = codec.flatten(codec.model.encode(wav))
    encoded = codec.encode(wav).audio_codes
    assert encoded.shape[-1] == -(-num_samples // 64)
    assert torch.equal(encoded, theirs[..., : encoded.shape[-1]])
    filled = encoded
    if theirs.shape[-1] > encoded.shape[-1]:  # the last window is filled with the codes of silence
        silence = codec.flatten(codec.model.encode(torch.zeros(1, 1, 128)))
        filled = torch.cat([encoded, silence[..., 1:]], -1)
    torch.manual_seed(0)
    reference = codec.model.decode(codec.unflatten(filled))[..., :num_samples]
    assert torch.equal(codec.decode(encoded, length=num_samples).audio_values, reference)


def test_noise_of_the_decoder_is_the_same_every_time_and_in_a_batch():
    codec = tiny_codec("snac")
    codes = codec.encode(torch.stack([noise(640, i, 8000) for i in range(3)])[:, None]).audio_codes
    state = torch.get_rng_state()
    together = codec.decode(codes).audio_values
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(together[1:2], codec.decode(codes[1:2]).audio_values)
    torch.manual_seed(1)
    assert not torch.equal(codec.model.decode(codec.unflatten(codes[:1])), together[:1])


def test_features_are_the_fine_latents_side_by_side():
    codec = tiny_codec("snac")
    wav = noise(640, sample_rate=8000)[None, None]
    fine = codec.model.encoder(wav)
    features = codec.encode_features(wav)
    assert features.shape == (1, 20, 4 * fine.shape[1])
    assert torch.equal(features[0, 3], fine[0, :, 12:16].T.flatten())
    levels = codec.model.quantizer(F.pad(fine, (0, 0)))[1]
    assert torch.equal(codec.flatten(levels), codec.encode(wav).audio_codes)


def test_the_number_of_codebooks_is_fixed():
    assert tiny_codec("snac", 7).num_codebooks == 7
    with pytest.raises(ValueError, match=r"SNAC with strides \[4, 2, 1\] here has 7 codebooks: 3 cannot be used"):
        tiny_codec("snac", 3)
