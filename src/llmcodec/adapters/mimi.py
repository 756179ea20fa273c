"""Mimi (`kyutai/mimi`) through transformers' MimiModel.

Source: arXiv 2410.00037. Test: tests/adapters/test_residual.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from llmcodec.adapters.adaptable import AdaptableAdapter, Chain, Codebook, pointwise, same
from llmcodec.adapters.base import check_num_codebooks
from llmcodec.adapters.family import transformers_family

if TYPE_CHECKING:
    from transformers import MimiModel

USUAL_CODEBOOKS = 8
"""What Moshi uses: 1.1 kbit/s. The checkpoint has 32."""


class MimiCodec(AdaptableAdapter):
    """num_codebooks: the semantic codebook and so many acoustic ones; default 8."""

    loads_with = 'transformers.MimiModel.from_pretrained("{}")'

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

    def chains(self) -> list[Chain]:
        chains = []
        for quantizer, layers in self._quantizers():
            ends = quantizer.input_proj, quantizer.output_proj
            books = [Codebook(layer.codebook.embed_sum / usage_of(layer.codebook)) for layer in layers]
            chains.append(Chain(books, *(same if end is None else pointwise(end) for end in ends)))
        return chains

    def waveform_of(self, quantized_BFD: Tensor) -> Tensor:
        return self.model.decoder(quantized_BFD.transpose(1, 2)).audio_values[:, 0]

    def train_codebooks(self) -> None:
        """Sums become means, and usage 1: their quotient, the code vectors, is as before."""
        for _, layers in self._quantizers():
            for layer in layers:
                book = layer.codebook
                book.embed_sum = nn.Parameter(book.embed_sum / usage_of(book))
                book.cluster_usage.fill_(1.0)

    def train(self, mode: bool = True) -> MimiCodec:
        """Code vectors that the model has kept from its sums are made anew."""
        super().train(mode)
        for module in self.model.modules():
            if hasattr(module, "embed_sum"):
                module._embed = None
        return self

    def _quantizers(self) -> Iterator[tuple[Any, Any]]:
        """The semantic and the acoustic quantiser, with the layers in use."""
        quantizer = self.model.quantizer
        semantic = quantizer.num_semantic_quantizers
        yield quantizer.semantic_residual_vector_quantizer, quantizer.semantic_residual_vector_quantizer.layers
        if self.num_codebooks > semantic:
            acoustic = quantizer.acoustic_residual_vector_quantizer
            yield acoustic, acoustic.layers[: self.num_codebooks - semantic]


def usage_of(codebook: Any) -> Tensor:
    """How often each code (V, 1) was used, by which the model divides its sums."""
    usage_V1: Tensor = codebook.cluster_usage.clamp(min=codebook.epsilon)[:, None]
    return usage_V1


FAMILY = transformers_family("Mimi", "Mimi", MimiCodec, {"mimi": {}})
