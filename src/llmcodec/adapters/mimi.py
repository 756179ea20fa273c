"""Mimi (`kyutai/mimi`) through transformers' MimiModel.

Source: arXiv 2410.00037. Test: tests/adapters/test_residual.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import transformers_family

if TYPE_CHECKING:
    from transformers import MimiModel

USUAL_CODEBOOKS = 8
"""What Moshi uses: 1.1 kbit/s. The checkpoint has 32."""


class MimiCodec(CodecAdapterWithFeatures):
    """num_codebooks: the semantic codebook and so many acoustic ones; default 8."""

    def __init__(self, model: MimiModel, num_codebooks: int | None = None):
        config = model.config
        total, semantic = config.num_quantizers, config.num_semantic_quantizers
        residual = check_num_codebooks("Mimi", num_codebooks, min(USUAL_CODEBOOKS, total), total, semantic)
        super().__init__(model, config.sampling_rate, config.frame_size, residual, config.codebook_size)

    def padded_samples(self, num_samples: int) -> int:
        """Mimi pads by itself."""
        return num_samples

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encode(wav_BS[:, None], num_quantizers=self.num_codebooks).audio_codes

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        encoded = self.model.encoder(wav_BS[:, None])
        if not isinstance(encoded, Tensor):
            return encoded.latents.transpose(1, 2)
        hidden_BTD = self.model.encoder_transformer(encoded.transpose(1, 2), return_dict=True).last_hidden_state
        return self.model.downsample(hidden_BTD.transpose(1, 2)).transpose(1, 2)  # older transformers 5: in parts

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(codes_BQT).audio_values[:, 0]


FAMILY = transformers_family("Mimi", "Mimi", MimiCodec, {"mimi": {}})
