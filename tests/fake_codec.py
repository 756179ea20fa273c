"""A codec without weights, for tests: each frame's token is its quantised loudness; decoding is a tone of that
loudness."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor


class LoudnessCodec:
    """Frame tokens from the frame alone (`context=0`) or also from `context` frames on each side."""

    sample_rate = 16_000
    hop_samples = 320
    frame_rate = 50.0
    num_codebooks = 1
    codebook_size = 64

    def __init__(self, context: int = 0) -> None:
        self.context = context

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        wav_BS = input_values[:, 0]
        num_frames = -(-wav_BS.shape[-1] // self.hop_samples)
        framed = F.pad(wav_BS, (0, num_frames * self.hop_samples - wav_BS.shape[-1])).unfold(-1, 320, 320)
        power_BT = framed.square().mean(-1)
        if self.context:
            size = 2 * self.context + 1
            power_BT = F.avg_pool1d(power_BT[:, None], size, 1, self.context, count_include_pad=False)[:, 0]
        codes_BT = (power_BT.sqrt() * 200).long().clamp(max=self.codebook_size - 1)
        return SimpleNamespace(
            audio_codes=codes_BT[:, None], audio_codes_mask=torch.ones_like(codes_BT)[:, None].bool()
        )

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
    ) -> SimpleNamespace:
        loudness_BS = (audio_codes[:, 0].float() / 200).repeat_interleave(self.hop_samples, dim=-1)
        time_S = torch.arange(loudness_BS.shape[-1]) / self.sample_rate
        wav_BS = loudness_BS * 2**0.5 * torch.sin(2 * torch.pi * 220 * time_S)
        return SimpleNamespace(audio_values=wav_BS[:, None, : length or wav_BS.shape[-1]])
