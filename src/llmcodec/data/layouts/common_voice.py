"""Mozilla Common Voice: recordings in `clips`, sentences and speakers in tables (`train.tsv`, `validated.tsv`, ...).

`train.tsv`, `dev.tsv` and `test.tsv` decide the split; a clip that only `validated.tsv`, `other.tsv` or another table
names gets its split by hash; what only `invalidated.tsv` names is left out. Sentences are never quoted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, folder_at, plain_text, read_table
from llmcodec.data.splits import split_of_name

NAME = "Common Voice"
WHOLE_TREE = True


def recognises(folder: Folder) -> bool:
    return folder.has("clips") and bool(tables(folder))


def tables(folder: Folder) -> list[str]:
    """Tables that name clips; the ones that decide a split first, `invalidated.tsv` last."""
    found = [name for name in folder.files if name.endswith(".tsv") and _names_clips(folder.path / name)]
    return sorted(found, key=lambda name: (not split_of_name(Path(name).stem), name == "invalidated.tsv", name))


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of all tables, each clip once, and clips that no table names."""
    clips = folder_at(folder.path / "clips", folder.root)
    present, seen, invalidated = set(clips.audio), set(), 0
    for table in tables(folder):
        split = split_of_name(Path(table).stem)
        for number, row in read_table(folder.path / table, report, "\t", quoted=False):
            name = row.get("path", "")
            name = name if name in present else f"{name}.mp3"  # early releases name clips without their ending
            if name in seen:
                continue
            seen.add(name)
            if table == "invalidated.tsv":
                invalidated += 1
                continue
            if name not in present:
                report.skipped[name] = f"{folder.path / table}:{number}: {row.get('path')!r} is not in clips"
                continue
            text = plain_text(row.get("sentence") or "")
            speaker, language = row.get("client_id", ""), row.get("locale", "")
            yield Utterance(clips.path / name, text, speaker, language, split, Path(name).stem, table if text else "")
    for name in folder.files:
        if name.endswith(".tsv") and split_of_name(Path(name).stem) and name not in tables(folder):
            report.skip(folder.path / name, "no columns path and client_id; not read")
    if invalidated:
        report.notes["clips that invalidated.tsv names are left out"] += invalidated
    for name in sorted(present - seen):
        yield Utterance(clips.path / name, id=Path(name).stem)


def _names_clips(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.readline(65536).decode("utf-8-sig", "replace").split("\t")
    return "path" in head and "client_id" in head
