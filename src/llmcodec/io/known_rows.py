"""Ids of the rows of token shards, and what a later run must know of each: 32 bytes a row, however many there are.

    rows = KnownRows()
    rows.add("clip/1", text="hello", shard=3, sample_rate=16_000, num_samples=80_000)
    "clip/1" in rows, rows.facts("clip/1")

Ids and texts are kept as 64-bit digests: of ten million, two are alike once in 400,000 corpora.
Test: tests/io/test_known_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from llmcodec.io.digests import digest

NEWEST = 1 << 16
"""Rows that wait to be sorted in."""
GONE = -1
_COLUMNS = np.dtype([("text", "<u8"), ("shard", "<i4"), ("sample_rate", "<u4"), ("num_samples", "<i8")])


class Facts(NamedTuple):
    """What is known of a row."""

    text: int
    """Its digest (`row_number`)."""
    shard: int
    """Number of the file where it stands."""
    sample_rate: int
    """Of the recording that it was made of; 0: unknown."""
    num_samples: int
    """Of that recording; 0: unknown."""


def row_number(text: str) -> int:
    """The digest of an id or of a text, as a number; that of `digests.digest_number` for any text that is one."""
    return int(digest(text.encode("utf-8", "surrogatepass")), 16)


class KnownRows:
    """A sorted table of rows and the newest of them; `len` counts those that were not dropped."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.uint64)
        self._facts = np.zeros(0, _COLUMNS)
        self._newest: dict[int, Facts] = {}
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._ids) + len(self._newest) - self._dropped

    def __contains__(self, name: str) -> bool:
        return self.facts(name) is not None

    def add(self, name: str, text: str, shard: int, sample_rate: int = 0, num_samples: int = 0) -> None:
        """Know one row more, whose id is not known yet; the arguments are those of `Facts`."""
        self._newest[row_number(name)] = Facts(row_number(text), shard, sample_rate, num_samples)
        if len(self._newest) >= NEWEST:
            self._sort_in()

    def facts(self, name: str) -> Facts | None:
        """What is known of a row; None where nothing is."""
        number = row_number(name)
        if number in self._newest:
            return self._newest[number]
        place = int(np.searchsorted(self._ids, np.uint64(number)))
        if place == len(self._ids) or self._ids[place] != number or self._facts[place]["shard"] == GONE:
            return None
        return Facts(*self._facts[place].item())

    def holds(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each of many rows is known (bool), by the numbers of their ids (uint64)."""
        self._sort_in()
        if not len(self._ids):
            return np.zeros(len(numbers), bool)
        places = np.searchsorted(self._ids, numbers)
        places[places == len(self._ids)] = 0
        found: np.ndarray = (self._ids[places] == numbers) & (self._facts["shard"][places] != GONE)
        return found

    def drop(self, names: Iterable[str]) -> None:
        """Forget rows that are known."""
        self._sort_in()
        places = np.searchsorted(self._ids, np.fromiter(map(row_number, names), np.uint64))
        self._facts["shard"][places] = GONE
        self._dropped += len(places)

    def _sort_in(self) -> None:
        """Put the newest rows where they belong; rows that were dropped go."""
        if self._dropped and self._newest:
            kept = self._facts["shard"] != GONE
            self._ids, self._facts, self._dropped = self._ids[kept], self._facts[kept], 0
        if self._newest:
            numbers = np.fromiter(self._newest, np.uint64)
            order = np.argsort(numbers)
            places = np.searchsorted(self._ids, numbers[order])
            facts = np.array(list(self._newest.values()), _COLUMNS)[order]
            self._newest.clear()
            self._facts = np.insert(self._facts, places, facts)
            self._ids = np.insert(self._ids, places, numbers[order])
