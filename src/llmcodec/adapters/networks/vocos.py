"""The decoder of WavTokenizer and UniCodec: attention and ConvNeXt blocks at the frame rate, then an inverse STFT.

Source: arXiv 2306.00814 (Vocos), 2408.16532. Shapes: B batch, T frames, C channels, N values of a window, S samples.
Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_MAGNITUDE = 1e2
NORM_GROUPS = 32
BANDWIDTH = 0
"""The row of the adaptive norms that is used; the released models were trained with four equal bandwidths."""


class AdaptiveNorm(nn.Module):
    """Layer norm with a scale and a shift for each bandwidth."""

    def __init__(self, num_bandwidths: int, channels: int):
        super().__init__()
        self.scale = nn.Embedding(num_bandwidths, channels)
        self.shift = nn.Embedding(num_bandwidths, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        scale_C, shift_C = self.scale.weight[BANDWIDTH], self.shift.weight[BANDWIDTH]
        return F.layer_norm(hidden_BTC, hidden_BTC.shape[-1:], eps=1e-6) * scale_C + shift_C


class ConvNeXtBlock(nn.Module):
    """A convolution in each channel, then two linear layers, beside the input."""

    def __init__(self, channels: int, inner: int, num_bandwidths: int, scale: float):
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = AdaptiveNorm(num_bandwidths, channels)
        self.pwconv1 = nn.Linear(channels, inner)
        self.pwconv2 = nn.Linear(inner, channels)
        self.gamma = nn.Parameter(torch.full((channels,), scale))

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        inner_BTC = self.norm(self.dwconv(hidden_BCT).transpose(1, 2))
        inner_BTC = self.gamma * self.pwconv2(F.gelu(self.pwconv1(inner_BTC)))
        return hidden_BCT + inner_BTC.transpose(1, 2)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


class ConvBlock(nn.Module):
    """Two convolutions, each behind a norm and SiLU, beside the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        inner_BCT = self.norm1(hidden_BCT)
        inner_BCT = self.norm2(self.conv1(inner_BCT * torch.sigmoid(inner_BCT)))
        return hidden_BCT + self.conv2(inner_BCT * torch.sigmoid(inner_BCT))


class AttentionBlock(nn.Module):
    """Attention of one head over all frames, beside the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv1d(channels, channels, 1) for _ in range(4))

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        inner_BCT = self.norm(hidden_BCT)
        query_BTC, key_BCT = self.q(inner_BCT).transpose(1, 2), self.k(inner_BCT)
        weights_BTU = (torch.bmm(query_BTC, key_BCT) * inner_BCT.shape[1] ** -0.5).softmax(2)
        return hidden_BCT + self.proj_out(torch.bmm(self.v(inner_BCT), weights_BTU.transpose(1, 2)))


class VocosBackbone(nn.Module):
    """(B, D, T) -> (B, T, C).

    Args:
        width: D. channels: C. inner: of the ConvNeXt blocks. num_layers: such blocks.
        num_bandwidths: rows of the adaptive norms.
    """

    def __init__(self, width: int, channels: int, inner: int, num_layers: int, num_bandwidths: int):
        super().__init__()
        self.min_frames = 2 if channels == NORM_GROUPS else 1  # PyTorch's group norm refuses a single value per group
        self.embed = nn.Conv1d(width, channels, 7, padding=3)
        self.pos_net = nn.Sequential(
            ConvBlock(channels),
            ConvBlock(channels),
            AttentionBlock(channels),
            ConvBlock(channels),
            ConvBlock(channels),
            group_norm(channels),
        )
        self.norm = AdaptiveNorm(num_bandwidths, channels)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(channels, inner, num_bandwidths, 1 / num_layers) for _ in range(num_layers)
        )
        self.final_layer_norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, latent_BDT: Tensor) -> Tensor:
        hidden_BCT = self.pos_net(self.embed(latent_BDT))
        hidden_BCT = self.norm(hidden_BCT.transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            hidden_BCT = block(hidden_BCT)
        return self.final_layer_norm(hidden_BCT.transpose(1, 2))


class SpectralHead(nn.Module):
    """(B, T, C) -> (B, T * hop): magnitude and phase of every window, then overlap and add, cut at both ends.

    Args:
        channels: C. hop_samples: samples per frame; windows are four times as long.
    """

    window: Tensor

    def __init__(self, channels: int, hop_samples: int):
        super().__init__()
        self.hop_samples, self.size = hop_samples, 4 * hop_samples
        self.out = nn.Linear(channels, self.size + 2)
        self.register_buffer("window", torch.hann_window(self.size), persistent=False)

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        log_magnitude, phase = self.out(hidden_BTC).transpose(1, 2).chunk(2, 1)
        magnitude = log_magnitude.exp().clip(max=MOST_MAGNITUDE)
        spectrum = magnitude * (phase.cos() + 1j * phase.sin())
        frames_BNT = torch.fft.irfft(spectrum, self.size, dim=1) * self.window[None, :, None]
        envelope_1NT = self.window.square().expand(1, frames_BNT.shape[2], -1).transpose(1, 2)
        return self._add(frames_BNT) / self._add(envelope_1NT)

    def _add(self, frames_BNT: Tensor) -> Tensor:
        hop, size, trim = self.hop_samples, self.size, (self.size - self.hop_samples) // 2
        total = (frames_BNT.shape[2] - 1) * hop + size
        wide = F.fold(frames_BNT, (1, total), (1, size), stride=(1, hop))[:, 0, 0]
        return wide[:, trim : total - trim]
