"""Coding of a signal that arrives in pieces, in chunks: shared by long files and live streams.

A session takes pieces of any size with `push` and returns what is ready; `flush` returns the rest and ends it. Chunks
lie on a fixed grid, so the result does not depend on how the signal was cut into pieces. `ChunkedEncoder` and
`ChunkedDecoder` drive any codec of `protocol.Codec`: each chunk is coded with its true neighbours on both sides
(`latency.Plan`), and padding occurs only at the ends of the signal. `causal.py` has the stateful pair.
Shapes: S samples, Q codebooks, t frames. Results are on the CPU. Test: tests/codec/streaming/test_blocks.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.inputs import check_samples, to_tensor
from llmcodec.codec.streaming.latency import Plan


class Tail:
    """The last part of a growing signal, along its last dimension; `start` and `stop` are positions in the signal."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.start = self.stop = 0

    def append(self, part: Tensor) -> None:
        self.parts.append(
            part.clone()
        )  # callers reuse their buffers, and a slice would keep all of a huge piece in memory
        self.stop += part.shape[-1]
        while len(self.parts) > 1 and self.parts[-2].shape[-1] <= self.parts[-1].shape[-1]:
            self.parts[-2:] = [torch.cat(self.parts[-2:], dim=-1)]  # few parts, each sample copied log2(S) times

    def view(self, start: int, stop: int) -> Tensor:
        """The signal from `start` to `stop`."""
        assert self.start <= start <= stop <= self.stop
        self.parts = [torch.cat(self.parts, dim=-1)] if len(self.parts) > 1 else self.parts
        return self.parts[0][..., start - self.start : stop - self.start]

    def drop(self, before: int) -> None:
        """Drop everything before `before`; the copy frees the memory."""
        if before > self.start:
            self.parts = [self.view(before, self.stop).clone()]
            self.start = before


