"""The STFT front end and the "same"-padded inverse STFT head (as in AUV and Vocos).

Shapes: B batch, S samples, T frames, F = n_fft / 2 + 1 bins, D codec width. Test: tests/codec/test_model.py.
Both run in at least float32: transforms and phases are too inaccurate in bfloat16.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.inputs import is_traced, sent
from llmcodec.distributed import at_least_float32

FRAMES_PER_CHUNK = (
    4096  # frames whose spectra are held at once without gradients: a frame of 320 samples has 1,282 values
)

Lengths = TypeVar("Lengths", int, Tensor)


def frame_lengths(lengths_B: Lengths, config: LLMCodecConfig) -> Lengths:
    """Samples per clip -> frames per clip (ceil, or AUV's floor under its flag): of a tensor, or one number."""
    if config.auv_floor_frames:
        return lengths_B // config.hop_samples
    return (lengths_B + config.hop_samples - 1) // config.hop_samples


def reflect_pad_each(wav_BS: Tensor, lengths_B: Tensor, pad: int, out_samples: int) -> Tensor:
    """Reflect `pad` samples at both ends of every clip, each at its own end; zero beyond.

    wav_BS must hold at least max(lengths_B) samples and each length must exceed `pad`. Returns (B, out_samples).
    """
    lengths = [] if is_traced() else lengths_B.tolist()
    if len(set(lengths)) == 1:  # of one length: at once
        padded = F.pad(wav_BS[:, : lengths[0]], (pad, pad), mode="reflect")[:, :out_samples]
        return F.pad(padded, (0, out_samples - padded.shape[1]))
    position_S = torch.arange(-pad, out_samples - pad, device=wav_BS.device)
    last_B1 = sent(lengths_B, wav_BS.device)[:, None] - 1
    mirrored_BS = torch.minimum(position_S.abs(), 2 * last_B1 - position_S).clamp(min=0)
    return torch.where(position_S <= last_B1 + pad, wav_BS.gather(1, mirrored_BS), 0)


class STFTFrontEnd(nn.Module):
    """Waveform -> log-magnitude and phase of a "same"-padded STFT -> linear to the codec width."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        self.config = config
        self.input_proj = nn.Linear(config.n_fft + 2, config.hidden_size)

    def forward(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """(B, S) samples, zero beyond lengths_B -> features (B, T, D) with T frames of the longest clip."""
        frames_BTN = self.frames(at_least_float32(wav_BS), lengths_B)
        if is_traced():  # how many chunks there are would be frozen into the graph
            return self.project(frames_BTN)
        return torch.cat([self.project(part) for part in frames_BTN.split(FRAMES_PER_CHUNK, dim=1)], dim=1)

    def project(self, frames: Tensor) -> Tensor:
        """Frames (..., n_fft) -> (..., D)."""
        with torch.autocast(frames.device.type, enabled=False):
            features = self.analyse(frames)
        return self.input_proj(features.to(self.input_proj.weight.dtype))

    def features(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """(B, S) -> (B, T, 2F): log(|X| + floor) and phase; the phase of DC and Nyquist is pinned to 0 or +pi."""
        return self.analyse(self.frames(wav_BS, lengths_B))

    def frames(self, wav_BS: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """(B, S) -> overlapping frames (B, T, n_fft), a view of the padded signal, not yet windowed.

        Args:
            wav_BS: samples, zero beyond each clip.
            lengths_B: samples of each clip; None: S. T is that of the longest clip (of S samples while `is_traced`).
        """
        cfg, samples, traced = self.config, wav_BS.shape[1], is_traced()
        if lengths_B is None:
            lengths_B = torch.full(wav_BS.shape[:1], samples, device=wav_BS.device if traced else "cpu")
        elif not traced:
            lengths_B = lengths_B.cpu()  # where it costs nothing to look at them
        longest = samples if traced else max(lengths_B.tolist())
        num_frames = frame_lengths(longest, cfg)
        pad = (cfg.n_fft - cfg.hop_samples) // 2
        if cfg.auv_floor_frames:
            if not traced and (shortest := min(lengths_B.tolist())) <= pad:
                raise ValueError(f"auv_floor_frames needs clips of more than {pad} samples, got {shortest}")
            extent_B = lengths_B
        else:  # whole hops, at least two, so that every length from one sample on can be reflected
            least = max(2 * cfg.hop_samples, pad + 1)
            extent_B = (frame_lengths(lengths_B, cfg) * cfg.hop_samples).clamp(min=least)
            wav_BS = F.pad(wav_BS, (0, least if traced else max(0, max(extent_B.tolist()) - samples)))
        padded = reflect_pad_each(wav_BS, extent_B, pad, (num_frames - 1) * cfg.hop_samples + cfg.n_fft)
        return padded.unfold(1, cfg.n_fft, cfg.hop_samples)

    def analyse(self, frames: Tensor) -> Tensor:
        """Frames (..., n_fft) -> (..., 2F): log-magnitude and phase of their windowed spectra."""
        cfg = self.config
        window = torch.hann_window(cfg.n_fft, dtype=frames.dtype, device=frames.device)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * window))
        real, imag = spectrum[..., 0] + 0.0, spectrum[..., 1] + 0.0  # + 0.0 turns a rounding -0 into +0
        edge = torch.zeros_like(imag[..., :1])
        imag = torch.cat((edge, imag[..., 1:-1], edge), dim=-1)
        power, phase = real.square() + imag.square(), torch.atan2(imag, real)
        if frames.requires_grad:  # the same numbers; where power is 0 or its inverse infinite, gradient 0, not NaN
            silent = power < torch.finfo(power.dtype).tiny
            phase = torch.where(silent, phase.detach(), torch.atan2(imag, real.masked_fill(silent, 1)))
            magnitude = torch.where(silent, power.detach().sqrt(), power.masked_fill(silent, 1).sqrt())
        else:
            magnitude = power.sqrt()
        return torch.cat((magnitude.add(cfg.log_floor).log(), phase), dim=-1)


class ISTFTHead(nn.Module):
    """Codec width -> magnitude (exp, clipped) and phase -> waveform by overlap-add, normalised by its envelope."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        self.config = config
        self.output_proj = nn.Linear(config.hidden_size, config.n_fft + 2)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T * hop); the result inside the mask does not depend on what lies outside."""
        spectrum = self.output_proj(hidden_BTD)
        with torch.autocast(spectrum.device.type, enabled=False):
            log_magnitude, phase = at_least_float32(spectrum).chunk(2, dim=-1)
            magnitude = log_magnitude.clamp(
                max=math.log(self.config.max_magnitude)
            ).exp()  # clip first: no inf * 0 in backward
            frames = torch.fft.irfft(torch.polar(magnitude, phase), self.config.n_fft)
            window = torch.hann_window(self.config.n_fft, dtype=frames.dtype, device=frames.device)
            frames = frames * window
            envelope = window.square().expand(1, frames.shape[1], -1)
            if mask_BT is not None:
                frames = frames * mask_BT[..., None]
                envelope = envelope * mask_BT[..., None]
            return self.overlap_add(frames) / self.overlap_add(envelope).clamp(min=1e-11)

    def overlap_add(self, frames_BTN: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, T * hop), (n_fft - hop) / 2 samples trimmed at each end. Shifted sums of whole hops."""
        hop = self.config.hop_samples
        batch, num_frames, width = frames_BTN.shape
        parts = frames_BTN.reshape(batch, num_frames, width // hop, hop)
        total = num_frames + width // hop - 1
        shifted = [F.pad(parts[:, :, i], (0, 0, i, total - num_frames - i)) for i in range(width // hop)]
        out = torch.stack(shifted).sum(0)
        trim = (width - hop) // 2
        return out.reshape(batch, total * hop)[:, trim : total * hop - trim]
