"""DAC, the Descript Audio Codec (`descript/dac_16khz`, `_24khz`, `_44khz`) through transformers' DacModel.

Clips are zero-padded to whole frames as DacFeatureExtractor does it. Where a stride is odd (16 and 24 kHz), the
published decoder gives a few samples less than T * hop; they are zeros here.
Source: arXiv 2306.06546. Test: tests/adapters/test_residual.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from llmcodec.adapters.adaptable import AdaptableAdapter, Chain, Codebook, pointwise
from llmcodec.adapters.base import check_num_codebooks
from llmcodec.adapters.family import transformers_family

if TYPE_CHECKING:
    from transformers import DacModel


class DacCodec(AdaptableAdapter):
    """num_codebooks: residual codebooks used, of the first ones; default all."""

    loads_with = 'transformers.DacModel.from_pretrained("{}")'

    def __init__(self, model: DacModel, num_codebooks: int | None = None):
        config = model.config
        residual = check_num_codebooks("DAC", num_codebooks, config.n_codebooks, config.n_codebooks)
        super().__init__(model, config.sampling_rate, config.hop_length, residual, config.codebook_size)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encode(wav_BS[:, None], n_quantizers=self.num_codebooks).audio_codes

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encoder(wav_BS[:, None]).transpose(1, 2)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes_BQT).audio_values

    def chains(self) -> list[Chain]:
        layers = self.model.quantizer.quantizers[: self.num_codebooks]
        books = [Codebook(q.codebook.weight, True, pointwise(q.in_proj), pointwise(q.out_proj)) for q in layers]
        return [Chain(books)]

    def waveform_of(self, quantized_BFD: Tensor) -> Tensor:
        return self.model.decoder(quantized_BFD.transpose(1, 2))[:, 0]


KHZ_16: dict[str, Any] = dict(sampling_rate=16_000, downsampling_ratios=[2, 4, 5, 8], n_codebooks=12)
FAMILY = transformers_family(
    "DAC",
    "Dac",
    DacCodec,
    {
        "dac_16khz": KHZ_16,
        "dac_24khz": KHZ_16 | dict(sampling_rate=24_000, n_codebooks=32),
        "dac_44khz": dict(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8], n_codebooks=9),
    },
)
