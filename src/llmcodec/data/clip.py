"""A clip: one recording of a manifest, and how its audio is read.

Its audio is a file, a stretch of one (`start`), or lies with others inside a tar, Parquet or Arrow file (`inside`).
Shapes: S samples, C channels. Test: tests/data/test_manifest.py, tests/data/test_sources.py.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.member import AudioPath, Member, check_inside
from llmcodec.data.splits import split_of_name
from llmcodec.io import audio
from llmcodec.io.remote.paths import as_path

HELD_OUT = ("valid", "test")
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
    inside: str = ""
    """Place of the audio in a file of many clips: `FIRST_BYTE+BYTES` of a tar, `GROUP/ROW/COLUMN` of a table; before it
    stands a mark (`data.member`), if what lies there is to be compared."""
    problem: str = ""
    """Why its audio cannot be read, where an index has found out; such a clip counts as bad."""
    folder: str = ""
    """Where relative paths start: the manifest's folder. Not written to the manifest."""

    @property
    def file(self) -> Path:
        """The file that holds its audio; of a URL what stands for it (`io.remote.paths`)."""
        return as_path(self.audio) if ":/" in self.audio else Path(self.folder) / self.audio

    @property
    def path(self) -> AudioPath:
        """What `io.audio` reads: its file, or the part of one."""
        return Member(self.file, self.inside, self.id) if self.inside else self.file

    def load(self, sample_rate: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Mono float32 (S,) at `sample_rate`; `start` and `num_samples` count samples of the clip at that rate."""
        self._check_problem()
        if self.start is None:
            return audio.load(self.path, sample_rate, start, num_samples)
        self._check_stretch()
        length = max(1, round(self.duration * sample_rate)) - start
        length = length if num_samples is None else min(length, num_samples)
        return audio.load(self.path, sample_rate, round(self.start * sample_rate) + start, length)

    def read(self, mono: bool = True) -> tuple[np.ndarray, int]:
        """The clip at its file's own rate: float32 (S,) if `mono`, else (S, C), and the rate."""
        self._check_problem()
        if self.start is None:
            return audio.read(self.path, mono=mono)
        rate = self._check_stretch()
        return audio.read(self.path, round(self.start * rate), max(1, round(self.duration * rate)), mono)

    def _check_problem(self) -> None:
        if self.problem:
            raise ValueError(self.problem)

    def _check_stretch(self) -> int:
        """The rate of the file. Raises ValueError where the stretch does not lie in it, by its header."""
        header = audio.info(self.path)
        stop = (self.start or 0.0) + self.duration
        if stop > header.seconds + STRETCH_TOLERANCE:
            raise ValueError(f"{self.path}: {self.start:g} to {stop:g} s is asked for, it lasts {header.seconds:.3f} s")
        return header.sample_rate

    def num_samples(self, sample_rate: int) -> int:
        """Samples that `load` gives, by the header of the file."""
        self._check_problem()
        if self.start is not None:
            return max(1, round(self.duration * sample_rate))
        header = audio.info(self.path)
        return audio.num_resampled(header.num_frames, header.sample_rate, sample_rate)

    @property
    def held_out(self) -> bool:
        """Whether its split is for measuring: `valid`, `dev-clean`, `test_other`, ..."""
        return is_held_out(self.split)


@cache
def is_held_out(split: str) -> bool:
    """Whether a split of this name is for measuring."""
    return split_of_name(split) in HELD_OUT


def is_valid(split: str) -> bool:
    """Whether a split of this name is for measuring while something is trained: `valid`, `dev-clean`, ..."""
    return split_of_name(split) == "valid"


FIELDS = tuple(field.name for field in dataclasses.fields(Clip) if field.name not in ("problem", "folder"))
"""What a manifest says of a clip."""
REQUIRED = ("id", "audio", "duration")
NUMBERS = ("duration", "bandwidth_hz", "start")


def clip_of_row(row: Any, where: str, folder: str) -> Clip:
    """A clip from a row of a manifest.

    Args:
        row: the JSON object.
        where: names the row in messages.
        folder: where relative paths start.

    Raises:
        ValueError: what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a row is a JSON object, not {type(row).__name__}")
    missing = [name for name in REQUIRED if name not in row]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} missing; a row has at least {', '.join(REQUIRED)}")
    values = {name: row[name] for name in FIELDS if row.get(name) is not None}
    duration = values.get("duration")
    if isinstance(duration, bool) or not isinstance(duration, (int, float)) or not 0 < duration < math.inf:
        raise ValueError(f"{where}: duration must be a positive number of seconds, not {duration!r}")
    for name, value in values.items():
        expected = (int, float) if name in NUMBERS else str
        if not isinstance(value, expected) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} has the wrong type {type(value).__name__} ({value!r})")
    if not 0 <= values.get("start", 0) < math.inf:
        raise ValueError(f"{where}: start is a number of seconds into the file, not {values['start']!r}")
    if (split := values.get("split", "")) in (".", "..") or "/" in split or "\0" in split:
        raise ValueError(f"{where}: split {split!r} cannot name a folder, which `tokenize` makes of every split")
    if not values.get("id") or not values.get("audio"):
        raise ValueError(f"{where}: id and audio must not be empty")
    if inside := values.get("inside"):
        check_inside(inside, where)
    return Clip(**{**values, "duration": float(duration)}, folder=folder)
