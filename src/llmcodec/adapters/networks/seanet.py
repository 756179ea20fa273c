"""SEANet: the convolutional encoder and decoder of EnCodec, here without causality, as WavTokenizer, UniCodec and
SpeechTokenizer use it, with the residual quantiser that belongs to it.

Every convolution keeps whole frames: its input is reflected at both ends, and zeros come first where a clip is shorter
than its reflection. Source: arXiv 2009.02095, 2210.13438.
Shapes: B batch, S samples, T frames, C channels, D width, Q codebooks, N rows.
Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedConv(nn.Module):
    """A convolution that gives ceil(T / stride) frames.

    Args:
        num_in, num_out: channels.
        kernel, stride, dilation: of the convolution.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(num_in, num_out, kernel, stride, dilation=dilation)
        self.total = (kernel - 1) * dilation + 1 - stride
        self.stride = stride

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        num_frames, right = hidden_BCT.shape[-1], self.total // 2
        left, right = self.total - right, right + -num_frames % self.stride
        short = max(0, max(left, right) - num_frames + 1)
        padded = F.pad(F.pad(hidden_BCT, (0, short)), (left, right), mode="reflect")
        return self.conv(padded[..., : padded.shape[-1] - short])


class TrimmedTransposedConv(nn.Module):
    """A transposed convolution, kernel twice the stride, that gives T * stride frames."""

    def __init__(self, num_in: int, num_out: int, stride: int):
        super().__init__()
        self.convtr = nn.ConvTranspose1d(num_in, num_out, 2 * stride, stride)
        self.right = stride // 2
        self.left = stride - self.right

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        wide = self.convtr(hidden_BCT)
        return wide[..., self.left : wide.shape[-1] - self.right]


class ResidualBlock(nn.Module):
    """Two convolutions through half the channels, beside a convolution of width 1."""

    def __init__(self, channels: int, kernel: int, dilation: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            PaddedConv(channels, channels // 2, kernel, dilation=dilation),
            nn.ELU(),
            PaddedConv(channels // 2, channels, 1),
        )
        self.shortcut = PaddedConv(channels, channels, 1)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        return self.shortcut(hidden_BCT) + self.block(hidden_BCT)


class ResidualLSTM(nn.Module):
    """LSTM layers over (B, C, T) with a connection past them; both directions give twice the channels."""

    def __init__(self, channels: int, num_layers: int, bidirectional: bool = False):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers, bidirectional=bidirectional)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        hidden_TBC = hidden_BCT.permute(2, 0, 1)
        past_TBC, _ = self.lstm(hidden_TBC)
        if self.lstm.bidirectional:
            hidden_TBC = hidden_TBC.repeat(1, 1, 2)
        return (past_TBC + hidden_TBC).permute(1, 2, 0)


class SEANetEncoder(nn.Module):
    """(B, 1, S) -> (B, D, T).

    Args:
        width: D. num_filters: channels of the first convolution, doubled by every stride.
        ratios: strides, those of the decoder: the last one comes first.
        lstm_layers: behind the convolutions; 0 for none. bidirectional: they run both ways.
        kernel, residual_kernel, num_residual, dilation_base: of the convolutions and residual blocks.
    """

    def __init__(
        self,
        width: int,
        num_filters: int,
        ratios: Sequence[int],
        lstm_layers: int,
        bidirectional: bool = False,
        residual_kernel: int = 3,
        num_residual: int = 1,
        dilation_base: int = 2,
        kernel: int = 7,
    ):
        super().__init__()
        channels = num_filters
        layers: list[nn.Module] = [PaddedConv(1, channels, kernel)]
        for ratio in reversed(ratios):
            blocks = [ResidualBlock(channels, residual_kernel, dilation_base**depth) for depth in range(num_residual)]
            layers += [*blocks, nn.ELU(), PaddedConv(channels, 2 * channels, 2 * ratio, ratio)]
            channels *= 2
        if lstm_layers:
            layers.append(ResidualLSTM(channels, lstm_layers, bidirectional))
            channels *= 2 if bidirectional else 1
        self.model = nn.Sequential(*layers, nn.ELU(), PaddedConv(channels, width, kernel))

    def forward(self, wav_B1S: Tensor) -> Tensor:
        return self.model(wav_B1S)


class SEANetDecoder(nn.Module):
    """(B, D, T) -> (B, 1, S); arguments as the encoder's, its LSTM runs forwards."""

    def __init__(
        self,
        width: int,
        num_filters: int,
        ratios: Sequence[int],
        lstm_layers: int,
        residual_kernel: int = 3,
        num_residual: int = 1,
        dilation_base: int = 2,
        kernel: int = 7,
    ):
        super().__init__()
        channels = num_filters * 2 ** len(ratios)
        layers: list[nn.Module] = [PaddedConv(width, channels, kernel)]
        if lstm_layers:
            layers.append(ResidualLSTM(channels, lstm_layers))
        for ratio in ratios:
            layers += [nn.ELU(), TrimmedTransposedConv(channels, channels // 2, ratio)]
            channels //= 2
            layers += [ResidualBlock(channels, residual_kernel, dilation_base**depth) for depth in range(num_residual)]
        self.model = nn.Sequential(*layers, nn.ELU(), PaddedConv(channels, 1, kernel))

    def forward(self, latent_BDT: Tensor) -> Tensor:
        return self.model(latent_BDT)


class EuclideanCodebook(nn.Module):
    """Codes are the nearest vectors."""

    embed: Tensor
    """(V, D)."""

    def __init__(self, codebook_size: int, width: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("embed", torch.zeros(codebook_size, width))

    def encode(self, latent: Tensor) -> Tensor:
        """(..., D) -> codes (...)."""
        rows_ND, codes_DV = latent.flatten(0, -2), self.embed.t()
        near_NV = -(rows_ND.pow(2).sum(1, keepdim=True) - 2 * rows_ND @ codes_DV + codes_DV.pow(2).sum(0, keepdim=True))
        return near_NV.max(-1).indices.view(latent.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return F.embedding(codes, self.embed)


class QuantizerStage(nn.Module):
    """One codebook of a residual quantiser."""

    def __init__(self, codebook_size: int, width: int):
        super().__init__()
        self.codebook = EuclideanCodebook(codebook_size, width)


class ResidualQuantizer(nn.Module):
    """Codebooks of which each codes what the ones before it left."""

    layers: nn.ModuleList

    def __init__(self, num_codebooks: int, codebook_size: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(QuantizerStage(codebook_size, width) for _ in range(num_codebooks))

    @property
    def codebooks(self) -> list[EuclideanCodebook]:
        return [layer.codebook for layer in self.layers]  # type: ignore[misc]

    def encode(self, latent_BTD: Tensor, num_codebooks: int) -> Tensor:
        """Latents -> codes (B, Q, T)."""
        codes = []
        for codebook in self.codebooks[:num_codebooks]:
            codes.append(codebook.encode(latent_BTD))
            latent_BTD = latent_BTD - codebook.decode(codes[-1])
        return torch.stack(codes, 1)

    def decode(self, codes_BQT: Tensor) -> Tensor:
        """Codes, of the first Q codebooks -> (B, T, D)."""
        quantized_BTD = torch.zeros((), device=codes_BQT.device)
        for codebook, codes_BT in zip(self.codebooks, codes_BQT.unbind(1), strict=False):
            quantized_BTD = quantized_BTD + codebook.decode(codes_BT)
        return quantized_BTD


def hop_of(ratios: Sequence[int]) -> int:
    """Samples per frame."""
    return math.prod(ratios)
