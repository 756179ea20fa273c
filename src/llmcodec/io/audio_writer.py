"""Audio files written whole or not at all, at once or in blocks.

    write("out.wav", wav_S, 16000)
    with AudioWriter("hour.flac", 16000) as writer: writer.write(block_S)

Test: `pytest tests/io/test_audio.py`.
"""

from __future__ import annotations

import errno
import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf

from llmcodec.io.atomic import AnyPath, atomic_path
from llmcodec.io.remote.paths import as_path


def write(path: AnyPath, wav: np.ndarray, sample_rate: int, subtype: str | None = None, durable: bool = True) -> None:
    """Write (S,) or (S, C) floats in [-1, 1]; the format follows the file's ending.

    Atomic: there is the old file or the whole new one, and if `durable` even when the power fails. Integer formats clip
    what is outside [-1, 1].
    Raises ValueError for non-finite samples or an unknown ending.
    """
    num_channels = 1 if wav.ndim == 1 else wav.shape[1]
    with AudioWriter(path, sample_rate, num_channels, subtype, durable) as writer:
        writer.write(wav)


class _Disk(io.FileIO):
    """A file that remembers that a write failed: libsndfile passes over some, that of the final header among them."""

    def __init__(self, temporary: Path, path: Path) -> None:
        super().__init__(temporary, "w+")
        self.path = path
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self.put(data)
        except OSError as error:  # an exception would be lost on its way through libsndfile
            self.error = error
            return 0
        if written is None or written < len(data):
            self.error = OSError(errno.ENOSPC, "only a part was written")
        return written or 0

    def put(self, data: Any) -> int | None:
        """`io.FileIO.write`."""
        return super().write(data)

    def check(self) -> None:
        """Raise the OSError of a write that failed."""
        if self.error is not None:
            number = self.error.errno or errno.EIO
            raise OSError(number, f"cannot be written, is the disk full? ({self.error.strerror})", str(self.path))


class AudioWriter:
    """Writes blocks of any length; the file gets its name when the `with` block ends without an error."""

    def __init__(
        self,
        path: AnyPath,
        sample_rate: int,
        num_channels: int = 1,
        subtype: str | None = None,
        durable: bool = True,
    ) -> None:
        self.path = as_path(path)
        ending = self.path.suffix.lower().lstrip(".")
        opus = ending == "opus"
        file_format = "OGG" if opus else ending.upper()
        if file_format not in sf.available_formats():
            raise ValueError(
                f"{path}: cannot write audio with the ending '.{ending}'; use .wav, .flac, .ogg, .opus or .mp3"
            )
        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_path(self.path, durable))
        self._disk = self._stack.enter_context(_Disk(temporary, self.path))
        try:
            self._file = sf.SoundFile(
                self._disk,
                "w",
                sample_rate,
                num_channels,
                format=file_format,
                subtype="OPUS" if opus else subtype,
            )
        except (sf.SoundFileError, ValueError, OverflowError) as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise ValueError(
                f"{path}: cannot be written at {sample_rate} Hz as {subtype or file_format}: {error}"
            ) from error
        self._stack.callback(self._close)

    def _close(self) -> None:
        self._file.close()
        self._disk.check()

    def write(self, wav: np.ndarray) -> None:
        if not np.isfinite(wav).all():
            raise ValueError(f"{self.path}: not written, the audio has NaN or infinite samples")
        try:
            self._file.write(wav)
            self._disk.check()
        except (sf.SoundFileError, AssertionError) as error:  # soundfile asserts that everything was written
            raise OSError(errno.ENOSPC, f"cannot be written, is the disk full? ({error})", str(self.path)) from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
