"""Is an existing result still that of its source? Stale or damaged ones are made again by `--resume`.

A source that is newer than the result, or that has another sample rate or length, makes it stale. Imports no torch.
Test: tests/transcode/test_freshness.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from llmcodec.data.member import AudioPath
from llmcodec.io import audio
from llmcodec.io.known_rows import row_number
from llmcodec.io.remote.paths import look_for
from llmcodec.io.token_file import NotTokens, TokenClip, load_token_file
from llmcodec.io.token_shards import Origin, open_shard, shards_in

EXACT = (".wav", ".flac")
"""Endings of formats that keep the number of samples; others may pad."""
PADDING_SECONDS = 0.1


def why_stale(source: AudioPath, made_ns: int, sample_rate: int, num_samples: int) -> str:
    """Why a result is not that of its audio file; empty if it is, or if the file is gone.

    Args:
        source: the audio file.
        made_ns: when the result was written.
        sample_rate: of the file that it was made of, in Hz; 0: unknown.
        num_samples: frames of that file; 0: unknown.
    """
    look_for([source if isinstance(source, Path) else source.file])
    if not source.is_file():
        return ""
    if source.stat().st_mtime_ns > made_ns:
        return f"{source} is newer"
    if not sample_rate or not num_samples:
        return ""
    try:
        header = audio.info(source)
        if header.sample_rate != sample_rate:
            return f"{source} has {header.sample_rate} Hz, it was made of {sample_rate} Hz"
        if header.num_frames != num_samples and (frames := count_frames(source)) != num_samples:
            return f"{source} has {frames} samples, it was made of {num_samples}"
    except ValueError as error:
        return str(error)
    return ""


def why_stale_row(source: AudioPath, origin: Origin, first: int = 0) -> str:
    """`why_stale` for a row of shards that begins at sample `first` of its file, at the file's rate."""
    frames = origin.num_samples and origin.num_samples + first
    return why_stale(source, origin.made_ns, origin.sample_rate, frames)


def why_stale_tokens(source: AudioPath, target: Path, split: bool = False) -> str:
    """Why a token file is not that of its audio file; empty if it is.

    Args:
        source: the audio file.
        target: the token file.
        split: whether every channel is to be coded by itself, else their mean.

    Raises:
        ValueError: a file of another program, which nobody may overwrite.
    """
    try:
        clip, _ = load_token_file(target)
    except NotTokens:
        raise
    except ValueError as error:
        return f"damaged ({error})"
    if (coded := len(clip.codes)) != (wanted := clip.original_channels if split else 1):
        return f"it codes {coded} channel{'s' * (coded > 1)}, {wanted} {'are' if wanted > 1 else 'is'} asked for"
    return why_stale(source, target.stat().st_mtime_ns, clip.original_sample_rate, clip.original_num_samples)


def why_stale_audio(source: AudioPath, target: Path, sample_rate: int, num_samples: int) -> str:
    """Why decoded audio is not that of its source; empty if it is.

    Args:
        source: what it was made of.
        target: the audio.
        sample_rate: that it must have, in Hz.
        num_samples: that it must have.
    """
    if source.is_file() and source.stat().st_mtime_ns > target.stat().st_mtime_ns:
        return f"{source} is newer"
    try:
        header = audio.info(target)
        frames = count_frames(target)
    except ValueError as error:
        return f"damaged ({error})"
    allowed = 0 if target.suffix.lower() in EXACT else PADDING_SECONDS * sample_rate
    if header.sample_rate != sample_rate or abs(frames - num_samples) > allowed:
        expected = f"{num_samples} samples at {sample_rate} Hz"
        return f"it has {frames} samples at {header.sample_rate} Hz instead of {expected}"
    return ""


def count_frames(path: AudioPath) -> int:
    """Frames that can be read, whatever the header claims."""
    return len(audio.read(path)[0])


def audio_of(clip: TokenClip, own_rate: int, wanted: int | None) -> tuple[int, int]:
    """Sample rate and number of samples of decoded audio.

    Args:
        clip: its facts.
        own_rate: of the codec, in Hz.
        wanted: requested rate; None takes that of the recording.
    """
    original = clip.original_sample_rate or own_rate
    rate = wanted or original
    if rate == original and clip.original_num_samples:
        return rate, clip.original_num_samples
    if clip.original_num_samples:
        return rate, audio.num_resampled(clip.original_num_samples, original, rate)
    return rate, audio.num_resampled(clip.num_samples, own_rate, rate)


def refuse_moved(numbers: Mapping[Path, np.ndarray], output: Path) -> None:
    """Raise ValueError where a clip's tokens lie in the folder of another split: it would be in both.

    Args:
        numbers: `row_number` of the id of every row that belongs into a folder (uint64).
        output: folder of the folders.
    """
    for other in sorted(path for path in output.glob("*") if path.is_dir() and shards_in(path)):
        homes = {folder: np.sort(ids) for folder, ids in numbers.items() if folder != other}
        moved = [(name, home) for name in _ids_in(other) if (home := _home(row_number(name), homes))]
        if moved:
            raise ValueError(
                f"{other}: {len(moved)} clips there belong to another split by this manifest (the first: "
                f"{moved[0][0]!r} to {moved[0][1].name}); name another folder for --output, or delete {other}"
            )


def _ids_in(folder: Path) -> Iterator[str]:
    for path in shards_in(folder):
        try:
            for batch in open_shard(path)[0]:
                yield from batch["id"].to_pylist()
        except (ValueError, OSError):
            continue  # its writer puts it aside and makes its clips again


def _home(number: int, homes: Mapping[Path, np.ndarray]) -> Path | None:
    """The folder among whose rows an id is."""
    for folder, ids in homes.items():
        place = int(np.searchsorted(ids, np.uint64(number)))
        if place < len(ids) and ids[place] == number:
            return folder
    return None
