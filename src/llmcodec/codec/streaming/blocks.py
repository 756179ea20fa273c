"""Audio of any length in constant memory: blocks of samples in, blocks of codes out, and back.

    blocks = audio.iterate("three_hours.flac", codec.sample_rate)
    with AudioWriter("again.wav", codec.sample_rate) as out:
        for wav in decode_blocks(codec, encode_blocks(codec, blocks)):
            out.write(wav.numpy())

Blocks may have any sizes; the result does not depend on them. With bounded attention (`tiny`) it equals that of the
whole signal; with global attention it depends on `chunk_seconds` and `lookahead_seconds` (docs/longform.md has
figures). Works with every codec of `protocol.Codec`. Test: tests/codec/streaming/test_blocks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from llmcodec.codec.streaming.api import open_decoder, open_encoder
from llmcodec.codec.streaming.latency import CHUNK_SECONDS
from llmcodec.codec.streaming.sessions import DecoderSession, EncoderSession


def encode_blocks(
    codec: Any,
    blocks: Iterable[Tensor | np.ndarray],
    chunk_seconds: float = CHUNK_SECONDS,
    *,
    lookahead_seconds: float | None = None,
    audio_kind: str | None = None,
) -> Iterator[Tensor]:
    """Blocks of samples -> blocks of codes, each as soon as it is final.

    Args:
        codec: any codec of `protocol.Codec`, in evaluation mode.
        blocks: arrays (S,) of any sizes at the codec's sample rate, floats, int16, int32 or uint8.
        chunk_seconds: how much is encoded at once; more takes more memory and slightly less time.
        lookahead_seconds: context after each chunk. None: all that a frame can see, or with global attention
            GLOBAL_CONTEXT_SECONDS.
        audio_kind: codebook partition to use; None uses all codes.

    Yields:
        int64 codes (Q, t) on the CPU, never empty; joined they are the codes of the whole signal.

    Raises:
        ValueError: no samples at all, or a block that is not a finite, mono array of one of these types.
    """
    return _run(open_encoder(codec, chunk_seconds, lookahead_seconds, audio_kind), blocks)


def decode_blocks(
    codec: Any,
    codes: Iterable[Tensor | np.ndarray],
    length: int | None = None,
    chunk_seconds: float = CHUNK_SECONDS,
    *,
    lookahead_seconds: float | None = None,
) -> Iterator[Tensor]:
    """Blocks of codes -> blocks of samples.

    Args:
        codec: as for `encode_blocks`.
        codes: integer arrays (Q, t) of any lengths.
        length: samples of the whole signal; None: frames * hop_samples.
        chunk_seconds, lookahead_seconds: as for `encode_blocks`.

    Yields:
        samples (S,) on the CPU, never empty; joined they are `length` samples.

    Raises:
        ValueError: no codes at all, codes outside the codebook, or a length that they do not cover.
    """
    return _run(open_decoder(codec, chunk_seconds, lookahead_seconds, length), codes)


def _run(session: EncoderSession | DecoderSession, blocks: Iterable[Tensor | np.ndarray]) -> Iterator[Tensor]:
    for block in blocks:
        if (ready := session.push(block)).shape[-1]:
            yield ready
    if (ready := session.flush()).shape[-1]:
        yield ready
