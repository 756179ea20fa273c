"""Measurements bring audio to the codec, wherever it runs: a stand-in is elsewhere and wants its input there."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.evaluation.consistency import measure_consistency
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.protocol import device_of
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..fake_codec import LoudnessCodec

ELSEWHERE = torch.device("meta")


class Elsewhere(LoudnessCodec):
    """Says that it runs on the meta device and refuses what is not there; answers from the CPU, without a mask."""

    device = ELSEWHERE

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        assert input_values.device == ELSEWHERE and (padding_mask is None or padding_mask.device == ELSEWHERE)
        codes = super().encode(torch.full(input_values.shape, 0.1)).audio_codes
        return SimpleNamespace(audio_codes=codes, audio_codes_mask=None)

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
    ) -> SimpleNamespace:
        assert audio_codes.device == ELSEWHERE
        return super().decode(torch.zeros(audio_codes.shape), length=length)

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        return self.encode(input_values, padding_mask).audio_codes[:, 0, :, None].float()


def test_audio_comes_to_the_codec(clips):
    with EncodedCorpus(Elsewhere()) as encoded:
        assert [len(codes) for codes in encoded.tokens(clips)] == [50, 75, 100, 125]
        assert [wav_S.size for _, wav_S in encoded.reconstructions(clips)] == [16_000, 24_000, 32_000, 40_000]
        assert [len(latent_TD) for latent_TD in encoded.latents(clips)] == [50, 75, 100, 125]
        assert measure_consistency(encoded, clips).rows


def test_where_a_codec_is():
    assert device_of(LoudnessCodec()) == torch.device("cpu")
    assert device_of(Elsewhere()) == ELSEWHERE
    config = LLMCodecConfig(hidden_size=32, encoder_layers=1, decoder_layers=1, head_dim=16, codebook_size=64)
    plain = LLMCodec(config).eval()
    assert device_of(SimpleNamespace(model=plain.to("meta"))) == ELSEWHERE
    packed = optimize_for_inference(LLMCodec(config).eval(), "fp32")
    packed.place = ELSEWHERE  # as if made from a codec on a GPU: nothing of it is a parameter
    assert TorchRuntime(packed, "packed").device == ELSEWHERE
