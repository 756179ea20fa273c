"""S3Tokenizer, the supervised semantic tokens of CosyVoice: a speech recogniser's encoder, cut in the middle.

Version 1 (50 or 25 Hz) has the layers of Whisper's encoder and a codebook on the sphere; version 2 (25 Hz) has rotary
attention beside a memory of convolutions, and ternary scalars. There is no decoder. The network is written again here
and runs on weights that `llmcodec convert` has read from the published ONNX file, or from a state dict of the package
`s3tokenizer`.
A clip above 30 s is heard in windows of 30 s that overlap by 4; half of each overlap comes from each window.
Source: arXiv 2407.05407, 2412.10117, github.com/xingchensong/S3Tokenizer.
Shapes: B batch, S samples, F mel bands, T frames, D width, H heads, N rows. Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import network_family
from llmcodec.adapters.networks.folder import below
from llmcodec.adapters.networks.s3_onnx import STRIDE
from llmcodec.adapters.networks.seanet import EuclideanCodebook

SAMPLE_RATE, WINDOW_SAMPLES, MEL_HOP_SAMPLES = 16_000, 400, 160
LONGEST_MELS, OVERLAP_MELS = 3000, 400
"""Mel frames of a window, and of the overlap of two."""
POSITIONS = 1500
HEAD_WIDTH, LONGEST_PERIOD, MEMORY = 64, 10_000.0, 31
SCALARS, LEVELS = 8, 3
TANH_LIMIT = 0.9990000128746033
"""Keeps rounding away from a half."""


class Attention(nn.Module):
    """Attention over all frames; with `memory` rotary, and beside it a convolution of the values."""

    def __init__(self, width: int, memory: bool):
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)
        self.fsmn_block: nn.Conv1d | None = None
        if memory:
            self.fsmn_block = nn.Conv1d(width, width, MEMORY, padding=MEMORY // 2, groups=width, bias=False)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        query, key, value = (
            project(hidden_BTD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        if self.fsmn_block is not None:
            query, key = _rotated(query), _rotated(key)
        scale = (hidden_BTD.shape[-1] // self.num_heads) ** -0.25
        weights_BHTU = ((query * scale) @ (key * scale).transpose(2, 3)).softmax(-1)
        mixed_BTD = self.out((weights_BHTU @ value).transpose(1, 2).flatten(2))
        if self.fsmn_block is None:
            return mixed_BTD
        values_BTD = value.transpose(1, 2).flatten(2)
        return mixed_BTD + (self.fsmn_block(values_BTD.transpose(1, 2)).transpose(1, 2) + values_BTD)


class Block(nn.Module):
    """Attention and two linear layers, each behind a norm and beside its input."""

    def __init__(self, width: int, memory: bool):
        super().__init__()
        self.attn = Attention(width, memory)
        self.attn_ln = nn.LayerNorm(width, eps=1e-6 if memory else 1e-5)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_BTD = hidden_BTD + self.attn(self.attn_ln(hidden_BTD))
        return hidden_BTD + self.mlp(self.mlp_ln(hidden_BTD))


class Encoder(nn.Module):
    """(B, F, mel frames) -> (B, T, D)."""

    positional_embedding: Tensor

    def __init__(self, num_mels: int, width: int, num_layers: int, stride: int, memory: bool):
        super().__init__()
        self.memory = memory
        self.conv1 = nn.Conv1d(num_mels, width, 3, stride, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, 2, padding=1)
        if not memory:
            self.register_buffer("positional_embedding", _sinusoids(width))
        self.blocks = nn.ModuleList(Block(width, memory) for _ in range(num_layers))

    def forward(self, mels_BFT: Tensor) -> Tensor:
        hidden_BTD = F.gelu(self.conv2(F.gelu(self.conv1(mels_BFT)))).transpose(1, 2)
        if not self.memory:
            hidden_BTD = hidden_BTD + self.positional_embedding[: hidden_BTD.shape[1]]
        for block in self.blocks:
            hidden_BTD = block(hidden_BTD)
        return hidden_BTD


class SphereQuantizer(nn.Module):
    """Version 1: the nearest vector to the latent at unit length."""

    def __init__(self, width: int, codebook_size: int):
        super().__init__()
        self.codebook = EuclideanCodebook(codebook_size, width)
        self.codebook.embed.copy_(F.normalize(torch.randn(codebook_size, width), dim=-1))

    def encode(self, latent_BTD: Tensor) -> Tensor:
        return self.codebook.encode(F.normalize(latent_BTD, dim=-1))


class TernaryQuantizer(nn.Module):
    """Version 2: eight scalars of three levels."""

    def __init__(self, width: int):
        super().__init__()
        self.project_in = nn.Linear(width, SCALARS)

    def encode(self, latent_BTD: Tensor) -> Tensor:
        digits = (self.project_in(latent_BTD).tanh() * TANH_LIMIT).round() + 1
        return (digits * float(LEVELS) ** torch.arange(SCALARS, device=digits.device)).sum(-1).long()


class S3Tokenizer(nn.Module):
    """The published network; sizes are those of version 1 at 50 Hz unless others are given.

    Args:
        stride: of the first convolution, 1 or 2. memory: version 2, whose codebook has 3 ** 8 codes.
    """

    def __init__(
        self,
        num_mels: int = 128,
        width: int = 1280,
        num_layers: int = 6,
        stride: int = 1,
        memory: bool = False,
        codebook_size: int = 4096,
    ):
        super().__init__()
        self.num_mels, self.stride = num_mels, stride
        self.codebook_size = LEVELS**SCALARS if memory else codebook_size
        self.encoder = Encoder(num_mels, width, num_layers, stride, memory)
        self.quantizer = TernaryQuantizer(width) if memory else SphereQuantizer(width, codebook_size)


class S3TokenizerCodec(CodecAdapterWithFeatures):
    """One codebook, encode only."""

    can_decode = False

    def __init__(self, model: S3Tokenizer, num_codebooks: int | None = None):
        check_num_codebooks("S3Tokenizer", num_codebooks, 1, 1)
        self.mels_per_frame = 2 * model.stride
        super().__init__(model, SAMPLE_RATE, MEL_HOP_SAMPLES * self.mels_per_frame, 1, model.codebook_size)

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.quantizer.encode(self.latents_of(wav_BS))[:, None]

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        mels_BFT = torch.stack([log_mels(wav_S, self.model.num_mels) for wav_S in wav_BS])
        half, total, parts = OVERLAP_MELS // 2 // self.mels_per_frame, mels_BFT.shape[2], []
        for start in range(0, max(1, total - OVERLAP_MELS), LONGEST_MELS - OVERLAP_MELS):
            latent_BTD = self.model.encoder(mels_BFT[..., start : start + LONGEST_MELS])
            last = start + LONGEST_MELS >= total
            parts.append(latent_BTD[:, half if start else 0 : None if last else -half])
        return torch.cat(parts, 1)


def log_mels(wav_S: Tensor, num_mels: int) -> Tensor:
    """16 kHz samples -> (F, S // 160) as Whisper's, without its padding to 30 s."""
    window = torch.hann_window(WINDOW_SAMPLES, device=wav_S.device)
    spectrum = torch.stft(wav_S, WINDOW_SAMPLES, MEL_HOP_SAMPLES, window=window, return_complex=True)
    mels_FT = _filters(num_mels, wav_S.device) @ spectrum[..., :-1].abs().square()
    logs_FT = mels_FT.clamp(min=1e-10).log10()
    return (logs_FT.maximum(logs_FT.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=4)
def _filters(num_mels: int, device: torch.device) -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bins = WINDOW_SAMPLES // 2 + 1
    filters = mel_filter_bank(bins, num_mels, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters.T).float().contiguous().to(device)


def _sinusoids(width: int) -> Tensor:
    rates = torch.exp(-math.log(10_000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.arange(POSITIONS)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


def _rotated(rows_BHTD: Tensor) -> Tensor:
    """Turned by the frame; the first half of the channels is the real part."""
    num_frames, width = rows_BHTD.shape[-2:]
    rates = 1.0 / LONGEST_PERIOD ** (torch.arange(0, width, 2, device=rows_BHTD.device).float() / width)
    angles = torch.outer(torch.arange(num_frames, device=rows_BHTD.device), rates).repeat(1, 2)
    real, imag = rows_BHTD.chunk(2, -1)
    return rows_BHTD * angles.cos() + torch.cat([-imag, real], -1) * angles.sin()


def published_s3tokenizer(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Sizes and weights from a state dict in the names of the package `s3tokenizer`; None if it is another's."""
    for version, (landmark, name) in enumerate(
        (
            ("quantizer._codebook.embed", "quantizer.codebook.embed"),
            ("quantizer._codebook.project_down.weight", "quantizer.project_in.weight"),
        )
    ):
        found = below(tensors, landmark)
        if found is None or "encoder.blocks.0.attn.query.weight" not in found:
            continue
        state = {one: tensor for one, tensor in found.items() if one.startswith("encoder.")} | {name: found[landmark]}
        if version == 1:
            state["quantizer.project_in.bias"] = found["quantizer._codebook.project_down.bias"]
        width, num_mels, _ = state["encoder.conv1.weight"].shape
        sizes: dict[str, Any] = {"num_mels": num_mels, "width": width, "memory": version == 1}
        sizes["num_layers"] = sum(one.endswith(".attn_ln.weight") for one in state)
        if version == 0 and STRIDE not in found:
            raise ValueError(
                "S3Tokenizer of version 1: its weights do not say whether they are those of 25 or of 50 Hz; give the "
                "ONNX file, or put 25hz or 50hz into the file's name"
            )
        sizes["stride"] = 2 if version == 1 else int(state.pop(STRIDE))
        state.pop(STRIDE, None)
        if version == 0:
            sizes["codebook_size"] = len(found[landmark])
        return sizes, state
    return None


FAMILY = network_family(
    "S3Tokenizer",
    S3TokenizerCodec,
    S3Tokenizer,
    published_s3tokenizer,
    {
        "s3tokenizer_v1": {},
        "s3tokenizer_v1_25hz": {"stride": 2},
        "s3tokenizer_v2_25hz": {"stride": 2, "memory": True},
    },
)
