"""Manifests: one JSON object per line and per clip, the only way speech enters training and evaluation.

    {"id": "1034-121119-0000", "audio": "1034/121119/1034-121119-0000.flac", "duration": 15.875, "text": "...",
     "speaker": "1034", "language": "en", "source": "LibriSpeech", "license": "CC-BY-4.0", "split": "train"}

`audio` is relative to the manifest's folder (or absolute), `duration` is in seconds; `id`, `audio` and `duration` are
required, keys that are not fields of `Clip` are ignored. Tests: `pytest tests/data/test_manifest.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec import assets
from llmcodec.io import audio
from llmcodec.io.atomic import write_text
from llmcodec.io.bad_rows import MOST_LISTED, BadRows, TooManyBad
from llmcodec.io.digests import digest_all
from llmcodec.io.structured import read_lines

VALID_SPLITS = ("valid", "validation", "dev")
HELD_OUT_SPLITS = (*VALID_SPLITS, "test")


STRETCH_TOLERANCE = 0.02
"""Seconds by which a stretch may leave its file: corpora round their times."""


@dataclass(frozen=True)
class Clip:
    """One recording of a manifest."""

    id: str
    """Unique in its manifest; random numbers of training are keyed by it."""
    audio: str
    """Path of the file, relative to `folder` or absolute."""
    duration: float
    """Seconds."""
    text: str = ""
    """Transcript, empty where unknown."""
    speaker: str = ""
    language: str = ""
    """Language code such as `en`."""
    source: str = ""
    """Name of the corpus it comes from."""
    license: str = ""
    """SPDX expression or name of the recording's licence."""
    split: str = ""
    """`train`, `valid` or `test`."""
    bandwidth_hz: int | None = None
    """Highest frequency the recording really carries, where known."""
    start: float | None = None
    """Seconds into the file where the clip begins, if it is a stretch of `duration` seconds; None: all of the file."""
    folder: str = ""
    """Where relative paths start: the manifest's folder. Not written to the manifest."""

    @property
    def path(self) -> Path:
        return Path(self.folder) / self.audio

    def load(self, sample_rate: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Mono float32 (S,) at `sample_rate`; `start` and `num_samples` count samples of the clip at that rate."""
        if self.start is None:
            return audio.load(self.path, sample_rate, start, num_samples)
        self._check_stretch()
        length = max(1, round(self.duration * sample_rate)) - start
        length = length if num_samples is None else min(length, num_samples)
        return audio.load(self.path, sample_rate, round(self.start * sample_rate) + start, length)

    def read(self, mono: bool = True) -> tuple[np.ndarray, int]:
        """The clip at its file's own rate: float32 (S,) if `mono`, else (S, C), and the rate."""
        if self.start is None:
            return audio.read(self.path, mono=mono)
        rate = self._check_stretch()
        return audio.read(self.path, round(self.start * rate), max(1, round(self.duration * rate)), mono)

    def _check_stretch(self) -> int:
        """The rate of the file. Raises ValueError where the stretch does not lie in it, by its header."""
        header = audio.info(self.path)
        stop = (self.start or 0.0) + self.duration
        if stop > header.seconds + STRETCH_TOLERANCE:
            raise ValueError(f"{self.path}: {self.start:g} to {stop:g} s is asked for, it lasts {header.seconds:.3f} s")
        return header.sample_rate

    def num_samples(self, sample_rate: int) -> int:
        """Samples that `load` gives, by the header of the file."""
        if self.start is not None:
            return max(1, round(self.duration * sample_rate))
        header = audio.info(self.path)
        return audio.num_resampled(header.num_frames, header.sample_rate, sample_rate)

    @property
    def held_out(self) -> bool:
        """Whether its split is for measuring: `valid`, `dev-clean`, `test_other`, ..."""
        return re.split(r"[-_.]", self.split)[0].lower() in HELD_OUT_SPLITS


_FIELDS = {field.name: field for field in dataclasses.fields(Clip) if field.name != "folder"}
_REQUIRED = ("id", "audio", "duration")


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
) -> list[Clip]:
    """Clips of a manifest, in its order, that pass every filter.

    A folder means its `manifest.jsonl`, "bundled" the corpus in the package.

    `split` is one name or several; `min_seconds` and `max_seconds` are inclusive; `with_text` drops clips without text.
    Raises ValueError that names file and line for a broken row, and when nothing is left, which filter left nothing.
    """
    place = assets.speech_manifest() if path == assets.BUNDLED else Path(path)
    if place.is_dir():
        place = place / "manifest.jsonl"
    clips = list(_rows(place))
    splits = [split] if isinstance(split, str) else split
    filters: list[tuple[str, Any, list[Clip]]] = []
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
            clips = [clip for clip in clips if getattr(clip, field) in allowed]
    if min_seconds > 0 or max_seconds < math.inf:
        filters.append((f"{min_seconds} <= seconds <= {max_seconds}", "duration", clips))
        clips = [clip for clip in clips if min_seconds <= clip.duration <= max_seconds]
    if with_text:
        filters.append(("with_text", "text", clips))
        clips = [clip for clip in clips if clip.text.strip()]
    if not clips:
        raise ValueError(_why_nothing(place, filters))
    return clips


