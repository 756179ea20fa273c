"""What the readers of sources share: which column is which field, and a clip from audio that was found.

Test: tests/data/test_sources.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from llmcodec.data.clip import Clip
from llmcodec.data.layouts.base import COLUMNS, first, plain_text
from llmcodec.data.splits import hashed_split, split_of_folders, split_of_name
from llmcodec.io import audio
from llmcodec.io.remote.paths import shown

HELD_OUT_SHARE = 0.05
"""Of the clips for validation and as much for testing, where neither a column nor a name says what a clip is for."""
NAMES: dict[str, tuple[str, ...]] = {
    **COLUMNS,
    "id": ("id", "__key__", "key"),
    "duration": ("duration",),
    "source": ("source",),
    "license": ("license",),
}
"""Field of a clip -> columns (in WebDataset: keys of the JSON member) that are looked for."""
OPTIONS = ("audio", *NAMES, "ids")


@dataclass(frozen=True)
class Options:
    """What stands behind the `?` of a source: `data/?audio=wav&text=sentence&ids=file`."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a clip -> name of its column; empty: there is none."""
    ids_by_file: bool = False
    """`ids=file`: ids are unique in their file only, and its name is put before them."""

    @property
    def given(self) -> list[str]:
        """Names of the options that were typed."""
        return [*self.columns, *["ids"] * self.ids_by_file]

    @classmethod
    def parse(cls, text: str, where: str) -> Options:
        """Options as they were typed. Raises ValueError for one that there is not."""
        named = dict(parse_qsl(text, keep_blank_values=True))
        if unknown := [name for name in named if name not in OPTIONS]:
            raise ValueError(f"{where}: no option {unknown[0]!r} behind the ?; there is {', '.join(OPTIONS)}")
        ids = named.pop("ids", "")
        if ids not in ("", "file"):
            raise ValueError(f"{where}: ids={ids} is not known; ids=file puts the name of the file before each id")
        return cls(named, ids == "file")

    def names(self, name: str, there: Collection[str], where: object) -> tuple[str, ...]:
        """The columns that give a field, those of them that are there.

        Raises:
            ValueError: one that was named is not there.
        """
        if name not in self.columns:
            return tuple(column for column in NAMES.get(name, ()) if column in there)
        column = self.columns[name]
        if column and column not in there:
            raise ValueError(f"{where}: no column {column!r} for {name}; there is {', '.join(sorted(there))}")
        return (column,) if column else ()


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: Path
    root: Path
    """Folder of the source: paths and names of clips start there."""
    options: Options

    @property
    def relative(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def stem(self) -> str:
        """Its name in ids: the relative path without ending."""
        return self.relative.removesuffix(self.path.suffix)

    @property
    def split(self) -> str:
        """By the folders above it, else by its own name (`train-00000-of-00007`)."""
        named, _ = split_of_folders((*self.relative.split("/")[:-1], self.root.resolve().name))
        return split_of_name(self.path.name.split(".")[0]) or named

    def clip(
        self, name: str, row: Mapping[str, Any], fields: Mapping[str, tuple[str, ...]], seconds: float, **where: Any
    ) -> Clip:
        """A clip of this file.

        Args:
            name: its id in the file.
            row: what is said of it.
            fields: field -> names in `row`.
            seconds: of its audio.
            where: `audio`, `inside`, `start` of the clip; the first is this file where it is not given.

        Raises:
            ValueError: no id, or a split that cannot name a folder.
        """
        facts = self._facts(name, row, fields)
        if not _names_folder(facts["split"]):
            raise ValueError(f"split {facts['split']!r} cannot name a folder, which `tokenize` makes of every split")
        return Clip(duration=round(seconds, 4) or 0.0001, **{**facts, **where})

    def bad(
        self,
        name: str,
        reason: object,
        inside: str = "",
        row: Mapping[str, Any] | None = None,
        fields: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Clip:
        """A clip that cannot be read; it counts as a bad row where it is used.

        Args:
            name: its id in the file.
            reason: why it cannot be read.
            inside: its place in the file.
            row: what is known of it, so that filters find it where it belongs.
            fields: field -> names in `row`.
        """
        facts = self._facts(name, row or {}, fields or {})
        if row is None:
            facts["source"] = ""  # a row might have named another
        if not _names_folder(facts["split"]):
            facts["split"] = self._split_of(facts["id"])
        told = str(reason) if str(self.path) in str(reason) else f"{self.path}[{name}]: {reason}"
        return Clip(duration=0.0, inside=inside, problem=shown(told), **facts)

    def _facts(self, name: str, row: Mapping[str, Any], fields: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        said = {key: plain_text(first(row, fields.get(key, ()))) for key in ("text", "speaker", "language")}
        clip_id = self.full_id(name)
        return {
            "id": clip_id,
            "audio": self.relative,
            **said,
            "source": first(row, fields.get("source", ())) or self.root.resolve().name,
            "license": first(row, fields.get("license", ())),
            "split": first(row, fields.get("split", ())) or self._split_of(clip_id),
            "folder": str(self.root),
        }

    def _split_of(self, clip_id: str) -> str:
        return self.split or hashed_split(clip_id, HELD_OUT_SHARE, HELD_OUT_SHARE)

    def full_id(self, name: str) -> str:
        return f"{self.stem}/{name}" if self.options.ids_by_file else name


def _names_folder(split: str) -> bool:
    return split not in (".", "..") and "/" not in split and "\0" not in split


def seconds_of(content: bytes, where: object) -> float:
    """Seconds of an audio file in memory, by its header. Raises ValueError for what is none, or empty."""
    header = audio.info(audio.AudioBytes(content, where))
    if not header.num_frames:
        raise ValueError(f"{where}: no samples")
    return header.seconds


def check_said(said: float, seconds: float, where: object, advice: str) -> None:
    """Raise ValueError, which ends in `advice`, where a source says another length of a clip than that of its audio."""
    if abs(said - seconds) > max(0.1, 0.02 * seconds):
        raise ValueError(f"{where}: duration says {said:g} seconds, its audio lasts {seconds:.3f}; {advice}")
