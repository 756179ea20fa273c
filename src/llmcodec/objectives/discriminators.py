"""Discriminators: multi-period (MPD), multi-scale (MSD) and multi-resolution STFT.

Each maps windows (B, S) to a list of logits, one (B, positions) tensor per sub-network, and a list of lists of feature
maps, one per hidden layer. The defaults have the published sizes; `width` scales all channels down for laptops.

Deviations from the published code: weight normalisation throughout (HiFi-GAN's first MSD scale has spectral
normalisation, whose power iteration would make a forward pass change the state), and MPD's (k, 1) convolutions over a
folded plane are written as 1-D convolutions with the period folded into the batch: the same numbers, less time.

Shapes: B batch, S samples, P period, C channels, T frames, F frequency bins.
Test: `pytest tests/objectives/test_discriminators.py`; speed: `python benchmarks/discriminators.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from llmcodec.objectives.spectra import frame

Features = list[list[Tensor]]


def scaled(channels: Sequence[int], width: float, groups: Sequence[int]) -> list[int]:
    """Channel counts times `width`, rounded up so that each is divisible by its own and the next layer's groups.

    `groups[i]` are those of the convolution that makes `channels[i]`.
    """
    after = [*groups[1:], 1]
    return [
        math.ceil(round(count * width, 6) / (step := math.lcm(own, following))) * step
        for count, own, following in zip(channels, groups, after, strict=True)
    ]


def check_width(owner: str, width: float) -> None:
    if not 0 < width <= 8:
        raise ValueError(f"{owner}: width multiplies the channels and must be in (0, 8], got {width}")


def plain_weights(conv: nn.Conv1d) -> nn.Conv1d:
    """Weights from N(0, 0.01) and no bias to begin with, as in the released code."""
    nn.init.normal_(conv.weight, 0.0, 0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ConvStack(nn.Module):
    """Weight-normed 1-D convolutions with LeakyReLU(0.1) between, (N, 1, S) -> logits (N, T) and feature maps.

    `plain`: no weight norm, LeakyReLU(0.2), weights from N(0, 0.01), biases 0.
    """

    def __init__(
        self,
        channels: Sequence[int],
        kernel_sizes: Sequence[int],
        strides: Sequence[int],
        groups: Sequence[int],
        plain: bool = False,
    ) -> None:
        super().__init__()
        inputs = [1, *channels[:-1]]
        normed = plain_weights if plain else weight_norm
        self.slope = 0.2 if plain else 0.1
        self.convs = nn.ModuleList(
            normed(nn.Conv1d(i, o, kernel, stride, kernel // 2, groups=group))
            for i, o, kernel, stride, group in zip(inputs, channels, kernel_sizes, strides, groups, strict=True)
        )
        self.head = normed(nn.Conv1d(channels[-1], 1, 3, padding=1))

    def forward(self, x_NCS: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for conv in self.convs:
            x_NCS = F.leaky_relu(conv(x_NCS), self.slope, inplace=True)
            features.append(x_NCS)
        return self.head(x_NCS).squeeze(1), features


@dataclass(frozen=True)
class MPDConfig:
    """Multi-period discriminator of HiFi-GAN (arXiv 2010.05646): 41.1 M parameters at width 1."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Each sub-network sees every period-th sample side by side."""
    channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    """Output channels of the hidden layers."""
    width: float = 1.0
    """Multiplies all channels: 0.125 has about 1/64 of the parameters."""
    kernel_size: int = 5
    """Kernel along time of the hidden layers."""
    stride: int = 3
    """Stride along time of all hidden layers but the last."""
    kernel_sizes: tuple[int, ...] | None = None
    """Kernels of the hidden layers one by one; null: `kernel_size` for all."""
    strides: tuple[int, ...] | None = None
    """Strides of the hidden layers one by one; null: by `stride`."""
    plain: bool = False
    """No weight norm, LeakyReLU(0.2), weights from N(0, 0.01): the released code's layers."""

    def __post_init__(self) -> None:
        check_width("MPDConfig", self.width)
        if not self.periods or min(self.periods) < 1:
            raise ValueError(f"MPDConfig: periods must be positive, got {self.periods}")
        if not self.channels:
            raise ValueError("MPDConfig: needs at least one hidden layer in channels")
        if any(len(each) != len(self.channels) for each in (self.kernel_sizes, self.strides) if each is not None):
            raise ValueError("MPDConfig: kernel_sizes and strides need one entry per layer of channels")


