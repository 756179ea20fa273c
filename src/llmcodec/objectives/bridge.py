"""From codec to language model with gradients: each frame becomes the LLM embedding of one token.

Forward pass: embeds[t] = embedding[token[t]], a gather. Backward pass: as if embeds[t] were w[t] @ embedding with
w = softmax((logits + noise) / tau) held at its soft value: the gradient g of an embedding turns into
d_logits = w * (a - sum_v w a) / tau, a = embedding @ g, and each used embedding row receives the g of its frames.
Chunks of frames are recomputed in the backward pass, so one-hots or logits of shape (B, T, V) are never materialised.

Kinds:
- `native`: logits = (query . codebook) / similarity_tau, the codec's own quantiser; the forward token is the codec's
  code in every mode (agreement 1 by construction, no loss of its own).
- `projected` (LLM-Codec, arXiv 2604.17852): logits = Linear(quantised latent). The token is the hard sample
  argmax(logits + noise) in gumbel mode, argmax(logits) otherwise; `bridge/ce` ties it to the codec's code. The layer
  starts from noise and needs a learning rate of its own (5e-3 with SGD): at the released code's 5e-6 it never leaves
  cross-entropy ln V, and the LLM reads random tokens. Watch `bridge/agreement`.
Modes: `gumbel` perturbs the logits (in `native` only those of the backward pass), `straight_through` has no noise,
`detach` sends no gradient to the codec.

Shapes: B batch, T frames, N real frames, D codec width, C code dimension, V audio vocabulary, H LLM width.
Test: `pytest tests/objectives/test_bridge.py`. Memory and time: `python benchmarks/bridge_memory.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmcodec.distributed import at_least_float32, masked_mean
from llmcodec.io.structured import check_choices
from llmcodec.objectives.chunked import add_outer, matmul_in, row_chunks, row_dot, softmax_, to_frames
from llmcodec.objectives.gumbel import FrameNoise, condition_on_token
from llmcodec.protocol import CodecEncoding
from llmcodec.schedule import Schedule


@dataclass(frozen=True)
class BridgeConfig:
    """How codec frames become LLM embeddings."""

    kind: Literal["native", "projected"] = "native"
    """native: the codec's own similarities and codes. projected: a trained linear layer (the paper)."""
    mode: Literal["gumbel", "straight_through", "detach"] = "gumbel"
    """Gradient to the codec: gumbel (noisy soft weights), straight_through (soft weights), detach (none)."""
    tau: Schedule = field(default_factory=lambda: Schedule(1.0, end=0.3, steps=20_000, shape="cosine"))
    """Temperature of the soft weights over training, by default the released code's cosine; paper.yaml is linear."""
    similarity_tau: float = 0.05
    """native only: cosine similarity is divided by this to make logits (0.05 spreads a frame over some ten codes)."""
    noise: Literal["independent", "conditional"] = "independent"
    """gumbel only: independent noise, or noise drawn given that the forward token won (Gumbel-Rao with one sample)."""
    normalize: bool = False
    """projected only: bring each frame's logits to mean 0 and variance 1 over the vocabulary, before noise and tau (the
    paper's "standard logit normalization", as we read it)."""
    ce_to_codec: bool = False
    """detach mode: the cross-entropy to the codec's codes still reaches the codec, as in the released code."""
    bf16: bool = False
    """Compute the large products of the backward pass in bfloat16; softmax and sums stay float32."""

    def __post_init__(self) -> None:
        check_choices(self, "BridgeConfig")
        if self.kind == "native" and (self.normalize or self.ce_to_codec):
            raise ValueError("BridgeConfig: normalize and ce_to_codec are for kind projected")
        if not self.similarity_tau > 0:
            raise ValueError(f"BridgeConfig: similarity_tau must be positive, got {self.similarity_tau}")


NORM_FLOOR = 1e-12
"""Added to the variance of logits: equal logits stay equal."""


@dataclass
class BridgeOutput:
    """embeds_BTH: LLM input embeddings, 0 at padding. tokens_BT: the tokens they stand for. terms: raw scalars."""

    embeds_BTH: Tensor
    tokens_BT: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True)
class _Plan:
    """Everything of one bridge pass that is not a tensor with gradient."""

    choose: bool  # the token comes from the logits (projected), not from the codec (native)
    scale: float  # logits = scale * (x @ weight^T) + bias
    tau: float
    noise: FrameNoise | None
    conditional: bool
    dtype: torch.dtype | None
    to_codec: bool  # False: no gradient through the soft weights (detach)
    normalize: bool = False

    def logits(self, x_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None) -> Tensor:
        logits = (x_NC @ weight_VC.t()).mul_(self.scale)
        logits = logits if bias_V is None else logits.add_(bias_V)
        return standardize(logits)[0] if self.normalize else logits


