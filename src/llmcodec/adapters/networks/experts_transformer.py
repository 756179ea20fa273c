"""UniCodec's transformer: rotary attention over all frames, then a mixture of experts, chosen for every frame.

Source: arXiv 2502.20067. Shapes: B batch, T frames, C channels, H heads, N rows, E experts.
Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS, LONGEST_PERIOD = 64, 10_000


class GatedLayers(nn.Module):
    """SiLU-gated linear layers without biases."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.w1 = nn.Linear(channels, inner, bias=False)
        self.w2 = nn.Linear(inner, channels, bias=False)
        self.w3 = nn.Linear(channels, inner, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(hidden)) * self.w3(hidden))


class Gate(nn.Module):
    """Which expert a row goes to, and with which weight."""

    def __init__(self, channels: int, num_experts: int):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(num_experts, channels))

    def forward(self, hidden_NC: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(hidden_NC, self.weight).softmax(-1).max(-1)


class Experts(nn.Module):
    """The most likely expert of each frame, and one that all frames share."""

    def __init__(self, channels: int, inner: int, num_experts: int):
        super().__init__()
        self.gate = Gate(channels, num_experts)
        self.experts = nn.ModuleList(GatedLayers(channels, inner) for _ in range(num_experts))
        self.shared_experts = GatedLayers(channels, inner)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        rows_NC = hidden_BTC.reshape(-1, hidden_BTC.shape[-1])
        weight_N, chosen_N = self.gate(rows_NC)
        out_NC = torch.zeros_like(rows_NC)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(chosen_N == number)
            if len(rows):
                out_NC[rows] += expert(rows_NC[rows]) * weight_N[rows, None]
        return (out_NC + self.shared_experts(rows_NC)).view(hidden_BTC.shape)


class Attention(nn.Module):
    """Rotary attention over all frames, heads of 64 channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.num_heads = max(1, channels // HEAD_CHANNELS)
        self.in_proj_weight = nn.Parameter(nn.Linear(channels, 3 * channels, bias=False).weight.detach())
        self.out_proj = nn.Linear(channels, channels, bias=False)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        batch, num_frames, channels = hidden_BTC.shape
        projected = F.linear(hidden_BTC, self.in_proj_weight).view(batch, num_frames, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*_rotated(query, key), value)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, num_frames, channels))


class Scale(nn.Module):
    def __init__(self, channels: int, start: float = 0.01):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), start))


class ExpertsLayer(nn.Module):
    """Attention and experts, each behind a norm and beside its input."""

    def __init__(self, channels: int, inner: int, num_experts: int):
        super().__init__()
        self.self_attn = Attention(channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.layer_scale_1 = Scale(channels)
        self.FFNMOE = Experts(channels, inner, num_experts)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        hidden_BTC = hidden_BTC + self.layer_scale_1.scale * self.self_attn(self.norm1(hidden_BTC))
        return hidden_BTC + self.FFNMOE(self.norm2(hidden_BTC))


class ExpertsTransformer(nn.Module):
    """(B, T, C) -> (B, T, C)."""

    def __init__(self, channels: int, inner: int, num_layers: int, num_experts: int):
        super().__init__()
        self.layers = nn.ModuleList(ExpertsLayer(channels, inner, num_experts) for _ in range(num_layers))

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_BTC = layer(hidden_BTC)
        return hidden_BTC


def _rotated(query_BHTC: Tensor, key_BHTC: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their frame, neighbouring channels as real and imaginary part."""
    num_frames, channels = query_BHTC.shape[-2:]
    places = torch.arange(channels // 2, device=query_BHTC.device, dtype=torch.float32)
    turns = torch.exp(places * (-math.log(LONGEST_PERIOD) * 2 / channels))
    angles_TC = turns * torch.arange(num_frames, device=query_BHTC.device, dtype=torch.float32).view(1, -1, 1)
    cos, sin = angles_TC.cos(), angles_TC.sin()

    def turned(rows: Tensor) -> Tensor:
        real, imag = rows.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([real * cos - imag * sin, real * sin + imag * cos], -1).flatten(-2)

    return turned(query_BHTC), turned(key_BHTC)
