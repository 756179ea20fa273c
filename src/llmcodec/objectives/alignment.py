"""Semantic alignment: an utterance and its transcript, read by the same frozen LLM, should end in similar hidden
states.

For each of the middle layers (`lm.backbone.sa_layers`): the audio state at the last real token against the text state
at the last real token (no gradient). `align/cosine` = 1 - cos, mean over layers and clips. `align/contrast` =
cross-entropy over [positive, negatives] with logits 5 cos and label smoothing 0.1; the negatives are the text states
of that layer of up to 512 past utterances, a ring that keeps refreshing. Texts equal to the positive are not used as
negatives.

Align only audio that contains its whole text: whole utterances, never a random crop. Clips without text are left out.
Shapes: B batch, L LLM positions, H LLM width, Q bank slots, M layers. Source: LLM-Codec, arXiv 2604.17852.
Test: `pytest tests/objectives/test_alignment.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmcodec.distributed import at_least_float32, masked_mean, num_ranks


@dataclass(frozen=True)
class AlignmentConfig:
    """Semantic alignment of audio and text states."""

    bank_size: int = 512
    """Q: past utterances kept as negatives, per layer."""
    logit_scale: float = 5.0
    """Cosines are multiplied by this to make logits."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all candidates."""
    released_bank: bool = False
    """As the released code does it, for comparison: the bank holds the top layer's mean over the batch for all layers,
    and once full only its last slot moves (by an average with momentum 0.99); equal texts are not left out."""
    released_momentum: float = 0.99
    """Momentum of that last slot."""

    def __post_init__(self) -> None:
        if self.bank_size < 1:
            raise ValueError(f"AlignmentConfig: bank_size must be at least 1, got {self.bank_size}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"AlignmentConfig: label_smoothing must be in [0, 1), got {self.label_smoothing}")


def pool_last(hidden_BLH: Tensor, last_B: Tensor) -> Tensor:
    """States (B, H) at position `last_B` of each sequence (the last real token)."""
    return hidden_BLH[torch.arange(hidden_BLH.shape[0], device=hidden_BLH.device), last_B]


def smoothed_cross_entropy(logits_BN: Tensor, allowed_BN: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy (B,) of column 0 among the allowed columns, `smoothing` of the target spread evenly over those."""
    logits = logits_BN.masked_fill(~allowed_BN, -torch.inf)
    log_p = torch.log_softmax(logits, -1)
    spread = log_p.masked_fill(~allowed_BN, 0.0).sum(-1) / allowed_BN.sum(-1)
    return -(1.0 - smoothing) * log_p[:, 0] - smoothing * spread


class SemanticAlignment(nn.Module):
    """The two alignment terms and the memory bank, whose state is saved with the module.

    Args:
        layers: hidden-state numbers that are compared. hidden_size: H. config: see there.
    """

    def __init__(self, layers: Sequence[int], hidden_size: int, config: AlignmentConfig | None = None):
        super().__init__()
        if not layers:
            raise ValueError("SemanticAlignment: no layers to compare")
        self.layers = tuple(layers)
        self.config = config or AlignmentConfig()
        slots = self.config.bank_size
        self.bank_MQH: Tensor
        self.bank_keys_Q: Tensor
        self.position: Tensor
        self.register_buffer("bank_MQH", torch.zeros(len(self.layers), slots, hidden_size))
        self.register_buffer("bank_keys_Q", torch.full((slots,), -1, dtype=torch.int64))  # -1: empty slot
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))  # utterances ever stored

    def forward(
        self,
        audio: Mapping[int, Tensor],
        text: Mapping[int, Tensor],
        text_keys_B: Tensor,
    ) -> dict[str, Tensor]:
        """Compare, then (in training mode) store the batch's texts.

        Args:
            audio: layer -> (B, H) states at the last audio token, with gradient.
            text: layer -> (B, H) states at the last text token; their gradient is stopped here.
            text_keys_B: int64, equal for equal texts, -1 for a clip without text (its text state is ignored).
        """
        has_text_B = text_keys_B >= 0
        cosines, contrasts = [], []
        stored: list[Tensor] = []
        allowed_BQ = self._allowed(text_keys_B)
        # A copy: the bank is updated below, before the backward pass has read it.
        bank_MQH = self.bank_MQH.clone()
        for index, layer in enumerate(self.layers):
            audio_BH = nn.functional.normalize(at_least_float32(audio[layer]), dim=-1)
            text_BH = torch.where(has_text_B[:, None], text[layer].detach(), 0)  # no text: its state may be NaN
            text_BH = nn.functional.normalize(at_least_float32(text_BH), dim=-1)
            cosine_B = (audio_BH * text_BH).sum(-1)
            cosines.append(1.0 - cosine_B)
            bank_QH = bank_MQH[-1 if self.config.released_bank else index].to(audio_BH.dtype)
            logits = torch.cat([cosine_B.unsqueeze(1), audio_BH @ bank_QH.t()], dim=1) * self.config.logit_scale
            allowed = torch.cat([torch.ones_like(allowed_BQ[:, :1]), allowed_BQ], dim=1)
            contrasts.append(smoothed_cross_entropy(logits, allowed, self.config.label_smoothing))
            stored.append(text_BH)
        has_negative_B = has_text_B & allowed_BQ.any(dim=1)
        terms = {
            "align/cosine": masked_mean(torch.stack(cosines).mean(0), has_text_B),
            "align/contrast": masked_mean(torch.stack(contrasts).mean(0), has_negative_B),
        }
        if self.training:
            self._store(torch.stack(stored, dim=1), text_keys_B)
        return terms

    def _allowed(self, text_keys_B: Tensor) -> Tensor:
        filled_Q = self.bank_keys_Q >= 0
        if self.config.released_bank:
            return filled_Q.expand(text_keys_B.shape[0], -1)
        return filled_Q & (self.bank_keys_Q != text_keys_B.unsqueeze(1))

    @torch.no_grad()
    def _store(self, states_BMH: Tensor, keys_B: Tensor) -> None:
        states_BMH, keys_B = gather_clips(states_BMH.to(self.bank_MQH.dtype), keys_B)
        with_text_B = keys_B >= 0
        if self.config.released_bank:
            self._store_released(states_BMH[with_text_B])
            return
        # Every slot looks for the last clip that belongs into it: to select clips would wait for a GPU.
        slots_Q = torch.arange(self.config.bank_size, device=keys_B.device)
        slot_B = (self.position + with_text_B.cumsum(0) - 1) % len(slots_Q)
        number_B = torch.arange(1, len(keys_B) + 1, device=keys_B.device)
        last_Q = (number_B * (with_text_B & (slot_B == slots_Q[:, None]))).amax(1)  # 0: none
        from_Q = (last_Q - 1).clamp_min(0)
        stored_MQH = states_BMH.transpose(0, 1)[:, from_Q]
        self.bank_MQH.copy_(torch.where(last_Q[:, None] > 0, stored_MQH, self.bank_MQH))
        self.bank_keys_Q.copy_(torch.where(last_Q > 0, keys_B[from_Q], self.bank_keys_Q))
        self.position += with_text_B.sum()

    def _store_released(self, states_BMH: Tensor) -> None:
        if not len(states_BMH):
            return
        mean_H = states_BMH[:, -1].mean(0)
        filled = int((self.bank_keys_Q >= 0).sum())
        if filled:
            self.bank_MQH[-1, filled - 1].lerp_(mean_H, 1.0 - self.config.released_momentum)
        if filled < self.config.bank_size:
            self.bank_MQH[-1, filled] = mean_H
            self.bank_keys_Q[filled] = 0
        self.position += 1


def gather_clips(states_BMH: Tensor, keys_B: Tensor) -> tuple[Tensor, Tensor]:
    """The clips of all ranks, in rank order; ranks may have different numbers of clips. Without ranks, the input."""
    if num_ranks() == 1:
        return states_BMH, keys_B
    sizes = [torch.zeros((), dtype=torch.int64, device=keys_B.device) for _ in range(num_ranks())]
    dist.all_gather(sizes, torch.tensor(len(keys_B), dtype=torch.int64, device=keys_B.device))
    most = max(int(size) for size in sizes)
    padded = states_BMH.new_zeros(most, *states_BMH.shape[1:])
    padded[: len(keys_B)] = states_BMH
    padded_keys = keys_B.new_full((most,), -1)
    padded_keys[: len(keys_B)] = keys_B
    all_states = [torch.empty_like(padded) for _ in sizes]
    all_keys = [torch.empty_like(padded_keys) for _ in sizes]
    dist.all_gather(all_states, padded)
    dist.all_gather(all_keys, padded_keys)
    return torch.cat(all_states), torch.cat(all_keys)
