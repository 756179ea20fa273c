"""The interface to a codec, whatever runs it: numpy in, numpy out. Imports neither torch nor transformers.

`TorchRuntime` (torch_runtime.py) drives any `protocol.Codec`, `OnnxRuntime` (onnx_runtime.py) an exported folder.
Many clips go through `encode_many`, which batches them by length:

    for clip, codes_QT in encode_many(runtime, ((clip, clip.load(rate)) for clip in clips)): ...

Shapes: S samples at the codec's rate, Q codebooks, T frames. Test: tests/runtime/test_base.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from llmcodec.io.token_file import TokenProvenance

WINDOW_SECONDS = 256.0
"""Audio that `encode_many` holds at once: enough to sort clips into full batches, little enough for memory."""
T = TypeVar("T")


@runtime_checkable
class Runtime(Protocol):
    """A codec that can be called without knowing what runs it."""

    @property
    def identity(self) -> TokenProvenance:
        """Which codec this is."""

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips (S,) at the codec's rate (`io.waveform`) -> int64 codes (Q, T) each, the same in a batch as alone."""

    def decode_batch(
        self, codes: Sequence[np.ndarray], lengths: Sequence[int | None] | None = None
    ) -> list[np.ndarray]:
        """Codes (Q, T) each -> float32 (S,); `lengths` in samples, None: all of T * hop_samples."""

    def encode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """One long clip as blocks (S,) of any size -> codes (Q, t) piece by piece, in bounded memory."""

    def decode_stream(
        self, codes: Iterable[np.ndarray], length: int | None = None, chunk_seconds: float | None = None
    ) -> Iterator[np.ndarray]:
        """Codes (Q, t) piece by piece -> float32 blocks (S,), in bounded memory.

        chunk_seconds: decoded at once; a live stream sets it low, so that blocks come early. None: as for files.
        """

    def coders(self) -> AbstractContextManager[Coders]:
        """Threads to call `encode_batch` and `decode_batch` in, and how many of them work at the same time."""


Coders = tuple[ThreadPoolExecutor, int]


@contextmanager
def one_coder() -> Iterator[Coders]:
    """One batch after the other."""
    with ThreadPoolExecutor(1, "coding") as pool:
        yield pool, 1


def length_batches(lengths: Sequence[int], max_total: int, max_clips: int = 64) -> list[list[int]]:
    """Indices grouped into batches of similar length, longest first.

    A batch's padded size (clips * longest) stays within `max_total`, except where one clip alone is longer.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches:
            last = batches[-1]
            if len(last) < max_clips and (len(last) + 1) * lengths[last[0]] <= max_total:
                last.append(index)
                continue
        batches.append([index])
    return batches


def encode_many(
    runtime: Runtime, clips: Iterable[tuple[T, np.ndarray]], window_seconds: float = WINDOW_SECONDS
) -> Iterator[tuple[T, np.ndarray]]:
    """Any number of clips -> codes (Q, T) each, in the order given; a window of them is in memory at a time.

    Args:
        clips: pairs of anything that names a clip and its samples (S,) at the codec's rate.
        window_seconds: audio that is read before it is encoded.
    """
    most = window_seconds * runtime.identity.sample_rate
    for window in windows(clips, lambda clip: len(clip[1]), most):
        codes = runtime.encode_batch([wav_S for _, wav_S in window])
        yield from zip((name for name, _ in window), codes, strict=True)


def windows(items: Iterable[T], size: Callable[[T], float], most: float) -> Iterator[list[T]]:
    """Items in their order, as lists that end where their sizes together reach `most`."""
    window: list[T] = []
    total = 0.0
    for item in items:
        window.append(item)
        total += size(item)
        if total >= most:
            yield window
            window, total = [], 0.0
    if window:
        yield window


def fit(wav_S: np.ndarray, length: int | None) -> np.ndarray:
    """Cut or zero-padded to `length` samples; None leaves it."""
    kept_S = wav_S[:length].copy()
    return kept_S if length is None or length <= len(kept_S) else np.pad(kept_S, (0, length - len(kept_S)))
