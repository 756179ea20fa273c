"""Reconstruction losses on spectrograms: mel, multi-scale mel, multi-resolution STFT, complex STFT.

All take `fake` and `real` windows (B, S) and return a float scalar; `SpectralLosses` computes several at once and
shares the Fourier transforms between them. Definitions follow LLM-Codec (arXiv 2604.17852) where it gives them; our own
choices are named in the configs. Frames are centred on multiples of the hop and the signal is continued with zeros, so
any S >= 1 works and a clip gives the same value alone and zero-padded in a batch (with `lengths_B`). Not so with
`reflect` and `released`: windows are longer than half a transform and mirrored at the end of the batch, as in the
released code.

Shapes: B batch, S samples, T frames, N window samples, F frequency bins, M mel bands.
Test: `pytest tests/objectives/test_spectral.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from llmcodec.io.structured import check_choices
from llmcodec.objectives.spectra import (
    LEVEL_FLOOR,
    MAGNITUDE_FLOOR,
    Spectra,
    as_spectra,
    mean_over_clips,
    mean_over_frames,
    no_autocast,
    num_frames,
    sum_over_frames,
)

RELEASED_FLOOR = 1e-7
"""Lower bound of magnitudes in the released code's losses."""


@dataclass(frozen=True)
class MelLossConfig:
    """L1 between log mel spectrograms (log mel 1.5 in LLM-Codec's loss, after RMS normalisation of each clip)."""

    n_fft: int = 1024
    """STFT window in samples."""
    hop: int = 256
    """Samples between frames; a quarter of the window shares its transform with the STFT losses."""
    num_mels: int = 100
    """Mel bands from 0 Hz to half the sample rate."""
    power: Literal[1, 2] = 2
    """1: filters on magnitudes, 2: on squared magnitudes (doubles the loss of audio above the floor)."""
    mel_scale: Literal["htk", "slaney", "kaldi"] = "htk"
    """Mel scale, as in transformers.audio_utils.mel_filter_bank."""
    floor: float = 1e-5
    """Added to every mel band before the logarithm."""
    normalize: bool = True
    """Divide both signals by their own RMS first (LLM-Codec): the loss then ignores loudness."""
    reflect: bool = False
    """Mirror the signal at the ends of the window, as torch.stft does (the released code), in place of zeros."""

    def __post_init__(self) -> None:
        check_window("MelLossConfig", self.n_fft, self.hop)
        check_choices(self, "MelLossConfig")
        if not 0 < self.num_mels <= self.n_fft // 2:
            raise ValueError(f"MelLossConfig: {self.num_mels} mel bands do not fit {self.n_fft // 2 + 1} bins")


def check_window(owner: str, n_fft: int, hop: int) -> None:
    """Frames must overlap or touch, or samples between them would go unseen."""
    if n_fft < 2 or n_fft % 2 or not 0 < hop <= n_fft // 2:
        raise ValueError(f"{owner}: need an even n_fft and 0 < hop <= n_fft / 2, got n_fft {n_fft}, hop {hop}")


