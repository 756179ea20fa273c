"""The rate term: what the tokens cost a language model, with gradient into the tokens themselves.

    R = -mean_t sum_v q_t(v) log p(v | q_<t)      nats per token

Forward value at the hard code (q one-hot): plain cross-entropy. Backward through q_t = softmax(similarity_t / tau),
both as target (the gradient of a frame's own code: towards codes that p finds likely) and as context (through the
bridge that made the LM's input). Frozen targets, as in FTP, only ever teach the contexts.

p is `backbone` (the frozen LLM with its trained audio rows and FTP head 1: `rate_term` on its hidden states) or
`small_lm` (`SmallAudioLM`, trained along with the codec). Minimised alone it collapses the codes: see `collapse`.
Shapes: B batch, T frames, V codes, C code dimension, H hidden width. Test: `pytest tests/objectives/test_rate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmcodec.distributed import at_least_float32, mean_count
from llmcodec.lm.cooccurrence import cooccurrence_embedding
from llmcodec.objectives.bridge import straight_through_embed
from llmcodec.objectives.chunked import linear_cross_entropy, to_frames, valid_rows
from llmcodec.protocol import CodecEncoding
from llmcodec.schedule import Schedule


@dataclass(frozen=True)
class SmallLMConfig:
    """A small causal transformer over audio tokens, trained along with the codec."""

    hidden_size: int = 192
    """Width; a multiple of `head_dim`."""
    num_layers: int = 3
    """Transformer layers."""
    head_dim: int = 32
    """Width of one attention head."""
    ffn_size: int = 576
    """Width of the gated feed-forward layers."""
    max_frames: int = 4096
    """Longest clip in frames (rotary positions; costs no memory)."""
    start_clips: int = 2000
    """Training clips whose tokens, as the starting codec writes them, give the initial rows (`start_from`); 0 draws the
    rows at random, as does a codec from scratch."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.head_dim or self.head_dim % 2:
            raise ValueError(
                f"SmallLMConfig: hidden_size {self.hidden_size} must be a multiple of an even head_dim, {self.head_dim}"
            )


@dataclass(frozen=True)
class RateConfig:
    """The rate term."""

    model: Literal["backbone", "small_lm"] = "small_lm"
    """p: the frozen LLM with its audio head 1, or a small audio LM trained along."""
    tau: Schedule = field(default_factory=lambda: Schedule(0.05))
    """Temperature of q = softmax(cosine similarity / tau)."""
    small_lm: SmallLMConfig = field(default_factory=SmallLMConfig)
    """Size of the small LM (model small_lm)."""
    bf16: bool = False
    """Compute the large products in bfloat16; softmax and sums stay float32."""

    def __post_init__(self) -> None:
        if self.model not in ("backbone", "small_lm"):
            raise ValueError(f"RateConfig: model must be backbone or small_lm, got {self.model!r}")


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
    mask_BT = encoding.mask_BT
    if hidden_BLH.shape[1] < mask_BT.shape[1]:
        raise ValueError(f"rate: {mask_BT.shape[1]} codes need as many hidden states, got {hidden_BLH.shape[1]}")
    total, _ = linear_cross_entropy(
        valid_rows(hidden_BLH[:, : mask_BT.shape[1]], mask_BT),
        output_VH,
        encoding.codes_BT[mask_BT],
        query_NC=at_least_float32(valid_rows(encoding.query_BTC, mask_BT)),
        codebook_VC=at_least_float32(codebook_VC),
        tau=tau,
        matmul_dtype=torch.bfloat16 if bf16 else None,
    )
    rate = (total / mean_count(mask_BT).clamp_min(1e-9)).to(total.dtype)
    return {"lm/rate": rate, "lm/rate_bits": rate.detach() / math.log(2.0)}


