"""The interfaces of codecs and token language models: small protocols that need no inheritance.

Objectives, training and evaluation depend on these only. A codec with a differentiable latent and a codebook can be
adapted if it implements `AdaptableCodec`; other codecs need `Codec` (adapters/ has a base class for it).
Shapes: B batch, S samples, T frames, Q codebooks, D codec width, C code dimension, V codebook size, P frames tried at
once, X codes tried at each. Test: tests/codec/test_model.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Places = tuple[Tensor, Tensor]
"""Row and column (N,) of every real token of a batch, in order: `x_BT[places]` is `x_BT[mask_BT]`, without a wait."""


def real_places(lengths: Sequence[int], device: torch.device) -> Places:
    """Places of the tokens of clips with so many each; nothing waits for the device, as a mask on it would."""
    clip_N = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    token_N = torch.cat([torch.arange(length) for length in lengths])
    return clip_N.to(device, non_blocking=True), token_N.to(device, non_blocking=True)


@dataclass
class CodecEncoding:
    """Everything that an objective needs from one encoder pass.

    A codec of Q codebooks has F frames of Q tokens each, T = F Q: those of a frame stand behind one another, and codes
    count through all codebooks.
    """

    codes_BT: Tensor
    """int64 codes, 0 at padding."""
    mask_BT: Tensor
    """bool, True at real frames."""
    query_BTC: Tensor
    """Unit-norm look-up query with gradient to the encoder; `code = argmax_v query . codebook_VC[v]`."""
    latent_BTD: Tensor
    """Continuous latent before quantisation, one row a frame."""
    quantized_BTD: Tensor
    """What each token adds to the decoder input, straight-through; of one codebook, that input itself."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Raw terms of the quantiser per frame, (B, T) each (`vq/commit`, `vq/codebook`), to be masked when reduced."""
    decoder_BFD: Tensor | None = None
    """Decoder input, one row a frame, where a codec has several codebooks; None: `quantized_BTD`."""
    lengths: list[int] | None = None
    """Real tokens of each clip, which come first; a codec that leaves this out makes objectives wait for a GPU."""

    @property
    def places(self) -> Places:
        """Places of the real tokens."""
        if self.lengths is None:
            clip_N, token_N = self.mask_BT.nonzero(as_tuple=True)
            return clip_N, token_N
        return real_places(self.lengths, self.mask_BT.device)


@runtime_checkable
class Codec(Protocol):
    """A codec and its properties, so that callers never compute a hop."""

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
        """Audio -> codes.

        Args:
            input_values: (B, 1, S) samples in [-1, 1].
            padding_mask: (B, S) or (B, 1, S), 1 at real samples, which come first; None: all are real.

        Returns:
            An object with `audio_codes` (B, Q, T) int64 and `audio_codes_mask` (B, 1, T) bool, True at real frames.
        """

    def decode(self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None) -> Any:
        """Codes -> audio.

        Args:
            audio_codes: (B, Q, T).
            padding_mask: the one that `encode` was given; the result is silent beyond each clip.
            length: samples wanted; None: T * hop_samples, or as long as the mask.

        Returns:
            An object with `audio_values` (B, 1, S).
        """


@runtime_checkable
class AdaptableCodec(Codec, Protocol):
    """A codec whose latents carry gradients and whose codes are the most similar in a codebook.

    `tokens_of` counts the codes of all its codebooks. Residual codebooks: docs/explanation/adaptable_codecs.md.
    """

    @property
    def codebook_VC(self) -> Tensor:
        """Code vectors of all codebooks (V, C), with gradient.

        Similarity is `query_BTC @ codebook_VC.T`, of unit vectors in [-1, 1], or of that scale.
        """

    @property
    def latent_dim(self) -> int:
        """D: width of `quantized_BTD`."""

    def encode_latents(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> CodecEncoding:
        """Samples (B, S), zero beyond `lengths_B` -> codes, mask, latents and quantiser losses."""

    def decode_latents(self, quantized_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Decoder input (B, F, D) -> samples (B, F * hop_samples); frames outside the mask do not influence others."""

    def card(self, name: str) -> str:
        """Text of the README that is saved with it under a name."""

    def save_pretrained(self, folder: str | os.PathLike[str], /, *, card: str | None = None) -> None:
        """Save it in the format that its users load."""


@runtime_checkable
class WaveformCodec(Protocol):
    """A codec without tokens, of which only the sound and the bytes can be measured."""

    def code_waveform(self, wav_S: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Samples at the codec's rate -> as many samples, and what is sent for them."""


@runtime_checkable
class HasFeatures(Protocol):
    """A codec that exposes its latents (optional; our codec and most adapters do)."""

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Samples (B, 1, S) -> (B, T, D) float32: the continuous latent before any quantiser, without gradient.

        One row per frame of `encode`; rows at padding (where `audio_codes_mask` is False) are 0.
        """


@runtime_checkable
class TokenScorer(Protocol):
    """A token language model for scoring speech."""

    def token_log_likelihoods(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Log-likelihoods in nats: clips of flattened codes, (N,) int64 each -> (N,) of every token given its past."""


class RateScorer(Protocol):
    """A token model for the search for cheap codes: the cost of changing single codes of a clip."""

    @property
    def codebook_size(self) -> int:
        """V: number of codes."""

    def trial_nats(self, codes_T: Tensor, places_P: Tensor, trials_XP: Tensor) -> Tensor:
        """Cost of a clip in nats with one of its codes replaced, up to a constant per frame.

        Args:
            codes_T: int64, the clip as it is.
            places_P: int64, the frames to change, one at a time.
            trials_XP: int64, codes for them.

        Returns:
            (X, P) float32.
        """

    def leave_out(self, wav_S: Tensor) -> RateScorer:
        """The scorer to search one clip by: one that has learnt nothing from it.

        A scorer that has seen the clip finds its own codes cheap, and search changes hardly a code.

        Args:
            wav_S: the clip, or a part of it, at the codec's rate.
        """

    def to(self, device: torch.device) -> RateScorer:
        """The same scorer on another device."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Tensors that determine its values, to identify the scorer."""


@runtime_checkable
class PairScorer(Protocol):
    """A `RateScorer` by pairs of neighbouring codes alone."""

    def nats(self, before: Tensor, code: Tensor) -> Tensor:
        """-ln p(code | before) of int64 tensors that broadcast, float32; `before` = -1: nothing is before it."""


def tokens_of(codec: Codec) -> int:
    """Codes of all codebooks together: the vocabulary of its tokens, as objectives and token LMs count them."""
    return codec.num_codebooks * codec.codebook_size


def has_tokens(codec: Any) -> bool:
    """False for a codec whose packets are no tokens (`WaveformCodec`)."""
    return bool(getattr(codec, "has_tokens", True))


def can_decode(codec: Any) -> bool:
    """False for a tokenizer without decoder."""
    return bool(getattr(codec, "can_decode", True))


def deduplicates(codec: Any) -> bool:
    """True for a codec whose runs of one code are measured as one token; its tokens have no fixed rate then."""
    return bool(getattr(codec, "deduplicate", False))


def device_of(codec: Any) -> torch.device:
    """Where a codec runs: its own `device` (packed weights are not parameters), else that of its weights."""
    said = getattr(codec, "device", None)
    if said is not None:
        return torch.device(said)
    modules = [codec, *getattr(codec, "__dict__", {}).values()]
    tensors = (tensor for module in modules if isinstance(module, torch.nn.Module) for tensor in module.parameters())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
