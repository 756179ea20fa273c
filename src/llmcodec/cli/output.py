"""How evaluation commands show their results.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from llmcodec.report.tables import TextTable


def show(console: Console, tables: Sequence[TextTable], sentences: Sequence[str]) -> None:
    """Print tables, and sentences below them."""
    for table in tables:
        console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)


def name_files(console: Console, paths: Sequence[Path]) -> None:
    """Say which files were written."""
    console.print(f"written: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
