"""Token shards of any size as a sequence of rows: they stay on disk, memory-mapped, and are read a stretch at a time.

    rows = MappedRows([Path("tokens/train")])
    rows.read(0, 8192)          # checked rows
    rows.shapes(0, 8192)        # the same with zeros for codes: no token is read

What grows with the corpus is a number for each shard (and for each row, where speakers or languages are chosen).
Only Arrow shards can be mapped. Test: tests/transcode/test_mapped_rows.py.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from llmcodec.io.digests import digest_all, digest_number
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import DamagedShard, checked_rows, in_a_line, open_shard, shards_in
from llmcodec.transcode.flat_rows import Chosen, FlatRow, check_one_codec, flat_row, is_chosen, refuse_twice
from llmcodec.transcode.index import HERE, INDEX, read_index


class MappedRows(Sequence[FlatRow]):
    """Rows of folders of Arrow shards of one codec, in order.

    Args:
        folders: at least one.
        speakers: keep the rows of these; None keeps all.
        languages: likewise.
        chosen: keep these clips of a folder, with all their views.

    Raises:
        ValueError: no shards, shards of two codecs, Parquet, damage. Damage inside a shard comes when it is read.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        speakers: Collection[str] | None = None,
        languages: Collection[str] | None = None,
        chosen: Chosen = MappingProxyType({}),
    ) -> None:
        self.folders = list(folders)
        refuse_twice(self.folders)
        self.shards = [path for folder in folders for path in _arrow_shards(folder)]
        counts, known = [], list[TokenProvenance]()
        codec: TokenProvenance | None = None
        for path in self.shards:
            batches, theirs = open_shard(path)
            codec = codec or theirs
            if theirs not in known:  # a line for each of them, not for each shard
                check_one_codec(codec, theirs, path)
                known.append(theirs)
            counts.append(sum(batch.num_rows for batch in sound(path, batches)))
        assert codec is not None
        self.codec = codec
        self._ends = list(accumulate(counts))
        self._refuse_doubled()
        every = speakers is None and languages is None and not chosen
        self._kept = None if every else self._choose(speakers, languages, chosen)

    def __len__(self) -> int:
        return (self._ends[-1] if self._ends else 0) if self._kept is None else len(self._kept)

    @overload
    def __getitem__(self, index: int) -> FlatRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FlatRow]: ...
    def __getitem__(self, index: int | slice) -> FlatRow | Sequence[FlatRow]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self.read(place, place + 1)[0]

    def read(self, start: int, stop: int) -> list[FlatRow]:
        """Rows [start, stop), checked as any shard is."""
        rows = []
        for path, first, last in self._stretches(start, stop):
            batches, provenance = open_shard(path)
            for row in checked_rows(path, _sliced(sound(path, batches), first, last), provenance):
                rows.append(flat_row(row, provenance))
        return rows

    def shapes(self, start: int, stop: int) -> list[FlatRow]:
        """Rows [start, stop) with as many zeros as they have codes; takes no memory for these, and reads none."""
        rows = []
        for path, first, last in self._stretches(start, stop):
            batches, provenance = open_shard(path)
            for batch in _sliced(sound(path, batches), first, last):
                rows += [_shape(row, length, provenance) for row, length in _facts(path, batch)]
        return rows

    def digest(self) -> str:
        """Of what decides the rows: the indexes of the folders; without valid ones, names and sizes of all shards."""
        parts: list[str | bytes] = []
        for folder in self.folders:
            if (index := _index_of(folder)) is not None:
                parts += [folder.name, index.read_bytes()]
            else:
                parts += [f"{path.name} {path.stat().st_size}\n" for path in _arrow_shards(folder)]
        return digest_all([*parts, repr(None if self._kept is None else self._kept.tolist())])

    def _refuse_doubled(self) -> None:
        """Raise ValueError where a folder without a valid index, which nobody has checked, has a clip twice."""
        for folder in self.folders:
            if _index_of(folder) is not None:
                continue
            numbers = array("Q")
            for path in _arrow_shards(folder):
                numbers.extend(digest_number(name) for batch in sound(path) for name in batch["id"].to_pylist())
            if len(np.unique(np.frombuffer(numbers, np.uint64))) != len(numbers):
                raise ValueError(f"{folder}: a clip stands there twice; was a shard copied? Delete one")

    def _choose(
        self, speakers: Collection[str] | None, languages: Collection[str] | None, chosen: Chosen
    ) -> np.ndarray:
        kept: list[int] = []
        for number, path in enumerate(self.shards):
            first = self._ends[number - 1] if number else 0
            for batch in sound(path):
                facts = zip(*(batch[name].to_pylist() for name in ("id", "speaker", "language")), strict=True)
                kept += [
                    first + place
                    for place, (name, speaker, language) in enumerate(facts)
                    if (speakers is None or speaker in speakers)
                    and (languages is None or language in languages)
                    and is_chosen(name, chosen.get(path.parent))
                ]
                first += batch.num_rows
        return np.array(kept, np.int64)

    def _stretches(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        """Shards with their rows [first, last) that rows [start, stop) of the sequence are."""
        if self._kept is None:
            yield from self._cut(start, stop)
            return
        chosen = self._kept[start:stop]
        breaks = np.flatnonzero(np.diff(chosen) != 1) + 1
        for run in np.split(chosen, breaks) if len(chosen) else []:
            yield from self._cut(int(run[0]), int(run[-1]) + 1)

    def _cut(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[number - 1] if number else 0
            last = min(stop, self._ends[number])
            if last > start:
                yield self.shards[number], start - first, last - first
            start, number = last, number + 1


def count_rows(folders: Sequence[Path]) -> int:
    """Rows in the Arrow shards of some folders, by their headers; 0 where there are Parquet shards, which are read."""
    shards = [path for folder in folders if folder.is_dir() for path in shards_in(folder, "*")]
    if any(path.suffix.lower() != ".arrow" for path in shards):
        return 0
    return sum(batch.num_rows for path in shards for batch in sound(path))


def sound(path: Path, batches: Iterator[Any] | None = None) -> Iterator[Any]:
    """Record batches of a shard. Raises DamagedShard where one cannot be read."""
    try:
        yield from open_shard(path)[0] if batches is None else batches
    except DamagedShard:
        raise
    except (ValueError, OSError) as error:  # pyarrow's are both
        raise DamagedShard(f"{path}: damaged ({in_a_line(error)})") from error


def _index_of(folder: Path) -> Path | None:
    """The index of a folder, if it is of the shards that are there: a run that was killed has added others to them."""
    place = next((place for place in (folder, folder.parent) if (place / INDEX).is_file()), None)
    if place is None:
        return None
    try:
        entry = read_index(place)["folders"].get(HERE if place == folder else folder.name, {"shards": []})
    except ValueError:
        return None
    there = {path.name: path.stat().st_size for path in _arrow_shards(folder)}
    return place / INDEX if {one["file"]: one["bytes"] for one in entry["shards"]} == there else None


def _arrow_shards(folder: Path) -> list[Path]:
    found = shards_in(folder, "*")
    if not found:
        raise ValueError(f"{folder}: no token shards (*.arrow) in this folder")
    if parquet := [path for path in found if path.suffix.lower() == ".parquet"]:
        raise ValueError(f"{parquet[0]}: Parquet cannot be memory-mapped; tokenize as arrow for a corpus of this size")
    return found


def _sliced(batches: Iterator[Any], first: int, last: int) -> Iterator[Any]:
    """Rows [first, last) of record batches; nothing is copied."""
    at = 0
    for batch in batches:
        start, stop = max(first - at, 0), min(last - at, batch.num_rows)
        if start < stop:
            yield batch.slice(start, stop - start)
        at += batch.num_rows


def _facts(path: Path, batch: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Columns of every row but its codes, and the length of its lines of codes, by their offsets alone."""
    try:
        rows = batch.drop_columns("codes").to_pylist()
        codes = batch["codes"]
        lines = codes.flatten().value_lengths().to_pylist()
        starts = np.concatenate([[0], np.cumsum(codes.value_lengths().to_pylist())])
    except (ValueError, OSError, UnicodeDecodeError) as error:  # pyarrow's are ValueErrors and OSErrors
        raise DamagedShard(f"{path}: damaged ({in_a_line(error)})") from error
    for place, row in enumerate(rows):
        yield row, int(lines[int(starts[place])] or 0)


def _shape(row: dict[str, Any], length: int, provenance: TokenProvenance) -> FlatRow:
    codes = np.broadcast_to(np.zeros((), np.uint8), (length * provenance.num_codebooks,))
    seconds = row["num_samples"] / provenance.sample_rate
    return FlatRow(row["id"], codes, row["text"], row["speaker"], row["language"], seconds)
