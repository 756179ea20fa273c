"""Short-time Fourier transforms of a batch of windows, each computed once and shared by the losses that need it.

Shapes: B batch, S samples, T frames, N window samples, F frequency bins, X any number of bins.
Test: `pytest tests/objectives/test_spectral.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcodec.codec.inputs import mask_of
from llmcodec.distributed import at_least_float32, masked_mean

# Lower bound of a clip's RMS (-60 dB full scale) wherever a loss divides by it.
LEVEL_FLOOR = 1e-3
# Added in quadrature to STFT magnitudes: below the quantisation noise of 16-bit audio, keeps log and 1/x finite.
MAGNITUDE_FLOOR = 1e-4


def frame(wav_BS: Tensor, n_fft: int, hop: int, reflect: bool = False) -> Tensor:
    """Windows of `n_fft` samples centred on 0, hop, 2 hop, ..., zeros outside: (B, S // hop + 1, N).

    `reflect`: the signal mirrored outside, as torch.stft has it; it must be longer than half a window.
    """
    num_frames = wav_BS.shape[-1] // hop + 1
    left = n_fft // 2
    if reflect:
        if wav_BS.shape[-1] <= left:
            raise ValueError(
                f"spectral loss: a window of {wav_BS.shape[-1]} samples is too short to be mirrored at the ends of "
                f"transforms of {n_fft}; decode a longer window, or set reflect and released to false"
            )
        return F.pad(wav_BS[:, None], (left, left), mode="reflect")[:, 0].unfold(-1, n_fft, hop)
    padded_BS = F.pad(wav_BS, (left, (num_frames - 1) * hop + n_fft - left - wav_BS.shape[-1]))
    if n_fft % hop:
        return padded_BS.unfold(-1, n_fft, hop)
    # Concatenated slices: their backward pass is a few additions, several times faster than that of `unfold`.
    blocks_BTN = padded_BS.unflatten(-1, (-1, hop))
    return torch.cat([blocks_BTN[:, i : i + num_frames] for i in range(n_fft // hop)], dim=-1)


class _WindowedTransform(torch.autograd.Function):
    """torch.fft.rfft(frames * window); backward by a real transform, where PyTorch's own is complex."""

    @staticmethod
    def forward(ctx: Any, frames_BTN: Tensor, window_N: Tensor) -> Tensor:
        ctx.save_for_backward(window_N)
        spectrum_BTF: Tensor = torch.fft.rfft(frames_BTN * window_N)
        return spectrum_BTF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTF: Tensor) -> tuple[Tensor, None]:
        (window_N,) = ctx.saved_tensors
        # irfft counts every bin twice, as part of a symmetric spectrum, but the first and the last one.
        twice_BTF = grad_BTF.clone()
        torch.view_as_real(twice_BTF)[..., :: twice_BTF.shape[-1] - 1, :] *= 2
        return torch.fft.irfft(twice_BTF, len(window_N), norm="forward").mul_(0.5 * window_N), None


class _Magnitude(torch.autograd.Function):
    """sqrt(|x|^2 + floor^2) of a complex tensor; the numbers of the same written out, in fewer passes over memory."""

    @staticmethod
    def forward(ctx: Any, stft: Tensor, floor: float) -> Tensor:
        size: Tensor = stft.real.square().add_(stft.imag.square()).add_(floor**2).sqrt_()
        ctx.save_for_backward(stft, size)
        return size

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        stft, size = ctx.saved_tensors
        return torch.view_as_complex(torch.view_as_real(stft) * (grad / size)[..., None]), None


windowed_transform: Callable[[Tensor, Tensor], Tensor] = _WindowedTransform.apply
magnitude: Callable[[Tensor, float], Tensor] = _Magnitude.apply


