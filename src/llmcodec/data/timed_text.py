"""Transcripts that say when: `<|0.00|> _ <|0.21|> p <|0.30|> l ..`, seconds before every unit, as Whisper writes them.

A unit is a phoneme, a word, whatever an aligner gives (examples/align.py, the Montreal Forced Aligner, Whisper). It
lasts until the next one begins: a mark with nothing behind it ends none, except that a last one may stand there.
Test: `pytest tests/data/test_timed_text.py`.
"""

from __future__ import annotations

import re
from itertools import pairwise

MARK = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")


def timed_units(text: str) -> list[tuple[str, float]]:
    """Units and the seconds where they start; a bare last mark is a unit without a name.

    Raises:
        ValueError: no marks, words before the first mark, or times that run backwards.
    """
    before, *parts = MARK.split(text)
    if not parts or before.strip():
        raise ValueError(
            f"transcript {text[:40]!r}: expected seconds before every unit, as in '<|0.00|> p <|0.12|> l', "
            "which examples/align.py writes"
        )
    units = [(" ".join(name.split()), float(time)) for time, name in zip(parts[::2], parts[1::2], strict=True)]
    units = [unit for place, unit in enumerate(units) if unit[0] or place == len(units) - 1]
    for (name, start), (other, later) in pairwise(units):
        if later < start:
            raise ValueError(f"transcript: {other!r} at {later:g} s stands behind {name!r} at {start:g} s")
    return units


def is_timed(text: str) -> bool:
    """Whether there is a mark in it."""
    return MARK.search(text) is not None


def later(text: str, seconds: float) -> str:
    """The text of a recording whose first so many seconds were cut off: all times smaller by them, not below 0."""
    return MARK.sub(lambda mark: f"<|{max(0.0, float(mark[1]) - seconds):.3f}|>", text)


def without_times(text: str) -> str:
    """The units alone, a space between any two."""
    return " ".join(MARK.sub(" ", text).split()) if "<|" in text else text