class SmallAudioLM(nn.Module):
    """Qwen3-shaped causal transformer over audio tokens: logits = (state * gain) @ embedding^T + bias, tied rows.

    Args:
        config: sizes. codebook_size: V. seed: of the initial weights; the global generator is left as it was.
    """

    def __init__(self, config: SmallLMConfig, codebook_size: int, seed: int = 0):
        super().__init__()
        from transformers import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

        self.config = config
        heads = config.hidden_size // config.head_dim
        shape: dict[str, Any] = dict(
            vocab_size=1,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_size,
            max_position_embeddings=config.max_frames,
            attn_implementation="sdpa",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Qwen3Model(Qwen3Config(**shape))
            # Tokens arrive as embeddings, and a parameter without gradient would stop DDP.
            self.model.register_module("embed_tokens", None)
            self.embedding_VH = nn.Parameter(torch.randn(codebook_size, config.hidden_size) * 0.02)
            self.gain_H = nn.Parameter(torch.ones(config.hidden_size))
            self.bias_V = nn.Parameter(torch.zeros(codebook_size))
            self.start_H = nn.Parameter(torch.randn(config.hidden_size) * 0.02)

    @torch.no_grad()
    def start_from(self, clips: Sequence[Tensor]) -> None:
        """Begin as a unigram model that knows which codes are alike, from the codes of clips (1-D int64 each).

        Rows by co-occurrence, bias = log of the add-one-half smoothed frequencies, a small gain. Without it the LM has
        nothing to say for the first few hundred steps, and the rate term pulls at random.
        """
        num_codes, width = self.embedding_VH.shape
        counts_V = torch.bincount(torch.cat(list(clips)), minlength=num_codes).double() + 0.5
        self.bias_V.copy_((counts_V / counts_V.sum()).log())
        self.embedding_VH.add_(cooccurrence_embedding(clips, num_codes, width).to(self.embedding_VH))
        self.gain_H.fill_(0.1)

    def output(self, hidden_BTH: Tensor) -> tuple[Tensor, Tensor]:
        """States and output rows with the bias inside: two columns, so that bfloat16 products keep it to 16 bits."""
        high_V = self.bias_V + (self.bias_V.bfloat16() - self.bias_V).detach()  # its gradient is not rounded
        low_V = (self.bias_V - high_V).detach()
        rows = torch.cat([self.embedding_VH, high_V[:, None], low_V[:, None]], dim=1)
        scaled = hidden_BTH * self.gain_H.to(hidden_BTH.dtype)
        return torch.cat([scaled, scaled.new_ones(*scaled.shape[:-1], 2)], dim=-1), rows

    def hidden_states(self, embeds_BTH: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of the inputs [start, e_0, .., e_(T-2)]. Padding on the right cannot matter."""
        start = self.start_H.to(embeds_BTH.dtype).expand(embeds_BTH.shape[0], 1, -1)
        inputs = torch.cat([start, embeds_BTH[:, :-1]], dim=1)
        return self.model(inputs_embeds=inputs, use_cache=False).last_hidden_state

    def forward(
        self,
        encoding: CodecEncoding,
        codebook_VC: Tensor,
        tau: float,
        *,
        codec_scale: float = 1.0,
        bf16: bool = False,
    ) -> dict[str, Tensor]:
        """The rate term with this LM as p; the LM's own training loss and the codec's rate in one.

        Args:
            encoding, codebook_VC: the codec's view of the batch. tau: temperature of q.
            codec_scale: factor on the gradient that reaches query and codebook. Weight 1 on `lm/rate` with the ramped
                weight here trains the LM at full rate before the codec feels anything.
        """
        mask_BT = encoding.mask_BT
        query = scale_gradient(at_least_float32(encoding.query_BTC), codec_scale)
        codebook = scale_gradient(at_least_float32(codebook_VC), codec_scale)
        dtype = torch.bfloat16 if bf16 else None
        embeds_NH = straight_through_embed(
            valid_rows(query, mask_BT),
            codebook,
            self.embedding_VH,
            encoding.codes_BT[mask_BT],
            tau,
            matmul_dtype=dtype,
        )
        hidden = self.hidden_states(to_frames(embeds_NH, mask_BT))
        scaled = CodecEncoding(encoding.codes_BT, mask_BT, query, encoding.latent_BTD, encoding.quantized_BTD)
        states, rows_VH = self.output(hidden)
        return rate_term(states, rows_VH, scaled, codebook, tau, bf16=bf16)
