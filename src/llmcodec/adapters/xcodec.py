"""X-codec (`hf-audio/xcodec-hubert-librispeech` and others) through transformers' XcodecModel.

Clips are zero-padded to whole frames. The codebooks are residual, so that N of them are the first N of all.
Source: arXiv 2408.17175. Test: tests/adapters/test_semantic.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks, output_of
from llmcodec.adapters.family import transformers_family

if TYPE_CHECKING:
    from transformers import XcodecModel


class XcodecCodec(CodecAdapterWithFeatures):
    """num_codebooks: residual codebooks used, of the first ones; default all."""

    def __init__(self, model: XcodecModel, num_codebooks: int | None = None):
        config = model.config
        residual = check_num_codebooks("X-codec", num_codebooks, config.num_quantizers, config.num_quantizers)
        super().__init__(model, config.sample_rate, config.hop_length, residual, config.codebook_size)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encode(wav_BS[:, None]).audio_codes[:, : self.num_codebooks]

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return output_of(self.model.fc, lambda: self.model.encode(wav_BS[:, None]))

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(codes_BQT).audio_values[:, 0]


FAMILY = transformers_family("X-codec", "Xcodec", XcodecCodec, {"xcodec": {}})
