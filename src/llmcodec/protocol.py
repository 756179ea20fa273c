"""What the rest of the house may ask of a codec: the small protocol that objectives, training and evaluation stand on.

Any codec with a differentiable latent and a codebook can be adapted by meeting `AdaptableCodec`.
Shapes: B batch, S samples, T frames, Q codebooks, D codec width, C code dimension, V codebook size.
Test: tests/codec/test_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass
class CodecEncoding:
    """Everything an objective needs from one pass of the encoder.

    codes_BT: int64 codes, 0 at padding. mask_BT: bool, True at real frames.
    query_BTC: unit-norm look-up query with gradient to the encoder; `code = argmax_v query . codebook_VC[v]`.
    latent_BTD: continuous latent before quantisation. quantized_BTD: what the decoder reads, straight-through.
    losses: raw terms of the quantiser per frame, (B, T) each (`vq/commit`, `vq/codebook`), to be masked when reduced.
    """

    codes_BT: Tensor
    mask_BT: Tensor
    query_BTC: Tensor
    latent_BTD: Tensor
    quantized_BTD: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Codec(Protocol):
    """A codec as a contract of properties: users never compute a hop."""

    @property
    def sample_rate(self) -> int:
        """Samples per second in and out."""

    @property
    def hop_samples(self) -> int:
        """Samples per frame."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""

    @property
    def num_codebooks(self) -> int:
        """Q: tokens per frame."""

    @property
    def codebook_size(self) -> int:
        """V: codes in each codebook."""

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Any:
        """(B, 1, S) samples in [-1, 1] -> object with `audio_codes` (B, Q, T) and `audio_codes_mask` (B, 1, T)."""

    def decode(self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None) -> Any:
        """(B, Q, T) codes -> object with `audio_values` (B, 1, S)."""


@runtime_checkable
class AdaptableCodec(Codec, Protocol):
    """A codec whose latents carry gradients and whose codes are nearest neighbours in a codebook."""

    @property
    def codebook_VC(self) -> Tensor:
        """Unit-norm code vectors, with gradient. Similarity is `query_BTC @ codebook_VC.T`, in [-1, 1]."""

    def encode_latents(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> CodecEncoding:
        """Samples (zero padded beyond `lengths_B`) -> codes, mask, latents and quantiser losses."""

    def decode_latents(self, quantized_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Decoder input -> wav_BS with S = T * hop_samples; frames outside the mask do not influence the others."""


@runtime_checkable
class HasFeatures(Protocol):
    """A codec that shows what it quantises (optional; our codec and most adapters of `codecs/` have it)."""

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, 1, S) samples -> (B, T, D) float32: the continuous latent before any quantiser, one row per frame of
        `encode`; rows at padding (where `audio_codes_mask` is False) are 0. No gradient."""


def device_of(codec: Any) -> torch.device:
    """Where a codec runs: what it says itself (packed weights are no parameters), else where its weights are."""
    said = getattr(codec, "device", None)
    if said is not None:
        return torch.device(said)
    modules = [codec, *getattr(codec, "__dict__", {}).values()]
    tensors = (tensor for module in modules if isinstance(module, torch.nn.Module) for tensor in module.parameters())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@runtime_checkable
class TokenScorer(Protocol):
    """A token language model as everything that scores speech sees it."""

    def token_log_likelihoods(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Clips of flattened codes, 1-D int64 -> natural log-likelihood of every token given those before it, 1-D."""
