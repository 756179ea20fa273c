"""Bad rows of a long run: skipped, counted, listed by name, up to the limit `--max-bad`; beyond it the run stops.

    bad = BadRows("1%", total=len(clips))
    for clip in clips:
        try:
            wav_S = clip.load(16_000)
        except (ValueError, OSError) as error:
            bad.add(clip.id, error)             # raises TooManyBad for the first one too many
    print(*bad.lines(), sep="\n")               # what was left out

Test: tests/io/test_bad_rows.py.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable

MaxBad = int | str
"""`0`, `20` (rows), or `1%` (of all rows, rounded down)."""
MOST_LISTED = 10


class TooManyBad(ValueError):
    """One bad row more than was allowed."""


class BadRows:
    """Names of rows that were left out, with reasons. Threads may share it.

    Args:
        max_bad: how many are allowed.
        total: number of all rows; None where nobody knows it before the end: a share is then checked by `settle`.
        what: the rows are.

    Raises:
        ValueError: `max_bad` is neither a number of rows nor a share.
    """

    def __init__(self, max_bad: MaxBad = 0, total: int | None = None, what: str = "clips") -> None:
        self.max_bad, self.total, self.what = max_bad, total, what
        self.reasons: dict[str, str] = {}
        self.say: Callable[[str], object] | None = None
        """Takes a line about every row when it is left out, up to MOST_LISTED of them."""
        self._count, self._share = read_max_bad(max_bad)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reasons)

    def __bool__(self) -> bool:
        return True  # one without rows is there all the same: `bad or BadRows()` keeps it

    @property
    def allowed(self) -> float:
        """How many rows may be left out."""
        if self._share is None:
            return self._count
        return math.inf if self.total is None else math.floor(self._share * self.total)

    def add(self, name: str, reason: object) -> None:
        """Leave a row out; a name that is known already counts once.

        Raises:
            TooManyBad: it is one too many.
        """
        with self._lock:
            if name in self.reasons:
                return
            told = str(reason)
            self.reasons[name] = told if told.startswith(name) else f"{name[:80]}: {told}"
            self._check()
            if self.say is not None and len(self) <= MOST_LISTED:
                self.say(f"left out: {self.reasons[name]}")

    def settle(self, total: int) -> None:
        """The number of all rows, once it is known. Raises TooManyBad where too many of them were bad."""
        self.total = total
        self._check()

    def _check(self) -> None:
        if len(self) <= self.allowed:
            return
        first = next(iter(self.reasons.values()))
        if not self.allowed:
            raise TooManyBad(f"{first} (--max-bad 1% leaves out bad {self.what} up to 1 % of all, and lists them)")
        names = list(self.reasons)
        more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
        of_all = f" of {self.total}" if self.total is not None else ""
        raise TooManyBad(
            f"{len(names)}{of_all} {self.what} are bad, and --max-bad {self.max_bad} allows {self.allowed}: "
            f"{', '.join(names[:MOST_LISTED])}{more}; the first: {first}"
        )

    def lines(self) -> list[str]:
        """What was left out, for people: nothing, or how many rows and the first of them with reasons."""
        if not self.reasons:
            return []
        of_all = f" of {self.total}" if self.total is not None else ""
        listed = [f"  left out: {reason}" for reason in list(self.reasons.values())[:MOST_LISTED]]
        more = [f"  and {len(self) - MOST_LISTED} more"] if len(self) > MOST_LISTED else []
        return [f"{len(self)}{of_all} {self.what} are left out (--max-bad {self.max_bad}):", *listed, *more]


def read_max_bad(max_bad: MaxBad) -> tuple[int, float | None]:
    """Number of rows that may be bad, or 0 and a share from 0 to 1. Raises ValueError for anything else."""
    written = str(max_bad)
    if found := re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", written):
        share = float(found[1]) / 100
        if share <= 1:
            return 0, share
    elif re.fullmatch(r"\d{1,18}", written) and not isinstance(max_bad, bool):
        return int(written), None
    raise ValueError(f"--max-bad {written}: a number of rows, such as 20, or a share of them, such as 1%")
