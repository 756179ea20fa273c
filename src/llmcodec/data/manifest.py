"""The clips of a corpus, filtered: the only way speech enters training and evaluation.

    clips = read_manifest("corpus/manifest.jsonl", "train", languages=["en"], max_seconds=20.0)

A manifest is one JSON object per line and per clip; `data.sources` lists what else is read in its place.

    {"id": "1034-121119-0000", "audio": "1034/121119/1034-121119-0000.flac", "duration": 15.875, "text": "...",
     "speaker": "1034", "language": "en", "source": "LibriSpeech", "license": "CC-BY-4.0", "split": "train"}

`audio` is relative to the manifest's folder (or absolute), `duration` is in seconds; `id`, `audio` and `duration` are
required, keys that are not fields of `Clip` are ignored. Tests: `pytest tests/data/test_manifest.py`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec import assets
from llmcodec.data.clip import FIELDS, REQUIRED, STRETCH_TOLERANCE, Clip
from llmcodec.data.clip_table import ClipTable, write_clips
from llmcodec.data.member import without_mark
from llmcodec.data.sources import open_source
from llmcodec.io.atomic import write_text
from llmcodec.io.bad_rows import MOST_LISTED, BadRows, TooManyBad
from llmcodec.io.digests import digest_all
from llmcodec.io.remote.paths import as_path, look_for, shown, url_of

__all__ = [
    "STRETCH_TOLERANCE",
    "Clip",
    "audio_sizes",
    "audio_states",
    "clips_by_split",
    "durations_of",
    "find_blocks",
    "find_missing",
    "leave_out_unreadable",
    "manifest_hash",
    "manifest_place",
    "read_manifest",
    "spread",
    "total_seconds",
    "write_manifest",
]


LATER = ("start", "inside")
"""Fields that the first manifests did not have."""


def read_manifest(
    path: str | os.PathLike[str],
    split: str | Sequence[str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    licenses: Sequence[str] | None = None,
    speakers: Sequence[str] | None = None,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    with_text: bool = False,
) -> Sequence[Clip]:
    """Clips of a manifest or another source, in its order, that pass every filter.

    A folder means its `manifest.jsonl` or else the tables or tars in it, "bundled" the corpus in the package.

    `split` is one name or several; `min_seconds` and `max_seconds` are inclusive; `with_text` drops clips without text.
    A clip that cannot be read stays where what a filter asks for is unknown, to be counted as bad.
    Raises ValueError that names file and line for a broken row, and when nothing is left, which filter left nothing.
    """
    place = str(assets.speech_manifest()) if path == assets.BUNDLED else os.fspath(path)
    clips = open_source(place)
    splits = [split] if isinstance(split, str) else split
    filters: list[tuple[str, str, Sequence[Clip]]] = []
    for name, field, allowed in (
        ("split", "split", splits),
        ("sources", "source", sources),
        ("languages", "language", languages),
        ("licenses", "license", licenses),
        ("speakers", "speaker", speakers),
    ):
        if allowed is not None:
            if isinstance(allowed, str):
                raise ValueError(f"{name} is a list of names, not the text {allowed!r}")
            filters.append((f"{name}={list(allowed)}", field, clips))
            clips = _where_in(clips, field, allowed)
    if min_seconds > 0 or max_seconds < math.inf:
        filters.append((f"{min_seconds} <= seconds <= {max_seconds}", "duration", clips))
        clips = _where_seconds(clips, min_seconds, max_seconds)
    if with_text:
        filters.append(("with_text", "text", clips))
        clips = _with_text(clips)
    if not clips:
        raise ValueError(_why_nothing(place, filters))
    return clips


def _where_in(clips: Sequence[Clip], field: str, allowed: Sequence[str]) -> Sequence[Clip]:
    if isinstance(clips, ClipTable):
        unknown = clips.is_in(field, [""]) & ~clips.is_in("problem", [""])
        return clips.where(clips.is_in(field, allowed) | unknown)
    return [clip for clip in clips if getattr(clip, field) in allowed or clip.problem and not getattr(clip, field)]


def _where_seconds(clips: Sequence[Clip], low: float, high: float) -> Sequence[Clip]:
    if isinstance(clips, ClipTable):
        seconds = clips.durations
        return clips.where((low <= seconds) & (seconds <= high) | (seconds == 0))
    return [clip for clip in clips if low <= clip.duration <= high]


def _with_text(clips: Sequence[Clip]) -> Sequence[Clip]:
    if isinstance(clips, ClipTable):
        said = (bool(text.strip() or problem) for text, problem in values_of(clips, "text", "problem"))
        return clips.where(np.fromiter(said, bool, len(clips)))
    return [clip for clip in clips if clip.text.strip() or clip.problem]


def clips_by_split(clips: Sequence[Clip]) -> dict[str, Sequence[Clip]]:
    """The clips of every split, in the order of the splits' names."""
    if isinstance(clips, ClipTable):
        names = sorted(set(clips.column("split")))
        return {name: clips.where(clips.is_in("split", [name])) for name in names}
    return {name: [clip for clip in clips if clip.split == name] for name in sorted({clip.split for clip in clips})}


