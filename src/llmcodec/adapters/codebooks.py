"""How many codebooks of a codec to use: one check with one message for all adapters.

Test: tests/adapters/test_load.py.
"""

from __future__ import annotations


def check_num_codebooks(codec: str, asked: int | None, usual: int, available: int, fewest: int = 1) -> int:
    """The number asked for, or the usual one for None. Errors: ValueError when the codec cannot use that many."""
    if asked is None:
        return usual
    if not fewest <= asked <= available:
        some = str(available) if fewest == available else f"{fewest} to {available}"
        raise ValueError(f"{codec} here has {some} codebooks: {asked} cannot be used")
    return asked
