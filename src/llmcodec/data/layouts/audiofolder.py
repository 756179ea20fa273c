"""Hugging Face audiofolder: `metadata.csv`, `metadata.jsonl` or `metadata.parquet` with a column `file_name`.

The text is the first of `text`, `transcription`, `transcript`, `sentence`, `normalized_text`; speaker, language and
split are read from columns of these names (`speaker_id`, `locale`, ... too).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmcodec.data.layouts.base import COLUMNS, Folder, Report, Utterance, first, json_rows, plain_text, read_table
from llmcodec.data.splits import split_of_name

NAME = "audiofolder"
WHOLE_TREE = True
FACTS = ("text", "speaker", "language", "split")
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def recognises(folder: Folder) -> bool:
    return any(name in folder.files and _has_file_names(folder.path / name) for name in _TABLES)


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Rows of the table, then audio below the folder that no row names (without text)."""
    seen: set[Path] = set()
    table, *others = [name for name in _TABLES if name in folder.files and _has_file_names(folder.path / name)]
    for other in others:
        report.skip(folder.path / other, f"{table} beside it is read instead")
    for number, row in _rows(folder.path / table, report):
        name = str(row.get("file_name") or "")
        path = folder.path / name
        if not name or not path.is_file():
            report.skipped[f"{table}:{number}"] = f"{folder.path / table}:{number}: no file {name!r}"
            continue
        seen.add(path)
        text, speaker, language, split = (plain_text(first(row, COLUMNS[name])) for name in FACTS)
        if not text and (name := next((name for name in COLUMNS["text"] if row.get(name)), "")):
            where = f"{folder.path / table}:{number}"
            report.lost_texts[where] = f"{where}: {name} is no text; left out"
        if split and not split_of_name(split):
            report.notes[f"rows of {table} name the split {split!r}, which is none of train, valid and test"] += 1
        yield Utterance(path, text, speaker, language, split_of_name(split), text_from=table if text else "")
    for place in folder.below():
        for name in place.audio:
            if (path := place.path / name) not in seen:
                report.lost_texts[str(path)] = f"{path}: not in {table}; without text"
                yield Utterance(path)


def _has_file_names(path: Path) -> bool:
    if path.suffix == ".parquet":
        return True
    with open(path, "rb") as file:
        return b"file_name" in file.readline(65536)


def _rows(path: Path, report: Report) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix == ".csv":
        yield from read_table(path, report, ",", quoted=True)
    elif path.suffix == ".jsonl":
        yield from json_rows(path, report)
    else:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ValueError(f"{path}: parquet needs one more package: pip install 'llmcodec[datasets]'") from error
        yield from enumerate(pq.read_table(path).to_pylist(), start=1)
