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
from llmcodec.io.atomic import write_text
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.digests import package_versions, source_commit
from llmcodec.io.structured import write_json
from llmcodec.report.tables import TextTable

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
    output: str, tables: Sequence[TextTable], sentences: Sequence[str], values: dict[str, Any]
) -> list[Path]:
    """Write NAME.md (tables and sentences) and NAME.json (values and sentences)."""
    markdown, numbers = result_paths(output, ".md", ".json")
    text = "".join(f"## {t.title}\n\n{t.markdown()}\n" if t.title else f"{t.markdown()}\n" for t in tables)
    write_text(markdown, text + "".join(f"- {sentence}\n" for sentence in sentences))
    write_json(numbers, {**values, "statements": list(sentences)}, ensure_ascii=False, allow_nan=False)
    return [markdown, numbers]


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
