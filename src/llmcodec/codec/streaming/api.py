"""A live stream: push samples, receive tokens; push tokens, receive samples.

    with codec.streaming() as stream:
        for block in microphone:                     # any block size
            wav = stream.decode(stream.encode(block))
        wav = stream.decode(stream.finish_encode())
        wav = stream.finish_decode()
    stream.latency.encode_seconds                    # from the configuration, not measured

Both directions are independent: use one or both. The results do not depend on the block sizes; joined they equal those
of `encode_blocks` and `decode_blocks` with the same `chunk_seconds`, bit for bit. Use one object per stream; several on
one codec share only its weights.
Test: tests/codec/streaming/test_api.py.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcodec.codec.cheapest_path import CheapestPath
from llmcodec.codec.streaming.causal import CausalDecoder, CausalEncoder
from llmcodec.codec.streaming.latency import Latency, make_plan
from llmcodec.codec.streaming.sessions import ChunkedDecoder, ChunkedEncoder, DecoderSession, EncoderSession, Tail


def open_encoder(
    codec: Any, chunk_seconds: float | None, lookahead_seconds: float | None = None, audio_kind: str | None = None
) -> EncoderSession:
    """A session that takes samples and gives codes: stateful for a causal codec, chunked for all others."""
    plan = make_plan(codec, "encoder", chunk_seconds, lookahead_seconds)
    return (CausalEncoder if plan.stateful else ChunkedEncoder)(codec, plan, audio_kind)


def open_decoder(
    codec: Any, chunk_seconds: float | None, lookahead_seconds: float | None = None, length: int | None = None
) -> DecoderSession:
    """A session that takes codes and gives samples."""
    plan = make_plan(codec, "decoder", chunk_seconds, lookahead_seconds)
    return (CausalDecoder if plan.stateful else ChunkedDecoder)(codec, plan, length)


class PathEncoder:
    """An encoder session that gives the codes of a cheapest path through the nearest ones."""

    def __init__(self, session: EncoderSession, path: CheapestPath, candidates: int) -> None:
        session.queries = True
        self.session, self.path, self.candidates = session, path, candidates
        late = (path.delay or 0) * session.hop
        self.plan = replace(session.plan, lookahead_samples=session.plan.lookahead_samples + late)

    @property
    def tail(self) -> Tail:
        """The session's."""
        return self.session.tail

    @property
    def closed(self) -> bool:
        """Whether the stream has ended."""
        return self.session.closed

    @closed.setter
    def closed(self, ended: bool) -> None:
        self.session.closed = ended

    def push(self, samples: Tensor | np.ndarray) -> Tensor:
        """As `EncoderSession.push`."""
        return self._codes(self.session.push(samples))

    def flush(self) -> Tensor:
        """As `EncoderSession.flush`."""
        last = self._codes(self.session.flush())
        return torch.cat([last, self.path.finish()[None]], dim=1)

    @torch.no_grad()
    def _codes(self, query_CT: Tensor) -> Tensor:
        codebook_VC = self.session.codec.codebook_VC
        with torch.autocast(codebook_VC.device.type, enabled=False):
            similar_TV = query_CT.T.to(codebook_VC) @ codebook_VC.T
        return self.path.push(*similar_TV.topk(min(self.candidates, len(codebook_VC))))[None]


class CodecStream:
    """Two sessions on one codec, samples to codes and codes to samples; a context manager.

    Args:
        codec: any codec of `protocol.Codec`, in evaluation mode.
        chunk_seconds: coded at once. None: one frame for a causal codec, STREAM_CHUNK_SECONDS for others.
        lookahead_seconds: context after each chunk. None: all that a frame can see, so that the result equals that of
            the whole signal (GLOBAL_CONTEXT_SECONDS with global attention). Less lowers latency but changes tokens.
        audio_kind: codebook partition to use; None uses all codes.
    """

    def __init__(
        self,
        codec: Any,
        chunk_seconds: float | None = None,
        lookahead_seconds: float | None = None,
        audio_kind: str | None = None,
    ) -> None:
        self.encoder: EncoderSession | PathEncoder = open_encoder(codec, chunk_seconds, lookahead_seconds, audio_kind)
        self.decoder = open_decoder(codec, chunk_seconds, lookahead_seconds)
        self.latency = Latency(codec.sample_rate, codec.hop_samples, self.encoder.plan, self.decoder.plan)

    def search(self, path: CheapestPath, candidates: int) -> None:
        """Take the codes of a cheapest path, `path.delay` frames later, instead of the nearest ones."""
        assert isinstance(self.encoder, EncoderSession) and path.delay is not None
        self.encoder = PathEncoder(self.encoder, path, candidates)
        self.latency = replace(self.latency, encoder=self.encoder.plan)

    def __repr__(self) -> str:
        behind = f"{self.latency.encode_seconds:.2f} s behind in encode, {self.latency.decode_seconds:.2f} s in decode"
        return f"CodecStream({behind})"

    def encode(self, samples: Tensor | np.ndarray) -> Tensor:
        """Samples (S,) -> the codes (Q, t) that are final now; see `EncoderSession.push`."""
        return self.encoder.push(samples)

    def finish_encode(self) -> Tensor:
        """End of the samples -> the last codes (Q, t)."""
        return self.encoder.flush()

    def decode(self, codes: Tensor | np.ndarray) -> Tensor:
        """Codes (Q, t) -> the samples (S,) that are final now; see `DecoderSession.push`."""
        return self.decoder.push(codes)

    def finish_decode(self, length: int | None = None) -> Tensor:
        """End of the codes -> the last samples (S,); `length`: samples of the whole signal, default frames * hop."""
        return self.decoder.flush(length)

    def close(self) -> None:
        """End both directions; input that still waits for its look-ahead is dropped."""
        self.encoder.closed = self.decoder.closed = True

    def __enter__(self) -> CodecStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for session, call in ((self.encoder, "finish_encode"), (self.decoder, "finish_decode")):
            if kind is None and session.tail.stop and not session.closed:
                warnings.warn(f"the stream was left without {call}(): its end is lost", stacklevel=2)
        self.close()
