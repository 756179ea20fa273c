"""LJSpeech and corpora in its layout: `metadata.csv` with lines `name|text|normalised text`, audio in `wavs`.

One speaker, named by the letters that all files begin with (`LJ`); texts are never quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, folder_at, plain_text, read_lines

NAME = "LJSpeech"
WHOLE_TREE = True
_TABLE = "metadata.csv"


def recognises(folder: Folder) -> bool:
    return folder.has(_TABLE, "wavs")


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of `wavs`; lines of the table without a recording are reported."""
    texts: dict[str, str] = {}
    for number, line in read_lines(folder.path / _TABLE, report):
        cells = line.split("|")
        text = plain_text(cells[2] if len(cells) > 2 and cells[2].strip() else cells[1]) if cells[1:] else ""
        if texts.setdefault(cells[0], text) != text:
            where = f"{folder.path / _TABLE}:{number}"
            report.lost_texts[where] = f"{where}: {cells[0]} stands there already; the first line is taken"
    place = folder_at(folder.path / next(name for name in folder.folders if name.lower() == "wavs"), folder.root)
    stems = {Path(name).stem for name in place.audio}
    for missing in sorted(set(texts) - stems):
        report.skipped[missing] = f"{folder.path / _TABLE}: {missing} has no recording in {place.path.name}"
    for name in place.audio:
        stem = Path(name).stem
        letters = re.match(r"[A-Za-z]+", stem)
        text = texts.get(stem, "")
        yield Utterance(
            place.path / name, text, letters[0] if letters else "", id=stem, text_from=_TABLE if text else ""
        )
