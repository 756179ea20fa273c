"""What the calls of the codec return, as transformers' models do: by name, by position, or as a tuple.

Shapes: B batch, S samples, T frames, D width, N heads.
Test: tests/codec/test_model.py, tests/codec/test_transformers.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class LLMCodecEncoderOutput(ModelOutput):
    """audio_codes (B, 1, T) int64; audio_codes_mask (B, 1, T) bool, True at real frames.

    quantized_representation (B, D, T): what the decoder reads, as DacModel names it.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    quantized_representation: Tensor | None = None


@dataclass
class LLMCodecDecoderOutput(ModelOutput):
    """audio_values (B, 1, S)."""

    audio_values: Tensor | None = None


@dataclass
class LLMCodecOutput(ModelOutput):
    """audio_codes (B, 1, T), audio_values (B, 1, S), audio_codes_mask (B, 1, T). The order is MimiModel's.

    audio_codes_mask: None where no `padding_mask` was given: all frames are real.
    loss: commitment and codebook loss, mean over real frames, as DacModel has it; None if `audio_codes` were given.
    hidden_states: on request, what the encoder's first layer reads and the output of each, (B, T, D).
    attentions: on request, the weights of the encoder's layers, (B, N, T, T).
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
