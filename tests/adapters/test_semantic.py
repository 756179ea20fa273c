"""X-codec, X-codec 2 and NeuCodec against their models called directly, on inputs as their extractors make them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import SeamlessM4TFeatureExtractor

from llmcodec.adapters.xcodec2 import semantic_features
from llmcodec.io import audio

from .tiny_codecs import noise, tiny_codec

LENGTHS = [1, 319, 320, 321, 500, 3333]


@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize(("num_codebooks", "bandwidth"), [(None, 0.9), (1, 0.3)])
def test_xcodec_equals_the_model_on_whole_frames(num_samples, num_codebooks, bandwidth):
    codec = tiny_codec("xcodec", num_codebooks)
    wav = noise(num_samples)[None, None]
    whole = F.pad(wav, (0, -num_samples % 320))
    expected = codec.model.encode(whole, bandwidth=bandwidth).audio_codes
    encoded = codec.encode(wav)
    assert torch.equal(encoded.audio_codes, expected)
    reference = codec.model.decode(expected).audio_values[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)


def extractor_features(wav_S: torch.Tensor) -> torch.Tensor:
    """The filter banks of SeamlessM4T's extractor, which X-codec 2 was trained with: other code, same numbers."""
    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, sampling_rate=16_000, stride=2)
    return extractor(wav_S.numpy(), sampling_rate=16_000, return_tensors="pt")["input_features"]


def test_semantic_features_equal_the_extractor_of_wav2vec_bert():
    wav = noise(16_000)
    torch.testing.assert_close(semantic_features(wav), extractor_features(wav)[0], rtol=0, atol=2e-3)


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_xcodec2_equals_the_model_with_its_extractor(num_samples):
    codec = tiny_codec("xcodec2")
    wav = noise(num_samples)
    padded = F.pad(wav, (0, 320 - num_samples % 320))  # one sample, then whole frames
    features = extractor_features(F.pad(padded, (160, 160)))
    expected = codec.model.encode(padded[None, None], features).audio_codes
    frames = -(-num_samples // 320)
    assert expected.shape[-1] in (frames, frames + 1)
    encoded = codec.encode(wav[None, None])
    same = (encoded.audio_codes == expected[..., :frames]).float().mean()
    assert same == 1, f"{same:.1%}"
    codes = encoded.audio_codes if frames > 1 else encoded.audio_codes.repeat(1, 1, 2)  # it cannot decode one frame
    reference = codec.model.decode(codes).audio_values[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)
    assert reference.any()


@pytest.mark.parametrize("num_samples", [1, 479, 480, 481, 5000])
def test_neucodec_hears_at_16_khz_and_speaks_at_24(num_samples):
    codec = tiny_codec("neucodec")
    assert (codec.sample_rate, codec.hop_samples, codec.frame_rate) == (24_000, 480, 50)
    wav = noise(num_samples, sample_rate=24_000)
    frames = -(-num_samples // 480)
    whole = np.pad(wav.numpy(), (0, frames * 480 - num_samples))
    heard = torch.from_numpy(audio.resample(whole, 24_000, 16_000))
    assert len(heard) == frames * 320
    heard = F.pad(heard, (0, 320))
    expected = codec.model.encode(heard[None, None], extractor_features(heard)).audio_codes
    encoded = codec.encode(wav[None, None])
    assert torch.equal(encoded.audio_codes, expected.long())
    codes = encoded.audio_codes if frames > 1 else encoded.audio_codes.repeat(1, 1, 2)  # it cannot decode one frame
    reference = codec.model.decode(codes).audio_values[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)


@pytest.mark.parametrize("name", ["xcodec", "xcodec2", "neucodec"])
def test_features_are_what_the_quantiser_reads(name):
    codec = tiny_codec(name)
    wav = noise(4000)[None, None]
    features = codec.encode_features(wav)
    codes = codec.encode(wav).audio_codes
    assert features.shape[:2] == (1, codes.shape[-1])
    if name == "xcodec":
        again = codec.model.quantizer.encode(features.transpose(1, 2)).transpose(0, 1)
    else:
        again = codec.model.quantizer(features)[1].transpose(1, 2)
    assert torch.equal(again.long(), codes)
