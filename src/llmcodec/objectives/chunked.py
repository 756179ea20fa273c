"""Row-wise losses over the whole audio vocabulary in constant memory: the (rows, V) logits are never held at once.

Shapes: N rows (real frames of a batch, flattened), H hidden width, V audio vocabulary, C code dimension.
Test: `pytest tests/objectives/test_chunked.py`. Memory and time: `python benchmarks/bridge_memory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcodec.distributed import at_least_float32
from llmcodec.protocol import Places

# One chunk buffer is at most 16 MB in float32 (a GPU wants more work per kernel); a few of them live at a time.
CHUNK_ELEMENTS_CPU = 1 << 22
CHUNK_ELEMENTS_GPU = 1 << 24
MIN_CHUNK_ROWS = 16
HEAD_ROWS = 256
"""Least rows of a chunk where each passes over an LM's whole output matrix: with 27 rows, which is what a buffer of 16
MB holds at 152,000 columns, half the time goes into reading and writing that matrix."""


def row_chunks(
    num_rows: int, width: int, device: torch.device, parts: int = 6, least: int | None = None
) -> Iterator[slice]:
    """Slices that cover `num_rows` rows of `width` numbers, in `parts` chunks: more of them where they would be large,
    fewer where they would have less than `least` rows (16). All but the last have equal size: a short remainder costs
    as much as a chunk, since each passes over the whole weight. A GPU takes as few as its buffer allows, whatever
    `parts`: its kernels want work, and it has no cache for a chunk to stay in."""
    on_cpu = device.type == "cpu"
    elements = CHUNK_ELEMENTS_CPU if on_cpu else CHUNK_ELEMENTS_GPU
    chunks = max(parts if on_cpu else 1, math.ceil(num_rows * width / elements))
    rows = max(MIN_CHUNK_ROWS if least is None else least, math.ceil(num_rows / chunks))
    for first in range(0, num_rows, rows):
        yield slice(first, min(first + rows, num_rows))


def to_frames(rows: Tensor, mask_BT: Tensor, places: Places) -> Tensor:
    """Rows (N, ...) of the real frames, as `x[places]` gives them -> (B, T, ...), 0 at padding. Differentiable."""
    frames = rows.new_zeros(*mask_BT.shape, *rows.shape[1:])
    frames[places] = rows
    return frames


def matmul_in(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> Tensor:
    """`a @ b` computed in `dtype` (None: as they are), returned in the dtype of `a`."""
    return a @ b if dtype is None else (a.to(dtype) @ b.to(dtype)).to(a.dtype)


def add_outer(total_VH: Tensor, weights_NV: Tensor, rows_NH: Tensor, dtype: torch.dtype | None) -> None:
    """`total += weights^T rows`, in place, the product in `dtype`, the sum in that of `total`."""
    if dtype is None:
        total_VH.addmm_(weights_NV.t(), rows_NH)
    else:
        total_VH.add_(weights_NV.to(dtype).t() @ rows_NH.to(dtype))


def softmax_(logits_NV: Tensor) -> Tensor:
    """Softmax over the last dimension, in place."""
    logits_NV.sub_(logits_NV.amax(-1, keepdim=True)).exp_()
    return logits_NV.div_(logits_NV.sum(-1, keepdim=True))


def softmax_and_log_norm(logits_NV: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Softmax in `dtype` and log sum exp (N, 1) of the last dimension: one exponential per logit serves both."""
    soft = torch.softmax(logits_NV, -1, dtype=dtype)
    # At its largest logit a row's probability is at least 1 / V, so its logarithm is safe.
    return soft, logits_NV.amax(-1, keepdim=True) - soft.amax(-1, keepdim=True).log_()


