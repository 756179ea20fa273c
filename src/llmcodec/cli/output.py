"""How commands show their results: names, texts and errors as they are, whatever brackets and colons they have.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from llmcodec.io.progress import OnProgress, ProgressBar, status_line
from llmcodec.report.tables import TextTable


def open_console() -> Console:
    """Standard output. Rich would read `take[en].wav` as a style, and stop at `take[/b].wav`."""
    return Console(markup=False, emoji=False)


def named_bar(name: str, console: Console) -> ProgressBar:
    """The progress bar of what a user has named."""
    return ProgressBar(escape(name), console=console)


@contextmanager
def stage_line(console: Console) -> Iterator[OnProgress]:
    """`status_line` for stages that may have names of users in them."""
    with status_line(console) as tell:
        yield lambda stage, share: tell(escape(stage), share)


def show(console: Console, tables: Sequence[TextTable], sentences: Sequence[str]) -> None:
    """Print tables, and sentences below them."""
    for table in tables:
        console.print(table.rich())
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)


def name_files(console: Console, paths: Sequence[Path]) -> None:
    """Say which files were written."""
    console.print(f"written: {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
