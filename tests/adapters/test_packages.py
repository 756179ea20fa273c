"""AUV and BigCodec through their own packages, and the stand-in for torchaudio that lets them be imported."""

import sys
import types
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from llmcodec.adapters.auv import load_auv
from llmcodec.adapters.bigcodec import load_bigcodec
from llmcodec.adapters.torchaudio_stub import torchaudio_stub
from llmcodec.codec.interop.auv import from_auv
from llmcodec.io import audio

from .tiny_codecs import noise, tiny_codec


def test_the_stand_in_is_there_only_inside_and_resamples():
    before = sys.modules.get("torchaudio")
    with torchaudio_stub():
        resample = import_module("torchaudio.functional").resample
    assert sys.modules.get("torchaudio") is before
    if before is None:
        wav = noise(3200).reshape(2, 1600)
        expected = np.stack([audio.resample(row.numpy(), 16_000, 8_000) for row in wav])
        np.testing.assert_array_equal(resample(wav, orig_freq=16_000, new_freq=8_000).numpy(), expected)


def test_the_stand_in_gives_way_to_what_is_there(monkeypatch):
    real = types.ModuleType("torchaudio")
    real.functional = types.ModuleType("torchaudio.functional")
    monkeypatch.setitem(sys.modules, "torchaudio", real)
    monkeypatch.setitem(sys.modules, "torchaudio.functional", real.functional)
    with torchaudio_stub():
        assert sys.modules["torchaudio"] is real
    assert sys.modules["torchaudio"] is real


@pytest.mark.parametrize("num_samples", [1, 480, 640, 641, 3333])
def test_auv_equals_the_package_on_whole_frames(num_samples):
    pytest.importorskip("auv")
    codec = tiny_codec("auv")
    wav = noise(num_samples)[None, None]
    frames = -(-num_samples // 320)
    whole = F.pad(wav, (0, max(2, frames) * 320 - num_samples))[:, 0]
    expected = codec.model.encode({"sample": whole, "sample_rate": 16_000})
    encoded = codec.encode(wav)
    assert torch.equal(encoded.audio_codes[:, 0], expected["tokens"][0, :, :frames])
    reference = codec.model.decode_tokens(encoded.audio_codes.transpose(1, 2))[..., :num_samples]
    assert torch.equal(codec.decode(encoded.audio_codes, length=num_samples).audio_values, reference)
    assert torch.equal(codec.encode_features(wav), expected["before_quantize"][:, :frames])


def test_auv_and_our_own_loader_of_its_weights_agree():
    pytest.importorskip("auv")
    from llmcodec.codec import LLMCodecConfig

    codec = tiny_codec("auv")
    config = LLMCodecConfig(
        hidden_size=128,
        encoder_layers=1,
        decoder_layers=1,
        codebook_size=64,
        codebook_partitions={},
        auv_floor_frames=True,
    )
    ours = from_auv(codec.model.state_dict(), config).eval()
    wav = noise(16_000)[None, None]
    assert torch.equal(ours.encode(wav).audio_codes, codec.encode(wav).audio_codes)


def test_an_auv_checkpoint_is_read_by_the_package(tmp_path):
    pytest.importorskip("auv")
    torch.save({"tokenizer.nothing": torch.zeros(1)}, tmp_path / "auv.pt")
    with pytest.raises(RuntimeError, match="Missing key"):
        load_auv(tmp_path / "auv.pt")


@pytest.fixture(scope="module")
def bigcodec():
    """The package's model, made small: its own constructor fixes a decoder of 1,536 channels."""
    if find_spec("bigcodec") is None:
        pytest.skip("bigcodec is not installed")
    with torchaudio_stub():
        from bigcodec import BigCodec, CodecDecoder, CodecEncoder
    from llmcodec.adapters.bigcodec import BigCodecCodec

    class Small(BigCodec):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.encoder = CodecEncoder(ngf=2, rnn_num_layers=1, out_channels=16)
            self.decoder = CodecDecoder(16, 64, rnn_num_layers=1, vq_dim=16, codebook_size=64)

    torch.manual_seed(0)
    return BigCodecCodec(Small())


@pytest.mark.parametrize("num_samples", [1, 200, 201, 1333])
def test_bigcodec_equals_the_package_on_whole_frames(bigcodec, num_samples):
    assert (bigcodec.sample_rate, bigcodec.hop_samples, bigcodec.codebook_size) == (16_000, 200, 64)
    wav = noise(num_samples)[None, None]
    whole = F.pad(wav, (0, -num_samples % 200))
    expected = bigcodec.model.encode(whole)
    encoded = bigcodec.encode(wav)
    assert torch.equal(encoded.audio_codes, expected)  # one clip and one codebook: their order does not matter
    reference = bigcodec.model.decode(expected)[..., :num_samples]
    decoded = bigcodec.decode(encoded.audio_codes, length=num_samples).audio_values
    covered = reference.shape[-1]
    assert torch.equal(decoded[..., :covered], reference) and num_samples - covered < 200
    features = bigcodec.encode_features(wav).transpose(1, 2)
    assert torch.equal(bigcodec.model.decoder.quantizer(features)[1].transpose(0, 1), encoded.audio_codes)


def test_bigcodec_in_a_batch(bigcodec):
    wav = torch.stack([noise(800, seed) for seed in range(3)])[:, None]
    codes = bigcodec.encode(wav).audio_codes
    assert codes.shape == (3, 1, 4)
    for row in range(3):
        assert torch.equal(codes[row : row + 1], bigcodec.encode(wav[row : row + 1]).audio_codes)


def test_a_bigcodec_without_some_of_its_weights_is_refused(bigcodec, monkeypatch, tmp_path):
    monkeypatch.setattr(import_module("bigcodec"), "BigCodec", type(bigcodec.model))
    bigcodec.model.save_pretrained(tmp_path)
    wav = noise(800)[None, None]
    assert torch.equal(load_bigcodec(tmp_path).encode(wav), bigcodec.model.encode(wav))
    tensors = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="Missing key.*encoder"):
        load_bigcodec(tmp_path)
