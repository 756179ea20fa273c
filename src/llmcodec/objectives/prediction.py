"""Future-token prediction: the loss of K heads on the frozen LLM's last hidden state (LLM-Codec, arXiv 2604.17852).

The shift: the LLM reads [start, e_0, e_1, ...] (`lm.vocabulary.AudioVocabulary.inputs`), so hidden[t] has read the
codes before t and head k predicts code t + k - 1 (k = 1, 2, ..): a state that has seen codes up to t predicts t + k,
and the first code is predicted from the start embedding. `paper_as_released` feeds the LLM without a start embedding
(`inputs(..., start=False)`): hidden[t] has then already read code t, the target of head 1, which learns to copy.

Loss = sum_k w_k CE_k with w_k = (1/k) / sum_j (1/j). Targets carry no gradient (see `rate` for those that do).
Shapes: B batch, T frames, H LLM width, V audio vocabulary, K heads. Test: `pytest
tests/objectives/test_prediction.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmcodec.distributed import at_least_float32, mean_count
from llmcodec.io.structured import check_choices
from llmcodec.lm.packing import IGNORE
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.objectives.chunked import linear_cross_entropy
from llmcodec.protocol import real_places


@dataclass(frozen=True)
class PredictionConfig:
    """Future-token prediction."""

    num_heads: int = 5
    """K: head k predicts the k-th token after those the hidden state has read."""
    kind: Literal["linear", "residual"] = "linear"
    """linear: one V x H matrix per head (the paper). residual: one H x H block per head, one shared output matrix."""
    start: Literal["random", "unigram"] = "random"
    """random: rows sampled like the LM's text rows; with SmolLM2 the loss starts at three times ln V. unigram: rows 0
    and a bias, log-frequencies of the starting codec's tokens; the loss starts at their entropy."""
    bf16: bool = False
    """Compute the large products in bfloat16; softmax and sums stay float32."""
    kernel: Literal["chunked", "liger"] = "chunked"
    """chunked: ours, any device. liger: the fused kernel of the optional package liger-kernel, on GPU."""

    def __post_init__(self) -> None:
        if self.num_heads < 1:
            raise ValueError(f"PredictionConfig: num_heads must be at least 1, got {self.num_heads}")
        check_choices(self, "PredictionConfig")


def head_weights(num_heads: int) -> list[float]:
    """w_k = (1/k) / sum_j (1/j), k = 1..K: .44 .22 .15 .11 .09 for K = 5."""
    total = sum(1.0 / k for k in range(1, num_heads + 1))
    return [1.0 / k / total for k in range(1, num_heads + 1)]


def prediction_terms(
    heads: PredictionHeads,
    hidden_BLH: Tensor,
    codes_BT: Tensor,
    mask_BT: Tensor,
    config: PredictionConfig,
    lengths: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Terms `lm/ftp` (sum of w_k CE_k, nats) and, without gradient, `lm/ftp_1` .. `lm/ftp_K`.

    Args:
        hidden_BLH: last hidden states, L >= T; position t has read the codes before t.
        codes_BT: int64 targets. mask_BT: real frames, right-padded.
        lengths: real frames of each clip, if they are known (a mask on a GPU is waited for).
    """
    num_frames = codes_BT.shape[1]
    if hidden_BLH.shape[1] < num_frames:
        raise ValueError(f"FTP: {num_frames} codes need as many hidden states, got {hidden_BLH.shape[1]}")
    total = hidden_BLH.new_zeros((), dtype=at_least_float32(hidden_BLH).dtype)
    terms: dict[str, Tensor] = {}
    for k, weight in enumerate(head_weights(heads.num_heads), start=1):
        mask = mask_BT[:, k - 1 :]  # the target is real, hence every frame before it
        real: Any = mask
        if lengths is not None:
            real = real_places([max(0, length - k + 1) for length in lengths], mask.device)
        states, rows_VH = heads.head(k, hidden_BLH[:, : mask.shape[1]][real])
        loss = _cross_entropy(states, rows_VH, codes_BT[:, k - 1 :][real], config) / mean_count(mask).clamp_min(1e-9)
        loss = loss.to(total.dtype)
        total = total + weight * loss
        terms[f"lm/ftp_{k}"] = loss.detach()
    return {"lm/ftp": total, **terms}


def draft_nats(
    heads: PredictionHeads, hidden_BLH: Tensor, labels_BL: Tensor, position_ids_BL: Tensor, first: int
) -> Tensor:
    """Sum of w_k CE_k of the draft heads of a token LM (Medusa-1, Cai et al. 2024), in nats, summed over targets.

    A state predicts the next token by the LM's own output; draft head k predicts the k-th code after that one.
    The states carry no gradient: the heads learn, the LM does not notice.

    Args:
        hidden_BLH: last hidden states of packed rows.
        labels_BL: token ids of targets, IGNORE elsewhere; position i is a target of the state at i - 1.
        position_ids_BL: positions inside the sequences of a row. first: token id of code 0.
    """
    hidden_BLH = hidden_BLH.detach()
    total = hidden_BLH.new_zeros((), dtype=at_least_float32(hidden_BLH).dtype)
    for k, weight in enumerate(head_weights(heads.num_heads), start=1):
        ahead = k + 1
        labels, before = labels_BL[:, ahead:], labels_BL[:, 1 : max(1, labels_BL.shape[1] - k)]
        together = position_ids_BL[:, ahead:] - position_ids_BL[:, :-ahead] == ahead
        mask = together & (labels >= first) & (before != IGNORE)
        # Also of no targets: where the heads alone train, the loss of such a batch must have a graph.
        states, rows_VH = heads.head(k, hidden_BLH[:, :-ahead][mask])
        nats = linear_cross_entropy(states, rows_VH, labels[mask] - first)[0]
        total = total + weight * nats.to(total.dtype)
    return total


def _cross_entropy(states_NH: Tensor, rows_VH: Tensor, targets_N: Tensor, config: PredictionConfig) -> Tensor:
    dtype = torch.bfloat16 if config.bf16 else None
    if config.kernel == "liger":
        return _liger_cross_entropy(states_NH if dtype is None else states_NH.to(dtype), rows_VH, targets_N)
    return linear_cross_entropy(states_NH, rows_VH, targets_N, matmul_dtype=dtype)[0]


def _liger_cross_entropy(states_NH: Tensor, rows_VH: Tensor, targets_N: Tensor) -> Tensor:
    """Sum of cross-entropies by the Triton kernel of liger-kernel (BSD-2-Clause)."""
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError as error:
        raise ValueError(
            "FTP: kernel 'liger' needs `pip install liger-kernel` (GPU only); or take 'chunked'"
        ) from error
    result = liger_fused_linear_cross_entropy(states_NH, rows_VH.to(states_NH.dtype), targets_N, reduction="sum")
    return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]
