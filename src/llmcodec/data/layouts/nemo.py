"""NeMo manifests: a JSON object a line with `audio_filepath`, `duration`, `text`, maybe `offset` and `speaker`.

The file is named itself (`llmcodec data manifest train_manifest.json`) or lies in the folder. Paths are relative to it.
The split is that of the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcodec.data.layouts.base import COLUMNS, Folder, Report, Utterance, first, json_rows, plain_text
from llmcodec.data.splits import split_of_folders
from llmcodec.io.audio import info

NAME = "NeMo"
WHOLE_TREE = True


def manifests(folder: Folder) -> list[str]:
    return [name for name in folder.files if name.endswith((".json", ".jsonl")) and recognises_file(folder.path / name)]


def recognises_file(path: Path) -> bool:
    """Whether the first line has `audio_filepath`."""
    with open(path, "rb") as file:
        return b'"audio_filepath"' in file.readline(65536)


def recognises(folder: Folder) -> bool:
    return bool(manifests(folder))


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Rows of every manifest in the folder."""
    for name in manifests(folder):
        yield from read_file(folder.path / name, report)


def read_file(path: Path, report: Report) -> Iterator[Utterance]:
    """Rows of one manifest; a row with `offset` is a stretch, with 0 where its file lasts longer."""
    split, _ = split_of_folders([path.stem, *reversed(path.stem.split("_"))])
    for number, row in json_rows(path, report):
        audio = str(row.get("audio_filepath") or "")
        if not audio or not (path.parent / audio).is_file():
            report.skipped[f"{path.name}:{number}"] = f"{path}:{number}: no file {audio!r}"
            continue
        try:
            offset, duration = _seconds(row.get("offset")), _seconds(row.get("duration"))
        except ValueError as error:
            report.skipped[f"{path.name}:{number}"] = f"{path}:{number}: {error}"
            continue
        text = plain_text(first(row, COLUMNS["text"]))
        yield Utterance(
            path.parent / audio,
            text,
            first(row, COLUMNS["speaker"]),
            first(row, COLUMNS["language"]),
            split,
            text_from=path.name if text else "",
            start=offset or 0.0,
            duration=duration if offset or offset == 0 and _is_part(path.parent / audio, duration) else None,
            said=duration,
        )


def _is_part(path: Path, duration: float | None) -> bool:
    """Whether a file lasts longer than this, by more than corpora round their times."""
    try:
        return duration is not None and duration + max(0.1, 0.02 * duration) < info(path).seconds
    except ValueError:  # told where the clip is made
        return False


def _seconds(value: Any) -> float | None:
    """Seconds in a row, given as a number or as its text; None where there are none."""
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"offset and duration are seconds, not {str(value)[:40]!r}")
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"offset and duration are seconds, not {str(value)[:40]!r}") from None
