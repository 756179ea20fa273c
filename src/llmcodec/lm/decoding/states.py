"""Hidden states of rows that grow: keys and values stay cached, rows leave, and may take back their last tokens.

    states = open_states(lm.model)
    hidden_BLH = states.read([prompt_L, ...])     # rows of any length; those of a shorter row come first
    states.forget([0, 2]); states.keep([1])

Llama and Qwen3 models go through a forward pass of our own (`llama.py`), all others through transformers'.
Shapes: B rows, L new positions, S cached positions. Test: tests/lm/decoding/test_states.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from llmcodec.lm.decoding import llama
from llmcodec.lm.logits import finish_logits, output_rows


class States(Protocol):
    """Rows that a model has read. All of it is meant for `torch.no_grad()`."""

    def read(self, rows: Sequence[Tensor]) -> Tensor:
        """Read further ids of every row, one at least: hidden states (B, L, H) at these ids, right-padded."""

    def forget(self, counts: Sequence[int]) -> None:
        """Take back the last ids of every row."""

    def keep(self, places: Sequence[int]) -> None:
        """Keep these rows alone, in this order."""


def open_states(model: Any) -> States:
    """States of a causal LM that has read nothing yet."""
    return llama.LlamaStates(model) if llama.knows(model) else TransformersStates(model)


def output_of(model: Any, ids_K: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from hidden states (N, H) to `logits.token_logits` (N, K) of these tokens, on the CPU."""
    weight, bias = output_rows(model, ids_K)
    multiply = llama.product(weight.to(model.dtype), None if bias is None else bias.to(model.dtype))

    def logits_of(hidden_NH: Tensor) -> Tensor:
        logits_NK = finish_logits(model, multiply(hidden_NH))
        return (logits_NK if logits_NK.dtype == torch.float64 else logits_NK.float()).cpu()

    return logits_of


class TransformersStates:
    """States of any causal LM by its own forward pass: what a row has not read, or has taken back, is masked."""

    def __init__(self, model: Any):
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.mask_BS = torch.zeros(0, 0, dtype=torch.int64)

    def read(self, rows: Sequence[Tensor]) -> Tensor:
        new_BL = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        real_BL = torch.zeros_like(new_BL)
        for real_L, row in zip(real_BL, rows, strict=True):
            real_L[: len(row)] = 1
        before_B1 = self.mask_BS.sum(1, keepdim=True) if self.mask_BS.numel() else torch.zeros(len(rows), 1).long()
        positions_BL = before_B1 + real_BL.cumsum(1) - 1
        self.mask_BS = torch.cat([self.mask_BS.reshape(len(rows), -1), real_BL], dim=1)
        device = self.model.device
        # Without padding no mask is needed, and attention takes its fast path.
        output = self.model.base_model(
            input_ids=new_BL.to(device),
            position_ids=positions_BL.to(device),
            attention_mask=None if bool(self.mask_BS.all()) else self.mask_BS.to(device),
            past_key_values=self.cache,
            use_cache=True,
            return_dict=True,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def forget(self, counts: Sequence[int]) -> None:
        for mask_S, count in zip(self.mask_BS, counts, strict=True):
            if count:
                mask_S[mask_S.nonzero()[-count:, 0]] = 0

    def keep(self, places: Sequence[int]) -> None:
        index = torch.tensor(places)
        self.cache.batch_select_indices(index.to(self.model.device))
        self.mask_BS = self.mask_BS[index]
