"""Ids of the rows of token shards, and what a later run must know of each: 32 bytes a row, however many there are.

    rows = KnownRows()
    rows.add("clip/1", said_number("hello", "ann", "en"), shard=3, sample_rate=16_000, num_samples=80_000)
    "clip/1" in rows, rows.facts("clip/1")

Ids, and texts with speaker and language, are kept as 64-bit digests: of ten million, two are alike once in 400,000
corpora.
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
PIECE = 1 << 18
"""Ids that are looked up at once: bounds the memory."""
_COLUMNS = {"said": np.uint64, "shard": np.int32, "sample_rate": np.uint32, "num_samples": np.int64}


class Facts(NamedTuple):
    """What is known of a row."""

    said: int
    """The digest of its text, speaker and language (`said_number`)."""
    shard: int
    """Number of the file where it stands."""
    sample_rate: int
    """Of the recording that it was made of; 0: unknown."""
    num_samples: int
    """Of that recording; 0: unknown."""


def row_number(text: str) -> int:
    """The digest of an id or of a text, as a number; that of `digests.digest_number` for any text that is one."""
    return int(digest(text.encode("utf-8", "surrogatepass")), 16)


def said_number(text: str, speaker: str = "", language: str = "") -> int:
    """The digest of what is said, by whom and in which language; of a text alone that of `row_number`."""
    return row_number("\0".join((text, speaker, language)).rstrip("\0"))


class KnownRows:
    """A sorted table of rows and the newest of them; `len` counts those that were not dropped."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.uint64)
        self._facts = {name: np.zeros(0, kind) for name, kind in _COLUMNS.items()}
        """Column by column, so that sorting rows in copies one column at a time."""
        self._newest: dict[int, Facts] = {}
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._ids) + len(self._newest) - self._dropped

    def __contains__(self, name: str) -> bool:
        return self.facts(name) is not None

    def add(self, name: str, said: int, shard: int, sample_rate: int = 0, num_samples: int = 0) -> None:
        """Know one row more, whose id is not known yet; the arguments are those of `Facts`."""
        self._newest[row_number(name)] = Facts(said, shard, sample_rate, num_samples)
        if len(self._newest) >= NEWEST:
            self._sort_in()

    def facts(self, name: str) -> Facts | None:
        """What is known of a row; None where nothing is."""
        number = row_number(name)
        if number in self._newest:
            return self._newest[number]
        place = int(np.searchsorted(self._ids, np.uint64(number)))
        if place == len(self._ids) or self._ids[place] != number or self._facts["shard"][place] == GONE:
            return None
        return Facts(*(int(column[place]) for column in self._facts.values()))

    def holds(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each of many rows is known (bool), by the numbers of their ids (uint64)."""
        self._sort_in()
        found = np.zeros(len(numbers), bool)
        for at in range(0, len(numbers) if len(self._ids) else 0, PIECE):
            piece = numbers[at : at + PIECE]
            places = np.searchsorted(self._ids, piece)
            places[places == len(self._ids)] = 0
            found[at : at + PIECE] = (self._ids[places] == piece) & (self._facts["shard"][places] != GONE)
        return found

    def drop(self, names: Iterable[str]) -> None:
        """Forget rows that are known."""
        self._sort_in()
        places = np.searchsorted(self._ids, np.fromiter(map(row_number, names), np.uint64))
        self._facts["shard"][places] = GONE
        self._dropped += len(places)

    def _sort_in(self) -> None:
        """Put the newest rows where they belong; rows that were dropped go."""
        if not self._newest:
            return
        if self._dropped:
            kept = self._facts["shard"] != GONE
            self._ids, self._dropped = self._ids[kept], 0
            for name in _COLUMNS:
                self._facts[name] = self._facts[name][kept]
        numbers = np.fromiter(self._newest, np.uint64)
        order = np.argsort(numbers)
        places = np.searchsorted(self._ids, numbers[order])
        self._ids = np.insert(self._ids, places, numbers[order])
        for name, kind in _COLUMNS.items():
            newest = np.fromiter((getattr(facts, name) for facts in self._newest.values()), kind)
            self._facts[name] = np.insert(self._facts[name], places, newest[order])
        self._newest.clear()
