"""SNAC (`hubertsiuzdak/snac_24khz`, `_32khz`, `_44khz`) through the PyPI package `snac`: several rates, made flat.

A frame here is one code of the coarsest codebook and everything that lies under it: with strides [4, 2, 1] the seven
tokens (0a, 1a, 2a, 2b, 1b, 2c, 2d), ordered by the time at which their span starts, coarse before fine. So each of the
`num_codebooks` places always holds the same level, and tokens per second are what SNAC really sends.

The 32 and 44 kHz models pad clips to whole attention windows (0.38 and 0.28 s). Frames that lie wholly in that padding
are not kept; to decode, the last window is filled up with the codes of silence.
The decoder adds noise: it is drawn from a fixed seed for every clip, so that equal codes give equal samples, and clips
are decoded one by one.
Source: arXiv 2410.14411. Test: tests/adapters/test_snac.py.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import CodecFamily

NOISE_SEED = 0


class SnacCodec(CodecAdapterWithFeatures):
    """The number of codebooks is fixed by the pattern."""

    def __init__(self, model: Any, num_codebooks: int | None = None):
        strides = list(model.vq_strides)
        coarse = strides[0]
        if any(coarse % stride for stride in strides):
            raise ValueError(f"SNAC: strides {strides} are no divisors of the first one")
        spans = [
            (index * stride, level, index) for level, stride in enumerate(strides) for index in range(coarse // stride)
        ]
        pattern = [(level, index) for _, level, index in sorted(spans)]
        check_num_codebooks(f"SNAC with strides {strides}", num_codebooks, len(pattern), len(pattern), len(pattern))
        super().__init__(model, model.sampling_rate, int(model.hop_length) * coarse, len(pattern), model.codebook_size)
        self.pattern = pattern
        self.strides = strides
        self.window_frames = math.lcm(coarse, model.attn_window_size or 1) // coarse
        self._silence: Tensor | None = None

    def padded_samples(self, num_samples: int) -> int:
        """Whole attention windows, as SNAC pads."""
        step = self.hop_samples * self.window_frames
        return -(-num_samples // step) * step

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.flatten(self.model.encode(wav_BS[:, None]))

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        """The fine latents under one coarse frame, side by side."""
        latent_BDt = self.model.encoder(wav_BS[:, None])
        batch, _, fine = latent_BDt.shape
        return latent_BDt.transpose(1, 2).reshape(batch, fine // self.strides[0], -1)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        missing = -codes_BQT.shape[-1] % self.window_frames
        if missing:
            silence_QT = self._silent_codes()[:, -missing:]
            codes_BQT = torch.cat([codes_BQT, silence_QT.expand(len(codes_BQT), -1, -1)], -1)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            clips = []
            for codes_QT in codes_BQT:
                torch.manual_seed(NOISE_SEED)
                clips.append(self.model.decode(self.unflatten(codes_QT[None]))[0, 0])
        return torch.stack(clips)

    def flatten(self, levels: list[Tensor]) -> Tensor:
        """SNAC's list of codes (B, T * n_level) -> (B, Q, T)."""
        per_frame = [self.strides[0] // stride for stride in self.strides]
        return torch.stack([levels[level][:, index :: per_frame[level]] for level, index in self.pattern], 1)

    def unflatten(self, codes_BQT: Tensor) -> list[Tensor]:
        """(B, Q, T) -> SNAC's list of codes."""
        rows = [[q for q, (at, _) in enumerate(self.pattern) if at == level] for level in range(len(self.strides))]
        return [codes_BQT[:, row].transpose(1, 2).reshape(len(codes_BQT), -1) for row in rows]

    def _silent_codes(self) -> Tensor:
        """Codes (Q, T) of one attention window of silence."""
        if self._silence is None or self._silence.device != self.device:
            self._silence = self.codes_of(torch.zeros(1, self.padded_samples(1), device=self.device))[0]
        return self._silence


def build_snac(**sizes: Any) -> nn.Module:
    """The architecture with its initial weights; `sizes` are arguments of the package's SNAC."""
    from snac import SNAC

    return SNAC(**sizes)


def load_snac(folder: Path) -> nn.Module:
    """By the package's own reader: torch.load, which takes nothing but tensors since PyTorch 2.6 (weights_only)."""
    from snac import SNAC

    return SNAC.from_pretrained(str(folder))


KHZ_24 = dict(
    sampling_rate=24_000,
    encoder_dim=48,
    encoder_rates=[2, 4, 8, 8],
    decoder_dim=1024,
    decoder_rates=[8, 8, 4, 2],
    attn_window_size=None,
    vq_strides=[4, 2, 1],
)
KHZ_32: dict[str, Any] = dict(
    sampling_rate=32_000,
    encoder_rates=[2, 3, 8, 8],
    decoder_rates=[8, 8, 3, 2],
    attn_window_size=32,
    vq_strides=[8, 4, 2, 1],
)
FAMILY = CodecFamily(
    "SNAC",
    SnacCodec,
    build_snac,
    load_snac,
    "snac",
    "pip install 'llmcodec[snac]'",
    marks=("vq_strides", "encoder_rates"),
    presets={"snac_24khz": KHZ_24, "snac_32khz": KHZ_32, "snac_44khz": KHZ_32 | dict(sampling_rate=44_100)},
)
