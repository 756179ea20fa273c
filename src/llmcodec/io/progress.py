"""The one progress bar and the one status line of all commands; nothing is drawn where nobody looks.

    with ProgressBar("resample", total=100) as bar:
        bar.update(40)
    with status_line() as show:
        show("encode", 0.25)                    # encode 25%

Names are shown as they are, with brackets and colons. Both go to standard error, so that standard output stays free for
results; a command that prints a table with a console of its own passes that. What only one command shows is a column
that it passes. Test: tests/io/test_progress.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

OnProgress = Callable[[str, float], None]
"""Takes the name of a stage and the share of it that is done, 0 to 1."""
Bar = TypeVar("Bar", bound="ProgressBar")


class ProgressBar:
    """A bar on a terminal, and in a notebook that has ipywidgets; nothing elsewhere.

    Args:
        text: what is done, to the left of the bar.
        total: what `update` reaches at the end; None while that is unknown.
        done: where it starts.
        columns: to the right of the bar; percent and time left by default.
        console: where it is drawn, standard error by default.
        transient: it goes when it is finished.
        enabled: False draws nothing in any case (all processes but the first).
        fields: values that `columns` show, as `{task.fields[name]}`.
    """

    def __init__(
        self,
        text: str,
        total: float | None = 1.0,
        *,
        done: float = 0.0,
        columns: Sequence[ProgressColumn] | None = None,
        console: Console | None = None,
        transient: bool = True,
        enabled: bool = True,
        **fields: Any,
    ) -> None:
        self.console = console or _standard_error()
        self.live = enabled and (self.console.is_terminal or _draws_widgets(self.console))
        if columns is None:
            columns = (TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn())
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            console=self.console,
            transient=transient,
            disable=not self.live,
        )
        self.task = self.bar.add_task(text, total=total, completed=done, **fields)  # type: ignore[arg-type]

    def update(self, done: float, **fields: Any) -> None:
        """Say how far it is, in units of `total`."""
        self.bar.update(self.task, completed=done, **fields)

    def __enter__(self: Bar) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()


@contextmanager
def status_line(console: Console | None = None) -> Iterator[OnProgress]:
    """One line that says stage and share while a command works."""
    from rich.text import Text

    with (console or _standard_error()).status("") as status:
        yield lambda stage, share: status.update(Text(f"{stage} {share:.0%}"))


def quiet_transformers() -> None:
    """Switch off the bars of transformers and huggingface_hub, whether they have been imported or not."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if sys.modules.get("transformers") is not None:
        from transformers.utils import logging

        logging.disable_progress_bar()


def _draws_widgets(console: Console) -> bool:
    """Whether the console is a notebook where rich can move a bar."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def _standard_error() -> Console:
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False)
