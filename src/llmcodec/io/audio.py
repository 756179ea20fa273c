"""Audio files as numpy float32 arrays, read by seek, in constant memory where they are long.

    wav_S = load("speech.flac", 16000)                      # mono, resampled, whole
    crop_S = load("speech.flac", 16000, start=8000, num_samples=16000)
    for block_S in iterate("hour.wav", sample_rate=16000): ...
    write("out.wav", wav_S, 16000)

Everything libsndfile knows is read: wav, flac, ogg, opus, mp3, aiff and more. Shapes: S samples, C channels; one
channel is (S,), several are (S, C). What is wrong with a file is said in one line as a ValueError; a truncated file
gives what is there, with a warning; a length field that cannot be true is an error.
Tests: `pytest tests/io/test_audio.py`.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import soundfile as sf
import soxr

from llmcodec.io.atomic import AnyPath
from llmcodec.io.audio_formats import (
    AUDIO_ENDINGS,
    UNREAD_ENDINGS,
    ForwardFile,
    byte_ranges,
    decoded_file,
    is_for_pyav,
    joined_file,
    pyav_is_there,
    readable_name,
    why_unread,
)
from llmcodec.io.audio_writer import AudioWriter, write
from llmcodec.io.remote.paths import fetch

__all__ = [
    "AUDIO_ENDINGS",
    "UNREAD_ENDINGS",
    "AudioBytes",
    "AudioInfo",
    "AudioWriter",
    "Embedded",
    "info",
    "iterate",
    "load",
    "read",
    "readable_name",
    "resample",
    "to_mono",
    "why_unread",
    "write",
]

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000  # outside, a header is wrong rather than unusual
_READ_FRAMES = 1 << 14
_UNKNOWN_LENGTH = 1 << 62  # what libsndfile says of a FLAC file whose header does not know its length
LOUDEST = 10.0
"""A peak above this is warned of: no recording, but integers stored as floats or a fault."""
CANCELLED_DB = 12.0
"""A mean of channels so far below them is warned of; channels that have nothing in common lose 3 dB."""
_IMPLAUSIBLE = 1000  # a header that claims so many times what is there is not that of a file cut short
_FILTER_SECONDS = 0.05  # context on both sides of a resampled crop; soxr's HQ filter is far shorter


@runtime_checkable
class Embedded(Protocol):
    """A recording that lies inside another file, such as `data.member.Member`; its text names it in messages."""

    def content(self) -> bytes:
        """Its bytes, as they would be in a file of its own. Raises ValueError where they cannot be had."""


AudioPlace = AnyPath | Embedded


@dataclass(frozen=True)
class AudioBytes:
    """An audio file that is in memory; messages name it as `where`."""

    data: bytes
    where: object

    def content(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return str(self.where)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; `num_frames` is a claim until the file has been read."""

    sample_rate: int
    num_frames: int
    num_channels: int
    format: str

    @property
    def seconds(self) -> float:
        return self.num_frames / self.sample_rate


def info(path: AudioPlace) -> AudioInfo:
    """Header of an audio file. Raises ValueError when it cannot be opened as audio."""
    with _open(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels, file.format)


