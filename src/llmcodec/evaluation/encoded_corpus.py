"""Clips through one codec: each is read, encoded and decoded once, when a measure first asks for it.

    with EncodedCorpus(codec) as encoded:
        tokens = encoded.tokens(train)                          # read and encoded here
        quality = measure_reconstruction(encoded, held_out)     # decodes; encodes what is not encoded yet
        again = encoded.tokens(held_out)                        # nothing is done again

Codes stay in memory; waveforms go to a temporary folder when they take more than `memory_bytes` together.
Shapes: S samples, Q codebooks, T frames, D width. Test: tests/evaluation/test_encoded_corpus.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.io import audio
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.protocol import Codec, WaveformCodec, deduplicates
from llmcodec.runtime.base import encode_many, windows
from llmcodec.runtime.torch_runtime import BATCH_SECONDS, TorchRuntime

MEMORY_BYTES = 1 << 30
Name = TypeVar("Name")


class EncodedCorpus:
    """Codes and reconstructions of clips by one codec, each made at most once. Close it, or use it in a `with` block.

    Args:
        codec: any `protocol.Codec`; it stays on its device.
        memory_bytes: of waveforms in memory; further ones go to a temporary folder.
    """

    def __init__(self, codec: Codec, memory_bytes: int = MEMORY_BYTES) -> None:
        self.codec = codec
        self.runtime = TorchRuntime(codec, type(codec).__name__)
        self._codes: dict[Clip, np.ndarray] = {}
        self._recordings = WaveStore(memory_bytes // 2)
        self._decoded = WaveStore(memory_bytes // 2)
        self._packets: dict[Clip, bytes] = {}

    def __enter__(self) -> EncodedCorpus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop everything and remove the temporary folders."""
        self._codes.clear()
        self._recordings.close()
        self._decoded.close()

    def recording(self, clip: Clip, keep: bool = True) -> tuple[np.ndarray, int]:
        """The clip as it was recorded, mono float32 (S,), and its sample rate. Raises ValueError if unreadable."""
        if clip in self._recordings:
            return self._recordings.get(clip)
        wav_S, sample_rate = clip.read()
        if keep:
            self._recordings.add(clip, wav_S, sample_rate)
        return wav_S, sample_rate

    def wav(self, clip: Clip, keep: bool = True) -> np.ndarray:
        """The clip at the codec's rate, float32 (S,)."""
        wav_S, sample_rate = self.recording(clip, keep)
        return audio.resample(wav_S, sample_rate, self.codec.sample_rate)

    def codes(
        self, clips: Sequence[Clip], on_progress: Callable[[float], None] | None = None, keep: bool = True
    ) -> list[Tensor]:
        """Codes (Q, T) int64 of every clip, on the CPU.

        Args:
            clips: those that are not encoded yet are read and encoded.
            on_progress: called with the share of them that is done.
            keep: keep the recordings as well; False if only the codes will be needed.
        """
        missing = [clip for clip in dict.fromkeys(clips) if clip not in self._codes]
        encoded = encode_many(self.runtime, ((clip, self.wav(clip, keep)) for clip in missing))
        for done, (clip, codes_QT) in enumerate(encoded, start=1):
            self._codes[clip] = codes_QT
            if on_progress is not None:
                on_progress(done / len(missing))
        return [torch.from_numpy(self._codes[clip]) for clip in clips]

    def tokens(
        self, clips: Sequence[Clip], on_progress: Callable[[float], None] | None = None, keep: bool = True
    ) -> list[Tensor]:
        """`codes`, flattened to 1-D int64 (`token_statistics.flatten_codes`), without repeats if the codec asks."""
        codes = self.codes(clips, on_progress, keep)
        tokens = [flatten_codes(codes_QT, self.codec.codebook_size) for codes_QT in codes]
        return [torch.unique_consecutive(one) for one in tokens] if deduplicates(self.codec) else tokens

    def reconstructions(self, clips: Iterable[Clip]) -> Iterator[tuple[Clip, np.ndarray]]:
        """Every clip with its reconstruction, float32 (S,) as long as `wav`; a batch at a time."""
        for window in windows(clips, lambda clip: clip.duration, BATCH_SECONDS):
            missing = [clip for clip in dict.fromkeys(window) if clip not in self._decoded]
            if isinstance(self.codec, WaveformCodec):
                for clip in missing:
                    wav_S, self._packets[clip] = self.codec.code_waveform(self.wav(clip))
                    self._decoded.add(clip, wav_S, self.codec.sample_rate)
                missing = []
            codes = [codes_QT.numpy() for codes_QT in self.codes(missing)]
            wavs = self.runtime.decode_batch(codes, [len(self.wav(clip)) for clip in missing])
            for clip, wav_S in zip(missing, wavs, strict=True):
                self._decoded.add(clip, wav_S, self.codec.sample_rate)
            for clip in window:
                yield clip, self._decoded.get(clip)[0]

    def sent(self, clip: Clip) -> tuple[int, ...]:
        """Flattened codes of a clip, or the bytes of a codec without tokens (after its reconstruction)."""
        if isinstance(self.codec, WaveformCodec):
            return tuple(self._packets[clip])
        return tuple(self.tokens([clip])[0].tolist())

    def latents(self, clips: Iterable[Clip]) -> Iterator[Tensor]:
        """Latents before the quantiser, (T, D) float32 per clip. ValueError if the codec does not expose them."""
        for window in windows(clips, lambda clip: clip.duration, BATCH_SECONDS):
            yield from map(torch.from_numpy, self.runtime.encode_features([self.wav(clip) for clip in window]))

    def encode_copies(self, copies: Iterable[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, Tensor]]:
        """Codes (Q, T) of altered copies of clips, (S,) at the codec's rate; they are not kept.

        One by one: the rounding of a batch could flip a token, and flipped tokens are what is counted.
        """
        for name, codes_QT in encode_many(self.runtime, copies, window_seconds=0):
            yield name, torch.from_numpy(codes_QT)

    def reconstruct_copies(self, copies: Iterable[tuple[Name, np.ndarray]]) -> Iterator[tuple[Name, np.ndarray]]:
        """Reconstructions of altered copies of clips, (S,) at the codec's rate, of the same length; nothing is kept."""
        most = BATCH_SECONDS * self.codec.sample_rate
        for window in windows(copies, lambda copy: len(copy[1]), most):
            codes = self.runtime.encode_batch([wav_S for _, wav_S in window])
            wavs = self.runtime.decode_batch(codes, [len(wav_S) for _, wav_S in window])
            yield from zip((name for name, _ in window), wavs, strict=True)


class WaveStore:
    """Waveforms with their sample rates: in memory up to `memory_bytes`, in a temporary folder from there on."""

    def __init__(self, memory_bytes: int) -> None:
        self._left = memory_bytes
        self._held: dict[Clip, tuple[np.ndarray | Path, int]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __contains__(self, clip: Clip) -> bool:
        return clip in self._held

    def add(self, clip: Clip, wav_S: np.ndarray, sample_rate: int) -> None:
        """Keep (S,) samples."""
        place: np.ndarray | Path = wav_S
        if wav_S.nbytes > self._left:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="llmcodec-")
            place = Path(self._folder.name) / f"{len(self._held)}.npy"
            np.save(place, wav_S)
        else:
            self._left -= wav_S.nbytes
        self._held[clip] = (place, sample_rate)

    def get(self, clip: Clip) -> tuple[np.ndarray, int]:
        """The samples (a memory map where they are on disk) and their rate."""
        place, sample_rate = self._held[clip]
        return (np.load(place, mmap_mode="r") if isinstance(place, Path) else place), sample_rate

    def close(self) -> None:
        """Forget the waveforms and remove the folder."""
        self._held.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
