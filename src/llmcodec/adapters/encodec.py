"""EnCodec (`facebook/encodec_24khz`, `_32khz`, `_48khz`) through transformers' EncodecModel.

24 and 32 kHz: mono, the whole clip at once. 48 kHz: one-second chunks of stereo at unit level. Here the chunks do not
overlap (published: by 10 ms), so that frames stay on one grid of `hop_samples`; a mono clip plays in both channels; and
each chunk's level, which the published codec sends beside the codes as a float, is a first codebook of its own: the
chunk's level in steps of 0.1 dB, the same code in all frames of the chunk.
Source: arXiv 2210.13438. Test: tests/adapters/test_residual.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llmcodec.adapters.adaptable import AdaptableAdapter, Chain, Codebook
from llmcodec.adapters.base import check_num_codebooks
from llmcodec.adapters.family import transformers_family

if TYPE_CHECKING:
    from transformers import EncodecModel

DEFAULT_BITS_PER_SECOND = 6_000
"""The published command line's bandwidth."""
LOWEST_LEVEL_DB = -96.0
LEVEL_RANGE_DB = 102.4


class EncodecCodec(AdaptableAdapter):
    """num_codebooks: residual codebooks used, of the first ones; default 6 kbit/s. The level's codebook is added."""

    loads_with = 'transformers.EncodecModel.from_pretrained("{}")'

    def __init__(self, model: EncodecModel, num_codebooks: int | None = None):
        config = model.config
        per_codebook = config.sampling_rate / config.hop_length * math.log2(config.codebook_size)
        usual = max(1, min(config.num_quantizers, int(DEFAULT_BITS_PER_SECOND // per_codebook)))
        residual = check_num_codebooks("EnCodec", num_codebooks, usual, config.num_quantizers)
        levels = 1 if config.normalize else 0
        super().__init__(model, config.sampling_rate, config.hop_length, residual + levels, config.codebook_size)
        self.num_residual = residual
        self.normalize = bool(config.normalize)
        self.chunk_samples: int | None = config.chunk_length
        if self.chunk_samples is not None and self.chunk_samples % self.hop_samples:
            raise ValueError(
                f"EnCodec: chunks of {self.chunk_samples} samples are no whole frames of {self.hop_samples}"
            )
        # Asking the quantiser in the middle between two counts keeps its floor() away from rounding.
        self._bandwidth = (residual + 0.5) * math.log2(config.codebook_size) * config.frame_rate / 1000

    @property
    def bitrate(self) -> float:
        """Nominal bits per second; a level is sent once per chunk."""
        bits = math.log2(self.codebook_size)
        level = 0.0 if not self.normalize else bits * self.sample_rate / (self.chunk_samples or self.sample_rate)
        return self.frame_rate * self.num_residual * bits + level

    def padded_samples(self, num_samples: int) -> int:
        """EnCodec pads by itself."""
        return num_samples

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return torch.cat([self._chunk_codes(chunk) for chunk in self._chunks(wav_BS)], -1)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return torch.cat([self._latent(chunk)[0].transpose(1, 2) for chunk in self._chunks(wav_BS)], 1)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        frames = codes_BQT.shape[-1] if self.chunk_samples is None else self.chunk_samples // self.hop_samples
        return torch.cat([self._chunk_audio(part) for part in codes_BQT.split(frames, -1)], -1)

    @property
    def cannot_adapt(self) -> str:
        return "it codes stereo in chunks, each with a level beside its codes" if self.normalize else ""

    def chains(self) -> list[Chain]:
        return [Chain([Codebook(layer.codebook.embed) for layer in self.model.quantizer.layers[: self.num_residual]])]

    def waveform_of(self, quantized_BFD: Tensor) -> Tensor:
        return self.model.decoder(quantized_BFD.transpose(1, 2)).mean(1)

    def train_codebooks(self) -> None:
        for layer in self.model.quantizer.layers[: self.num_residual]:
            layer.codebook.embed = nn.Parameter(layer.codebook.embed)

    def _chunks(self, wav_BS: Tensor) -> tuple[Tensor, ...]:
        return wav_BS.split(self.chunk_samples or wav_BS.shape[-1], -1)

    def _latent(self, wav_BS: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, T) and the level (B, 1), 1 without normalisation."""
        level_B1 = torch.ones_like(wav_BS[:, :1])
        if self.normalize:
            level_B1 = wav_BS.square().mean(-1, keepdim=True).sqrt() + 1e-8
        channels = self.model.config.audio_channels
        return self.model.encoder((wav_BS / level_B1)[:, None].expand(-1, channels, -1)), level_B1

    def _chunk_codes(self, wav_BS: Tensor) -> Tensor:
        latent, level_B1 = self._latent(wav_BS)
        codes_BQT = self.model.quantizer.encode(latent, self._bandwidth).transpose(0, 1)
        if not self.normalize:
            return codes_BQT
        steps = (20 * level_B1.log10() - LOWEST_LEVEL_DB) / (LEVEL_RANGE_DB / self.codebook_size)
        level_codes = steps.round().long().clamp(0, self.codebook_size - 1)
        return torch.cat([level_codes[:, None].expand(-1, 1, codes_BQT.shape[-1]), codes_BQT], 1)

    def _chunk_audio(self, codes_BQT: Tensor) -> Tensor:
        if not self.normalize:
            return self.model.decoder(self.model.quantizer.decode(codes_BQT.transpose(0, 1))).mean(1)
        wav_BS = self.model.decoder(self.model.quantizer.decode(codes_BQT[:, 1:].transpose(0, 1))).mean(1)
        # Frame by frame: a stream may be cut where no chunk begins, and then a level ends inside a piece.
        level_db = codes_BQT[:, 0] * (LEVEL_RANGE_DB / self.codebook_size) + LOWEST_LEVEL_DB
        level_BS = (10 ** (level_db / 20)).repeat_interleave(self.hop_samples, -1)
        return wav_BS[:, : level_BS.shape[1]] * level_BS[:, : wav_BS.shape[1]]


KHZ_32 = dict(
    sampling_rate=32_000,
    num_filters=64,
    upsampling_ratios=[8, 5, 4, 4],
    target_bandwidths=[2.2],
    codebook_size=2048,
    use_causal_conv=False,
    use_conv_shortcut=False,
)
KHZ_48 = dict(
    sampling_rate=48_000,
    audio_channels=2,
    normalize=True,
    chunk_length_s=1.0,
    overlap=0.01,
    target_bandwidths=[3.0, 6.0, 12.0, 24.0],
    norm_type="time_group_norm",
    use_causal_conv=False,
)
PRESETS = {"encodec_24khz": {}, "encodec_32khz": KHZ_32, "encodec_48khz": KHZ_48}
FAMILY = transformers_family("EnCodec", "Encodec", EncodecCodec, PRESETS)
