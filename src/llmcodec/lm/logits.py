"""From hidden states to log-likelihoods, computing only the logits that are needed.

Inside audio, the 50,000 or 150,000 text rows of an output layer cannot follow; logits are computed only for the
positions and rows that are needed. Shapes: N positions, H width, K output rows. Test: tests/lm/test_logits.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmcodec.lm.growth import attached_rows

CHUNK_LOGITS = 1 << 25
"""Logits in memory at once (128 MB in float32); chunks are recomputed in the backward pass."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def hidden_states(model: Any, **inputs: Any) -> Tensor:
    """Last hidden states (B, L, H) of a causal LM, after its final norm."""
    hidden_BLH: Tensor = model.base_model(**inputs, use_cache=False, return_dict=True).last_hidden_state
    return hidden_BLH


def output_rows(model: Any, ids_K: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Output rows (K, H) and bias (K,) of some tokens, of all if `ids_K` is None; attached rows are included."""
    head, rows = model.get_output_embeddings(), attached_rows(model)
    bias = getattr(head, "bias", None)
    if ids_K is None:
        weight = head.weight
        if rows is not None:
            weight = weight.index_copy(0, rows.ids_N, rows.head_NH.to(weight.dtype))
        return weight, bias
    if rows is not None:
        places = rows.place_V[ids_K]
        assert int(places.min()) >= 0, "attached rows are for audio tokens only"
        weight = rows.head_NH[places]
    else:
        # Consecutive rows are a view: no copy of the audio rows in every step.
        first, consecutive = int(ids_K[0]), bool((ids_K.diff() == 1).all())
        weight = head.weight[first : first + len(ids_K)] if consecutive else head.weight[ids_K]
    return weight, None if bias is None else bias[ids_K]


def finish_logits(model: Any, logits: Tensor) -> Tensor:
    """Post-processing of logits in some families: Gemma caps them, Granite divides, Cohere multiplies."""
    config = model.config
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "final_logit_softcapping", None):
        cap = config.final_logit_softcapping
        logits = cap * torch.tanh(logits / cap)
    return logits


def token_logits(model: Any, hidden_NH: Tensor, rows: tuple[Tensor, Tensor | None]) -> Tensor:
    """Logits (N, K) in float32 (float64 for a float64 model) of the rows that `output_rows` gave."""
    weight, bias = rows
    logits = F.linear(hidden_NH, weight.to(hidden_NH.dtype), None if bias is None else bias.to(hidden_NH.dtype))
    logits = finish_logits(model, logits)
    return logits if logits.dtype == torch.float64 else logits.float()


def append_bias(states: Tensor, rows_VH: Tensor, bias_V: Tensor) -> tuple[Tensor, Tensor]:
    """States (.., H + 2) and rows (V, H + 2) with `states @ rows.T + bias` as their product, for losses without a bias.

    The bias is two columns of the rows, so that bfloat16 products preserve it to 16 bits.
    """
    high_V = bias_V + (bias_V.bfloat16() - bias_V).detach()  # its gradient is not rounded
    low_V = (bias_V - high_V).detach()
    rows = torch.cat([rows_VH, high_V[:, None], low_V[:, None]], dim=1)
    return torch.cat([states, states.new_ones(*states.shape[:-1], 2)], dim=-1), rows


def target_nats(model: Any, hidden_NH: Tensor, targets_N: Tensor, rows: tuple[Tensor, Tensor | None]) -> Tensor:
    """Negative log-likelihood (N,) of targets (places among the rows), in chunks that are recomputed backward."""

    def chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(token_logits(model, hidden, rows), targets, reduction="none")

    size = max(1, CHUNK_LOGITS // rows[0].shape[0])
    if len(targets_N) <= size:
        return chunk(hidden_NH, targets_N)
    grad = torch.is_grad_enabled()
    pieces = []
    for hidden, targets in zip(hidden_NH.split(size), targets_N.split(size), strict=True):
        pieces.append(checkpoint(chunk, hidden, targets, use_reentrant=False) if grad else chunk(hidden, targets))
    return torch.cat(pieces)


def check_head(model: Any) -> None:
    """Compare our logits with the model's own on a few tokens.

    Raises:
        ValueError: this family post-processes its logits in an unknown way.
    """
    ids = torch.arange(6, device=model.device).remainder(model.get_input_embeddings().weight.shape[0])[None]
    with evaluating(model):
        own = model(input_ids=ids, use_cache=False).logits[0].float()
        ours = token_logits(model, hidden_states(model, input_ids=ids)[0], output_rows(model, None)).float()
    if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3 * max(1.0, float(own.abs().max()))):
        raise ValueError(
            f"language model: {type(model).__name__} makes its logits in a way that llmcodec does not know; "
            "use a Llama, Qwen, GPT-2, Gemma or similar decoder"
        )