def standardize(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at mean 0 and variance 1, and the deviations (N, 1) that they had."""
    centred_NV = logits_NV - logits_NV.mean(-1, keepdim=True)
    deviation_N1 = centred_NV.square().mean(-1, keepdim=True).add(NORM_FLOOR).sqrt()
    return centred_NV / deviation_N1, deviation_N1


def through_standardize(grad_NV: Tensor, unit_NV: Tensor, deviation_N1: Tensor) -> Tensor:
    """Gradient of standardised rows -> gradient of the rows."""
    along_N1 = (grad_NV * unit_NV).mean(-1, keepdim=True)
    return (grad_NV - grad_NV.mean(-1, keepdim=True) - unit_NV * along_N1) / deviation_N1


class _StraightThroughGather(torch.autograd.Function):
    """Forward: choose tokens, gather rows, cross-entropy to the codec's codes. Backward: see the module docstring."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        embedding_VH: Tensor,
        codes_N: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens_N, ce_N = codes_N.clone(), x_NC.new_zeros(x_NC.shape[0])
        if plan.choose:
            with torch.autocast(device_type=x_NC.device.type, enabled=False):
                for rows in row_chunks(x_NC.shape[0], weight_VC.shape[0], x_NC.device):
                    logits = plan.logits(x_NC[rows], weight_VC, bias_V)
                    picked = logits.gather(1, codes_N[rows].unsqueeze(1)).squeeze(1)
                    ce_N[rows] = torch.logsumexp(logits, -1) - picked
                    if plan.noise is not None:
                        logits.add_(plan.noise.rows(rows.start, rows.stop, logits.dtype))
                    tokens_N[rows] = logits.argmax(-1)
        ctx.save_for_backward(x_NC, weight_VC, bias_V, embedding_VH, codes_N, tokens_N)
        ctx.plan = plan
        ctx.mark_non_differentiable(tokens_N)
        return embedding_VH[tokens_N], tokens_N, ce_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NH: Tensor, _: Tensor, grad_ce_N: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, embedding, codes, tokens = ctx.saved_tensors
        plan: _Plan = ctx.plan
        d_x = d_weight = d_bias = d_embedding = None
        with torch.autocast(device_type=x.device.type, enabled=False):
            if any(ctx.needs_input_grad[:3]) and (plan.to_codec or plan.choose):
                d_x, d_weight = torch.zeros_like(x), torch.zeros_like(weight)
                d_bias = None if bias is None else torch.zeros_like(bias)
                right = at_least_float32(embedding).t() if plan.dtype is None else embedding.to(plan.dtype).t()
                for rows in row_chunks(x.shape[0], weight.shape[0], x.device):
                    logits = replace(plan, normalize=False).logits(x[rows], weight, bias)
                    if plan.normalize:
                        unit, deviation = standardize(logits)
                        delta = _delta(plan, rows, unit.clone(), grad_NH[rows], right, codes, tokens, grad_ce_N)
                        delta = through_standardize(delta, unit, deviation)
                    else:
                        delta = _delta(plan, rows, logits, grad_NH[rows], right, codes, tokens, grad_ce_N)
                    if d_bias is not None:
                        d_bias += delta.sum(0)
                    delta.mul_(plan.scale)
                    # Projections are wide and bf16 pays there; codebooks are narrow and cost nothing.
                    dtype = plan.dtype if plan.choose else None
                    d_x[rows] = matmul_in(delta, weight, dtype)
                    add_outer(d_weight, delta, x[rows], dtype)
                    del logits, delta
                del right
            if ctx.needs_input_grad[3]:
                # Last, so that it is not in memory together with the chunks.
                d_embedding = torch.zeros_like(embedding).index_add_(0, tokens, grad_NH.to(embedding.dtype))
        return d_x, d_weight, d_bias, d_embedding, None, None


def _delta(
    plan: _Plan,
    rows: slice,
    logits: Tensor,
    grad: Tensor,
    right_HV: Tensor,
    codes_N: Tensor,
    tokens_N: Tensor,
    grad_ce_N: Tensor,
) -> Tensor:
    """Gradient of one chunk's logits, overwriting them: soft weights and, for chosen tokens, cross-entropy."""
    from_ce = None
    if plan.choose:
        from_ce = torch.softmax(logits, -1)
        hot = codes_N[rows].unsqueeze(1)
        from_ce.scatter_add_(1, hot, from_ce.new_full(hot.shape, -1.0)).mul_(grad_ce_N[rows].unsqueeze(1))
        if not plan.to_codec:
            return from_ce
    if plan.noise is not None:
        noise = plan.noise.rows(rows.start, rows.stop, logits.dtype)
        logits = condition_on_token(logits, noise, tokens_N[rows]) if plan.conditional else logits.add_(noise)
        del noise
    soft = softmax_(logits.div_(plan.tau))
    along = (grad.to(right_HV.dtype) @ right_HV).to(soft.dtype)
    soft.mul_(along.sub_(row_dot(soft, along))).div_(plan.tau)
    return soft if from_ce is None else soft.add_(from_ce)


gather: Callable[..., tuple[Tensor, Tensor, Tensor]] = _StraightThroughGather.apply


def straight_through_embed(
    query_NC: Tensor,
    codebook_VC: Tensor,
    embedding_VH: Tensor,
    codes_N: Tensor,
    tau: float,
    *,
    noise: FrameNoise | None = None,
    matmul_dtype: torch.dtype | None = None,
) -> Tensor:
    """embedding[codes] forward; backward through softmax((query @ codebook^T + tau * noise) / tau) @ embedding.

    The native bridge on flat rows, for language models that read the codec's tokens (the rate term's small LM).
    """
    plan = _Plan(False, 1.0 / tau, 1.0, noise, False, matmul_dtype, True)
    query, codebook = at_least_float32(query_NC), at_least_float32(codebook_VC)
    return gather(query, codebook, None, embedding_VH, codes_N, plan)[0]


class Bridge(nn.Module):
    """Codec frames -> LLM input embeddings, differentiable (see the module docstring for forward and backward).

    Args:
        config: kind, mode and temperatures.
        codebook_size: V, needed by `projected`.
        latent_dim: D, needed by `projected`.
    """

    def __init__(self, config: BridgeConfig, codebook_size: int | None = None, latent_dim: int | None = None):
        super().__init__()
        self.config = config
        self.projection: nn.Linear | None = None
        if config.kind == "projected":
            if codebook_size is None or latent_dim is None:
                raise ValueError("Bridge: kind 'projected' needs codebook_size (V) and latent_dim (D)")
            self.projection = nn.Linear(latent_dim, codebook_size)

    def forward(
        self,
        encoding: CodecEncoding,
        codebook_VC: Tensor,
        embedding_VH: Tensor,
        *,
        tau: float,
        seeds_B: Sequence[int] | Tensor | None = None,
    ) -> BridgeOutput:
        """Embed the real frames of a batch.

        Args:
            encoding: codes, mask, query and quantised latent of the codec.
            codebook_VC: unit-norm code vectors (native).
            embedding_VH: LLM embedding rows of the audio tokens.
            tau: temperature at this step, `config.tau(step)`.
            seeds_B: one 63-bit key per clip; the noise of a clip depends only on its key (gumbel mode needs it).

        Returns embeddings, tokens and the terms `bridge/agreement` (share of frames whose token is the codec's own)
        and, for `projected`, `bridge/ce` (nats).
        """
        config, mask_BT, places = self.config, encoding.mask_BT, encoding.places
        if not tau > 0:
            raise ValueError(f"Bridge: tau must be positive, got {tau}; give its schedule an end above 0")
        noise = None
        if config.mode == "gumbel":
            if seeds_B is None:
                raise ValueError("Bridge: mode 'gumbel' needs seeds_B, one key per clip")
            noise = FrameNoise(seeds_B, mask_BT, embedding_VH.shape[0], encoding.lengths)
        native, to_codec = self.projection is None, config.mode != "detach"
        plan = _Plan(
            choose=not native,
            scale=1.0 / config.similarity_tau if native else 1.0,
            tau=tau,
            noise=noise,
            conditional=native and config.noise == "conditional",  # projected: sampled with this noise
            dtype=torch.bfloat16 if config.bf16 else None,
            to_codec=to_codec,
            normalize=config.normalize,
        )
        if self.projection is None:
            x, weight, bias = encoding.query_BTC, codebook_VC, None
        else:
            x, weight, bias = encoding.quantized_BTD, self.projection.weight, self.projection.bias
        open_to_codec = to_codec or config.ce_to_codec
        x_NC = at_least_float32((x if open_to_codec else x.detach())[places])
        weight = at_least_float32(weight if to_codec or not native else weight.detach())
        codes_N = encoding.codes_BT[places]
        embeds_NH, tokens_N, ce_N = gather(x_NC, weight, bias, embedding_VH, codes_N, plan)
        per_frame = {"bridge/agreement": (tokens_N == codes_N).to(x_NC.dtype)} | ({} if native else {"bridge/ce": ce_N})
        terms = {name: masked_mean(to_frames(one_N, mask_BT, places), mask_BT) for name, one_N in per_frame.items()}
        embeds_BTH, tokens_BT = (to_frames(rows, mask_BT, places) for rows in (embeds_NH, tokens_N))
        return BridgeOutput(embeds_BTH, tokens_BT, terms)
