"""io/progress.py: drawn on a terminal, silent elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import TextColumn

from llmcodec.io.progress import ProgressBar, status_line


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def shown(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_bar_shows_text_share_and_columns_of_its_own():
    console = terminal()
    with ProgressBar("resample", 80, done=20, console=console) as bar:
        bar.update(60)
        bar.bar.refresh()
    assert "resample" in shown(console) and "75 %" in shown(console)
    console = terminal()
    with ProgressBar("x", columns=(TextColumn("{task.fields[loss]}"),), console=console, loss="3.5") as bar:
        bar.update(0.5, loss="2.5")
        bar.bar.refresh()
    assert "3.5" in shown(console) and "2.5" in shown(console) and "%" not in shown(console)


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_drawn_where_nobody_looks(enabled):
    console = terminal() if not enabled else Console(file=io.StringIO())
    with ProgressBar("encoding", console=console, enabled=enabled, transient=False) as bar:
        bar.update(1.0)
    assert shown(console).strip() == ""
    console = Console(file=io.StringIO())
    with status_line(console) as show:
        show("encode", 0.25)
    assert shown(console).strip() == ""


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_bar_where_it_can_move(widgets, monkeypatch):
    monkeypatch.setattr("llmcodec.io.progress.find_spec", lambda name: widgets and name == "ipywidgets" or None)
    assert ProgressBar("x", console=Console(file=io.StringIO(), force_jupyter=True)).live == widgets


def test_the_status_line_says_stage_and_share():
    console = terminal()
    with status_line(console) as show:
        show("encode", 0.25)
    assert "encode 25%" in shown(console)


def test_by_default_both_go_to_standard_error(capsys):
    with ProgressBar("x") as bar, status_line() as show:
        show("x", 1.0)
        assert bar.console.stderr
    assert capsys.readouterr().out == ""