class MultiPeriodDiscriminator(nn.Module):
    """One stack per period; feature maps have shape (B, C, T, P)."""

    def __init__(self, config: MPDConfig) -> None:
        super().__init__()
        self.config = config
        depth = len(config.channels)
        ones = [1] * depth
        channels = scaled(config.channels, config.width, ones)
        strides = config.strides or [config.stride] * (depth - 1) + [1]
        kernels = config.kernel_sizes or [config.kernel_size] * depth
        self.stacks = nn.ModuleList(ConvStack(channels, kernels, strides, ones, config.plain) for _ in config.periods)

    @property
    def min_samples(self) -> int:
        """Shortest window: the end is padded by reflection up to a multiple of the period."""
        return max(self.config.periods)

    def forward(self, wav_BS: Tensor) -> tuple[list[Tensor], Features]:
        check_window(wav_BS, self.min_samples)
        logits, features = [], []
        for period, stack in zip(self.config.periods, self.stacks, strict=True):
            folded_BPT = self._fold(wav_BS, period)
            logits_NT, features_NCT = stack(folded_BPT.flatten(0, 1)[:, None])
            logits.append(logits_NT.reshape(len(wav_BS), -1))
            features.append([x.unflatten(0, (-1, period)).permute(0, 2, 3, 1) for x in features_NCT])
        return logits, features

    @staticmethod
    def _fold(wav_BS: Tensor, period: int) -> Tensor:
        missing = -wav_BS.shape[-1] % period
        if missing:
            wav_BS = F.pad(wav_BS[:, None], (0, missing), mode="reflect").squeeze(1)
        folded_BTP: Tensor = wav_BS.unflatten(-1, (-1, period))
        return folded_BTP.transpose(1, 2)


@dataclass(frozen=True)
class MSDConfig:
    """Multi-scale discriminator of HiFi-GAN with its authors' grouped convolutions: 29.6 M parameters at width 1."""

    num_scales: int = 3
    """Sub-networks: the first sees the signal itself, each further one at half the rate of the one before."""
    channels: tuple[int, ...] = (128, 128, 256, 512, 1024, 1024, 1024)
    """Output channels of the hidden layers."""
    kernel_sizes: tuple[int, ...] = (15, 41, 41, 41, 41, 41, 5)
    """Kernel sizes of the hidden layers (odd)."""
    strides: tuple[int, ...] = (1, 2, 2, 4, 4, 1, 1)
    """Strides of the hidden layers."""
    groups: tuple[int, ...] = (1, 4, 16, 16, 16, 16, 1)
    """Groups of the hidden layers: all 1 makes about four times the parameters and the work."""
    width: float = 1.0
    """Multiplies all channels, which are then rounded up to multiples of the groups."""
    plain: bool = False
    """No weight norm, LeakyReLU(0.2), weights from N(0, 0.01), and averages whose first and last windows leave out what
    is not there: the released code's layers."""

    def __post_init__(self) -> None:
        check_width("MSDConfig", self.width)
        depths = {len(self.channels), len(self.kernel_sizes), len(self.strides), len(self.groups)}
        if len(depths) != 1 or not self.channels:
            raise ValueError(
                "MSDConfig: channels, kernel_sizes, strides and groups need one entry per layer, got "
                f"{len(self.channels)}, {len(self.kernel_sizes)}, {len(self.strides)} and {len(self.groups)}"
            )
        if self.num_scales < 1:
            raise ValueError(f"MSDConfig: num_scales must be at least 1, got {self.num_scales}")
        if self.groups[0] != 1 or any(kernel % 2 == 0 for kernel in self.kernel_sizes):
            raise ValueError("MSDConfig: the first layer has one input channel (groups 1), and kernels must be odd")


