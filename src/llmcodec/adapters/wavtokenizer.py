"""WavTokenizer and UniCodec: one codebook, a SEANet encoder and a decoder of the Vocos kind, at 24 kHz.

Their code is on GitHub only and needs torchaudio, UniCodec's also fairseq; the networks are written again here and run
on weights that `llmcodec convert` has read from the published checkpoints. UniCodec has a transformer in place of
WavTokenizer's LSTM, a codebook behind a linear layer, and quarters of it for speech, music and other audio: `domain`
in config.json says which is searched (speech, music, audio; all: every quarter).
Source: arXiv 2408.16532, 2502.20067; github.com/jishengpeng/WavTokenizer, github.com/Jiang-Yidi/UniCodec.
Shapes: B batch, S samples, T frames, D width, V codebook size. Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import network_family
from llmcodec.adapters.networks.experts_transformer import ExpertsTransformer
from llmcodec.adapters.networks.folder import below, fold_norms, renamed, seanet_sizes, without_doubles
from llmcodec.adapters.networks.seanet import ResidualQuantizer, SEANetEncoder, hop_of
from llmcodec.adapters.networks.vocos import SpectralHead, VocosBackbone

SAMPLE_RATE = 24_000
DOMAINS = ("speech", "music", "audio")
"""Quarters of UniCodec's codebook: the first, the second, both others."""


class WavTokenizer(nn.Module):
    """The published network; sizes are those of the 75 Hz models unless others are given."""

    def __init__(
        self,
        ratios: Sequence[int] = (8, 5, 4, 2),
        codebook_size: int = 4096,
        width: int = 512,
        num_filters: int = 32,
        lstm_layers: int = 2,
        residual_kernel: int = 3,
        channels: int = 768,
        inner: int = 2304,
        num_layers: int = 12,
        num_bandwidths: int = 4,
    ):
        super().__init__()
        self.hop_samples = hop_of(ratios)
        self.encoder = SEANetEncoder(width, num_filters, ratios, lstm_layers, residual_kernel=residual_kernel)
        self.quantizer = self.build_quantizer(codebook_size, width)
        self.backbone = VocosBackbone(width, channels, inner, num_layers, num_bandwidths)
        self.head = SpectralHead(channels, self.hop_samples)

    def build_quantizer(self, codebook_size: int, width: int) -> nn.Module:
        return ResidualQuantizer(1, codebook_size, width)

    def latents(self, wav_BS: Tensor) -> Tensor:
        """(B, S) -> (B, T, D)."""
        return self.encoder(wav_BS[:, None]).transpose(1, 2)

    def encode(self, wav_BS: Tensor) -> Tensor:
        """(B, S) -> codes (B, 1, T)."""
        return self.quantizer.encode(self.latents(wav_BS), 1)  # type: ignore[operator]

    def decode(self, codes_B1T: Tensor) -> Tensor:
        """Codes (B, 1, T) -> (B, S)."""
        quantized_BTD = self.quantizer.decode(codes_B1T)  # type: ignore[operator]
        return self.head(self.backbone(quantized_BTD.transpose(1, 2)))


