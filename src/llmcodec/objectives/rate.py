"""The rate term: what the tokens cost a language model, with gradient into the tokens themselves.

    R = -mean_t sum_v q_t(v) log p(v | q_<t)      nats per token

Forward value at the hard code (q one-hot): plain cross-entropy. Backward through q_t = softmax(similarity_t / tau),
both as target (the gradient of a frame's own code: towards codes that p finds likely) and as context (through the
bridge that made the LM's input). Targets without gradient, as in FTP, train the contexts only.

p is `backbone` (the frozen LLM with its trained audio rows and FTP head 1: `rate_term` on its hidden states) or
`small_lm` (`small_lm_rate`: a `SmallLM`, trained along with the codec). Minimised on its own it collapses the codes:
see `collapse`.
Shapes: B batch, T frames, V codes, C code dimension, H hidden width. Test: `pytest tests/objectives/test_rate.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from llmcodec.distributed import at_least_float32, mean_count
from llmcodec.io.structured import check_choices
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig
from llmcodec.objectives.bridge import straight_through_embed
from llmcodec.objectives.chunked import linear_cross_entropy, to_frames
from llmcodec.protocol import CodecEncoding
from llmcodec.schedule import Schedule


@dataclass(frozen=True)
class RateConfig:
    """The rate term."""

    model: Literal["backbone", "small_lm"] = "small_lm"
    """p: the frozen LLM with its audio head 1, or a small audio LM trained along."""
    tau: Schedule = field(default_factory=lambda: Schedule(0.05))
    """Temperature of q = softmax(cosine similarity / tau)."""
    small_lm: SmallLMConfig = field(
        default_factory=lambda: SmallLMConfig(
            family="qwen3",
            num_layers=3,
            hidden_size=192,
            num_heads=None,
            head_dim=32,
            intermediate_size=576,
            dropout=0.0,
            start_clips=2000,
        )
    )
    """The small LM (model small_lm); it is initialised from the tokens of a pretrained codec, but not from those of an
    untrained one."""
    bf16: bool = False
    """Compute the large products in bfloat16; softmax and sums stay float32."""

    def __post_init__(self) -> None:
        check_choices(self, "RateConfig")


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, its gradient multiplied by `factor`."""
    return x if factor == 1.0 else x.detach() + factor * (x - x.detach())


def rate_term(
    hidden_BLH: Tensor,
    output_VH: Tensor,
    encoding: CodecEncoding,
    codebook_VC: Tensor,
    tau: float,
    *,
    bf16: bool = False,
) -> dict[str, Tensor]:
    """`lm/rate` (nats per token, see the module docstring) and `lm/rate_bits` (bits per token, no gradient).

    Args:
        hidden_BLH: states of p, L >= T; position t has read (straight-through) the codes before t.
        output_VH: output rows of p. tau: temperature of q, positive.
    Gradient goes to hidden, output rows, query and codebook.
    """
    mask_BT, places = encoding.mask_BT, encoding.places
    if hidden_BLH.shape[1] < mask_BT.shape[1]:
        raise ValueError(f"rate: {mask_BT.shape[1]} codes need as many hidden states, got {hidden_BLH.shape[1]}")
    total, _ = linear_cross_entropy(
        hidden_BLH[places],
        output_VH,
        encoding.codes_BT[places],
        query_NC=at_least_float32(encoding.query_BTC[places]),
        codebook_VC=at_least_float32(codebook_VC),
        tau=tau,
        matmul_dtype=torch.bfloat16 if bf16 else None,
    )
    rate = (total / mean_count(mask_BT).clamp_min(1e-9)).to(total.dtype)
    return {"lm/rate": rate, "lm/rate_bits": rate.detach() / math.log(2.0)}


def small_lm_rate(
    lm: SmallLM,
    encoding: CodecEncoding,
    codebook_VC: Tensor,
    tau: float,
    *,
    codec_scale: float = 1.0,
    bf16: bool = False,
) -> dict[str, Tensor]:
    """The rate term with a small LM as p: the LM's own training loss and the codec's rate in one.

    Args:
        encoding, codebook_VC: the codec's view of the batch. tau: temperature of q.
        codec_scale: factor on the gradient that reaches query and codebook. Weight 1 on `lm/rate` with the ramped
            weight here trains the LM at full rate before the codec gets any gradient.
    """
    places = encoding.places
    query = scale_gradient(at_least_float32(encoding.query_BTC), codec_scale)
    codebook = scale_gradient(at_least_float32(codebook_VC), codec_scale)
    embeds_NH = straight_through_embed(
        query[places],
        codebook,
        lm.embedding_VH,
        encoding.codes_BT[places],
        tau,
        matmul_dtype=torch.bfloat16 if bf16 else None,
    )
    states_BTH, rows_VH = lm.output(lm.hidden_states(to_frames(embeds_NH, encoding.mask_BT, places)))
    return rate_term(states_BTH, rows_VH, replace(encoding, query_BTC=query), codebook, tau, bf16=bf16)
