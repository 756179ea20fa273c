"""A folder that is written as a whole: it gets its name when everything is in it, or nothing is left.

    with finished_folder("out") as folder:
        codec.save_pretrained(folder)

Test: tests/runtime/test_export.py.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcodec.codec.model_card import CARD


@contextmanager
def finished_folder(output: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its place when the `with` block ends without an error.

    With `overwrite`, files go into a folder that is there, one by one; a README.md in it stays.

    Raises:
        ValueError: `output` is a file, or a folder that is not empty and `overwrite` is False.
    """
    place = Path(output).resolve()
    if place.is_file():
        raise ValueError(f"{output}: is a file; name a folder to write")
    if place.is_dir() and any(place.iterdir()) and not overwrite:
        raise ValueError(f"{output}: is not empty; choose another folder, or --overwrite")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if not place.exists():
            os.rename(temporary, place)
            return
        for path in sorted(temporary.iterdir()):
            if path.name != CARD or not (place / CARD).exists():
                os.replace(path, place / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
