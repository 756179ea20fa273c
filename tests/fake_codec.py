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
        mask_BS = torch.ones_like(wav_BS) if padding_mask is None else padding_mask.reshape(wav_BS.shape)
        frames_B = -(-mask_BS.sum(-1).long() // self.hop_samples)
        mask_BT = torch.arange(num_frames) < frames_B[:, None]
        power_BT = framed.square().mean(-1) * mask_BT
        if self.context:
            size = 2 * self.context + 1
            near_BT, count_BT = (
                F.avg_pool1d(one_BT[:, None].float(), size, 1, self.context)[:, 0] for one_BT in (power_BT, mask_BT)
            )
            power_BT = near_BT / count_BT.clamp_min(1 / size)
        codes_BT = (power_BT.sqrt() * 200).long().clamp(max=self.codebook_size - 1)
        return SimpleNamespace(audio_codes=codes_BT[:, None], audio_codes_mask=mask_BT[:, None])

    def state_dict(self) -> dict[str, Tensor]:
        """What decides its tokens, so that results can be looked up by it."""
        return {"context": torch.tensor(self.context)}

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
    ) -> SimpleNamespace:
        loudness_BS = (audio_codes[:, 0].float() / 200).repeat_interleave(self.hop_samples, dim=-1)
        time_S = torch.arange(loudness_BS.shape[-1]) / self.sample_rate
        wav_BS = loudness_BS * 2**0.5 * torch.sin(2 * torch.pi * 220 * time_S)
        return SimpleNamespace(audio_values=wav_BS[:, None, : length or wav_BS.shape[-1]])