class MelLoss(nn.Module):
    """Mean over frames and bands of |log mel(fake) - log mel(real)|, natural logarithm."""

    def __init__(self, config: MelLossConfig, sample_rate: int) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.config = config
        filters_FM = mel_filter_bank(
            config.n_fft // 2 + 1, config.num_mels, 0.0, sample_rate / 2, sample_rate, mel_scale=config.mel_scale
        )
        # Kept in float64 and cast where used, so that the loss can be checked in float64; not part of the state.
        self._filters_FM = torch.from_numpy(filters_FM).double()
        self._cast: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def filters(self, like: Tensor) -> Tensor:
        """The mel filters (F, M) in the dtype and on the device of `like`."""
        key = (like.dtype, like.device)
        if key not in self._cast:
            # Kept for later steps, so it must not become an inference tensor, which training could not use.
            with torch.inference_mode(False):
                self._cast[key] = self._filters_FM.to(dtype=like.dtype).to(like.device)
        return self._cast[key]

    def log_mel(self, spectra: Spectra) -> Tensor:
        """Log mel spectrogram (B, T, M)."""
        config = self.config
        values_BTF = (spectra.power if config.power == 2 else spectra.magnitude)(
            config.n_fft, config.hop, config.reflect
        )
        mel_BTM = values_BTF @ self.filters(values_BTF)
        if config.normalize:
            mel_BTM = mel_BTM / spectra.level()[:, None, None] ** config.power
        return (mel_BTM + config.floor).log()

    def forward(self, fake: Tensor | Spectra, real: Tensor | Spectra, lengths_B: Tensor | None = None) -> Tensor:
        fake, real = as_spectra(fake, real, lengths_B)
        with no_autocast(fake):
            distance_BTM = (self.log_mel(fake) - self.log_mel(real)).abs()
            return mean_over_frames(distance_BTM, real.frame_mask(self.config.hop))


@dataclass(frozen=True)
class MultiScaleMelLossConfig:
    """Log mel L1 over several windows, averaged over them; the default table is that of DAC (arXiv 2306.06546).

    DAC takes the sum over windows with decadic logarithms, which is 7 / ln 10 = 3.04 times this mean.
    """

    n_ffts: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    """STFT windows in samples; the hop is a quarter of each."""
    num_mels: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    """Mel bands for each window."""
    power: Literal[1, 2] = 1
    """1: filters on magnitudes, 2: on squared magnitudes."""
    mel_scale: Literal["htk", "slaney", "kaldi"] = "slaney"
    """Mel scale, as in transformers.audio_utils.mel_filter_bank."""
    floor: float = 1e-5
    """Added to every mel band before the logarithm."""
    normalize: bool = False
    """Divide both signals by their own RMS first; off, so that this loss constrains the loudness."""
    reflect: bool = False
    """As of `MelLossConfig`."""

    def __post_init__(self) -> None:
        if not self.n_ffts or len(self.n_ffts) != len(self.num_mels):
            raise ValueError(
                "MultiScaleMelLossConfig: one number of mel bands per window, "
                f"got n_ffts {self.n_ffts} and num_mels {self.num_mels}"
            )

    def scales(self) -> list[MelLossConfig]:
        """One mel loss per window."""
        return [
            MelLossConfig(
                n_fft, n_fft // 4, num_mels, self.power, self.mel_scale, self.floor, self.normalize, self.reflect
            )
            for n_fft, num_mels in zip(self.n_ffts, self.num_mels, strict=True)
        ]


