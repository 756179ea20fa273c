"""SoundStream's architecture, as the one public implementation with weights has it: eight codebooks at 50 Hz, 16 kHz.

Google published no weights. This network is that of github.com/kaiidams/soundstream-pytorch (MIT, not causal, trained
on LibriSpeech train-clean-100), for its checkpoint and for random ones. Its convolutions pad nothing: a clip is put
between zeros, and codes between copies of the first and the last one, so that lengths are those of every codec here.
Source: arXiv 2107.03312. Shapes: B batch, S samples, T frames, D width, Q codebooks.
Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks
from llmcodec.adapters.family import network_family
from llmcodec.adapters.networks.folder import below
from llmcodec.adapters.networks.seanet import ResidualQuantizer, hop_of

SAMPLE_RATE = 16_000
DILATIONS = (1, 3, 9)
KERNEL, LAST_KERNEL = 7, 3
STRIDES = (2, 4, 5, 8)


class ResidualUnit(nn.Module):
    """A dilated convolution and one of width 1, beside the middle of the input."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.cut = KERNEL // 2 * dilation
        self.conv0 = nn.Conv1d(channels, channels, KERNEL, dilation=dilation)
        self.conv1 = nn.Conv1d(channels, channels, 1)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        inner_BCT = self.conv1(F.elu(self.conv0(hidden_BCT)))
        return F.elu(inner_BCT + hidden_BCT[..., self.cut : hidden_BCT.shape[-1] - self.cut])


class Block(nn.Module):
    """Residual units and a strided convolution; in the decoder a transposed one before the units."""

    def __init__(self, channels: int, stride: int, decodes: bool):
        super().__init__()
        units = [ResidualUnit(channels // 2, dilation) for dilation in DILATIONS]
        if decodes:
            up = nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride)
            self.layers = nn.Sequential(up, nn.ELU(), *units)
        else:
            down = nn.Conv1d(channels // 2, channels, 2 * stride, stride)
            self.layers = nn.Sequential(*units, down, nn.ELU())

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        return self.layers(hidden_BCT)


class Stack(nn.Module):
    """The encoder or the decoder."""

    def __init__(self, num_filters: int, strides: Sequence[int], decodes: bool):
        super().__init__()
        widths = [num_filters * 2**depth for depth in range(1, len(strides) + 1)]
        blocks = [Block(width, stride, decodes) for width, stride in zip(widths, strides, strict=True)]
        width = widths[-1]
        if decodes:
            ends = nn.Conv1d(width, width, KERNEL), nn.ELU(), nn.Conv1d(num_filters, 1, KERNEL), nn.Tanh()
            self.layers = nn.Sequential(*ends[:2], *reversed(blocks), *ends[2:])
        else:
            first, last = nn.Conv1d(1, num_filters, KERNEL), nn.Conv1d(width, width, LAST_KERNEL)
            self.layers = nn.Sequential(first, nn.ELU(), *blocks, last)

    def forward(self, hidden_BCT: Tensor) -> Tensor:
        return self.layers(hidden_BCT)


class SoundStream(nn.Module):
    """The network; sizes are those of the 16 kHz checkpoint unless others are given."""

    def __init__(
        self,
        num_filters: int = 32,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        strides: Sequence[int] = STRIDES,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.encoder, self.decoder = (Stack(num_filters, strides, decodes) for decodes in (False, True))
        self.quantizer = ResidualQuantizer(num_codebooks, codebook_size, num_filters * 2 ** len(strides))

    def reach(self) -> int:
        """Samples that one frame of the encoder reads."""
        reach, step = KERNEL, 1
        for stride in self.strides:
            reach += step * (sum((KERNEL - 1) * dilation for dilation in DILATIONS) + 2 * stride - 1)
            step *= stride
        return reach + step * (LAST_KERNEL - 1)

    def lost(self) -> int:
        """Samples by which the decoder's output is shorter than its frames."""
        length = -(KERNEL - 1)
        for stride in reversed(self.strides):
            length = (length + 1) * stride - sum((KERNEL - 1) * dilation for dilation in DILATIONS)
        return KERNEL - 1 - length


class SoundStreamCodec(CodecAdapterWithFeatures):
    """num_codebooks: residual codebooks used, of the first ones; default all."""

    def __init__(self, model: SoundStream, num_codebooks: int | None = None):
        books = model.quantizer.codebooks
        count = check_num_codebooks("SoundStream", num_codebooks, len(books), len(books))
        super().__init__(model, SAMPLE_RATE, hop_of(model.strides), count, books[0].codebook_size)
        self.margin = model.reach() - self.hop_samples
        self.edge_frames = -(-model.lost() // (2 * self.hop_samples))

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self.model.quantizer.encode(self.latents_of(wav_BS), self.num_codebooks)

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        right = self.margin // 2
        return self.model.encoder(F.pad(wav_BS, (self.margin - right, right))[:, None]).transpose(1, 2)

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        edges = [codes_BQT[..., at].expand(-1, -1, self.edge_frames) for at in (slice(0, 1), slice(-1, None))]
        padded_BQT = torch.cat([edges[0], codes_BQT, edges[1]], -1)
        wav_BS = self.model.decoder(self.model.quantizer.decode(padded_BQT).transpose(1, 2))[:, 0]
        samples = codes_BQT.shape[-1] * self.hop_samples
        first = (wav_BS.shape[1] - samples) // 2
        return wav_BS[:, first : first + samples]


def published_soundstream(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Sizes and weights from a published checkpoint; None if it is another's."""
    found = below(tensors, "quantizer.code_relative_frequency")
    if found is None or "encoder.layers.0.weight" not in found:
        return None
    state = {name: tensor for name, tensor in found.items() if name.startswith(("encoder.", "decoder."))}
    books_QVD = found["quantizer.weight"]
    state |= {f"quantizer.layers.{place}.codebook.embed": book_VD for place, book_VD in enumerate(books_QVD)}
    num_codebooks, codebook_size, _ = books_QVD.shape
    sizes = {"num_filters": len(state["encoder.layers.0.weight"]), "num_codebooks": num_codebooks}
    return sizes | {"codebook_size": codebook_size}, state


FAMILY = network_family("SoundStream", SoundStreamCodec, SoundStream, published_soundstream, {"soundstream_16khz": {}})
