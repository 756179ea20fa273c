"""What the readers of corpus layouts share: one utterance, one folder, texts of any encoding, a report of what failed.

Test: `pytest tests/data/test_layouts.py`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from llmcodec.data.files import walk
from llmcodec.io.audio import AUDIO_ENDINGS, readable_name
from llmcodec.io.structured import parse_json

COLUMNS = {
    "text": ("text", "transcription", "transcript", "sentence", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "locale", "lang"),
    "split": ("split",),
}
"""What readers of tables look for: field of an utterance -> names of columns, the first that holds something."""


class Layout(Protocol):
    """What the module of a corpus layout defines.

    A layout whose list of utterances is one file (a manifest) also has `recognises_file(path)` and
    `read_file(path, report)`, and may then be given that file alone.
    """

    NAME: str
    """How the summary calls it."""
    WHOLE_TREE: bool
    """Whether `read` takes all that is below the folder; else folders below it are asked for their own layouts."""

    def recognises(self, folder: Folder) -> bool:
        """Whether a folder begins a corpus of this layout; by its own entries, cheaply."""

    def read(self, folder: Folder, report: Report) -> Iterator[Utterance]:
        """The utterances. What its tables do not name is given without a text, or counted in `report.notes`."""


@dataclass(frozen=True)
class Utterance:
    """A recording, and what its corpus says of it; an empty string where it says nothing."""

    path: Path
    text: str = ""
    speaker: str = ""
    language: str = ""
    split: str = ""
    """Where a table of the corpus decides; else folder names or a hash do."""
    id: str = ""
    """The corpus's own unique name; else its path is taken."""
    text_from: str = ""
    """What the text was read from, such as `metadata.csv` or `*.txt`."""
    start: float = 0.0
    """Seconds into the file where the utterance begins."""
    duration: float | None = None
    """Seconds of the utterance where it is a stretch of the file; None means all of it."""
    said: float | None = None
    """Seconds that the corpus claims for all of the file, to compare with its header."""
    listed_in: Path | None = None
    """The folder where its layout was recognised (`corpus` fills it in); the audio may lie elsewhere."""


@dataclass
class Report:
    """What readers met that is not in the manifest, by file; and texts that could not be read."""

    skipped: dict[str, str] = field(default_factory=dict)
    """File or row -> why it is not in the manifest."""
    lost_texts: dict[str, str] = field(default_factory=dict)
    """File or row -> why its clip has no text."""
    notes: Counter[str] = field(default_factory=Counter)
    """Sentence about rows that a layout leaves out by its own rules -> how many there were."""

    def skip(self, path: Path, reason: str) -> None:
        """Write down what is not in the manifest."""
        self.skipped[str(path)] = f"{readable_name(path)}: {reason}"

    def skip_row(self, name: str, line: str) -> None:
        """Write down one of the rows of a file, which may have more that are left out."""
        self.skipped[f"{name} ({len(self.skipped)})" if name in self.skipped else name] = line


@dataclass(frozen=True)
class Folder:
    """A folder's own entries, sorted; hidden ones are passed over."""

    path: Path
    root: Path
    """Where the corpus begins."""
    files: tuple[str, ...]
    folders: tuple[str, ...]

    @cached_property
    def audio(self) -> list[str]:
        return [name for name in self.files if name.lower().endswith(AUDIO_ENDINGS)]

    def has(self, *names: str) -> bool:
        """Whether all these files or folders are there, in any case of letters."""
        present = {name.lower() for name in (*self.files, *self.folders)}
        return all(name in present for name in names)

    def below(self, report: Report | None = None) -> Iterator[Folder]:
        """This folder and all below it, each once (`data.files.walk`); what cannot be entered goes into the report."""
        for place, subfolders, names in walk(self.path, (report or Report()).skip):
            yield Folder(place, self.root, tuple(names), tuple(subfolders))


def folder_at(path: Path, root: Path) -> Folder:
    """The entries of one folder."""
    _, subfolders, names = next(walk(path, Report().skip), (path, [], []))
    return Folder(path, root, tuple(names), tuple(subfolders))


