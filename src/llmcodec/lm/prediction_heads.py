"""Prediction heads on the last hidden state of a frozen language model (Medusa style; LLM-Codec, arXiv 2604.17852).

Head k (k = 1, 2, ..) predicts the k-th token after those that a state has read. The loss is in
objectives/prediction.py. Shapes: H LLM width, V audio vocabulary, N states. Test: tests/lm/test_prediction_heads.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.embeddings import sample_rows
from llmcodec.lm.logits import append_bias


class ResidualHead(nn.Module):
    """h + SiLU(Linear(h)), starting as the identity."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, hidden_size)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + nn.functional.silu(self.linear(hidden))


class PredictionHeads(nn.Module):
    """K heads.

    Args:
        num_heads: K.
        kind: linear has one V x H matrix per head (the paper), residual one H x H block per head and one matrix.
        initial_rows_VH: initial value of every matrix.
        with_bias: every matrix has a bias (V,), at first 0, which `start_from` needs; the paper's have none.
    """

    def __init__(
        self, num_heads: int, kind: Literal["linear", "residual"], initial_rows_VH: Tensor, with_bias: bool = False
    ):
        super().__init__()
        matrices, blocks = (num_heads, 0) if kind == "linear" else (1, num_heads)
        self.num_heads = num_heads
        self.rows = nn.ParameterList([nn.Parameter(initial_rows_VH.detach().clone()) for _ in range(matrices)])
        biases = [nn.Parameter(initial_rows_VH.new_zeros(len(initial_rows_VH))) for _ in range(matrices * with_bias)]
        self.biases = nn.ParameterList(biases)
        self.blocks = nn.ModuleList([ResidualHead(initial_rows_VH.shape[1]) for _ in range(blocks)])

    @classmethod
    def from_backbone(
        cls,
        backbone: FrozenCausalLM,
        num_heads: int,
        kind: Literal["linear", "residual"],
        codebook_size: int,
        seed: int = 0,
        with_bias: bool = False,
    ) -> PredictionHeads:
        """Matrices sampled from mean and covariance of the LLM's text output rows.

        If the LLM ties its rows, they are the initial rows of the audio embeddings (`AudioVocabulary`).
        """
        return cls(num_heads, kind, sample_rows(backbone.output_statistics(), codebook_size, seed), with_bias)

    @torch.no_grad()
    def start_from(self, log_prob_V: Tensor) -> None:
        """Start every head as this unigram model, whatever the states: rows 0, the bias its log-probabilities."""
        assert self.biases, "these heads have no bias"
        for rows_VH, bias_V in zip(self.rows, self.biases, strict=True):
            rows_VH.zero_()
            bias_V.copy_(log_prob_V)

    def head(self, k: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Head k (1..K) as (states, output rows): its logits are `states @ rows.T` (a bias is two of their columns)."""
        matrix = 0 if self.blocks else k - 1
        if self.blocks:
            # The blocks are small: under autocast they run in bf16, without it in the parameters' precision.
            hidden = self.blocks[k - 1](hidden.to(self.rows[0].dtype))
        if self.biases:
            return append_bias(hidden, self.rows[matrix], self.biases[matrix])
        return hidden, self.rows[matrix]
