"""Clips as a codec hears them: read, and encoded once or, as several views, from later starts.

View v of a clip starts v / views of a frame later and is called `ID#SAMPLES`, by where it starts: the same speech in
different tokens, if a codec's tokens depend on where frames begin. Clips that are held out have one view.
Shapes: S samples, Q codebooks, T frames. Test: `pytest tests/cli/test_lm.py`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmcodec.data.clip import is_held_out
from llmcodec.data.manifest import Clip, durations_of, values_of
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.known_rows import row_number
from llmcodec.runtime.base import Runtime, encode_many
from llmcodec.transcode.work import Recording

Starts = tuple[int, ...]
"""Samples of a clip, at the codec's rate, where its views start."""
Encoded = tuple[Clip, str, Recording, np.ndarray]
"""A clip, the id of one of its views, what was encoded, and its codes (Q, T)."""


def starts_of(views: int, hop_samples: int) -> Starts:
    """Where the views of a clip start that is not held out."""
    return tuple(sorted({view * hop_samples // views for view in range(views)}))


def view_name(clip_id: str, start: int) -> str:
    """The id of a view."""
    return f"{clip_id}#{start}" if start else clip_id


def own_starts(split: str, starts: Starts) -> Starts:
    """Where the views of a clip of this split start."""
    return (0,) if is_held_out(split) else starts


def view_numbers(clips: Sequence[Clip], starts: Starts) -> np.ndarray:
    """`row_number` of the id of every view of every clip (uint64), in order."""
    numbers = array("Q")
    for clip_id, split in values_of(clips, "id", "split"):
        for start in own_starts(split, starts):
            numbers.append(row_number(view_name(clip_id, start)))
    return np.frombuffer(numbers, np.uint64) if numbers else np.zeros(0, np.uint64)


def view_counts(clips: Sequence[Clip], starts: Starts) -> np.ndarray:
    """Number of views of every clip (int32)."""
    if len(starts) == 1:
        return np.ones(len(clips), np.int32)
    return np.fromiter((len(own_starts(split, starts)) for (split,) in values_of(clips, "split")), np.int32, len(clips))


def refuse_doubled(clips: Sequence[Clip], starts: Starts, numbers: np.ndarray) -> None:
    """Raise ValueError where a clip has the id of another clip's view; `numbers` are those of `view_numbers`."""
    ordered = np.sort(numbers)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    owners: dict[str, str] = {}
    for clip_id, split in values_of(clips, "id", "split") if twice else ():
        for start in own_starts(split, starts):
            name = view_name(clip_id, start)
            if row_number(name) not in twice:
                continue
            if name in owners:
                raise ValueError(
                    f"tokenize: clips {owners[name]!r} and {clip_id!r} would both have the id {name!r} in the shards; "
                    "rename one in the manifest, or leave --views out"
                )
            owners[name] = clip_id


def lengths_of(clips: Sequence[Clip], views: int) -> np.ndarray:
    """Milliseconds of every clip, all its views together (int64)."""
    lengths: np.ndarray = np.rint(1000 * durations_of(clips)).astype(np.int64)
    if views == 1:
        return lengths
    counts = (1 if is_held_out(split) else views for (split,) in values_of(clips, "split"))
    return lengths * np.fromiter(counts, np.int64, len(clips))


def encode_views(
    runtime: Runtime,
    planned: Iterable[tuple[Clip, Starts]],
    bad: BadRows,
    on_clip: Callable[[Clip, Starts], None],
) -> Iterator[Encoded]:
    """Encode all clips that can be read.

    Args:
        runtime: the codec.
        planned: clips with where the views of each start.
        bad: takes clips that cannot be read.
        on_clip: called with every clip that was read, or could not be.
    """
    sample_rate = runtime.identity.sample_rate

    def readable() -> Iterator[tuple[tuple[Clip, str, Recording], np.ndarray]]:
        for clip, starts in planned:
            recording = read_clip(clip, sample_rate, bad)
            if recording is not None:
                for start, view in _views(recording, starts, sample_rate):
                    yield (clip, view_name(clip.id, start), view), view.wavs[0]
            on_clip(clip, starts)

    for (clip, name, view), codes_QT in encode_many(runtime, readable()):
        yield clip, name, view, codes_QT


def read_clip(clip: Clip, sample_rate: int, bad: BadRows) -> Recording | None:
    """The mono recording of a clip at `sample_rate`; None, and a row of `bad`, if it cannot be read."""
    try:
        channels = audio.info(clip.path).num_channels
        wav, rate = clip.read()  # the header may claim more samples than there are
        return Recording([audio.resample(wav, rate, sample_rate)], rate, len(wav), channels)
    except (ValueError, OSError) as error:
        bad.add(clip.id, error)
        return None


def _views(recording: Recording, starts: Starts, sample_rate: int) -> Iterator[tuple[int, Recording]]:
    """The recording from every start on, without those past its end."""
    wav, rate = recording.wavs[0], recording.original_sample_rate
    for start in starts:
        if start < len(wav):
            left = recording.original_num_samples - round(start * rate / sample_rate)
            yield start, replace(recording, wavs=[wav[start:]], original_num_samples=left)


def counted_as_other_sound(runtime: Runtime, name: str, wav_S: np.ndarray) -> bool:
    """Whether the prior that a codec searches by has counted a clip of this name, but not this sound."""
    prior: Any = getattr(getattr(runtime, "codec", None), "prior", None)  # a token_prior.FoldedPrior needs torch
    return name in getattr(prior, "ids", ()) and not prior.folds_of(wav_S)
