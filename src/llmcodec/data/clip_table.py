"""Clips as rows of a memory-mapped Arrow file: ten million of them take the memory of their durations.

    write_clips("corpus.arrow", clips)
    clips = ClipTable.open("corpus.arrow", folder="corpus")
    clips[3], len(clips), clips.durations               # a Clip is made when it is asked for
    short = clips.where(clips.durations < 20.0)         # remembers row numbers, copies nothing

Needs pyarrow. Test: tests/data/test_clip_table.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from llmcodec.data.clip import Clip
from llmcodec.data.member import in_a_line, pyarrow
from llmcodec.io.atomic import AnyPath, atomic_path

ROWS = 1 << 16
"""Rows of a record batch."""
FORMAT = {b"llmcodec.clips": b"1"}
"""In the metadata of the file: its rows have been checked, each by itself and their ids against each other."""
_TYPES = {"duration": "float64", "bandwidth_hz": "int64", "start": "float64"}
_COLUMNS = tuple(field.name for field in dataclasses.fields(Clip) if field.name != "folder")


def write_clips(path: AnyPath, clips: Iterable[Clip]) -> int:
    """Write an Arrow file of clips, whole or not at all, in constant memory but for 8 bytes a clip.

    Args:
        path: the file.
        clips: in their order; `folder` is not written.

    Returns:
        The number of clips.

    Raises:
        ValueError: two clips have one id.
    """
    pa = pyarrow()
    schema = pa.schema([(name, getattr(pa, _TYPES.get(name, "string"))()) for name in _COLUMNS], metadata=FORMAT)
    hashes = _Numbers()
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            rows: list[Clip] = []
            for clip in clips:
                hashes.add(hash(clip.id))
                rows.append(clip)
                if len(rows) == ROWS:
                    writer.write_batch(_batch(rows, schema))
                    rows = []
            if rows:
                writer.write_batch(_batch(rows, schema))
        _refuse_twins(temporary, hashes.numbers())
    return len(hashes)


class ClipTable(Sequence[Clip]):
    """Clips of an Arrow file that `write_clips` made, all or chosen rows.

    Args:
        table: the mapped table.
        folder: where relative paths of audio start.
        rows: chosen rows in their order; None: all.
    """

    def __init__(self, table: Any, folder: str, rows: np.ndarray | None = None) -> None:
        self.table, self.folder, self.rows = table, folder, rows
        self._batches = table.to_batches()

    @classmethod
    def open(cls, path: AnyPath, folder: str | None = None) -> ClipTable:
        """Map a file.

        Args:
            path: the file.
            folder: where relative paths of audio start; None: the file's own folder.

        Raises:
            ValueError: damaged, or not written by `write_clips`.
        """
        pa = pyarrow()
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not an Arrow file, or damaged ({in_a_line(error)})") from error
        if not is_of_clips(table.schema) or tuple(table.schema.names) != _COLUMNS:
            raise ValueError(f"{path}: not a table of clips, or one of another version")
        lengths = [batch.num_rows for batch in table.to_batches()]
        if any(length != ROWS for length in lengths[:-1]):
            raise ValueError(f"{path}: damaged (record batches of {min(lengths)} to {max(lengths)} rows)")
        return cls(table, str(Path(path).parent) if folder is None else folder)

    def __len__(self) -> int:
        return int(self.table.num_rows) if self.rows is None else len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipTable: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self), dtype=np.int64)[index])
        place = range(len(self))[index]  # IndexError, and from the end
        batch, row = divmod(place if self.rows is None else int(self.rows[place]), ROWS)
        return self._clip(self._batches[batch].slice(row, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Clip]:
        for batch in self.batches(_COLUMNS):
            for at in range(0, batch.num_rows, 1024):  # as Python objects, a batch takes 100 MB
                yield from map(self._clip, batch.slice(at, 1024).to_pylist())

    def take(self, indices: np.ndarray) -> ClipTable:
        """The clips at `indices`, in that order."""
        return ClipTable(self.table, self.folder, indices if self.rows is None else self.rows[indices])

    def where(self, mask: np.ndarray) -> ClipTable:
        """Clips where a mask, one bool per clip, is True."""
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Record batches of columns of the chosen clips, in order."""
        pa = pyarrow()
        if self.rows is None:
            yield from (batch.select(list(columns)) for batch in self._batches)
            return
        for at in range(0, len(self.rows), ROWS):
            batches, inside = np.divmod(self.rows[at : at + ROWS], ROWS)
            order = np.argsort(batches, kind="stable")
            # Batch by batch: to take texts from the whole table, Arrow would first join it in memory.
            used, starts = np.unique(batches[order], return_index=True)
            parts = [
                self._batches[number].select(list(columns)).take(pa.array(rows))
                for number, rows in zip(used.tolist(), np.split(inside[order], starts[1:]), strict=True)
            ]
            taken = pa.Table.from_batches(parts).combine_chunks()
            if len(used) > 1 and (np.diff(batches) < 0).any():
                taken = taken.take(pa.array(np.argsort(order, kind="stable")))
            yield from taken.to_batches()

    def column(self, name: str) -> Iterator[Any]:
        """Values of one column."""
        for batch in self.batches([name]):
            yield from batch.column(0).to_pylist()

    def is_in(self, column: str, allowed: Sequence[str]) -> np.ndarray:
        """Whether a column holds one of some texts, for every clip."""
        pa = pyarrow()
        values = pa.array(list(allowed), pa.string())
        parts = [
            pa.compute.is_in(batch.column(0), value_set=values).to_numpy(False) for batch in self.batches([column])
        ]
        return np.concatenate([np.zeros(0, bool), *parts])

    @property
    def durations(self) -> np.ndarray:
        """Seconds of every clip, float64; 0 for one that cannot be read."""
        return np.concatenate([np.zeros(0), *(batch.column(0).to_numpy() for batch in self.batches(["duration"]))])

    def _clip(self, row: dict[str, Any]) -> Clip:
        return Clip(**row, folder=self.folder)


def is_of_clips(schema: Any) -> bool:
    """Whether a file with this schema says that `write_clips` made it."""
    return (schema.metadata or {}).items() >= FORMAT.items()


def _batch(clips: Sequence[Clip], schema: Any) -> Any:
    pa = pyarrow()
    try:
        columns = [
            pa.array([getattr(clip, name) for clip in clips], kind)
            for name, kind in zip(schema.names, schema.types, strict=True)
        ]
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object!r}: not Unicode, which Arrow cannot hold; rename it") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class _Numbers:
    """A growing array of 64-bit numbers."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._last: list[int] = []

    def __len__(self) -> int:
        return len(self._parts) * ROWS + len(self._last)

    def add(self, number: int) -> None:
        self._last.append(number)
        if len(self._last) == ROWS:
            self._parts.append(np.array(self._last, np.int64))
            self._last = []

    def numbers(self) -> np.ndarray:
        return np.concatenate([*self._parts, np.array(self._last, np.int64)])


def _refuse_twins(path: Path, hashes: np.ndarray) -> None:
    """Raise ValueError where two clips of a file have one id: equal hashes of ids tell where to look."""
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    if not len(same):
        return
    rows = np.unique(order[np.concatenate([same, same + 1])])
    found: dict[str, tuple[int, Clip]] = {}
    for row, clip in zip(rows.tolist(), ClipTable.open(path, "").take(rows), strict=True):
        other_row, other = found.setdefault(clip.id, (row, clip))
        if other is not clip:
            raise ValueError(
                f"id {clip.id!r} stands twice: clip {other_row + 1} ({other.audio}) and clip {row + 1} ({clip.audio})"
            )
