"""Codecs small enough to be streamed sample by sample: 8 samples a frame, 400 samples a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcodec.codec import LLMCodec, LLMCodecConfig

HOP, RATE = 8, 400
SIZES: dict[str, Any] = dict(
    sample_rate=RATE,
    hop_samples=HOP,
    n_fft=32,
    hidden_size=16,
    encoder_layers=2,
    decoder_layers=2,
    head_dim=8,
    conv_kernel_size=5,
    attention_window=3,
    codebook_size=64,
)


def small_codec(dtype: torch.dtype = torch.float64, **overrides: Any) -> LLMCodec:
    """Random weights, and batch statistics that are not those of the start; in evaluation mode."""
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig(**(SIZES | overrides)))
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.bias.normal_(0, 0.2)
    return codec.eval().to(dtype)


def noise(samples: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pieces(x: Tensor, cuts: list[int]) -> list[Tensor]:
    """`x` cut along its last dimension at these points (in any order, repeats give empty pieces)."""
    edges = [0, *sorted(min(cut, x.shape[-1]) for cut in cuts), x.shape[-1]]
    return [x[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]


def whole(codec: LLMCodec, wav: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Codes (1, T) and samples (S,) of the whole signal at once."""
    codes = codec.encode(wav[None, None]).audio_codes
    return codes[0], codec.decode(codes, length=length or len(wav)).audio_values[0, 0]


def reach(codec: LLMCodec, side: str, num_frames: int = 60, at: int = 30) -> tuple[int, int]:
    """Frames before and after frame `at` that its code's query, or its samples, depend on: by gradient."""
    if side == "encoder":
        wav = noise(num_frames * HOP).requires_grad_()
        codec.encode_latents(wav[None]).latent_BTD[0, at].square().sum().backward()
        touched = wav.grad.reshape(num_frames, HOP).abs().sum(1).nonzero()[:, 0]
    else:
        quantized = noise(num_frames * 16, 1).reshape(1, num_frames, 16).requires_grad_()
        codec.decode_latents(quantized)[0, at * HOP : (at + 1) * HOP].square().sum().backward()
        touched = quantized.grad[0].abs().sum(1).nonzero()[:, 0]
    return at - int(touched.min()), int(touched.max()) - at