class MultiScaleDiscriminator(nn.Module):
    """One stack per scale of a pyramid of averages; feature maps have shape (B, C, T)."""

    min_samples = 1

    def __init__(self, config: MSDConfig) -> None:
        super().__init__()
        self.config = config
        channels = scaled(config.channels, config.width, config.groups)
        self.stacks = nn.ModuleList(
            ConvStack(channels, config.kernel_sizes, config.strides, config.groups, config.plain)
            for _ in range(config.num_scales)
        )

    def forward(self, wav_BS: Tensor) -> tuple[list[Tensor], Features]:
        check_window(wav_BS, self.min_samples)
        wav_BCS = wav_BS[:, None]
        logits, features = [], []
        for scale, stack in enumerate(self.stacks):
            if scale and self.config.plain:
                wav_BCS = F.avg_pool1d(wav_BCS, kernel_size=4, stride=2, padding=1, count_include_pad=False)
            elif scale:
                wav_BCS = F.avg_pool1d(wav_BCS, kernel_size=4, stride=2, padding=2)
            logits_BT, features_BCT = stack(wav_BCS)
            logits.append(logits_BT)
            features.append(features_BCT)
        return logits, features


@dataclass(frozen=True)
class STFTDiscriminatorConfig:
    """Multi-resolution discriminator on complex spectrograms, layers as in EnCodec (arXiv 2210.13438)."""

    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """STFT windows in samples, one sub-network each; the hop is a quarter of each."""
    channels: int = 32
    """Channels of every hidden layer."""
    width: float = 1.0
    """Multiplies the channels."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """Dilation along time of each of the layers that halve the frequency axis."""

    def __post_init__(self) -> None:
        check_width("STFTDiscriminatorConfig", self.width)
        if not self.n_ffts or any(n_fft < 8 or n_fft % 4 for n_fft in self.n_ffts):
            raise ValueError(f"STFTDiscriminatorConfig: windows must be multiples of 4, at least 8; got {self.n_ffts}")


class SpectrogramStack(nn.Module):
    """2-D convolutions on real and imaginary part (B, 2, T, F) with LeakyReLU(0.2) between."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        layers = [nn.Conv2d(2, channels, (3, 9), padding=(1, 4))]
        for dilation in dilations:
            layers.append(
                nn.Conv2d(channels, channels, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            )
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.convs = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.head = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x_BCTF: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for conv in self.convs:
            x_BCTF = F.leaky_relu(conv(x_BCTF), 0.2, inplace=True)
            features.append(x_BCTF)
        return self.head(x_BCTF).flatten(1), features


class MultiResolutionSTFTDiscriminator(nn.Module):
    """One stack per STFT resolution; feature maps have shape (B, C, T, F)."""

    min_samples = 1

    def __init__(self, config: STFTDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        (channels,) = scaled([config.channels], config.width, [1])
        self.stacks = nn.ModuleList(SpectrogramStack(channels, config.dilations) for _ in config.n_ffts)

    def forward(self, wav_BS: Tensor) -> tuple[list[Tensor], Features]:
        check_window(wav_BS, self.min_samples)
        logits, features = [], []
        for n_fft, stack in zip(self.config.n_ffts, self.stacks, strict=True):
            window_N = torch.hann_window(n_fft, dtype=wav_BS.dtype, device=wav_BS.device)
            # Divided by the window's norm: white noise keeps its variance at every resolution.
            spectrum_BTF = torch.fft.rfft(frame(wav_BS, n_fft, n_fft // 4) * (window_N / window_N.norm()))
            logits_BX, features_BCTF = stack(torch.view_as_real(spectrum_BTF).permute(0, 3, 1, 2))
            logits.append(logits_BX)
            features.append(features_BCTF)
        return logits, features


def check_window(wav_BS: Tensor, min_samples: int) -> None:
    """Reject windows of the wrong shape or too short for a sub-network."""
    if wav_BS.ndim != 2:
        raise ValueError(f"discriminator: expected windows (B, S), got shape {tuple(wav_BS.shape)}")
    if wav_BS.shape[-1] < min_samples:
        raise ValueError(
            f"discriminator: a window of {wav_BS.shape[-1]} samples is too short, it needs {min_samples}; "
            "decode a longer window"
        )