class MultiScaleMelLoss(nn.Module):
    """Mean over windows of their `MelLoss`."""

    def __init__(self, config: MultiScaleMelLossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList([MelLoss(scale, sample_rate) for scale in config.scales()])

    def forward(self, fake: Tensor | Spectra, real: Tensor | Spectra, lengths_B: Tensor | None = None) -> Tensor:
        fake, real = as_spectra(fake, real, lengths_B)
        return torch.stack([scale(fake, real) for scale in self.scales]).mean()


@dataclass(frozen=True)
class STFTLossConfig:
    """Windows of the linear-frequency losses."""

    n_ffts: tuple[int, ...] = (512, 1024, 2048)
    """STFT windows in samples; the hop is a quarter of each."""
    phase_weight: float = 0.5
    """Weight of the phase term inside the multi-resolution loss (LLM-Codec: 0.5); unused by the complex loss."""
    released: bool = False
    """The released code's formula, which its multi-resolution and its complex loss share: spectral convergence over the
    whole batch, log-magnitude L1, `phase_weight` x L1 of the unit phasors."""

    def __post_init__(self) -> None:
        if not self.n_ffts:
            raise ValueError("STFTLossConfig: n_ffts is empty; name at least one window")
        for n_fft in self.n_ffts:
            check_window("STFTLossConfig", n_fft, n_fft // 4)


class STFTLoss(nn.Module):
    """Mean over windows of a distance of two spectrograms."""

    def __init__(self, config: STFTLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, fake: Tensor | Spectra, real: Tensor | Spectra, lengths_B: Tensor | None = None) -> Tensor:
        fake, real = as_spectra(fake, real, lengths_B)
        distance = self._released_at if self.config.released else self._at
        with no_autocast(fake):
            return torch.stack([distance(fake, real, n_fft, n_fft // 4) for n_fft in self.config.n_ffts]).mean()

    def _released_at(self, fake: Spectra, real: Spectra, n_fft: int, hop: int) -> Tensor:
        """As llm-codec 02d6c2a has it; padding behind a clip does not count."""
        mask_BT = real.frame_mask(hop)
        fake_BTF, real_BTF = fake.stft(n_fft, hop, True), real.stft(n_fft, hop, True)
        fake_size, real_size = (spectrum.abs().clamp(min=RELEASED_FLOOR) for spectrum in (fake_BTF, real_BTF))
        error = sum_over_frames((fake_size - real_size).square(), mask_BT).sum()
        error = error.clamp(min=torch.finfo(error.dtype).tiny)  # the square root has no derivative at 0
        convergence = (error / sum_over_frames(real_size.square(), mask_BT).sum()).sqrt()
        log_magnitude = mean_over_frames((fake_size.log() - real_size.log()).abs(), mask_BT)
        phasors = torch.view_as_real(fake_BTF / fake_size), torch.view_as_real(real_BTF / real_size)
        phase = mean_over_frames((phasors[0] - phasors[1]).abs().flatten(-2), mask_BT)
        return convergence + log_magnitude + self.config.phase_weight * phase

    def _at(self, fake: Spectra, real: Spectra, n_fft: int, hop: int) -> Tensor:
        raise NotImplementedError


class MultiResolutionSTFTLoss(STFTLoss):
    """Spectral convergence + log-magnitude L1 + `phase_weight` x phase distance, averaged over windows.

    Spectral convergence: Frobenius norm of the magnitude difference over that of the real magnitudes, per clip, then
    the mean over clips, so that a quiet clip counts as much as a loud one (Yamamoto et al., arXiv 1910.11480).
    Phase distance: mean of 1 - cos(phase difference), each bin weighted by min(|fake|, |real|) / mean |real| with the
    weight outside the graph. The weight bounds the gradient (the phase of an empty bin is noise, and its derivative has
    a pole there), makes identical signals give exactly 0, and leaves magnitudes to the other two terms. The public
    reference takes the L1 distance of the unit phasors, all bins weighted alike, instead.
    """

    def _at(self, fake: Spectra, real: Spectra, n_fft: int, hop: int) -> Tensor:
        mask_BT = real.frame_mask(hop)
        fake_BTF, real_BTF = fake.magnitude(n_fft, hop), real.magnitude(n_fft, hop)
        error_B = sum_over_frames((fake_BTF - real_BTF).square(), mask_BT)
        # The square root has no derivative at 0: identical signals are held just above, with gradient 0.
        tiny = torch.finfo(error_B.dtype).tiny
        # Norm of the magnitudes of noise at LEVEL_FLOOR: a Hann window has a power sum of 3/8 N.
        floor = LEVEL_FLOOR**2 * 0.375 * n_fft * real_BTF.shape[-1] * num_frames(real_BTF, mask_BT)
        norm_B = sum_over_frames(real_BTF.square(), mask_BT).clamp(min=floor)
        convergence = mean_over_clips((error_B.clamp(min=tiny) / norm_B).sqrt(), mask_BT)
        log_magnitude = mean_over_frames((fake_BTF.log() - real_BTF.log()).abs(), mask_BT)
        return convergence + log_magnitude + self.config.phase_weight * self._phase(fake, real, n_fft, hop)

    def _phase(self, fake: Spectra, real: Spectra, n_fft: int, hop: int) -> Tensor:
        mask_BT = real.frame_mask(hop)
        fake_BTF, real_BTF = fake.stft(n_fft, hop), real.stft(n_fft, hop)
        fake_size_BTF, real_size_BTF = fake.magnitude(n_fft, hop), real.magnitude(n_fft, hop)
        weight_BTF = torch.minimum(fake_size_BTF, real_size_BTF).detach()
        # The floor is a third coordinate of both phasors: the cosine of two empty bins is 1, and it never exceeds 1.
        in_phase_BTF = fake_BTF.real * real_BTF.real + fake_BTF.imag * real_BTF.imag + MAGNITUDE_FLOOR**2
        distance_BTF = weight_BTF - weight_BTF * in_phase_BTF / (fake_size_BTF * real_size_BTF)
        floor = LEVEL_FLOOR * math.sqrt(0.375 * n_fft) * real_size_BTF.shape[-1] * num_frames(real_size_BTF, mask_BT)
        total_B = sum_over_frames(real_size_BTF, mask_BT).clamp(min=floor)
        return mean_over_clips(sum_over_frames(distance_BTF, mask_BT) / total_B, mask_BT)


class ComplexSTFTLoss(STFTLoss):
    """L1 distance of real and imaginary parts over the L1 norm of the real signal's, per clip, averaged over windows.

    Relative to the clip's level: 0 for identical signals, 1 for a silent fake. It sees phase without a phase's pole.
    """

    def _at(self, fake: Spectra, real: Spectra, n_fft: int, hop: int) -> Tensor:
        mask_BT = real.frame_mask(hop)
        fake_BTX = torch.view_as_real(fake.stft(n_fft, hop)).flatten(-2)
        real_BTX = torch.view_as_real(real.stft(n_fft, hop)).flatten(-2)
        floor = LEVEL_FLOOR * math.sqrt(0.375 * n_fft) * real_BTX.shape[-1] / 2 * num_frames(real_BTX, mask_BT)
        total_B = sum_over_frames(real_BTX.abs(), mask_BT).clamp(min=floor)
        return mean_over_clips(sum_over_frames((fake_BTX - real_BTX).abs(), mask_BT) / total_B, mask_BT)


@dataclass(frozen=True)
class SpectralConfig:
    """Which reconstruction losses exist and their windows; their weights live in the recipe."""

    mel: MelLossConfig = field(default_factory=MelLossConfig)
    """recon/mel"""
    multi_mel: MultiScaleMelLossConfig = field(default_factory=MultiScaleMelLossConfig)
    """recon/multi_mel"""
    mrstft: STFTLossConfig = field(default_factory=STFTLossConfig)
    """recon/mrstft"""
    complex_stft: STFTLossConfig = field(default_factory=STFTLossConfig)
    """recon/complex_stft"""


class SpectralLosses(nn.Module):
    """All reconstruction losses by their term names, sharing every transform they have in common."""

    TERMS = ("recon/mel", "recon/multi_mel", "recon/mrstft", "recon/complex_stft")

    def __init__(self, config: SpectralConfig, sample_rate: int) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(
            {
                "recon/mel": MelLoss(config.mel, sample_rate),
                "recon/multi_mel": MultiScaleMelLoss(config.multi_mel, sample_rate),
                "recon/mrstft": MultiResolutionSTFTLoss(config.mrstft),
                "recon/complex_stft": ComplexSTFTLoss(config.complex_stft),
            }
        )

    def forward(
        self, fake_BS: Tensor, real_BS: Tensor, lengths_B: Tensor | None = None, terms: Collection[str] = TERMS
    ) -> dict[str, Tensor]:
        """Raw scalars for the named `terms` (leave out those whose weight is 0: they cost time)."""
        unknown = sorted(set(terms) - set(self.TERMS))
        if unknown:
            raise ValueError(f"SpectralLosses: unknown terms {unknown}; there are {list(self.TERMS)}")
        fake, real = as_spectra(fake_BS, real_BS, lengths_B)
        return {name: self.losses[name](fake, real) for name in terms}
