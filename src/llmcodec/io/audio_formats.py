"""Which files are audio, by their endings, and formats beyond libsndfile (m4a, mp4, webm, wma, aac) through PyAV.

PyAV is optional: `pip install 'llmcodec[formats]'`. Test: `pytest tests/io/test_audio_formats.py`.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf

# fmt: off
SNDFILE_ENDINGS = (
    ".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".oga", ".aif", ".aifc", ".au", ".avr", ".bwf", ".caf", ".ircam",
    ".mp2", ".nist", ".paf", ".pvf", ".rf64", ".sf", ".snd", ".sph", ".svx", ".voc", ".w64", ".wave", ".xi",
)
"""Formats that libsndfile reads."""
PYAV_ENDINGS = (
    ".m4a", ".mp4", ".webm", ".wma", ".aac", ".3gp", ".ac3", ".amr", ".ape", ".m4b", ".mka", ".mkv", ".mov",
    ".tta", ".wv",
)
# fmt: on
"""Formats that PyAV (ffmpeg) reads."""


class ForwardFile(sf.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A file for reading on. The base class seeks after every read of a seekable file, which jumps in a VBR MP3."""

    def seekable(self) -> bool:
        return False


def pyav_is_there() -> bool:
    return importlib.util.find_spec("av") is not None


AUDIO_ENDINGS = SNDFILE_ENDINGS + PYAV_ENDINGS * pyav_is_there()
"""Endings of the files that can be read here; in folders, others are passed over."""
UNREAD_ENDINGS = () if pyav_is_there() else PYAV_ENDINGS
"""Endings of audio that cannot be read here; a command that passes it over says so."""
INSTALL_PYAV = "needs PyAV: pip install 'llmcodec[formats]'"


def readable_name(name: str | os.PathLike[str]) -> str:
    """A file name that can be printed and written as UTF-8: bytes that are no UTF-8 appear as %E9."""
    raw = os.fsencode(name) if isinstance(name, os.PathLike) else name.encode("utf-8", "surrogateescape")
    parts = raw.decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in parts)


def is_for_pyav(path: Path) -> bool:
    """Whether a file goes to PyAV, by its ending."""
    return path.suffix.lower() in PYAV_ENDINGS


def decoded_file(path: Path, shown: object) -> BinaryIO:
    """The first audio stream of a file that PyAV reads, as an open, unnamed RF64 file of float32.

    Args:
        path: the file.
        shown: its name in messages.

    Raises:
        ValueError: PyAV is not installed, no audio stream, or a damaged file.
    """
    if not pyav_is_there():
        raise ValueError(f"{shown}: {why_unread(path)}")
    return _as_rf64(shown, _frames(path, shown))


def joined_file(path: Path, shown: object) -> BinaryIO:
    """All streams of a chained Ogg file, a concatenated MP3 or a FLAC of unknown length, as an open RF64 file."""
    return _as_rf64(shown, _parts(path, shown, byte_ranges(path) or [(0, path.stat().st_size)]))


def byte_ranges(path: Path) -> list[tuple[int, int]]:
    """(start, stop) of the streams of a chained Ogg or concatenated MP3 file; empty where there is one stream."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(4)
        starts = _ogg_starts(file, size) if magic == b"OggS" else _mp3_starts(file, size)
    return list(zip(starts, [*starts[1:], size], strict=True)) if len(starts) > 1 else []


def _ogg_starts(file: BinaryIO, size: int) -> list[int]:
    """Where a first page (flag 2) follows one that is none: RFC 3533, chaining."""
    starts, place, was_first = [], 0, False
    while place + 27 <= size:
        file.seek(place)
        head = file.read(27)
        if head[:4] != b"OggS":
            break
        first = bool(head[5] & 2)
        if first and not was_first:
            starts.append(place)
        was_first = first
        place += 27 + head[26] + sum(file.read(head[26]))
    return starts


def _mp3_starts(file: BinaryIO, size: int) -> list[int]:
    """Where a stream begins whose predecessor's Xing header says that it ends there."""
    starts, place = [], 0
    while place < size:
        starts.append(place)
        length = _xing_bytes(file, place)
        if not length:
            break
        place += length
        file.seek(place)
        following = file.read(4)
        if following[:3] != b"ID3" and not (following[:1] == b"\xff" and following[1:2] >= b"\xe0"):
            break  # a tag at the end, or nothing
    return starts


def _xing_bytes(file: BinaryIO, start: int) -> int:
    """Bytes of the stream at `start`, its ID3v2 tag included, by its Xing or Info header; 0 where it has none."""
    file.seek(start)
    head = file.read(10)
    tag = 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start + tag)
    frame = file.read(64)
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if at >= 0:
            flags = int.from_bytes(frame[at + 4 : at + 8], "big")
            where = at + 8 + 4 * (flags & 1)
            return tag + int.from_bytes(frame[where : where + 4], "big") if flags & 2 else 0
    return 0


def _parts(path: Path, shown: object, ranges: list[tuple[int, int]]) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, float32 (S, C)) blocks of the streams one after the other."""
    for start, stop in ranges:
        with open(path, "rb") as file:
            file.seek(start)
            content = io.BytesIO(file.read(stop - start))
        try:
            with ForwardFile(content) as stream:
                while len(block := stream.read(1 << 14, dtype="float32", always_2d=True)):
                    yield stream.samplerate, block
        except sf.SoundFileError as error:
            raise ValueError(f"{shown}: the stream at byte {start} cannot be read ({error})") from error


def _as_rf64(shown: object, blocks: Iterator[tuple[int, np.ndarray]]) -> BinaryIO:
    """Blocks written to an unnamed temporary file, which is open at its beginning; the caller closes it."""
    try:
        rate, first_SC = next(blocks)
    except StopIteration:
        raise ValueError(f"{shown}: no samples could be decoded") from None
    num_channels = first_SC.shape[1]
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(suffix=".rf64"))
        with sf.SoundFile(file, "w", rate, num_channels, format="RF64", subtype="FLOAT", closefd=False) as decoded:
            decoded.write(first_SC)
            for other, block_SC in blocks:
                if (other, block_SC.shape[1]) != (rate, num_channels):
                    raise ValueError(
                        f"{shown}: changes from {rate} Hz, {num_channels} channels to {other} Hz, "
                        f"{block_SC.shape[1]} channels on the way; split it"
                    )
                decoded.write(block_SC)
        stack.pop_all()  # it stays open
    file.seek(0)
    return file


def _frames(path: Path, shown: object) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, float32 (S, C)) of every decoded frame of the first audio stream."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"{shown}: has no audio stream")
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(container.streams.audio[0]):
                for converted in to_float.resample(frame):
                    yield int(converted.sample_rate), np.ascontiguousarray(converted.to_ndarray().T, np.float32)
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise ValueError(f"{shown}: not an audio file that can be read ({error})") from error


def why_unread(path: Path) -> str:
    """Why a file of UNREAD_ENDINGS is passed over."""
    return f"{path.suffix} {INSTALL_PYAV}"