def durations_of(clips: Sequence[Clip]) -> np.ndarray:
    """Seconds of every clip, float64."""
    if isinstance(clips, ClipTable):
        return clips.durations
    return np.fromiter((clip.duration for clip in clips), np.float64, len(clips))


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """`count` clips evenly spread over the sequence; all of them for None. Raises ValueError for less than none."""
    if count is not None and count < 0:
        raise ValueError(f"{count} clips are wanted; name a number, or null for all")
    if count is None or count >= len(clips):
        return list(clips)
    return [clips[i * len(clips) // count] for i in range(count)]


def values_of(clips: Iterable[Clip], *names: str) -> Iterator[tuple[Any, ...]]:
    """Fields of every clip; of a table, no clip is made for it."""
    if isinstance(clips, ClipTable):
        for batch in clips.batches(names):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    else:
        yield from (tuple(getattr(clip, name) for name in names) for clip in clips)


def where(clips: Sequence[Clip], mask: np.ndarray) -> Sequence[Clip]:
    """Clips where a mask, one bool per clip, is True."""
    return clips.where(mask) if isinstance(clips, ClipTable) else [clips[at] for at in np.flatnonzero(mask).tolist()]


def find_blocks(clips: Sequence[Clip]) -> np.ndarray | None:
    """First index of every run of clips of one row group of Parquet, which cannot be read one by one.

    None where clips do not lie in Parquet files.
    """
    starts: list[int] = []
    last = None
    for index, (_, file, inside, _) in enumerate(_places(clips)):
        if not file.endswith(".parquet"):
            return None
        if (block := (file, inside.partition("/")[0])) != last:
            starts.append(index)
            last = block
    return np.array(starts, np.int64)


def manifest_place(output: str) -> Path:
    """The file to write: `output`, or `manifest.jsonl` in it if it is a folder or has no ending, as a folder's name."""
    place = as_path(output)
    return place if place.suffix and not output.endswith("/") and not place.is_dir() else place / "manifest.jsonl"


def write_manifest(path: str | os.PathLike[str], clips: Iterable[Clip]) -> Path:
    """Write clips atomically; relative audio paths are rewritten to start at the new manifest's folder.

    The ending `.arrow` writes a table that is mapped when it is read: for millions of clips.

    Raises:
        ValueError: a clip that cannot be read, which no manifest can say; two clips with one id in a table.
    """
    target = as_path(path)
    moved = (_moved(clip, target.parent) for clip in clips)
    if target.suffix == ".arrow":
        write_clips(target, moved)
        return target
    lines = []
    for clip in moved:
        row = {
            name: getattr(clip, name) for name in FIELDS if name in REQUIRED or getattr(clip, name) not in ("", None)
        }
        line = json.dumps(row, ensure_ascii=False)
        # A name that is no UTF-8 cannot be written as it is; escaped, it comes back byte for byte.
        lines.append((line if _is_unicode(line) else json.dumps(row)) + "\n")
    return write_text(target, "".join(lines), durable=True)


def _moved(clip: Clip, folder: Path) -> Clip:
    """The clip with its audio as seen from another folder."""
    if clip.problem:
        raise ValueError(f"{clip.problem} (clip {clip.id!r}): leave it out of the manifest")
    if not clip.folder or os.path.isabs(clip.audio):
        return clip
    return replace(clip, audio=_path_from(folder, clip.file))


def _path_from(folder: Path, path: Path) -> str:
    """A path as seen from a folder; the whole path, or URL, where the two do not lie in the same store."""
    stores = [url and url.split("/")[:3] for url in (url_of(folder), url_of(path))]
    if stores[0] != stores[1]:
        return shown(path.resolve())
    return Path(os.path.relpath(path, folder)).as_posix()


def manifest_hash(clips: Iterable[Clip]) -> str:
    """16 hex digits that change with any clip, field or order, not with the folder where the corpus lies."""
    values = values_of(clips, *FIELDS)
    # Fields that came later count where they say something, marks not at all.
    rows = (
        [
            without_mark(value) if name == "inside" else value
            for name, value in zip(FIELDS, row, strict=True)
            if name not in LATER or value not in (None, "")
        ]
        for row in values
    )
    return digest_all(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def audio_states(clips: Sequence[Clip]) -> list[tuple[int, int]]:
    """Size in bytes and time of change (ns) of every clip's file, by one look at each.

    A key made of them and of `manifest_hash` changes where other audio lies behind the same manifest.

    Raises:
        ValueError: files are missing or empty; it names the first ten.
    """
    states: list[tuple[int, int]] = []
    wrong: dict[str, str] = {}
    for _, place, state in _look_at(clips):
        if isinstance(state, str):
            wrong[place] = state
        else:
            states.append(state)
    if wrong:
        raise ValueError(_missing_files(wrong, clips))
    return states


def find_missing(clips: Sequence[Clip], bad: BadRows) -> None:
    """Add clips whose file is missing or empty to `bad`. Raises ValueError naming ten where they are too many."""
    wrong = [(clip_id, place, state) for clip_id, place, state in _look_at(clips) if isinstance(state, str)]
    if len(wrong) > bad.allowed:
        raise TooManyBad(_missing_files({place: reason for _, place, reason in wrong}, clips))
    for clip_id, place, reason in wrong:
        bad.add(clip_id, _told(place, reason))


def audio_sizes(clips: Sequence[Clip]) -> Iterator[int]:
    """Bytes of every clip's file; -1 for one that is missing."""
    last, size = None, -1
    for _, file, _, _ in _places(clips):
        if file != last:
            try:
                last, size = file, os.stat(file).st_size
            except OSError:
                last, size = file, -1
        yield size


def leave_out_unreadable(clips: Sequence[Clip], bad: BadRows) -> list[Clip]:
    """Clips whose audio can be read, in order: each is read once, in threads; the others are added to `bad`.

    Raises:
        TooManyBad: more than `bad` allows.
    """
    find_missing(clips, bad)

    def problem(clip: Clip) -> Exception | None:
        try:
            clip.read()
        except (ValueError, OSError) as error:
            return error
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = list(pool.map(problem, clips))
    for clip, found in zip(clips, problems, strict=True):
        if found is not None:
            bad.add(clip.id, found)
    return [clip for clip, found in zip(clips, problems, strict=True) if found is None]


def _look_at(clips: Sequence[Clip]) -> Iterator[tuple[str, str, tuple[int, int] | str]]:
    """Id and place of every clip's audio, and size and time of its file, or what is wrong with it.

    What an index has found wrong stands in the place of the place, with nothing to add.
    """
    last: str | None = None
    state: tuple[int, int] | str = ""
    for clip_id, file, inside, problem in _places(clips):
        if file != last:  # many clips may be stretches or members of one file
            last, state = file, _state(file)
        place = f"{file}[{clip_id}]" if inside else file
        yield (clip_id, problem, "") if problem else (clip_id, place, state)


def _places(clips: Sequence[Clip]) -> Iterator[tuple[str, str, str, str]]:
    """Id, file, place in it and problem of every clip."""
    if not isinstance(clips, ClipTable):
        look_for(clip.file for clip in clips)
        yield from ((clip.id, str(clip.file), clip.inside, clip.problem) for clip in clips)
        return
    for batch in clips.batches(("id", "audio", "inside", "problem")):
        ids, files, insides, problems = (column.to_pylist() for column in batch.columns)
        places = [str(as_path(file)) if ":/" in file else os.path.join(clips.folder, file) for file in files]
        look_for(map(Path, dict.fromkeys(place for place in places if url_of(place))))
        yield from zip(ids, places, insides, problems, strict=True)


def _state(file: str) -> tuple[int, int] | str:
    try:
        status = os.stat(file)
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return status.st_size, status.st_mtime_ns
    return "the file is empty" if stat.S_ISREG(status.st_mode) else "no file"


def _missing_files(wrong: dict[str, str], clips: Sequence[Clip]) -> str:
    total = len(clips) if isinstance(clips, ClipTable) else len({clip.path for clip in clips})
    lines = [f"  {_told(place, reason)}" for place, reason in list(wrong.items())[:MOST_LISTED]]
    more = [f"  and {len(wrong) - MOST_LISTED} more"] if len(wrong) > MOST_LISTED else []
    advice = "put them back, make the manifest again (`llmcodec data manifest`), or allow some with --max-bad"
    return "\n".join([f"{len(wrong)} of {total} audio files cannot be read:", *lines, *more, advice])


def _told(place: str, reason: str) -> str:
    return f"{place}: {reason}" if reason else place


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def total_seconds(clips: Sequence[Clip]) -> float:
    return math.fsum(durations_of(clips))


def _why_nothing(path: str, filters: list[tuple[str, str, Sequence[Clip]]]) -> str:
    """Name the filter that took the last clips and what it could have matched."""
    named, field, before = next(entry for entry in reversed(filters) if entry[2])
    if field == "duration":
        seen = f"durations there are {min(c.duration for c in before):.2f} to {max(c.duration for c in before):.2f} s"
    elif field == "text":
        seen = "no clip there has a transcript"
    else:
        names = sorted({getattr(clip, field) for clip in before})
        seen = f"there is {', '.join(repr(name) for name in names[:8])}{' ...' if len(names) > 8 else ''}"
        if field == "split":
            seen += "; larger shares fill a split: `llmcodec data manifest --valid-share 0.1 --test-share 0.1`"
    return f"{path}: no clip is left after {named} ({len(before)} before): {seen}"
