"""Which split a clip belongs to: by the name of a folder above it, else by a hash.

A folder decides if its whole name is one of the words below, alone or followed by a digit, `-`, `_`, `.` or space:
`dev-clean`, `eval92`, `test 2`, `train_100`. `validated`, `invalidated` and `other` decide nothing. The folder nearest
to the corpus's root wins. Test: `pytest tests/data/test_splits.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

SPLITS = ("train", "valid", "test")
_MEANING = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "development": "valid",
    "eval": "test",
    "evaluation": "test",
    "test": "test",
    "testing": "test",
}
_NAME = re.compile(
    rf"({'|'.join(sorted(_MEANING, key=len, reverse=True))})(?:[-_. ].*|\d+)?", re.IGNORECASE | re.DOTALL
)


def split_of_name(name: str) -> str:
    """`train`, `valid` or `test` for a name that says so as a whole, else an empty string."""
    match = _NAME.fullmatch(name)
    return _MEANING[match[1].lower()] if match else ""


def split_of_folders(folders: Iterable[str]) -> tuple[str, str]:
    """The split that the first telling folder name gives, and that name; folders from the root down."""
    return next(((split, name) for name in folders if (split := split_of_name(name))), ("", ""))


def hashed_split(key: str, valid_share: float, test_share: float) -> str:
    """`train`, `valid` or `test` by a hash of `key`: a clip keeps its split when the corpus grows."""
    digest = hashlib.sha1(key.encode("utf-8", "surrogateescape")).digest()
    value = int.from_bytes(digest[:8], "big") / 2.0**64
    if value < 1.0 - valid_share - test_share:
        return "train"
    return "valid" if value < 1.0 - test_share else "test"


def keep_speakers_together(speakers: Sequence[str], splits: Sequence[str]) -> tuple[list[str], Mapping[str, list[str]]]:
    """Splits in which no speaker stands twice, and the speakers that had to move, with the splits they stood in.

    A speaker of several splits goes, with all clips, to the most protected one: test before valid before train.
    """
    stands: dict[str, set[str]] = defaultdict(set)
    for speaker, split in zip(speakers, splits, strict=True):
        if speaker:
            stands[speaker].add(split)
    home = {speaker: max(found, key=SPLITS.index) for speaker, found in stands.items()}
    moved = {speaker: sorted(found) for speaker, found in stands.items() if len(found) > 1}
    return [home.get(speaker, split) for speaker, split in zip(speakers, splits, strict=True)], moved
