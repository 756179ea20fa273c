"""How a long or endless signal is cut into chunks, and the resulting latency, computed from the configuration.

    latency(LLMCodecConfig.causal_tiny()).encode_seconds      # 0.05
    latency(codec, chunk_seconds=1.0).round_trip_seconds

A chunk is coded with context on both sides, which is discarded afterwards. With bounded attention the context covers
all that a frame can see, so the result equals that of the whole signal. With global attention it cannot;
docs/longform.md gives the error. A causal codec keeps its state instead and waits only for the STFT's window.
Test: tests/codec/streaming/test_api.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from llmcodec.codec.config import LLMCodecConfig

CHUNK_SECONDS = 30.0  # long files: context costs little, memory stays small
STREAM_CHUNK_SECONDS = 1.0  # live, codecs that look ahead anyway; a causal codec goes frame by frame
GLOBAL_CONTEXT_SECONDS = 5.0  # both sides, with global attention (measured in docs/longform.md)

Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Plan:
    """One side of a codec, cut into chunks of `chunk_frames`.

    left_frames, right_frames: context coded along with each chunk. exact: the context is all that a frame can see.
    stateful: nothing is coded twice; the past is in caches, and the look-ahead is only half an STFT overlap.
    lookahead_samples: samples after the end of a chunk that it waits for.
    """

    chunk_frames: int
    left_frames: int
    right_frames: int
    exact: bool
    stateful: bool
    lookahead_samples: int


@dataclass(frozen=True)
class Latency:
    """Worst-case latency of tokens and samples in stream time, without computing time.

    encode: samples given minus samples covered by tokens. decode: samples covered by the given tokens minus samples
    returned. round_trip: samples in minus samples out, with tokens passed on at once. exact: the result equals that of
    the whole signal.
    """

    sample_rate: int
    hop_samples: int
    encoder: Plan
    decoder: Plan

    @property
    def exact(self) -> bool:
        return self.encoder.exact and self.decoder.exact

    @property
    def encode_samples(self) -> int:
        return self.encoder.chunk_frames * self.hop_samples + self.encoder.lookahead_samples

    @property
    def decode_samples(self) -> int:
        return (self.decoder.chunk_frames - 1) * self.hop_samples + self.decoder.lookahead_samples

    @property
    def round_trip_samples(self) -> int:
        chunk = self.decoder.chunk_frames * self.hop_samples
        wait = self.decoder.lookahead_samples
        if not self.decoder.stateful:  # tokens come in chunks, and so does their look-ahead
            wait = math.ceil(wait / chunk) * chunk
        return chunk + wait + self.encoder.lookahead_samples

    @property
    def encode_seconds(self) -> float:
        return self.encode_samples / self.sample_rate

    @property
    def decode_seconds(self) -> float:
        return self.decode_samples / self.sample_rate

    @property
    def round_trip_seconds(self) -> float:
        return self.round_trip_samples / self.sample_rate

    @property
    def encode_frames(self) -> float:
        return self.encode_samples / self.hop_samples

    @property
    def decode_frames(self) -> float:
        return self.decode_samples / self.hop_samples


def latency(codec: Any, chunk_seconds: float | None = None, lookahead_seconds: float | None = None) -> Latency:
    """Latency of `codec.streaming(chunk_seconds, lookahead_seconds)`, from a codec or only its configuration.

    Args:
        codec: any codec of `protocol.Codec`, or an `LLMCodecConfig`.
        chunk_seconds: as for `streaming`; None: one frame for a causal codec, else STREAM_CHUNK_SECONDS.
        lookahead_seconds: as for `streaming`.
    """
    encoder = make_plan(codec, "encoder", chunk_seconds, lookahead_seconds)
    decoder = make_plan(codec, "decoder", chunk_seconds, lookahead_seconds)
    return Latency(codec.sample_rate, codec.hop_samples, encoder, decoder)


def make_plan(codec: Any, side: Side, chunk_seconds: float | None, lookahead_seconds: float | None) -> Plan:
    """How to cut `side` into chunks. Raises ValueError for a non-positive chunk or a negative look-ahead."""
    frame_rate = codec.sample_rate / codec.hop_samples
    found = codec if isinstance(codec, LLMCodecConfig) else getattr(codec, "config", None)
    config = found if isinstance(found, LLMCodecConfig) else None
    # Packed or wrapped codecs have no caches: they get chunks with all the context that they need.
    stateful = config is not None and config.causal and (codec is config or getattr(codec, "keeps_caches", False))
    if chunk_seconds is None:
        chunk_seconds = 1 / frame_rate if stateful else STREAM_CHUNK_SECONDS
    if not 0 < chunk_seconds < math.inf:
        raise ValueError(f"chunk_seconds must be positive, got {chunk_seconds}")
    if lookahead_seconds is not None and not 0 <= lookahead_seconds < math.inf:
        raise ValueError(f"lookahead_seconds must be 0 or more, got {lookahead_seconds}")
    chunk_frames = max(1, round(chunk_seconds * frame_rate))
    if config is not None and stateful:
        if lookahead_seconds is not None:
            raise ValueError("lookahead_seconds: a causal codec has a look-ahead of its own; leave it out")
        overlap = (config.n_fft - config.hop_samples) // 2
        return Plan(chunk_frames, 0, 0, exact=True, stateful=True, lookahead_samples=overlap)
    if config is not None:
        before, after = config.encoder_context if side == "encoder" else config.decoder_context
    else:
        before = after = getattr(codec, "context_frames", (math.inf, math.inf))[side == "decoder"]
    default = math.ceil(GLOBAL_CONTEXT_SECONDS * frame_rate)
    right = default if math.isinf(after) else int(after)
    if lookahead_seconds is not None:
        asked = math.ceil(lookahead_seconds * frame_rate)
        right = asked if math.isinf(after) else min(asked, right)  # more context than it sees is useless
    left = max(default, right) if math.isinf(before) else int(before)
    return Plan(chunk_frames, left, right, right >= after and left >= before, False, right * codec.hop_samples)
