"""The parts of the network: encoder (STFT, conformer), quantiser, decoder (conformer, iSTFT).

Shapes: B batch, S samples, T frames, D width. Test: tests/codec/test_model.py.
"""

from __future__ import annotations

from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.conformer import Conformer
from llmcodec.codec.quantizer import FactorizedQuantizer
from llmcodec.codec.stft import ISTFTHead, STFTFrontEnd


class Encoder(nn.Module):
    """Samples -> latents."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        self.frontend = STFTFrontEnd(config)
        self.conformer = Conformer(config, config.encoder_layers)

    def forward(
        self,
        wav_BS: Tensor,
        lengths_B: Tensor | None,
        mask_BT: Tensor | None,
        layer_outputs: list[Tensor] | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """(B, S), samples and real frames of each clip (None: all) -> (B, T, D).

        `layer_outputs` takes what the first layer reads and the output of every layer, `attentions` as in `Conformer`.
        """
        hidden_BTD = self.frontend(wav_BS, lengths_B)
        if layer_outputs is not None:
            layer_outputs.append(hidden_BTD)
        return self.conformer(hidden_BTD, mask_BT, layer_outputs=layer_outputs, attentions=attentions)


class Decoder(nn.Module):
    """Quantised latents -> samples."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        self.conformer = Conformer(config, config.decoder_layers)
        self.head = ISTFTHead(config)

    def forward(
        self, quantized_BTD: Tensor, mask_BT: Tensor | None, layer_outputs: list[Tensor] | None = None
    ) -> Tensor:
        """(B, T, D), real frames (None: all) -> (B, T * hop); `layer_outputs` takes the output of every layer."""
        return self.head(self.conformer(quantized_BTD, mask_BT, layer_outputs=layer_outputs), mask_BT)


def build_parts(config: LLMCodecConfig) -> tuple[Encoder, FactorizedQuantizer, Decoder]:
    """The attributes `encoder`, `quantizer` and `decoder` of a codec, with PyTorch's initial weights."""
    return Encoder(config), FactorizedQuantizer(config), Decoder(config)