class Spectra:
    """The STFTs of one batch of windows, each computed once (periodic Hann window, no scaling).

    Args:
        wav_BS: (B, S) samples; bf16 and fp16 are promoted to float32.
        lengths_B: (B,) real samples per clip; samples after them are treated as zeros and frames centred after them do
            not count. None: every sample is real.
    """

    def __init__(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> None:
        if wav_BS.ndim != 2 or 0 in wav_BS.shape:
            raise ValueError(f"Spectra: expected waveforms (B, S) with B, S >= 1, got shape {tuple(wav_BS.shape)}")
        wav_BS = at_least_float32(wav_BS)
        self.lengths_B = lengths_B
        self.wav_BS = wav_BS
        if lengths_B is not None:
            real_BS = mask_of(lengths_B, wav_BS.shape[-1])
            self.wav_BS = torch.where(real_BS, wav_BS, torch.zeros_like(wav_BS))
        self._stft: dict[tuple[int, int, bool], Tensor] = {}
        self._power: dict[tuple[int, int, bool], Tensor] = {}
        self._magnitude: dict[tuple[int, int, bool], Tensor] = {}

    def stft(self, n_fft: int, hop: int, reflect: bool = False) -> Tensor:
        """Complex (B, T, F)."""
        key = (n_fft, hop, reflect)
        if key not in self._stft:
            window_N = torch.hann_window(n_fft, dtype=self.wav_BS.dtype, device=self.wav_BS.device)
            self._stft[key] = windowed_transform(frame(self.wav_BS, n_fft, hop, reflect), window_N)
        return self._stft[key]

    def power(self, n_fft: int, hop: int, reflect: bool = False) -> Tensor:
        """Squared magnitudes (B, T, F)."""
        key = (n_fft, hop, reflect)
        if key not in self._power:
            stft_BTF = self.stft(n_fft, hop, reflect)
            self._power[key] = stft_BTF.real.square() + stft_BTF.imag.square()
        return self._power[key]

    def magnitude(self, n_fft: int, hop: int, reflect: bool = False) -> Tensor:
        """sqrt(power + MAGNITUDE_FLOOR^2), (B, T, F): differentiable everywhere, with gradient 0 at silence."""
        key = (n_fft, hop, reflect)
        if key not in self._magnitude:
            self._magnitude[key] = magnitude(self.stft(n_fft, hop, reflect), MAGNITUDE_FLOOR)
        return self._magnitude[key]

    def level(self) -> Tensor:
        """RMS over the real samples of each clip, at least LEVEL_FLOOR: (B,)."""
        energy_B = self.wav_BS.square().sum(-1)
        count = self.wav_BS.shape[-1] if self.lengths_B is None else self.lengths_B.clamp(min=1)
        return (energy_B / count).clamp(min=LEVEL_FLOOR**2).sqrt()

    def frame_mask(self, hop: int) -> Tensor | None:
        """Bool (B, T), True where a frame's centre is within its clip; None when all are."""
        if self.lengths_B is None:
            return None
        frames_B = torch.where(self.lengths_B > 0, self.lengths_B // hop + 1, 0)
        return mask_of(frames_B, self.wav_BS.shape[-1] // hop + 1)


def mean_over_frames(values_BTX: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Mean over all real frames of all clips; equal windows need no mask and no communication between ranks."""
    return values_BTX.mean() if mask_BT is None else masked_mean(values_BTX, mask_BT[..., None])


def mean_over_clips(values_B: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Mean over the clips that hold any sample."""
    return values_B.mean() if mask_BT is None else masked_mean(values_B, mask_BT.any(-1))


def sum_over_frames(values_BTX: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Sum per clip over its real frames and all bins: (B,)."""
    if mask_BT is not None:
        values_BTX = torch.where(mask_BT[..., None], values_BTX, torch.zeros_like(values_BTX))
    return values_BTX.sum((-2, -1))


def num_frames(values_BTX: Tensor, mask_BT: Tensor | None) -> Tensor | int:
    """Real frames of each clip (B,), at least 1; without a mask T."""
    return values_BTX.shape[-2] if mask_BT is None else mask_BT.sum(-1).clamp(min=1).to(values_BTX.dtype)


def as_spectra(fake: Tensor | Spectra, real: Tensor | Spectra, lengths_B: Tensor | None) -> tuple[Spectra, Spectra]:
    """Wrap waveforms; pass `Spectra` that several losses share."""
    fake = fake if isinstance(fake, Spectra) else Spectra(fake, lengths_B)
    real = real if isinstance(real, Spectra) else Spectra(real, lengths_B)
    if fake.wav_BS.shape != real.wav_BS.shape:
        raise ValueError(
            f"spectral loss: fake {tuple(fake.wav_BS.shape)} and real {tuple(real.wav_BS.shape)} must have one shape; "
            "cut both to the same window"
        )
    return fake, real


def no_autocast(spectra: Spectra) -> torch.autocast:
    """Keep Fourier transforms, logarithms and mel filters in float32 under any autocast."""
    return torch.autocast(spectra.wav_BS.device.type, enabled=False)