def plain_text(text: str) -> str:
    """Words with single spaces between them; odd separators (tabs, NEL, U+2028) count as spaces."""
    return " ".join(text.split())


def read_text(path: Path, report: Report) -> str:
    """A transcript in UTF-8; one that is not costs itself, and is reported."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.lost_texts[str(path)] = f"{path}: not UTF-8 ({error.reason} at byte {error.start}); its text is left out"
    except OSError as error:
        report.lost_texts[str(path)] = f"{path}: cannot be read ({error.strerror}); its text is left out"
    return ""


def read_lines(path: Path, report: Report) -> Iterator[tuple[int, str]]:
    """(number, line) of a table in UTF-8, cut at newlines alone; a line that is not UTF-8 is reported and left out."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"{path}:{number}"
                report.lost_texts[where] = f"{where}: not UTF-8 ({error.reason}); the line is left out"
                continue
            if line.strip():
                yield number, line


def read_table(path: Path, report: Report, delimiter: str, quoted: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a table whose first line names the columns.

    Raises:
        ValueError: no header.
    """
    lines = read_lines(path, report)
    rows = _quoted_rows(path, lines, delimiter, report) if quoted else ((n, one.split(delimiter)) for n, one in lines)
    try:
        _, columns = next(rows)
    except StopIteration:
        raise ValueError(f"{path}: the table is empty") from None
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} stands twice; rename one of them")
    for number, cells in rows:
        if len(cells) > len(columns):
            why = f"{len(cells)} cells for {len(columns)} columns; quote a cell that holds {delimiter!r}"
            report.skipped[f"{path.name}:{number}"] = f"{path}:{number}: {why}"
            continue
        yield number, dict(zip(columns, cells, strict=False))


def _quoted_rows(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str, report: Report
) -> Iterator[tuple[int, list[str]]]:
    """(last line, cells) of rows whose quoted cells may go on in the next line; a quote out of place is reported."""
    last = 0

    def numbered() -> Iterator[str]:
        nonlocal last
        for number, line in lines:
            last = number
            yield line + "\n"

    rows = csv.reader(numbered(), delimiter=delimiter, strict=True)
    while True:
        begins = last + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"{path}:{begins}" + (f"-{last}" if last > begins else "")
            report.skipped[where] = f"{where}: not CSV ({error}); left out"
            continue
        yield last, cells


def pairs_of(path: Path, report: Report) -> dict[str, str]:
    """Key -> rest of every line `key rest`, spaces or tabs between them; of a key that stands twice the first."""
    found: dict[str, str] = {}
    for number, line in read_lines(path, report):
        key, *rest = line.split(maxsplit=1)
        value = rest[0].strip() if rest else ""
        if found.setdefault(key, value) != value:
            report.lost_texts[f"{path}:{number}"] = (
                f"{path}:{number}: {key} stands there already; the first line is taken"
            )
    return found


def beside(folder: Folder, stem: str, endings: Sequence[str]) -> Path | None:
    """The file `stem` + one of `endings` (in that order, in any case of letters) in a folder.

    A stem in the same letters comes before one in another case: `A.TXT` and not `a.txt` belongs to `A.wav`.
    """
    names = [name for name in folder.files if name.lower().startswith(stem.lower())]
    for ending in endings:
        fitting = [name for name in names if name.lower() == (stem + ending).lower()]
        if fitting:
            return folder.path / max(fitting, key=lambda name: (name.startswith(stem), name.endswith(ending)))
    return None


def json_rows(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a file with one JSON object a line; lines that are something else are reported."""
    for number, line in read_lines(path, report):
        try:
            row = parse_json(line, path)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield number, row
        else:
            report.skipped[f"{path.name}:{number}"] = f"{path}:{number}: not a JSON object"


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that holds something: a text, or a number as text. A list or an object is neither."""
    value = next((row[name] for name in names if row.get(name) not in (None, "")), "")
    return str(value) if isinstance(value, str | int | float) else ""