class ProjectedCodebook(nn.Module):
    """Codes are the nearest of fixed random vectors behind a linear layer, in the part of them that is searched."""

    def __init__(self, codebook_size: int, width: int, domain: str):
        super().__init__()
        self.codebook_size = codebook_size
        self.embedding = nn.Embedding(codebook_size, width)
        self.embedding_proj = nn.Linear(width, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        quarter = codebook_size // 4
        first = {"speech": 0, "music": quarter, "audio": 2 * quarter, "all": 0}[domain]
        last = {"speech": quarter, "music": 2 * quarter, "audio": codebook_size, "all": codebook_size}[domain]
        self.searched = (first, last)

    def encode(self, latent_BTD: Tensor, num_codebooks: int) -> Tensor:
        """Latents -> codes (B, 1, T)."""
        codes_VD, rows_ND = self.embedding_proj(self.embedding.weight), latent_BTD.flatten(0, 1)
        far_NV = (rows_ND**2).sum(1, keepdim=True) + (codes_VD**2).sum(1) - 2 * rows_ND @ codes_VD.t()
        first, last = self.searched
        return (far_NV[:, first:last].argmin(1) + first).view(len(latent_BTD), 1, -1)

    def decode(self, codes_B1T: Tensor) -> Tensor:
        """(B, 1, T) -> (B, T, D)."""
        return F.embedding(codes_B1T[:, 0], self.embedding_proj(self.embedding.weight))


class UniCodec(WavTokenizer):
    """The published network; sizes are those of the released model unless others are given."""

    def __init__(
        self,
        ratios: Sequence[int] = (8, 5, 4, 2),
        codebook_size: int = 16_384,
        width: int = 512,
        num_filters: int = 32,
        residual_kernel: int = 3,
        channels: int = 768,
        inner: int = 2304,
        num_layers: int = 12,
        num_bandwidths: int = 4,
        transformer_layers: int = 8,
        transformer_inner: int = 2048,
        num_experts: int = 3,
        domain: str = "speech",
    ):
        if domain not in (*DOMAINS, "all"):
            raise ValueError(f"UniCodec: domain {domain!r}: give {', '.join(DOMAINS)} or all")
        self.domain = domain
        conv = (0, residual_kernel, channels, inner, num_layers, num_bandwidths)
        super().__init__(ratios, codebook_size, width, num_filters, *conv)
        self.transformer = ExpertsTransformer(width, transformer_inner, transformer_layers, num_experts)

    def build_quantizer(self, codebook_size: int, width: int) -> nn.Module:
        return ProjectedCodebook(codebook_size, width, self.domain)

    def latents(self, wav_BS: Tensor) -> Tensor:
        return self.transformer(super().latents(wav_BS))


class WavTokenizerCodec(CodecAdapterWithFeatures):
    """One codebook."""

    def __init__(self, model: WavTokenizer, num_codebooks: int | None = None):
        check_num_codebooks(type(model).__name__, num_codebooks, 1, 1)
        if isinstance(model.quantizer, ProjectedCodebook):
            size = model.quantizer.codebook_size
        else:
            size = model.quantizer.codebooks[0].codebook_size  # type: ignore[index,union-attr]
        super().__init__(model, SAMPLE_RATE, model.hop_samples, 1, size)
        self.min_frames = model.backbone.min_frames

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.encode(wav_BS)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.latents(wav_BS)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(codes_BQT)


ENCODER = r"feature_extractor\.encodec\.encoder\."
QUANTIZER = r"feature_extractor\.encodec\.quantizer\.vq\."
DECODER = {r"backbone\.": "backbone.", r"head\.out\.": "head.out."}


def published_wavtokenizer(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Sizes and weights from a published checkpoint; None if it is another's."""
    found = below(tensors, "feature_extractor.encodec.quantizer.vq.layers.0._codebook.embed")
    if found is None:
        return None
    names = {ENCODER: "encoder.", QUANTIZER + r"layers\.0\._codebook\.embed$": "quantizer.layers.0.codebook.embed"}
    state = without_doubles(fold_norms(renamed(found, names | DECODER)))
    book_VD = state["quantizer.layers.0.codebook.embed"]
    return seanet_sizes(state) | _decoder_sizes(state) | {"codebook_size": len(book_VD)}, state


def published_unicodec(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Sizes and weights from a published checkpoint; None if it is another's."""
    found = below(tensors, "feature_extractor.encodec.quantizer.vq.embedding_proj.weight")
    if found is None:
        return None
    layers = r"transformer_enocoder\.transformer\.layers\."
    names = {
        ENCODER + layers + r"(\d+)\.(self_attn|norm1|norm2|layer_scale_1|FFNMOE)\.": r"transformer.layers.\1.\2.",
        ENCODER + r"model\.": "encoder.model.",
        QUANTIZER + r"(embedding|embedding_proj)\.": r"quantizer.\1.",
    }
    state = without_doubles(fold_norms(renamed(found, names | DECODER)))
    sizes = seanet_sizes(state) | _decoder_sizes(state)
    del sizes["lstm_layers"]
    return sizes | {
        "codebook_size": len(state["quantizer.embedding.weight"]),
        "transformer_layers": _count(state, r"transformer\.layers\.(\d+)\.norm1\.weight"),
        "transformer_inner": len(state["transformer.layers.0.FFNMOE.shared_experts.w1.weight"]),
        "num_experts": len(state["transformer.layers.0.FFNMOE.gate.weight"]),
        "domain": "speech",
    }, state


def _decoder_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    num_bandwidths, channels = state["backbone.norm.scale.weight"].shape
    return {
        "channels": channels,
        "inner": len(state["backbone.convnext.0.pwconv1.weight"]),
        "num_layers": _count(state, r"backbone\.convnext\.(\d+)\.gamma"),
        "num_bandwidths": num_bandwidths,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


FAMILY = network_family(
    "WavTokenizer",
    WavTokenizerCodec,
    WavTokenizer,
    published_wavtokenizer,
    {"wavtokenizer_75": {}, "wavtokenizer_40": {"ratios": (6, 5, 5, 4)}},
)
UNICODEC = network_family("UniCodec", WavTokenizerCodec, UniCodec, published_unicodec, {"unicodec": {}})
