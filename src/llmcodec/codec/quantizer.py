"""Factorised vector quantisation: project to a few dimensions, take the nearest code by cosine, project back.

Shapes: B batch, T frames, N = flattened frames, D codec width, C code dimension, V codes.
After improved VQGAN (arXiv 2110.04627) and DAC (arXiv 2306.06546), with AUV's nested partitions (arXiv 2509.21968).
Test: tests/codec/test_model.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.inputs import is_traced
from llmcodec.distributed import at_least_float32, sum_over_ranks

ROWS_PER_CHUNK = 1024  # frames compared with the codebook at once: bounds memory at 1024 x V


class WeightNormLinear(nn.Module):
    """Linear layer, weight = magnitude * direction / |direction| per output row (AUV: weight-normed 1x1 conv)."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(out_features, in_features))
        self.magnitude = nn.Parameter(torch.empty(out_features, 1))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw as PyTorch's linear layer does, with the bias 0."""
        nn.init.kaiming_uniform_(self.direction, a=5**0.5)
        nn.init.zeros_(self.bias)
        if not getattr(self.magnitude, "_is_hf_initialized", False):  # as transformers marks what a file held
            self.magnitude.copy_(self.direction.norm(dim=1, keepdim=True))

    @property
    def weight(self) -> Tensor:
        """(out, in), as in a plain linear layer."""
        return self.direction * (self.magnitude / self.direction.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class FactorizedQuantizer(nn.Module):
    """One codebook of V codes in C dimensions; straight-through to the decoder, loss terms per frame."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        self.commitment = config.commitment
        self.in_proj = WeightNormLinear(config.hidden_size, config.codebook_dim)
        self.out_proj = WeightNormLinear(config.codebook_dim, config.hidden_size)
        self.codebook = nn.Parameter(torch.empty(config.codebook_size, config.codebook_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the codes; the projections initialise themselves."""
        nn.init.normal_(self.codebook)

    @property
    def codebook_VC(self) -> Tensor:
        """Unit-norm code vectors in at least float32."""
        return F.normalize(at_least_float32(self.codebook), dim=-1)

    @torch.no_grad()
    def nearest(self, query_BTC: Tensor, partitions: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Unit-norm queries -> int64 codes (B, T), the largest cosine; `partitions` is [first, last + 1) per clip."""
        codebook_VC = self.codebook_VC
        spans = [(0, codebook_VC.shape[0])] if partitions is None else list(partitions)
        if len(set(spans)) == 1:
            low, high = spans[0]
            rows = query_BTC.reshape(-1, query_BTC.shape[-1])
            parts = [rows] if is_traced() else rows.split(ROWS_PER_CHUNK)
            codes = torch.cat([(part @ codebook_VC[low:high].T).argmax(-1) for part in parts])
            return codes.view(query_BTC.shape[:-1]) + low
        return torch.cat([self.nearest(query[None], [span]) for query, span in zip(query_BTC, spans, strict=True)])

    def forward(
        self, latent_BTD: Tensor, partitions: Sequence[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Latents -> codes (B, T), unit-norm query (B, T, C), straight-through decoder input, losses (B, T) each."""
        with torch.autocast(latent_BTD.device.type, enabled=False):
            projected_BTC = self.in_proj(latent_BTD.to(self.in_proj.bias.dtype))
            query_BTC = F.normalize(at_least_float32(projected_BTC), dim=-1)
            codes_BT = self.nearest(query_BTC, partitions)
            chosen_BTC = F.embedding(codes_BT, self.codebook)
            losses = {
                "vq/commit": self.commitment * (projected_BTC - chosen_BTC.detach()).square().mean(-1),
                "vq/codebook": (chosen_BTC - projected_BTC.detach()).square().mean(-1),
            }
            straight_BTC = projected_BTC + (chosen_BTC - projected_BTC).detach()
            return codes_BT, query_BTC, self.out_proj(straight_BTC), losses

    def embed(self, codes_BT: Tensor) -> Tensor:
        """Codes -> decoder input (B, T, D), as `forward` makes it under any autocast."""
        with torch.autocast(codes_BT.device.type, enabled=False):
            return self.out_proj(F.embedding(codes_BT, self.codebook))


def code_counts(codes_BT: Tensor, mask_BT: Tensor, codebook_size: int) -> Tensor:
    """How many real frames have each code, int64 (V,); unlike `bincount`, this does not wait for a GPU."""
    counts_V = torch.zeros(codebook_size, dtype=torch.int64, device=codes_BT.device)
    return counts_V.scatter_add_(0, codes_BT.flatten(), mask_BT.flatten().long())


class CodebookUsage(nn.Module):
    """Running usage of every code, and revival of unused codes. Lives in training, not in the deployed codec.

    usage_V: exponential average of each code's share of frames, times V (1 = average use).
    """

    def __init__(self, codebook_size: int, decay: float = 0.99):
        super().__init__()
        self.decay = decay
        self.register_buffer("usage_V", torch.ones(codebook_size))
        self.usage_V: Tensor

    @torch.no_grad()
    def update(self, codes_BT: Tensor, mask_BT: Tensor) -> None:
        """Count the real frames of all ranks."""
        counts_V = sum_over_ranks(code_counts(codes_BT, mask_BT, self.usage_V.numel()).to(self.usage_V.dtype))
        self.usage_V.lerp_(counts_V * (counts_V.numel() / counts_V.sum().clamp(min=1)), 1 - self.decay)

    @torch.no_grad()
    def revive(self, codebook: Tensor, candidates_NC: Tensor, threshold: float, generator: torch.Generator) -> int:
        """Move codes below `threshold` onto random un-normalised latents of the batch; returns how many moved.

        All ranks must pass the same candidates and an equally seeded CPU generator, so that their codebooks stay equal.
        """
        dead = (self.usage_V < threshold).nonzero()[:, 0]
        if dead.numel() == 0 or candidates_NC.shape[0] == 0:
            return 0
        dead = dead[torch.randperm(dead.numel(), generator=generator).to(dead.device)[: candidates_NC.shape[0]]]
        pick = torch.randperm(candidates_NC.shape[0], generator=generator)[: dead.numel()].to(candidates_NC.device)
        codebook[dead] = candidates_NC[pick].to(codebook.dtype)
        self.usage_V[dead] = 1.0
        return int(dead.numel())