class Session:
    """Push pieces, get what is ready; flush once. Subclasses code a chunk (`step`).

    Args:
        codec: in evaluation mode.
        plan: how the signal is cut.
        unit: positions of the signal that make a frame: samples for an encoder, 1 for a decoder.
        wait: positions after the end of a chunk that must have arrived before it is coded.
    """

    def __init__(self, codec: Any, plan: Plan, unit: int, wait: int) -> None:
        if getattr(codec, "training", False):
            raise ValueError("a codec in training mode depends on its batch: call codec.eval() first")
        self.codec, self.plan, self.unit, self.wait = codec, plan, unit, wait
        self.hop = codec.hop_samples
        self.tail = Tail()
        self.next_frame = 0
        self.closed = False

    def ready(self) -> bool:
        """Whether the next chunk and its look-ahead have arrived."""
        return self.tail.stop >= (self.next_frame + self.plan.chunk_frames) * self.unit + self.wait

    def step(self, final: bool) -> Tensor:
        """Code the next chunk; with `final` all that is left, to the end of the signal."""
        raise NotImplementedError

    def empty(self) -> Tensor:
        raise NotImplementedError

    def check_open(self) -> None:
        if self.closed:
            raise ValueError("this stream has ended: open a new one to continue")

    @torch.no_grad()
    def push_tensor(self, block: Tensor) -> Tensor:
        """A checked piece of the signal -> what is ready now."""
        out = [self.empty()]
        piece = self.plan.chunk_frames * self.unit  # a huge block is not kept entirely
        for part in block.split(piece, dim=-1) if block.shape[-1] else ():
            self.tail.append(part)
            while self.ready():
                out.append(self.step(final=False))
        return torch.cat(out, dim=-1)

    @torch.no_grad()
    def flush_tensor(self, what: str) -> Tensor:
        """Everything that is left; the session is closed. Raises ValueError when nothing was ever pushed."""
        self.check_open()
        self.closed = True
        if self.tail.stop == 0:
            raise ValueError(f"the stream is empty: no {what} were pushed before its end")
        out = self.step(final=True)
        self.tail = Tail()
        return out

    @property
    def device(self) -> torch.device:
        return torch.device(getattr(self.codec, "device", "cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Samples are coded in float32, or in float64 by a codec of float64."""
        return torch.float64 if getattr(self.codec, "dtype", None) == torch.float64 else torch.float32


class EncoderSession(Session):
    """Samples in, codes out. `left_frames`: past frames that are coded along with a chunk."""

    queries = False
    """Give the unit-norm queries (C, t) of the look-up instead, for a search."""

    def __init__(self, codec: Any, plan: Plan, audio_kind: str | None = None) -> None:
        super().__init__(codec, plan, unit=codec.hop_samples, wait=plan.lookahead_samples)
        if audio_kind is not None and not hasattr(codec, "partitions_of"):
            raise ValueError(f"audio_kind {audio_kind!r}: {type(codec).__name__} codes no kinds apart; leave it out")
        self.audio_kind, self.left_frames = audio_kind, plan.left_frames

    def code(self, wav: Tensor, first: int, last: int | None) -> Tensor:
        """Samples (S,) -> the codes (Q, t) of their frames `first` to `last`, None: to the end."""
        raise NotImplementedError

    def step(self, final: bool) -> Tensor:
        start, stop = self.next_frame, self.next_frame + self.plan.chunk_frames
        first = max(0, start - self.left_frames)
        if final and self.tail.stop <= start * self.hop:
            return self.empty()
        end = self.tail.stop if final else stop * self.hop + self.wait
        wav = self.tail.view(first * self.hop, end).to(self.device)
        codes = self.code(wav, start - first, None if final else stop - first)
        self.next_frame = start + codes.shape[-1]
        self.tail.drop(min(end, max(0, self.next_frame - self.left_frames) * self.hop))
        return codes

    def push(self, samples: Tensor | np.ndarray) -> Tensor:
        """Samples (S,), any S >= 0 -> int64 codes (Q, t) that are ready, t >= 0.

        Raises:
            ValueError: not a 1-D array of finite floats, int16, int32 or uint8 (nothing of the piece is taken then), or
                the stream has ended.
        """
        self.check_open()
        return self.push_tensor(checked_samples(samples, self.tail.stop).to(self.dtype))

    def flush(self) -> Tensor:
        """The last codes (Q, t), once. Raises ValueError when no sample was ever pushed."""
        return self.flush_tensor("samples")

    def empty(self) -> Tensor:
        if self.queries:
            return torch.zeros(self.codec.config.codebook_dim, 0, dtype=self.dtype)
        return torch.zeros(self.codec.num_codebooks, 0, dtype=torch.int64)


class DecoderSession(Session):
    """Codes in, samples out. `length`: samples of the signal, if known from the start."""

    def __init__(self, codec: Any, plan: Plan, length: int | None = None) -> None:
        super().__init__(codec, plan, unit=1, wait=plan.right_frames)
        if length is not None and length < 1:
            raise ValueError(f"length must be at least 1 sample, got {length}")
        self.length = length
        self.emitted = 0

    def push(self, codes: Tensor | np.ndarray) -> Tensor:
        """Codes (Q, t), any t >= 0 -> samples (S,) that are ready, S >= 0.

        Raises:
            ValueError: not integers of that shape inside the codebook, or the stream has ended.
        """
        self.check_open()
        return self.cut(self.push_tensor(checked_codes(codes, self.codec, self.tail.stop)))

    def flush(self, length: int | None = None) -> Tensor:
        """The last samples, once; the whole signal has `length` samples (default: frames * hop_samples).

        Raises:
            ValueError: nothing was ever pushed, the codes do not cover `length`, or more samples were already returned.
        """
        length = self.length if length is None else length
        if length is not None and self.tail.stop:
            check_length(length, self.codec, self.tail.stop)
            if length < self.emitted:
                raise ValueError(
                    f"length={length}, but {self.emitted} samples were already returned; finish without it and cut "
                    "them, or give it at the start (decode_blocks)"
                )
        self.length, total = length, self.tail.stop * self.hop
        wav = self.cut(self.flush_tensor("codes"))
        if length is None or length <= total:
            return wav
        if not hasattr(self.codec, "num_frames"):
            raise ValueError(f"{total} samples were decoded, fewer than length={length}")
        missing = length - self.emitted  # `auv_floor_frames` drops the samples after the last whole hop
        self.emitted = length
        return F.pad(wav, (0, missing))

    def cut(self, wav: Tensor) -> Tensor:
        """Cut samples beyond `length`."""
        wav = wav if self.length is None else wav[: max(0, self.length - self.emitted)]
        self.emitted += wav.shape[-1]
        return wav

    def empty(self) -> Tensor:
        return torch.zeros(0, dtype=self.dtype)


class ChunkedEncoder(EncoderSession):
    """Encodes chunk by chunk, each between its neighbours."""

    def code(self, wav: Tensor, first: int, last: int | None) -> Tensor:
        if self.queries:
            lengths = torch.tensor([len(wav)], device=wav.device)
            return self.codec.encode_latents(wav[None], lengths).query_BTC[0, first:last].T.cpu()
        kinds = {} if self.audio_kind is None else {"audio_kinds": [self.audio_kind]}
        codes = self.codec.encode(wav[None, None], **kinds).audio_codes[0].cpu()
        if last is not None and codes.shape[-1] < max(last, len(wav) // self.hop - 1):
            raise ValueError(f"{len(wav)} samples gave only {codes.shape[-1]} frames: is hop_samples {self.hop} right?")
        return codes[:, first:last]


class ChunkedDecoder(DecoderSession):
    """Decodes chunk by chunk, each between its neighbours."""

    def step(self, final: bool) -> Tensor:
        start, stop = self.next_frame, self.next_frame + self.plan.chunk_frames
        first = max(0, start - self.plan.left_frames)
        if final and (self.tail.stop <= start or (self.length is not None and self.length <= self.emitted)):
            return self.empty()
        end = self.tail.stop if final else stop + self.plan.right_frames
        codes = self.tail.view(first, end).to(self.device)
        samples = (end - first) * self.hop
        if final and self.length is not None:
            samples = self.length - first * self.hop
        wav = self.codec.decode(codes[None], length=samples).audio_values[0, 0].cpu()
        self.next_frame = stop
        self.tail.drop(min(end, max(0, stop - self.plan.left_frames)))
        return wav[(start - first) * self.hop : None if final else (stop - first) * self.hop]


def checked_samples(samples: Tensor | np.ndarray, position: int) -> Tensor:
    """A CPU tensor (S,) of finite floats, also from integers; `position` is where the piece begins, for the message."""
    if not isinstance(samples, (np.ndarray, Tensor)):
        raise ValueError(f"samples must be a tensor or a numpy array, got {type(samples).__name__}")
    wav = to_tensor(samples, "samples").detach().cpu()
    if wav.ndim != 1:
        raise ValueError(f"samples must be (samples,), mono, got {tuple(wav.shape)}")
    return check_samples(wav, "stream", position)


def checked_codes(codes: Tensor | np.ndarray, codec: Any, position: int) -> Tensor:
    """A CPU tensor (Q, t) of int64 codes inside the codebook."""
    if not isinstance(codes, (np.ndarray, Tensor)):
        raise ValueError(f"codes must be a tensor or a numpy array, got {type(codes).__name__}")
    tokens = to_tensor(codes, "codes").detach().cpu()
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"codes must be integers, got {tokens.dtype}")
    if tokens.ndim != 2 or tokens.shape[0] != codec.num_codebooks:
        raise ValueError(f"codes must be ({codec.num_codebooks}, frames), got {tuple(tokens.shape)}")
    tokens = tokens.long()  # unsigned kinds cannot be compared
    outside = (tokens < 0) | (tokens >= codec.codebook_size)
    if bool(outside.any()):
        row, frame = outside.nonzero()[0].tolist()
        raise ValueError(
            f"code {int(tokens[row, frame])} of frame {position + frame} is outside [0, {codec.codebook_size}); "
            "another codec's tokens?"
        )
    return tokens


def check_length(length: int, codec: Any, num_frames: int) -> None:
    """Check that the codes cover the length. Codecs that do not report frames for a length check it themselves."""
    if length < 1:
        raise ValueError(f"length must be at least 1 sample, got {length}")
    if hasattr(codec, "num_frames") and codec.num_frames(length) > num_frames:
        raise ValueError(f"{num_frames} frames do not cover length={length} samples")
