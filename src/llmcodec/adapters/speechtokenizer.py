"""SpeechTokenizer: eight residual codebooks at 50 Hz, the first of which follows HuBERT.

The network is written again here (its package wants a dozen others for training) and runs on weights that
`llmcodec convert` has read from the published checkpoint. The codebooks are residual: N of them are the first N.
Source: arXiv 2308.16692, PyPI `speechtokenizer`, github.com/ZhangXInFD/SpeechTokenizer.
Shapes: B batch, S samples, T frames, D width, Q codebooks. Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import network_family
from llmcodec.adapters.networks.folder import fold_norms, renamed, seanet_sizes, without_doubles
from llmcodec.adapters.networks.seanet import ResidualQuantizer, SEANetDecoder, SEANetEncoder, hop_of

SAMPLE_RATE = 16_000


class SpeechTokenizer(nn.Module):
    """The published network; sizes are those of the released models unless others are given."""

    def __init__(
        self,
        ratios: Sequence[int] = (8, 5, 4, 2),
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        width: int = 1024,
        num_filters: int = 64,
        lstm_layers: int = 2,
        bidirectional: bool = True,
        residual_kernel: int = 3,
    ):
        super().__init__()
        self.hop_samples = hop_of(ratios)
        shape = (width, num_filters, ratios, lstm_layers)
        self.encoder = SEANetEncoder(*shape, bidirectional=bidirectional, residual_kernel=residual_kernel)
        self.quantizer = ResidualQuantizer(num_codebooks, codebook_size, width)
        self.decoder = SEANetDecoder(*shape, residual_kernel=residual_kernel)


class SpeechTokenizerCodec(CodecAdapterWithFeatures):
    """num_codebooks: residual codebooks used, of the first ones; default all."""

    def __init__(self, model: SpeechTokenizer, num_codebooks: int | None = None):
        books = model.quantizer.codebooks
        count = check_num_codebooks("SpeechTokenizer", num_codebooks, len(books), len(books))
        super().__init__(model, SAMPLE_RATE, model.hop_samples, count, books[0].codebook_size)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.quantizer.encode(self.latents_of(wav_BS), self.num_codebooks)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encoder(wav_BS[:, None]).transpose(1, 2)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decoder(self.model.quantizer.decode(codes_BQT).transpose(1, 2))[:, 0]


def published_speechtokenizer(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Sizes and weights from a published checkpoint; None if it is another's."""
    names = {
        r"(encoder|decoder)\.model\.": r"\1.model.",
        r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed$": r"quantizer.layers.\1.codebook.embed",
    }
    state = without_doubles(fold_norms(renamed(tensors, names)))
    books = [tensor for name, tensor in state.items() if name.endswith(".codebook.embed")]
    backwards = any(name.startswith("encoder.") and name.endswith("weight_ih_l0_reverse") for name in state)
    if not books or "decoder.model.0.conv.weight" not in state or "transform.weight" not in tensors and not backwards:
        return None
    sizes = {"num_codebooks": len(books), "codebook_size": len(books[0]), "bidirectional": backwards}
    return seanet_sizes(state) | sizes, state


FAMILY = network_family(
    "SpeechTokenizer",
    SpeechTokenizerCodec,
    SpeechTokenizer,
    published_speechtokenizer,
    {"speechtokenizer": {}},
)
