"""Parquet and Arrow files with audio bytes, as `datasets` writes them (`audio: {bytes, path}`), or with paths of files.

An index reads every row once; where a column has the durations, of the audio of each file only the first row.
Test: tests/data/test_sources.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcodec.data.clip import Clip
from llmcodec.data.member import audio_bytes, open_table, pyarrow, read_group, table_mark
from llmcodec.data.sources.base import SourceFile, check_said, seconds_of
from llmcodec.io import audio
from llmcodec.io.remote.paths import is_url, shown

ENDINGS = (".parquet", ".arrow")
OTHER_DURATIONS = "name another column (?duration=NAME), or none (?duration=): then lengths are read from the audio"
TEXT_FIELDS = ("id", "text", "speaker", "language", "split", "source", "license")


def read_table(file: SourceFile) -> Iterator[Clip]:
    """Clips of a table in its order; a row without usable audio, or of a damaged row group, has a `problem`.

    Raises:
        ValueError: no such table, or columns that are not there; it names those that are.
    """
    table = open_table(file.path)
    if isinstance(table, list) and not table:
        return
    schema = _schema(table)
    column = _audio_column(file, schema)
    fields = {name: file.options.names(name, schema.names, file.path) for name in (*TEXT_FIELDS, "duration")}
    others = tuple(dict.fromkeys(name for names in fields.values() for name in names))
    mark = table_mark(file.path)
    number, known = 0, False  # known: durations are those of their column, the audio is not looked at
    for group, size in enumerate(_group_sizes(table)):
        rows, problem = _rows(file.path, group, others, () if known else (column,))
        for at, row in enumerate(rows or [None] * size):
            clip = _clip(file, row, fields, column, f"{mark}:{group}/{at}/{column}", number, known, problem)
            yield clip
            number += 1
            known = known or bool(fields["duration"] and clip.inside and not clip.problem)
            if rows:
                rows[at] = None  # of a large row group, only the audio that is still to come stays


def _rows(
    path: Path, group: int, others: tuple[str, ...], audio: tuple[str, ...]
) -> tuple[list[Any], ValueError | None]:
    """Rows of a row group; those of its other columns alone with what is wrong with its audio; none where all fail."""
    try:
        return read_group(path, group, (*others, *audio)).to_pylist(), None
    except ValueError as error:
        if not audio:
            return [], error
        return _rows(path, group, others, ())[0], error


def _clip(
    file: SourceFile,
    row: Any,
    fields: dict[str, tuple[str, ...]],
    column: str,
    inside: str,
    number: int,
    known: bool,
    problem: ValueError | None,
) -> Clip:
    """A row as a clip, None where nothing is known of it.

    known: its audio is not in the row, its duration is that of its column. problem: what is wrong with its row group.
    """
    name = f"{file.stem}-{number:08d}"
    if row is None:
        return file.bad(name, problem, inside)
    name = next((str(row[key]) for key in fields["id"] if row[key] not in (None, "")), name)
    where = f"{file.path}[{name}]"
    outside = ""
    if problem is not None:
        return file.bad(name, problem, inside, row, fields)
    try:
        said = _said(row, fields["duration"], where)
        if known and said is not None:
            return file.clip(name, row, fields, said, inside=inside)
        content = audio_bytes(row[column])
        outside = _path(file, row[column]) if content is None else ""
        if content is None and not outside:
            raise ValueError(f"{where}: no audio in this row")
        seconds = _seconds_outside(file, outside) if content is None else seconds_of(content, where)
    except ValueError as error:
        bad = file.bad(name, error, inside, row, fields)
        return replace(bad, audio=outside, inside="") if outside else bad
    if said is not None:
        check_said(said, seconds, where, OTHER_DURATIONS)
    places = {"audio": outside} if outside else {"inside": inside}
    return file.clip(name, row, fields, seconds if said is None else said, **places)


def _said(row: dict[str, Any], columns: tuple[str, ...], where: str) -> float | None:
    """Seconds by the column of durations; None where there is none."""
    if not columns:
        return None
    said = row[columns[0]]
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < 1e7:
        raise ValueError(f"{where}: duration is {said!r}, not a number of seconds")
    return float(said)


def _path(file: SourceFile, cell: Any) -> str:
    """The file that a cell without bytes names, from the source's folder on; empty where it names none."""
    path = cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(path, str) or not path:
        return ""
    if is_url(path):
        return path
    place = file.path.parent / path
    return place.relative_to(file.root).as_posix() if place.is_relative_to(file.root) else shown(place)


def _seconds_outside(file: SourceFile, path: str) -> float:
    return audio.info(Clip("", path, 0.0, folder=str(file.root)).file).seconds


def _schema(table: Any) -> Any:
    if isinstance(table, list):
        return table[0].schema
    return table.schema_arrow if hasattr(table, "schema_arrow") else table.schema


def _audio_column(file: SourceFile, schema: Any) -> str:
    """The column with the audio: the one that was named, `audio`, or the only one that may hold any."""
    named = file.options.columns.get("audio", "audio")
    if named in schema.names:
        if _may_be_audio(schema.field(named).type, paths=True):
            return named
        raise ValueError(
            f"{file.path}: column {named!r} is {schema.field(named).type}, not bytes, {{bytes, path}} or names of files"
        )
    possible = [name for name in schema.names if _may_be_audio(schema.field(name).type, paths=False)]
    if "audio" in file.options.columns or len(possible) != 1:
        what = "no column 'audio'" if named == "audio" else f"no column {named!r}"
        raise ValueError(
            f"{file.path}: {what} with audio bytes; there is {', '.join(schema.names)} "
            f"(name it: {file.path.name}?audio=COLUMN)"
        )
    return str(possible[0])


def _may_be_audio(kind: Any, paths: bool) -> bool:
    types = pyarrow().types
    if types.is_struct(kind):
        return any(one.name == "bytes" and _may_be_audio(one.type, paths=False) for one in kind)
    text = types.is_string(kind) or types.is_large_string(kind)
    return types.is_binary(kind) or types.is_large_binary(kind) or paths and text


def _group_sizes(table: Any) -> list[int]:
    """Rows of every row group or record batch."""
    if isinstance(table, list):
        return [batch.num_rows for batch in table]
    if hasattr(table, "num_record_batches"):
        return [table.get_batch(number).num_rows for number in range(table.num_record_batches)]
    return [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