def read(path: AudioPlace, start: int = 0, num_frames: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read `num_frames` frames from frame `start` on, at the file's own sample rate.

    Returns float32 (S,) if `mono` or (S, C), and the sample rate; less than asked for at the end of the file.
    Raises ValueError for a missing, empty, unreadable or non-finite file, or a start after the end.
    """
    with _open(path) as file:
        if not 0 <= start < max(file.frames, 1):
            raise ValueError(f"{path}: cannot start at frame {start} of {file.frames}")
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"{path}: num_frames must be at least 1, not {num_frames}")
        blocks = list(_blocks(path, file, start, num_frames, mono))
        if not blocks:
            raise ValueError(f"{path}: no samples" + (" could be decoded" if file.frames else " (empty or cut short)"))
        return np.concatenate(blocks), file.samplerate


def read_bytes(content: bytes, where: object) -> tuple[np.ndarray, int]:
    """A whole file that is in memory as mono float32 (S,), and its sample rate; messages name it as `where`."""
    return read(AudioBytes(content, where))


def load(path: AudioPlace, sample_rate: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
    """Read mono float32 (S,) at `sample_rate`; `start` and `num_samples` count samples at that rate.

    Only the asked part is read, by seek. Where the rates differ, a crop equals the same slice of the whole resampled
    file up to float32 rounding: reading starts where both sampling grids meet, with context for the filter.
    """
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"{path}: num_samples must be at least 1, not {num_samples}")
    header = info(path)
    if header.sample_rate == sample_rate:
        return read(path, start, num_samples)[0]
    if start == 0 and num_samples is None:
        wav_S, source_rate = read(path)
        return resample(wav_S, source_rate, sample_rate)
    total = num_resampled(header.num_frames, header.sample_rate, sample_rate)
    if not 0 <= start < total:
        raise ValueError(f"{path}: cannot start at sample {start} of {total} (at {sample_rate} Hz)")
    stop = total if num_samples is None else min(start + num_samples, total)
    ratio = header.sample_rate / sample_rate
    step = header.sample_rate // math.gcd(header.sample_rate, sample_rate)  # the grids meet every `step` source frames
    margin = math.ceil(_FILTER_SECONDS * header.sample_rate)
    first = max(0, math.floor(start * ratio) - margin) // step * step
    last = min(header.num_frames, math.ceil(stop * ratio) + margin)
    part_S = resample(read(path, first, last - first)[0], header.sample_rate, sample_rate)
    offset = start - first * sample_rate // header.sample_rate
    return part_S[offset : offset + stop - start]


def iterate(
    path: AudioPlace, sample_rate: int | None = None, block_seconds: float = 10.0, channel: int | None = None
) -> Iterator[np.ndarray]:
    """Mono float32 blocks (S,) of a file of any length, in constant memory, resampled to `sample_rate` if given.

    All blocks but the last have round(block_seconds * rate) samples; joined they equal `load(path, sample_rate)`.
    `channel` picks one channel instead of the mean over all.
    """
    with _open(path) as file:
        if channel is not None and not 0 <= channel < file.channels:
            raise ValueError(f"{path}: has no channel {channel}, only {file.channels}")
        rate = sample_rate or file.samplerate
        block_samples = max(1, round(block_seconds * rate))
        parts: Iterator[np.ndarray] = _blocks(path, file, 0, None, mono=channel is None)
        if channel is not None:
            parts = (part if part.ndim == 1 else part[:, channel] for part in parts)
        if rate != file.samplerate:
            parts = resample_blocks(parts, file.samplerate, rate)
        pending, count = [], 0
        for part in parts:
            pending.append(part)
            count += len(part)
            if count >= block_samples:
                joined = np.concatenate(pending)
                whole = count // block_samples * block_samples
                yield from (joined[at : at + block_samples] for at in range(0, whole, block_samples))
                pending, count = [joined[whole:]], count - whole
        if count:
            yield np.concatenate(pending)


def to_mono(wav: np.ndarray) -> np.ndarray:
    """(S,) as it is, or the mean over the channels of (S, C)."""
    if wav.ndim == 1:
        return wav
    if wav.ndim == 2:
        return wav[:, 0] if wav.shape[1] == 1 else wav.mean(axis=1, dtype=np.float32)
    raise ValueError(f"a waveform is (samples,) or (samples, channels), not {wav.shape}")


def num_resampled(num_samples: int, source_rate: int, target_rate: int) -> int:
    """Length of a resampled signal: to the nearest sample, halves up, and at least one."""
    return max(1, (2 * num_samples * target_rate + source_rate) // (2 * source_rate))


def resample(wav: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Band-limited resampling of (S,) or (S, C) by soxr (quality HQ); nothing happens where the rates are equal."""
    if source_rate == target_rate or len(wav) == 0:
        return wav
    out = soxr.resample(np.asarray(wav, dtype=np.float32), source_rate, target_rate)
    missing = num_resampled(len(wav), source_rate, target_rate) - len(out)
    return out if missing <= 0 else np.concatenate([out, np.zeros((missing, *out.shape[1:]), out.dtype)])


@contextmanager
def _as_file(path: AudioPlace) -> Iterator[Path]:
    """A path that libraries can open while the `with` block lasts."""
    if not isinstance(path, Embedded):
        yield fetch(path)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(path.content())
        file.flush()
        yield Path(file.name)


def _open(path: AudioPlace) -> ForwardFile:
    """An open file, or a ValueError that says what is in its place."""
    with _as_file(path) as place:
        return _open_file(place, path)


def _open_file(place: Path, path: AudioPlace) -> ForwardFile:
    """The file `place`, which messages call `path`."""
    if not place.exists():
        raise ValueError(f"{path}: no such audio file")
    if place.is_dir():
        raise ValueError(f"{path}: is a folder, not an audio file")
    if place.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    # By its content, where soundfile would take the ending .raw as headerless audio or cannot spell the name.
    by_content = place.suffix.lower() == ".raw" or readable_name(place) != str(place)
    if is_for_pyav(place):
        return ForwardFile(decoded_file(place, path))
    try:
        file = ForwardFile(os.open(place, os.O_RDONLY), closefd=True) if by_content else ForwardFile(place)
    except (sf.SoundFileError, TypeError) as error:
        if isinstance(path, Embedded) and pyav_is_there():  # without an ending, only its content can tell
            return ForwardFile(decoded_file(place, path))
        reason = re.sub("^Error opening .*?: (?=[A-Z])", "", str(error)).rstrip(".")
        if "possibly a pipe" in reason or "must be specified" in reason:
            reason = "no audio format is recognised in it"
        tokens = "; `llmcodec decode` reads tokens" if place.suffix == ".safetensors" else ""
        raise ValueError(f"{path}: not an audio file that can be read ({reason}){tokens}") from error
    endless = file.frames >= _UNKNOWN_LENGTH
    if endless or file.format in ("OGG", "MP3", "MPEG") and byte_ranges(place):
        file.close()
        file = ForwardFile(joined_file(place, path))
    if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
        file.close()
        raise ValueError(f"{path}: its header says {file.samplerate} Hz, which cannot be right")
    return file


def _blocks(
    path: AudioPlace, file: ForwardFile, start: int, num_frames: int | None, mono: bool
) -> Iterator[np.ndarray]:
    """Blocks from `start` on. Memory follows what is decoded, never the length that a header claims."""
    try:
        _seek(file, start)
    except sf.SoundFileError as error:
        raise ValueError(f"{path}: damaged before frame {start} ({error})") from error
    done, missing, damage = 0, file.frames - start if num_frames is None else num_frames, ""
    levels = _Levels()
    while missing > 0:
        buffer = np.full((min(missing, _READ_FRAMES), file.channels), np.nan, np.float32)
        try:
            block = file.read(out=buffer)
        except sf.SoundFileError as error:  # what was decoded before the damage stands in the buffer
            block, damage = buffer[: int(np.isfinite(buffer).all(axis=1).argmin())], f" ({error})"
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            bad = start + done + int(np.argmin(np.isfinite(block).all(axis=1)))
            raise ValueError(f"{path}: sample {bad} is NaN or infinite; repair or drop the file")
        done, missing = done + len(block), missing - len(block)
        heard = to_mono(block) if mono else block
        levels.add(block, heard if mono else None)
        yield heard
        if damage:
            break
    expected = _claimed_frames(file)
    reached = start + done
    if done and num_frames is None and not start:
        _check_claim(path, file, reached, expected)
    if missing > 0 and reached < expected or num_frames is None and 0 < file.frames < expected:
        warnings.warn(f"{path}: truncated or damaged{damage}: {reached} of {expected} frames read", stacklevel=3)
    for problem in levels.problems():
        warnings.warn(f"{path}: {problem}", stacklevel=3)


class _Levels:
    """Peak of a file, and what is lost when its channels are averaged; said when it cannot be meant."""

    def __init__(self) -> None:
        self.peak = self.before = self.after = 0.0

    def add(self, block: np.ndarray, mono_S: np.ndarray | None) -> None:
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        if mono_S is not None and block.ndim == 2 and block.shape[1] > 1:
            self.before += float(np.mean(np.square(block, dtype=np.float64), axis=1).sum())
            self.after += float(np.square(mono_S, dtype=np.float64).sum())

    def problems(self) -> Iterator[str]:
        if self.peak > LOUDEST:
            yield (
                f"too loud: its peak is {self.peak:.4g}, full scale is 1; if the samples are integers kept as floats, "
                "divide them by 32768 (16 bits)"
            )
        if self.before > 0 and self.after < self.before * 10 ** (-CANCELLED_DB / 10):
            loss = 10 * math.log10(self.before / max(self.after, 1e-20 * self.before))
            yield (
                f"its channels cancel: their mean is {min(loss, 200):.0f} dB below them; take them apart "
                "(--channels split) or turn one round"
            )


def _seek(file: ForwardFile, start: int) -> None:
    """Go to frame `start`; MP3 is decoded up to it, because its seek tables may point some frames off."""
    if file.format != "MP3":
        if start:
            file.seek(start)
        return
    while start > 0:
        skipped = len(file.read(min(start, _READ_FRAMES)))
        if skipped == 0:
            return
        start -= skipped


def _claimed_frames(file: ForwardFile) -> int:
    """Frames by the header, also where libsndfile corrected the header of a file cut short."""
    frames = int(file.frames)
    wrong = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if wrong and int(wrong[2]) > 0 and int(wrong[1]) < 0x7FFFFFF0:  # larger means "unknown": a stream's header
        return max(frames, frames * int(wrong[1]) // int(wrong[2]))
    claim = re.search(r"^(?:  Data size|data) *: (\d+)$", file.extra_info, re.MULTILINE)
    length = re.search(r"^Length : (\d+)$", file.extra_info, re.MULTILINE)
    if file.format in ("RF64", "W64") and claim and length and int(length[1]) < int(claim[1]) < 1 << 62:
        return frames * int(claim[1]) // int(length[1])
    return frames


def _check_claim(path: AudioPlace, file: ForwardFile, reached: int, expected: int) -> None:
    """Refuse a file read to its end whose length field cannot be true; warn of an Ogg stream without an end."""
    advice = "the length field in its header is wrong; repair it, e.g. by `ffmpeg -i IN OUT.wav`"
    if expected > _IMPLAUSIBLE * reached:
        raise ValueError(f"{path}: claims {expected} frames, {reached} are there: {advice}")
    junk = re.search(r"^data : (\d+)$.*Unknown chunk marker.* at position (\d+)", file.extra_info, re.M | re.S)
    length = re.search(r"^Length : (\d+)$", file.extra_info, re.MULTILINE)
    if junk and length:
        left = int(length[1]) - int(junk[2])
        if left > int(junk[1]):
            raise ValueError(f"{path}: claims {junk[1]} bytes of samples in a file of {length[1]}: {advice}")
        if left * 100 > int(junk[1]):  # less may be somebody's tag
            why = "if it is sound, the length field in its header is wrong"
            warnings.warn(f"{path}: {left} bytes after the samples are not read; {why}", stacklevel=4)
    if file.format == "OGG":
        with _as_file(path) as place, open(place, "rb") as raw:
            raw.seek(max(0, os.fstat(raw.fileno()).st_size - 65536))
            tail = raw.read()
        page = tail.rfind(b"OggS")
        if page >= 0 and not tail[page + 5 : page + 6] > b"\x03":  # bit 2: the last page of the stream
            warnings.warn(f"{path}: truncated: the Ogg stream has no end; {reached} frames read", stacklevel=4)


def resample_blocks(parts: Iterable[np.ndarray], source_rate: int, target_rate: int) -> Iterator[np.ndarray]:
    """Blocks (S,) of one signal -> resampled blocks of any sizes, in constant memory; joined they equal `resample`."""
    if source_rate == target_rate:
        yield from parts
        return
    stream = soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32")
    seen = made = 0
    for part in parts:
        out = stream.resample_chunk(np.ascontiguousarray(part, dtype=np.float32))
        seen, made = seen + len(part), made + len(out)
        yield out
    last = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    missing = num_resampled(seen, source_rate, target_rate) - made - len(last) if seen else 0
    yield np.concatenate([last, np.zeros(max(0, missing), np.float32)])
