"""Digests of the files that a recipe or a protocol names, so that another file under the same path is noticed.

    named_files(recipe)        # {"codec.start": "0f3a...", "language.audio_lm": "77c1..."}
    content_of("wavlm:teachers/mine:9")

Test: tests/training/test_named_files.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from llmcodec.adapters.load import folder_of_codec
from llmcodec.assets import CODECS
from llmcodec.io.digests import digest, digest_all
from llmcodec.io.tensor_check import DIGESTS
from llmcodec.lm.bundled import BUNDLED
from llmcodec.training.build import SCRATCH
from llmcodec.training.recipe import Recipe

RESERVED = {*SCRATCH, *CODECS, BUNDLED}
"""Names that mean a part of a package, also where a folder is called so."""
WHOLE_BYTES, PIECES, PIECE_BYTES = 1 << 26, 64, 1 << 20
"""Of a longer file so many pieces of this length are read, evenly spread, first and last bytes among them."""


def named_files(recipe: Recipe) -> dict[str, str]:
    """Field -> digest of the file or folder that it names; without those that name none here: bundled, hub ids."""
    language = recipe.language
    names = {
        "codec.start": recipe.codec.start,
        "language.backbone.name": None if language is None or language.backbone is None else language.backbone.name,
        "language.audio_rows": None if language is None else language.audio_rows,
        "language.audio_lm": None if language is None else language.audio_lm,
        "bigram.prior": None if recipe.bigram is None else recipe.bigram.prior,
        "teacher.name": None if recipe.teacher is None else recipe.teacher.name,
    }
    return {field: content for field, name in names.items() if (content := content_of(name)) is not None}


def content_of(name: str | None) -> str | None:
    """Digest of what a name means on this machine: a file's content, or a folder's names and contents.

    Notes for people and the digests beside weights do not count, nor what is hidden. Of a run folder its codec counts.
    None for a name that is no file or folder here.
    """
    place = None if not name or name in RESERVED else _place(name)
    if place is None:
        return None
    if place.is_file():
        return _content(place)
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and not _passed_over(path.relative_to(place)))
    return digest_all(part for path in files for part in (path.relative_to(place).as_posix(), _content(path)))


def _place(name: str) -> Path | None:
    """The path in FOLDER, FOLDER:8, KIND:FOLDER, KIND:FOLDER:4 or search:FOLDER?weight=1; None where none is there."""
    if (folder := folder_of_codec(name)).exists():
        return folder
    parts = [name, name.partition(":")[2]]
    parts += [re.sub(r":\d+$", "", part.split("?")[0]) for part in parts]
    return next((Path(part) for part in parts if part and Path(part).exists()), None)


def _passed_over(path: Path) -> bool:
    return path.name == DIGESTS or path.suffix == ".md" or any(part.startswith(".") for part in path.parts)


def _content(path: Path) -> str:
    state = path.stat()
    return _read(str(path.resolve()), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: str, size: int, time: int) -> str:
    """Digest of a file; `time` makes a file that has changed another one."""

    def pieces() -> Iterator[bytes]:
        with open(path, "rb") as file:
            if size <= WHOLE_BYTES:
                yield file.read()
                return
            for number in range(PIECES):
                file.seek((size - PIECE_BYTES) * number // (PIECES - 1), os.SEEK_SET)
                yield file.read(PIECE_BYTES)

    return digest(str(size), *pieces())
