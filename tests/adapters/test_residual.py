"""EnCodec, DAC and Mimi: codes and audio equal those of the models called as their own documentation calls them."""

import pytest
import torch

from .tiny_codecs import noise, tiny_codec

LENGTHS = [1, 39, 40, 41, 127, 833]


@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize(("num_codebooks", "bandwidth"), [(None, 4.5), (4, 18.0)])
def test_encodec_equals_the_model(num_samples, num_codebooks, bandwidth):
    codec = tiny_codec("encodec", num_codebooks)
    wav = noise(num_samples)[None, None]
    expected = codec.model.encode(wav, bandwidth=bandwidth)
    encoded = codec.encode(wav)
    assert torch.equal(encoded.audio_codes, expected.audio_codes[0])
    reference = codec.model.decode(expected.audio_codes, expected.audio_scales).audio_values[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)


def test_encodec_takes_any_number_of_codebooks_the_first_ones_of_all():
    wav = noise(500)[None, None]
    every = tiny_codec("encodec", 4).encode(wav).audio_codes
    assert torch.equal(tiny_codec("encodec", 3).encode(wav).audio_codes, every[:, :3])
    with pytest.raises(ValueError, match="EnCodec here has 1 to 4 codebooks: 5 cannot be used"):
        tiny_codec("encodec", 5)


@pytest.mark.parametrize("num_samples", [1, 33, 3199, 3200, 3201, 8000])
def test_encodec_in_chunks_equals_the_model_without_overlap(num_samples, monkeypatch):
    codec = tiny_codec("encodec_chunks")
    monkeypatch.setattr(codec.model.config, "overlap", 0.0)
    wav = noise(num_samples, sample_rate=3200)[None, None]
    theirs = codec.model.encode(wav.expand(1, 2, -1), bandwidth=2.4)
    encoded = codec.encode(wav)
    chunks = list(theirs.audio_codes)
    chunks[-1] = chunks[-1][..., : chunks[-1].shape[-1] - theirs.last_frame_pad_length]
    assert torch.equal(encoded.audio_codes[:, 1:], torch.cat(chunks, -1))
    stereo = codec.model.decode(
        theirs.audio_codes, theirs.audio_scales, last_frame_pad_length=theirs.last_frame_pad_length
    ).audio_values[..., :num_samples]
    mine = codec.decode(encoded.audio_codes, length=num_samples).audio_values
    # 64 levels over 102.4 dB: half a step is 0.8 dB
    assert ((mine - stereo.mean(1, keepdim=True)).norm() <= (10 ** (0.8 / 20) - 1) * stereo.mean(1).norm() + 1e-6).all()


def test_encodec_sends_the_level_of_each_chunk_as_a_code():
    codec = tiny_codec("encodec_chunks")
    assert codec.num_codebooks == 5 and codec.num_residual == 4
    quiet = noise(6400, sample_rate=3200)
    quiet[:3200] *= 0.01
    codes = codec.encode(quiet[None, None]).audio_codes[0, 0]
    assert len(codes[:100].unique()) == len(codes[100:].unique()) == 1
    levels = codes[[0, 100]] * 102.4 / 64 - 96
    wanted = 10 * quiet.reshape(2, 3200).square().mean(1).log10()
    assert (levels - wanted).abs().max() <= 0.8
    assert codec.bitrate == pytest.approx(100 * 4 * 6 + 6)
    loud = codec.decode(codec.encode(quiet[None, None]).audio_codes).audio_values[0, 0].reshape(2, 3200)
    assert loud[1].std() > 30 * loud[0].std()
    shifted = codec.decode(codec.encode(quiet[None, None]).audio_codes[..., 50:]).audio_values[0, 0]
    assert shifted[1600:4800].std() > 30 * shifted[:1600].std()  # a piece of a stream that begins inside a chunk


def test_encodec_refuses_chunks_that_are_no_whole_frames(monkeypatch):
    from llmcodec.adapters.encodec import EncodecCodec

    model = tiny_codec("encodec_chunks").model
    monkeypatch.setattr(model.config, "chunk_length_s", 0.999)
    with pytest.raises(ValueError, match="chunks of 3196 samples are no whole frames of 32"):
        EncodecCodec(model)


@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize("num_codebooks", [None, 2])
def test_dac_equals_the_model_after_its_feature_extractor(num_samples, num_codebooks):
    from transformers import DacFeatureExtractor

    codec = tiny_codec("dac", num_codebooks)
    wav = noise(num_samples)
    extractor = DacFeatureExtractor(sampling_rate=16_000, hop_length=40)
    inputs = extractor(wav.numpy(), sampling_rate=16_000, return_tensors="pt")["input_values"]
    expected = codec.model.encode(inputs, n_quantizers=num_codebooks)
    encoded = codec.encode(wav[None, None])
    assert torch.equal(encoded.audio_codes, expected.audio_codes)
    reference = codec.model.decode(audio_codes=expected.audio_codes).audio_values[0]
    decoded = codec.decode(encoded.audio_codes, length=num_samples).audio_values[0, 0]
    covered = min(num_samples, len(reference))
    assert torch.equal(decoded[:covered], reference[:covered]) and not decoded[covered:].any()
    assert num_samples - covered <= 8  # one sample at the odd stride 5, times the strides 4 and 2 after it


@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize("num_codebooks", [None, 1, 12])
def test_mimi_equals_the_model(num_samples, num_codebooks):
    codec = tiny_codec("mimi", num_codebooks)
    wav = noise(num_samples)[None, None]
    expected = codec.model.encode(wav, num_quantizers=num_codebooks or 8).audio_codes
    encoded = codec.encode(wav)
    assert torch.equal(encoded.audio_codes, expected)
    reference = codec.model.decode(expected).audio_values[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)


@pytest.mark.parametrize("name", ["encodec", "dac", "mimi"])
def test_features_are_what_the_first_codebook_reads(name):
    codec = tiny_codec(name)
    wav = noise(1000)[None, None]
    features = codec.encode_features(wav).transpose(1, 2)
    quantizer = codec.model.quantizer
    codes = quantizer(features)[1] if name == "dac" else quantizer.encode(features).transpose(0, 1)
    assert torch.equal(codes[:, :1], codec.encode(wav).audio_codes[:, :1])
