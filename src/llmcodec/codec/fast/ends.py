"""STFT, inverse STFT and code look-up for inference: in chunks of frames, with cached tables and no full-size copies.

Shapes: B clips, S samples, T frames, N rows (real frames of all clips), D width, C code dimension, V codes.
Test: tests/codec/fast/test_engine.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.fast.conformer import Done, Layout, Precisions, rows_per_chunk
from llmcodec.codec.fast.cpu_conformer import pack_conformer
from llmcodec.codec.fast.cpu_kernels import LANES, in_panels, library
from llmcodec.codec.fast.cpu_linear import pack_linear
from llmcodec.codec.network import Decoder, Encoder
from llmcodec.codec.quantizer import FactorizedQuantizer, WeightNormLinear
from llmcodec.codec.stft import STFTFrontEnd

SCORES_PER_CHUNK = 3 << 18  # cosines held at once in the code look-up: they stay in the second-level cache
SCORES_PER_CHUNK_GPU = 1 << 27
CODES_PER_BLOCK = 64  # the maximum is taken over blocks first: much faster than one argmax over all codes

Call = TypeVar("Call", bound=Callable[..., Any])


def in_own_precision(method: Call) -> Call:
    """A method that computes in the precisions of its packed weights, whatever autocast its caller is in."""

    @wraps(method)
    def call(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x, *args, **kwargs)

    return call  # type: ignore[return-value]


class PackedEncoder(nn.Module):
    """Front end and conformer, with the interface of `Encoder`; latents are 0 at padding."""

    def __init__(self, encoder: Encoder, config: LLMCodecConfig, precisions: Precisions, done: Done):
        super().__init__()
        self.project = pack_linear(encoder.frontend.input_proj, precisions["front"])
        self.frontend = STFTFrontEnd.__new__(
            STFTFrontEnd
        )  # for its signal processing only, without a second set of weights
        nn.Module.__init__(self.frontend)
        self.frontend.config = config
        done(encoder.frontend)
        self.conformer = pack_conformer(encoder.conformer, config, precisions, done)

    @in_own_precision
    def forward(self, wav_BS: Tensor, lengths_B: Tensor, mask_BT: Tensor | None) -> Tensor:
        frames_BTW = self.frontend.frames(wav_BS.float(), lengths_B)
        layout = Layout.of(frames_BTW.shape[0], frames_BTW.shape[1], mask_BT)
        rows, parts = rows_per_chunk(wav_BS.device), []
        for clips, length in equal_clips(layout, wav_BS.device):
            for frames in frames_BTW[clips, :length].flatten(0, 1).split(rows):
                parts.append(self.project(self.frontend.analyse(frames)).float())
        return layout.unpack(self.conformer(torch.cat(parts), layout))


class PackedDecoder(nn.Module):
    """Conformer and inverse STFT head, with the interface of `Decoder`; samples are 0 at padding."""

    def __init__(self, decoder: Decoder, config: LLMCodecConfig, precisions: Precisions, done: Done):
        super().__init__()
        self.config = config
        project = decoder.head.output_proj
        self.conformer = pack_conformer(decoder.conformer, config, precisions, done)
        self.project = pack_linear(project, precisions["head"])
        self.window = torch.hann_window(config.n_fft, device=project.weight.device)
        done(decoder.head)

    @in_own_precision
    def forward(self, quantized_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        layout = Layout.of(quantized_BTD.shape[0], quantized_BTD.shape[1], mask_BT)
        hidden_ND = self.conformer(layout.pack(quantized_BTD.float()), layout)
        wav_BS = hidden_ND.new_zeros(layout.batch, layout.num_frames * self.config.hop_samples)
        row, envelopes = 0, {}
        for clips, length in equal_clips(layout, wav_BS.device):
            if length not in envelopes:
                envelopes = {length: self.inverse_envelope(length)}
            hidden_BTD = hidden_ND[row : row + (clips.stop - clips.start) * length].unflatten(0, (-1, length))
            samples_BS = self.synthesise(hidden_BTD, envelopes[length])
            wav_BS[clips, : samples_BS.shape[1]] = samples_BS
            row += hidden_BTD.shape[0] * length
        return wav_BS

    def synthesise(self, hidden_BTD: Tensor, inverse_envelope: Tensor) -> Tensor:
        """Clips of one length (B, T, D) -> samples (B, T * hop)."""
        hop, width = self.config.hop_samples, self.config.n_fft
        batch, num_frames, overlap = hidden_BTD.shape[0], hidden_BTD.shape[1], width // hop
        out = hidden_BTD.new_zeros(batch, num_frames + overlap - 1, hop)
        limit = math.log(self.config.max_magnitude)
        rows = max(1, rows_per_chunk(hidden_BTD.device) // batch)
        for start in range(0, num_frames, rows):
            hidden = hidden_BTD[:, start : start + rows]
            count = hidden.shape[1]
            log_magnitude, phase = self.project(hidden.flatten(0, 1)).float().chunk(2, dim=-1)
            magnitude = log_magnitude.clamp(max=limit).exp_()
            spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
            frames = torch.fft.irfft(spectrum, width).mul_(self.window).view(batch, count, overlap, hop)
            for i, part in enumerate(frames.unbind(2)):
                out[:, start + i : start + i + count] += part
        trim = (width - hop) // 2
        return out.mul_(inverse_envelope).view(batch, -1)[:, trim : trim + num_frames * hop]

    def inverse_envelope(self, num_frames: int) -> Tensor:
        """1 / sum of the squared windows that overlap, (T + n_fft / hop - 1, hop)."""
        hop = self.config.hop_samples
        overlap = self.config.n_fft // hop
        frame = torch.arange(num_frames + overlap - 1, device=self.window.device)[:, None]
        frame = frame - torch.arange(overlap, device=self.window.device)
        there = ((frame >= 0) & (frame < num_frames)).float()
        return (there @ self.window.square().view(overlap, hop)).clamp_(min=1e-11).reciprocal_()


class PackedQuantizer(nn.Module):
    """`FactorizedQuantizer` with folded weight norm, cached unit-norm codebook and exact look-up in blocks.

    The differentiable losses of the plain quantiser are not computed.
    """

    def __init__(self, quantizer: FactorizedQuantizer, done: Done):
        super().__init__()
        self.project_in, self.project_out = folded(quantizer.in_proj), folded(quantizer.out_proj)
        self.codebook = quantizer.codebook.detach().float().clone()
        self.codebook_VC = quantizer.codebook_VC.detach().clone()
        self.arranged: dict[tuple[int, int, int], Tensor] = {}
        done(quantizer)

    @in_own_precision
    def forward(
        self, latent_BTD: Tensor, partitions: Sequence[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Latents -> codes (B, T), unit-norm query (B, T, C), decoder input (B, T, D), {}."""
        query_BTC = F.normalize(F.linear(latent_BTD.float(), *self.project_in), dim=-1)
        whole = (0, len(self.codebook))
        spans = [whole] * len(query_BTC) if partitions is None else list(partitions)
        if len(set(spans)) == 1:
            codes_BT = self.nearest(query_BTC.flatten(0, 1), spans[0]).view(query_BTC.shape[:2])
        else:
            codes_BT = torch.stack([self.nearest(query, span) for query, span in zip(query_BTC, spans, strict=True)])
        return codes_BT, query_BTC, self.embed(codes_BT), {}

    @in_own_precision
    def embed(self, codes_BT: Tensor) -> Tensor:
        """Codes -> decoder input (B, T, D)."""
        return F.linear(F.embedding(codes_BT, self.codebook), *self.project_out)

    def nearest(self, query_NC: Tensor, span: tuple[int, int]) -> Tensor:
        """Largest cosine among the codes [first, last + 1) of `span`; the first of equals, as in the plain codec."""
        kernels = library() if query_NC.device.type == "cpu" else None
        if kernels is not None:
            codes = self.codes_of(span, LANES, in_panels)
            return kernels.look_up(query_NC, codes, codes.numel() // query_NC.shape[1]) + span[0]
        codes_CV = self.codes_of(span, CODES_PER_BLOCK, lambda codes_VC: codes_VC.T.contiguous())
        most = SCORES_PER_CHUNK if query_NC.device.type == "cpu" else SCORES_PER_CHUNK_GPU
        rows = max(16, most // codes_CV.shape[1] // 16 * 16)
        found = []
        memory = query_NC.new_empty(
            min(rows, len(query_NC)), codes_CV.shape[1]
        )  # allocating pages costs as much as the products
        for query in query_NC.split(rows):
            scores = torch.mm(query, codes_CV, out=memory[: len(query)]).view(len(query), -1, CODES_PER_BLOCK)
            block = scores.amax(-1).argmax(-1)
            inside = scores[torch.arange(len(query), device=query.device), block].argmax(-1)
            found.append(block * CODES_PER_BLOCK + inside)
        return torch.cat(found) + span[0]

    def codes_of(self, span: tuple[int, int], block: int, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """Unit-norm codes of the span, arranged; the last one pads the last block (the first of equals wins)."""
        key = (*span, block)
        if key not in self.arranged:
            codes_VC = self.codebook_VC[span[0] : span[1]].float()
            extra = -len(codes_VC) % block
            self.arranged[key] = arrange(torch.cat((codes_VC, codes_VC[-1:].expand(extra, -1))))
        return self.arranged[key]


def folded(linear: WeightNormLinear) -> tuple[Tensor, Tensor]:
    """Weight and bias of a weight-normed layer as those of a plain one."""
    return linear.weight.detach().float(), linear.bias.detach().float().clone()


def equal_clips(layout: Layout, device: torch.device) -> Iterator[tuple[slice, int]]:
    """Adjacent clips with the same number of frames, and this number; empty clips are left out.

    On a CPU one clip at a time: batching gains nothing there and would copy the frames.
    """
    for clip, clips, length in layout.groups:
        step = 1 if device.type == "cpu" else clips
        yield from ((slice(first, first + step), length) for first in range(clip, clip + clips, step))
