"""cli/output.py: files appear whole, the status line takes shares."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmcodec.cli.output import progress, write_text


def test_files_appear_whole(tmp_path):
    path = tmp_path / "deep" / "a.md"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text("utf-8") == "two" and list(path.parent.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udc80")
    assert path.read_text("utf-8") == "two"


def test_the_status_line_says_stage_and_share():
    shown = io.StringIO()
    with progress(Console(file=shown, force_terminal=True, width=60)) as show:
        show("encode", 0.25)
    assert "encode 25%" in shown.getvalue()
    quiet = io.StringIO()
    with progress(Console(file=quiet)) as show:
        show("encode", 0.25)
    assert quiet.getvalue().strip() == ""
