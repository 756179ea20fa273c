"""Measurements bring audio to the codec, wherever it runs: a stand-in is elsewhere and wants its input there."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.evaluation.consistency import slice_consistency
from llmcodec.evaluation.probe import latents_of
from llmcodec.evaluation.reconstruction import encode_clip, reconstruct
from llmcodec.evaluation.system import encode_all
from llmcodec.metrics.token_statistics import encode_wav
from llmcodec.protocol import device_of
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..fake_codec import LoudnessCodec

ELSEWHERE = torch.device("meta")


class Elsewhere(LoudnessCodec):
    """Says that it runs on the meta device and refuses what is not there; answers from the CPU."""

    device = ELSEWHERE

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        assert input_values.device == ELSEWHERE and (padding_mask is None or padding_mask.device == ELSEWHERE)
        return super().encode(torch.full(input_values.shape, 0.1))

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return self.encode(input_values).audio_codes[:, 0, :, None].float()


def test_audio_comes_to_the_codec(clips):
    codec = Elsewhere()
    wav_S = np.full(6400, 0.1, np.float32)
    assert encode_wav(codec, wav_S).shape == (1, 20)
    assert reconstruct(codec, wav_S)[0].shape == (6400,)
    assert encode_clip(codec, clips[0]).shape == (50,)
    assert [len(codes) for codes in encode_all(codec, clips)] == [125] * 4  # it takes padding for frames
    assert [len(latent_TD) for latent_TD in latents_of(codec, clips, 50.0)] == [50, 75, 100, 125]
    assert slice_consistency(codec, clips).rows


def test_where_a_codec_is():
    assert device_of(LoudnessCodec()) == torch.device("cpu")
    assert device_of(Elsewhere()) == ELSEWHERE
    config = LLMCodecConfig(hidden_size=32, encoder_layers=1, decoder_layers=1, head_dim=16, codebook_size=64)
    plain = LLMCodec(config).eval()
    assert device_of(SimpleNamespace(model=plain.to("meta"))) == ELSEWHERE
    packed = optimize_for_inference(LLMCodec(config).eval(), "fp32")
    packed.place = ELSEWHERE  # as if made from a codec on a GPU: nothing of it is a parameter
    assert TorchRuntime(packed, "packed").device == ELSEWHERE