def row_dot(a_NV: Tensor, b_NV: Tensor) -> Tensor:
    """Dot product of each row of `a` with the same row of `b`, (N, 1), without the (N, V) product."""
    return torch.bmm(a_NV.unsqueeze(1), b_NV.unsqueeze(2)).squeeze(2)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum over rows of CE(hidden @ weight^T, target), gradients computed in the forward pass together with the logits.

    With a query, the target is the straight-through one-hot of q = softmax(query @ codebook^T / tau): its value is the
    one-hot of `targets` (so loss, hidden and weight see ordinary cross-entropy), its gradient is that of q:
    dL/dq(v) = -log p(v), and through the softmax  dL/dsimilarity = -(q / tau) * (logits - sum_v q logits).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        targets_N: Tensor,
        query_NC: Tensor | None,
        codebook_VC: Tensor | None,
        tau: float,
        dtype: torch.dtype | None,
        with_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(device_type=hidden_NH.device.type, enabled=False):
            hidden, weight = at_least_float32(hidden_NH), at_least_float32(weight_VH)
            # bf16 operands are cast once, not once per chunk.
            left, right = (hidden, weight) if dtype is None else (hidden_NH.to(dtype), weight_VH.to(dtype))
            needs = [need and with_gradients for need in ctx.needs_input_grad]
            d_hidden = torch.empty_like(hidden) if needs[0] else None
            d_weight: Tensor | None = None
            d_query = d_codebook = None
            if query_NC is not None and codebook_VC is not None and (needs[3] or needs[4]):
                query, codebook = at_least_float32(query_NC), at_least_float32(codebook_VC)
                d_query, d_codebook = torch.empty_like(query), torch.zeros_like(codebook)
            ce_N = hidden.new_empty(hidden.shape[0])
            # Few parts: each chunk passes once over the whole weight gradient, and wide products run faster.
            for rows in row_chunks(hidden.shape[0], weight.shape[0], hidden.device, parts=3, least=HEAD_ROWS):
                logits = left[rows] @ right.t()
                soft, log_norm = softmax_and_log_norm(logits, hidden.dtype)
                ce_N[rows] = (log_norm - logits.gather(1, targets_N[rows].unsqueeze(1))).squeeze(1)
                if d_query is not None and d_codebook is not None:
                    own = softmax_((query[rows] @ codebook.t()).div_(tau))
                    logits = logits.to(hidden.dtype)
                    own.mul_(logits - row_dot(own, logits)).div_(-tau)
                    d_query[rows] = own @ codebook
                    add_outer(d_codebook, own, query[rows], None)
                    del own
                del logits
                if d_hidden is None and not needs[1]:
                    continue
                # d logits = softmax - one-hot. The one-hot's share of both gradients is added row by row below: the
                # products need no pass over (rows, V) to subtract it, and it is not rounded to bf16.
                soft = soft.to(left.dtype)
                if d_hidden is not None:
                    d_hidden[rows] = soft @ right
                if needs[1]:
                    outer = soft.t() @ left[rows]
                    d_weight = outer.to(weight.dtype) if d_weight is None else d_weight.add_(outer)
                del soft
            if d_hidden is not None:
                d_hidden -= right[targets_N]
            if needs[1]:
                d_weight = torch.zeros_like(weight) if d_weight is None else d_weight
                d_weight.index_add_(0, targets_N, left.to(weight.dtype), alpha=-1)
        ctx.save_for_backward(d_hidden, d_weight, d_query, d_codebook)
        ctx.dtypes = (hidden_NH.dtype, weight_VH.dtype)
        ctx.mark_non_differentiable(ce_N)
        return ce_N.sum(), ce_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_query, d_codebook = (None if d is None else d * grad_total for d in ctx.saved_tensors)
        d_hidden = None if d_hidden is None else d_hidden.to(ctx.dtypes[0])
        d_weight = None if d_weight is None else d_weight.to(ctx.dtypes[1])
        return d_hidden, d_weight, None, d_query, d_codebook, None, None, None


def linear_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    *,
    query_NC: Tensor | None = None,
    codebook_VC: Tensor | None = None,
    tau: float = 1.0,
    matmul_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over rows of the cross-entropy of `hidden @ weight^T` against `targets`, in nats, and the rows by themselves.

    Args:
        hidden_NH: hidden states. weight_VH: output rows. targets_N: int64 in [0, V), without gradient.
        query_NC, codebook_VC: when given, the target also carries the gradient of softmax(query @ codebook^T / tau)
            (straight-through: the value stays that of the hard targets).
        matmul_dtype: torch.bfloat16 computes the large products in bf16; softmax, sums and results stay float32.

    Returns the sum (differentiable) and ce_N (for logging, no gradient). Peak extra memory is a few chunks plus the
    gradients themselves.
    """
    if weight_VH.shape[1] != hidden_NH.shape[1] or targets_N.shape != hidden_NH.shape[:1]:
        raise ValueError(
            f"linear_cross_entropy: hidden {tuple(hidden_NH.shape)}, weight {tuple(weight_VH.shape)} and targets "
            f"{tuple(targets_N.shape)} must be (N, H), (V, H) and (N,)"
        )
    if (query_NC is None) != (codebook_VC is None):
        raise ValueError("linear_cross_entropy: query_NC and codebook_VC go together, one of them is missing")
    if codebook_VC is not None and codebook_VC.shape[0] != weight_VH.shape[0]:
        raise ValueError(
            f"linear_cross_entropy: {codebook_VC.shape[0]} codes and {weight_VH.shape[0]} output rows must be as many"
        )
    if not tau > 0:
        raise ValueError(f"linear_cross_entropy: tau must be positive, got {tau}")
    return _LinearCrossEntropy.apply(  # type: ignore[no-any-return,no-untyped-call]
        hidden_NH, weight_VH, targets_N, query_NC, codebook_VC, tau, matmul_dtype, torch.is_grad_enabled()
    )
