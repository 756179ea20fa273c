"""Loss term and floors against collapse: they keep a predictable codec from becoming a constant one.

A predictability loss is best served by constant tokens, or by tokens constant within an utterance. Against the first:
`codes/marginal_entropy` = log V - H(u), u the mean soft assignment of all frames (a cross-entropy of u to the uniform
distribution looks similar but has no gradient where it is needed). Against both: reconstruction as the anchor, and
floors on plain statistics of the codes, shown and checked while training.

Shapes: B batch, T frames, N real frames, V codes, C code dimension, D codec width.
Test: `pytest tests/objectives/test_collapse.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmcodec.codec.quantizer import code_counts
from llmcodec.distributed import at_least_float32, num_ranks
from llmcodec.io.structured import check_choices
from llmcodec.objectives.chunked import add_outer, row_chunks, row_dot, softmax_
from llmcodec.protocol import CodecEncoding


class _SoftUsage(torch.autograd.Function):
    """u_V = mean over the real frames of all ranks of softmax(query @ codebook^T / tau), recomputed in backward."""

    @staticmethod
    def forward(ctx: Any, query_NC: Tensor, codebook_VC: Tensor, tau: float) -> Tensor:
        num_codes = codebook_VC.shape[0]
        with torch.autocast(device_type=query_NC.device.type, enabled=False):
            # The last entry counts frames, so that one collective sums both.
            sums = query_NC.new_zeros(num_codes + 1)
            sums[-1] = query_NC.shape[0]
            for rows in row_chunks(query_NC.shape[0], num_codes, query_NC.device):
                sums[:-1] += softmax_((query_NC[rows] @ codebook_VC.t()).div_(tau)).sum(0)
        if num_ranks() > 1:
            dist.all_reduce(sums)
        count = sums[-1].clamp_min(1.0)
        ctx.save_for_backward(query_NC, codebook_VC, count)
        ctx.tau = tau
        return sums[:-1] / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_V: Tensor) -> tuple[Tensor, Tensor, None]:
        query, codebook, count = ctx.saved_tensors
        d_query, d_codebook = torch.zeros_like(query), torch.zeros_like(codebook)
        with torch.autocast(device_type=query.device.type, enabled=False):
            for rows in row_chunks(query.shape[0], codebook.shape[0], query.device):
                soft = softmax_((query[rows] @ codebook.t()).div_(ctx.tau))
                along = grad_V.expand_as(soft)
                soft.mul_(along - row_dot(soft, along)).div_(ctx.tau)
                d_query[rows] = soft @ codebook
                add_outer(d_codebook, soft, query[rows], None)
        # The caller averages gradients over ranks; u is a mean over all of them, so each rank contributes its share.
        scale = num_ranks() / count
        return d_query * scale, d_codebook * scale, None


def soft_usage(encoding: CodecEncoding, codebook_VC: Tensor, tau: float = 0.05) -> Tensor:
    """Mean soft assignment (V,) of the real frames of all ranks, differentiable in query and codebook."""
    if not tau > 0:
        raise ValueError(f"soft_usage: tau must be positive, got {tau}")
    query = at_least_float32(encoding.query_BTC[encoding.places])
    return _SoftUsage.apply(query, at_least_float32(codebook_VC), tau)  # type: ignore[no-any-return,no-untyped-call]


def marginal_entropy_term(encoding: CodecEncoding, codebook_VC: Tensor, tau: float = 0.05) -> Tensor:
    """log V - H(u) in nats, at least 0: 0 when all V codes are used equally, log V when one takes everything.

    For a partition of the codebook pass its rows (and codes counted from its first): V is then its size.
    """
    usage_V = soft_usage(encoding, codebook_VC, tau)
    tiny = torch.finfo(usage_V.dtype).tiny
    return math.log(codebook_VC.shape[0]) + (usage_V * usage_V.clamp_min(tiny).log()).sum()


def entropy_bits(counts: Tensor) -> Tensor:
    """Plug-in entropy in bits of the last dimension's counts; 0 for no counts."""
    counts = counts.double()
    share = counts / counts.sum(-1, keepdim=True).clamp_min(1.0)
    return -(share * share.clamp_min(1e-300).log2()).sum(-1)


