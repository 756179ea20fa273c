"""How commands show their results: names, texts and errors as they are, whatever brackets and colons they have.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llmcodec.report.tables import TextTable


def open_console() -> Console:
    """Standard output. Rich would read `take[en].wav` as a style, and stop at `take[/b].wav`."""
    return Console(markup=False, emoji=False)


def show(console: Console, tables: Sequence[TextTable], sentences: Sequence[str]) -> None:
    """Print tables, and sentences below them."""
    for table in tables:
        console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)


def name_files(console: Console, paths: Sequence[Path]) -> None:
    """Say which files were written."""
    console.print(f"written: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
