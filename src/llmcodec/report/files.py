"""Files that a measurement writes: tables and values under one name, rows as CSV, and provenance.

Test: tests/report/test_files.py.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmcodec.data.manifest import Clip, manifest_hash
from llmcodec.evaluation.results import SystemRow
from llmcodec.io.atomic import write_text
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.digests import package_versions, source_commit
from llmcodec.io.structured import write_json
from llmcodec.report.figures import Curve
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.player import Example
from llmcodec.report.tables import TextTable
from llmcodec.report.verdict import Statement

PAGE = ".html"
PACKAGES = (
    "llmcodec",
    "python",
    "torch",
    "transformers",
    "numpy",
    "soundfile",
    "scipy",
    "praat-parselmouth",
    "jiwer",
    "faster-whisper",
)


def result_paths(output: str | Path, *endings: str) -> list[Path]:
    """NAME with each ending; an ending already on the name is dropped."""
    stem = Path(output)
    stem = stem.with_suffix("") if stem.suffix in endings else stem
    return [stem.with_name(stem.name + ending) for ending in endings]


def write_results(
    output: str,
    tables: Sequence[TextTable],
    sentences: Sequence[str],
    values: dict[str, Any],
    rows: Sequence[SystemRow] = (),
    examples: Sequence[Example] = (),
    curves: Sequence[Curve] = (),
) -> list[Path]:
    """Write NAME.md (tables and sentences) and NAME.json (values and sentences), and for NAME.html the page as well.

    Args:
        output: NAME, with any of the three endings or none.
        tables: all tables; of one table alone, the page shows the rows in its place if there are any.
        sentences: comparisons in words.
        values: everything; the page takes the command and the versions from its `settings`, if there are any.
        rows: systems with a row each, for the page.
        examples: recordings for the page.
        curves: for the page.
    """
    markdown, numbers, page = result_paths(output, ".md", ".json", PAGE)
    text = "".join(f"## {t.title}\n\n{t.markdown()}\n" if t.title else f"{t.markdown()}\n" for t in tables)
    write_text(markdown, text + "".join(f"- {sentence}\n" for sentence in sentences))
    write_json(numbers, {**values, "statements": list(sentences)}, ensure_ascii=False, allow_nan=False)
    if not wants_page(output):
        return [markdown, numbers]
    settings = values.get("settings") or provenance()
    meta = ReportMeta(
        title=page.stem,
        summary="" if "clips" not in settings else f"{settings['clips']} clips.",
        statements=[Statement("same", sentence) for sentence in sentences],
        commands=[settings["command"]],
        versions=settings["versions"],
        tables=() if rows and len(tables) == 1 else tables,
    )
    return [markdown, numbers, write_report(page, rows, examples, curves, meta)]


def wants_page(output: str | None) -> bool:
    """Whether results under this name have a page."""
    return output is not None and Path(output).suffix == PAGE


def provenance(clips: Sequence[Clip] = (), left_out: BadRows | None = None) -> dict[str, Any]:
    """Command, versions and corpus, and what of it was left out, to be stored with every result."""
    made: dict[str, Any] = {"command": command_line(sys.argv[1:]), "versions": versions()}
    if left_out is not None and left_out.reasons:
        made["left_out"] = left_out.reasons
    return made | ({"clips": len(clips), "manifest_hash": manifest_hash(clips)} if clips else {})


def command_line(fallback: Sequence[str]) -> str:
    """The command as it was typed, or `fallback` outside the console script."""
    typed = Path(sys.argv[0]).name in ("llmcodec", "llmcodec.exe", "__main__.py") and len(sys.argv) > 1
    return shlex.join(["llmcodec", *(sys.argv[1:] if typed else fallback)])


def versions() -> dict[str, str]:
    """Exact versions of everything that decides the numbers; packages that are not installed are left out."""
    found = package_versions(*PACKAGES)
    commit = source_commit()
    return found if commit is None else {**found, "commit": commit[:12]}