class CodeStatistics(nn.Module):
    """Running statistics of hard codes, kept with `decay` per update (0: only the last batch). Saved as buffers.

    `codes/used`: codes with any recent use. `codes/perplexity`: 2 ** unigram entropy. `codes/utterance_entropy`: bits,
    mean over clips of the plug-in entropy inside a clip (bounded by log2 of its frames: compare equal clips).
    `codes/repeat_rate`: share of frames whose code is that of the frame before. Of several codebooks (`num_codebooks`
    tokens a frame), all figures are of their tokens together.
    """

    def __init__(self, codebook_size: int, decay: float = 0.98, num_codebooks: int = 1):
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"CodeStatistics: decay must be in [0, 1), got {decay}")
        self.codebook_size, self.decay, self.num_codebooks = codebook_size, decay, num_codebooks
        self.counts_V: Tensor
        self.sums: Tensor
        self.register_buffer("counts_V", torch.zeros(codebook_size, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(4, dtype=torch.float64))  # repeats, pairs, entropy, clips

    @torch.no_grad()
    def update(self, codes_BT: Tensor, mask_BT: Tensor) -> None:
        """Count a batch (of all ranks together)."""
        new = torch.zeros(self.codebook_size + 4, dtype=torch.float64, device=codes_BT.device)
        new[:-4] = code_counts(codes_BT, mask_BT, self.codebook_size).double()
        frame = self.num_codebooks
        pairs = mask_BT[:, frame:] & mask_BT[:, :-frame]
        new[-4] = ((codes_BT[:, frame:] == codes_BT[:, :-frame]) & pairs).sum()
        new[-3] = pairs.sum()
        # All clips at once, and without waiting for a GPU at each: code v of clip b is key b V + v.
        first_B1 = self.codebook_size * torch.arange(len(codes_BT), device=codes_BT.device)[:, None]
        counts = code_counts(first_B1 + codes_BT, mask_BT, codes_BT.shape[0] * self.codebook_size)
        keys, frames_B = counts.nonzero()[:, 0], mask_BT.sum(1)
        share = counts[keys].double() / frames_B[keys // self.codebook_size]
        new[-2] = -(share * share.log2()).sum()
        new[-1] = (frames_B > 0).sum()
        if num_ranks() > 1:
            dist.all_reduce(new)
        self.counts_V.mul_(self.decay).add_(new[:-4])
        self.sums.mul_(self.decay).add_(new[-4:])

    def summary(self) -> dict[str, Tensor]:
        """The four statistics as float64 scalars."""
        repeats, pairs, entropy, clips = self.sums.unbind()
        return {
            # A code is in use while its decayed count is at least a half: with decay .98, for some 35 updates.
            "codes/used": (self.counts_V >= 0.5).sum().double(),
            "codes/perplexity": torch.exp2(entropy_bits(self.counts_V)),
            "codes/utterance_entropy": entropy / clips.clamp_min(1e-12),
            "codes/repeat_rate": repeats / pairs.clamp_min(1e-12),
        }


@dataclass(frozen=True)
class CollapseFloors:
    """Bounds on the running code statistics; 0 (or 1 for the repeat rate) switches one off."""

    min_used_share: float = 0.05
    """Least share of the codebook in recent use."""
    min_perplexity: float = 32.0
    """Least unigram perplexity."""
    min_utterance_entropy: float = 2.0
    """Least mean entropy inside a clip, bits. Catches tokens that only name the speaker."""
    max_repeat_rate: float = 0.8
    """Largest share of frames that repeat the code before them."""
    action: Literal["warn", "stop"] = "warn"
    """What training does when a floor is violated."""

    def __post_init__(self) -> None:
        check_choices(self, "CollapseFloors")

    def violated(self, summary: dict[str, Tensor], codebook_size: int) -> list[str]:
        """One line per violated floor, empty when all is well. `summary` is that of `CodeStatistics`."""
        used, perplexity = float(summary["codes/used"]), float(summary["codes/perplexity"])
        entropy, repeats = float(summary["codes/utterance_entropy"]), float(summary["codes/repeat_rate"])
        lines = []
        if used < self.min_used_share * codebook_size:
            least = math.ceil(self.min_used_share * codebook_size)
            lines.append(f"codes are collapsing: {used:.0f} of {codebook_size} codes in use, the floor is {least}")
        if perplexity < self.min_perplexity:
            lines.append(f"codes are collapsing: perplexity {perplexity:.1f}, the floor is {self.min_perplexity:.1f}")
        if entropy < self.min_utterance_entropy:
            lines.append(
                f"codes hardly vary inside a clip: {entropy:.2f} bits, the floor is {self.min_utterance_entropy:.2f}"
            )
        if repeats > self.max_repeat_rate:
            lines.append(f"codes repeat: {repeats:.1%} of frames, the most allowed is {self.max_repeat_rate:.1%}")
        return lines
