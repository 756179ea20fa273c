"""Transcripts that say when: `<|0.00|> _ <|0.21|> p <|0.30|> l ..`, seconds before every unit, as Whisper writes them.

A unit is a phoneme, a word, whatever an aligner gives (scripts/align.py here, the Montreal Forced Aligner, whisper). A
last mark with nothing behind it is the end of the last unit; without one it lasts as long as the clip.
Test: `pytest tests/unit/lm/test_timed_text.py`.
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
        raise ValueError(f"transcript {text[:40]!r}: expected seconds before every unit, as in '<|0.00|> p <|0.12|> l'")
    units = [(" ".join(name.split()), float(time)) for time, name in zip(parts[::2], parts[1::2], strict=True)]
    units = [unit for place, unit in enumerate(units) if unit[0] or place == len(units) - 1]
    for (name, start), (other, later) in pairwise(units):
        if later < start:
            raise ValueError(f"transcript: {other!r} at {later:g} s stands behind {name!r} at {start:g} s")
    return units


def without_times(text: str) -> str:
    """The units alone, a space between any two."""
    return " ".join(MARK.sub(" ", text).split()) if "<|" in text else text
