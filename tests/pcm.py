"""A codec without weights that gives the audio back: every code is one sample in 12 bits, 8 codebooks make a frame.

It is fast, exact to 1/2048, and shows every mistake in lengths, channels, orders and rates as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from llmcodec.io.token_file import TokenProvenance
from llmcodec.runtime.base import one_coder

RATE, HOP, LEVELS = 16000, 8, 4096
ERROR = 1 / 2000
IDENTITY = TokenProvenance("pcm", "0123456789abcdef" * 4, RATE, HOP, HOP, LEVELS)


class PCMRuntime:
    """Meets `coding.runtime.Runtime`. `calls` lists the batches (clips per call) and streams it was asked for."""

    def __init__(self, identity: TokenProvenance = IDENTITY) -> None:
        self.identity = identity
        self.calls: list[tuple[str, int]] = []

    coders = staticmethod(one_coder)

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.calls.append(("encode", len(wavs)))
        return [self._encode(wav) for wav in wavs]

    def decode_batch(
        self, codes: Sequence[np.ndarray], lengths: Sequence[int | None] | None = None
    ) -> list[np.ndarray]:
        self.calls.append(("decode", len(codes)))
        wanted = lengths if lengths is not None else [None] * len(codes)
        return [self._decode(one)[:length] for one, length in zip(codes, wanted, strict=True)]

    def encode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        self.calls.append(("encode_stream", 1))
        held = np.zeros(0, np.float32)
        for block in blocks:
            held = np.concatenate([held, block])
            whole = len(held) // HOP * HOP
            if whole:
                yield self._encode(held[:whole])
                held = held[whole:]
        if len(held):
            yield self._encode(held)

    def decode_stream(
        self, codes: Iterable[np.ndarray], length: int | None = None, chunk_seconds: float | None = None
    ) -> Iterator[np.ndarray]:
        self.calls.append(("decode_stream", 1))
        done = 0
        for one in codes:
            for at in range(0, one.shape[1], 5000):
                wav = self._decode(one[:, at : at + 5000])
                wav = wav if length is None else wav[: length - done]
                done += len(wav)
                yield wav

    def _encode(self, wav: np.ndarray) -> np.ndarray:
        assert wav.dtype == np.float32 and wav.ndim == 1 and len(wav)
        padded = np.pad(wav, (0, -len(wav) % HOP)).reshape(-1, HOP)
        return np.clip(np.round((padded.T + 1) * (LEVELS / 2)), 0, LEVELS - 1).astype(np.int64)

    def _decode(self, codes_QT: np.ndarray) -> np.ndarray:
        return (codes_QT.T.reshape(-1) / (LEVELS / 2) - 1).astype(np.float32)


def speech_like(num_samples: int, sample_rate: int = RATE, num_channels: int = 1, seed: int = 0) -> np.ndarray:
    """A sum of three tones below 3 kHz, (S,) or (S, C), so that resampling forth and back keeps it."""
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples)[:, None] / sample_rate
    wav = np.zeros((num_samples, num_channels))
    for _ in range(3):
        hertz, phase = generator.uniform(100, 3000, num_channels), generator.uniform(0, 6, num_channels)
        wav += 0.2 * np.sin(2 * np.pi * hertz * time + phase)
    wav = wav.astype(np.float32)
    return wav[:, 0] if num_channels == 1 else wav