def write_manifest(path: str | os.PathLike[str], clips: Iterable[Clip]) -> Path:
    """Write clips atomically; relative audio paths are rewritten to start at the new manifest's folder."""
    target = Path(path)
    lines = []
    for clip in clips:
        row = {
            name: getattr(clip, name) for name in _FIELDS if name in _REQUIRED or getattr(clip, name) not in ("", None)
        }
        if clip.folder and not os.path.isabs(clip.audio):
            row["audio"] = Path(os.path.relpath(clip.path, target.parent)).as_posix()
        line = json.dumps(row, ensure_ascii=False)
        # A name that is no UTF-8 cannot be written as it is; escaped, it comes back byte for byte.
        lines.append((line if _is_unicode(line) else json.dumps(row)) + "\n")
    return write_text(target, "".join(lines), durable=True)


def manifest_hash(clips: Iterable[Clip]) -> str:
    """16 hex digits that change with any clip, field or order, not with the folder where the corpus lies."""
    rows = ([getattr(clip, name) for name in _FIELDS if name != "start" or clip.start is not None] for clip in clips)
    return digest_all(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def audio_states(clips: Iterable[Clip]) -> list[tuple[int, int]]:
    """Size in bytes and time of change (ns) of every clip's file, by one look at each.

    A key made of them and of `manifest_hash` changes where other audio lies behind the same manifest.

    Raises:
        ValueError: files are missing or empty; it names the first ten.
    """
    paths = [clip.path for clip in clips]
    states, wrong = _look_at(paths)
    if wrong:
        raise ValueError(_missing_files(wrong, len(states) + len(wrong)))
    return [states[path] for path in paths]


def find_missing(clips: Sequence[Clip], bad: BadRows) -> None:
    """Add clips whose file is missing or empty to `bad`. Raises ValueError naming ten where they are too many."""
    states, wrong = _look_at([clip.path for clip in clips])
    missing = [clip for clip in clips if clip.path in wrong]
    if len(missing) > bad.allowed:
        raise TooManyBad(_missing_files(wrong, len(states) + len(wrong)))
    for clip in missing:
        bad.add(clip.id, f"{clip.path}: {wrong[clip.path]}")


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


def _look_at(paths: Iterable[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """Size and time of the files that are there, and what is wrong with the others."""
    states: dict[Path, tuple[int, int]] = {}
    wrong: dict[Path, str] = {}
    for path in paths:
        if path in states or path in wrong:
            continue  # many clips may be stretches of one file
        try:
            status = path.stat()
        except OSError as error:
            wrong[path] = error.strerror or str(error)
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size > 0:
            states[path] = status.st_size, status.st_mtime_ns
        else:
            wrong[path] = "the file is empty" if stat.S_ISREG(status.st_mode) else "no file"
    return states, wrong


def _missing_files(wrong: dict[Path, str], total: int) -> str:
    lines = [f"  {path}: {reason}" for path, reason in list(wrong.items())[:MOST_LISTED]]
    more = [f"  and {len(wrong) - MOST_LISTED} more"] if len(wrong) > MOST_LISTED else []
    advice = "put them back, make the manifest again (`llmcodec data manifest`), or allow some with --max-bad"
    return "\n".join([f"{len(wrong)} of {total} audio files cannot be read:", *lines, *more, advice])


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def total_seconds(clips: Iterable[Clip]) -> float:
    return math.fsum(clip.duration for clip in clips)


def _rows(path: Path) -> Iterator[Clip]:
    if not path.is_file():
        raise ValueError(f"{path}: no such manifest; `llmcodec data manifest FOLDER` makes one")
    lines_by_id: dict[str, int] = {}
    folder = str(path.parent)
    for number, row in read_lines(path):
        clip = _clip(row, f"{path}:{number}", folder)
        if clip.id in lines_by_id:
            raise ValueError(f"{path}:{number}: id {clip.id!r} stands in line {lines_by_id[clip.id]} already")
        lines_by_id[clip.id] = number
        yield clip
    if not lines_by_id:
        raise ValueError(f"{path}: the manifest is empty")


def _clip(row: Any, where: str, folder: str) -> Clip:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row is a JSON object, not {type(row).__name__}")
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; a row has at least {', '.join(_REQUIRED)}")
    values = {name: row[name] for name in _FIELDS if row.get(name) is not None}
    duration = values.get("duration")
    if isinstance(duration, bool) or not isinstance(duration, (int, float)) or not 0 < duration < math.inf:
        raise ValueError(f"{where}: duration must be a positive number of seconds, not {duration!r}")
    for name, value in values.items():
        expected = (int, float) if name in ("duration", "bandwidth_hz", "start") else str
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} has the wrong type {type(value).__name__} ({value!r})")
    if not 0 <= values.get("start", 0) < math.inf:
        raise ValueError(f"{where}: start is a number of seconds into the file, not {values['start']!r}")
    if (split := values.get("split", "")) in (".", "..") or "/" in split or "\0" in split:
        raise ValueError(f"{where}: split {split!r} cannot name a folder, which `tokenize` makes of every split")
    if not values.get("id") or not values.get("audio"):
        raise ValueError(f"{where}: id and audio must not be empty")
    return Clip(**{**values, "duration": float(duration)}, folder=folder)


def _why_nothing(path: Path, filters: list[tuple[str, Any, list[Clip]]]) -> str:
    """Name the filter that took the last clips and what it could have matched."""
    named, field, before = next(entry for entry in reversed(filters) if entry[2])
    if field == "duration":
        seen = f"durations there are {min(c.duration for c in before):.2f} to {max(c.duration for c in before):.2f} s"
    elif field == "text":
        seen = "no clip there has a transcript"
    else:
        names = sorted({getattr(clip, field) for clip in before})
        seen = f"there is {', '.join(repr(name) for name in names[:8])}{' ...' if len(names) > 8 else ''}"
    return f"{path}: no clip is left after {named} ({len(before)} before): {seen}"
