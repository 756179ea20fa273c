"""cli/summary.py: what a person reads, and that failures end in an error."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmcodec.cli.summary import Failed, FilesBar, readable_seconds, summarise, times_real_time
from llmcodec.transcode.inputs import Problem
from llmcodec.transcode.pipeline import Report


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (245.9, "4 min 05 s"), (7380, "2 h 03 min")],
)
def test_durations(seconds, text):
    assert readable_seconds(seconds) == text


def test_speed():
    assert times_real_time(30.0, 2.0) == "15.0x real time" and times_real_time(1.0, 0.0)


def test_a_clean_run_is_one_line(capsys):
    summarise(Report(done=1998, skipped=3, seconds=4000, elapsed=100), "encoded", "tokens")
    shown = capsys.readouterr()
    assert shown.err == (
        "encoded 1,998 files, 1 h 06 min of audio in 1 min 40 s (40.0x real time); 3 files done before: tokens\n"
    )
    assert shown.out == ""


def test_failures_are_listed_and_raised(capsys):
    report = Report(done=3, seconds=9, elapsed=1, failed=[Problem("a.wav", "a.wav: is empty"), Problem("b", "odd")])
    with pytest.raises(Failed, match="2 files failed, the others are done:\n  a.wav: is empty\n  b: odd"):
        summarise(report, "encoded", "tokens")
    assert "(9.0x real time): tokens; 2 files failed\n" in capsys.readouterr().err


def test_a_single_failure_is_one_line():
    with pytest.raises(Failed) as failure:
        summarise(Report(failed=[Problem("a.wav", "a.wav: is empty")]), "encoded", "tokens")
    assert str(failure.value) == "a.wav: is empty"


def test_warnings_are_shown_up_to_a_limit(capsys):
    summarise(Report(done=30, seconds=30, elapsed=1, warned=[f"{i}: truncated" for i in range(30)]), "encoded", "t")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: 0: truncated" and lines[20] == "warning: ... and 10 more of this kind"


def test_interrupted_runs_say_what_is_done_and_fail_for_no_file(capsys):
    summarise(Report(done=3, seconds=9, elapsed=1, failed=[Problem("a", "b")]), "encoded", "t", stopped=True)
    assert "encoded 3 files, 9.0 s of audio" in capsys.readouterr().err


def test_the_bar_shows_files_speed_and_time_left():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    with FilesBar("encoding", terminal) as bar:
        bar.start(10, 100.0)
        bar.advance(4, 40.0)
        bar.bar.tasks[0].start_time -= 2.0
        bar.bar.refresh()
    shown = terminal.file.getvalue()
    assert "encoding" in shown and "4/10" in shown and "x real time" in shown and ":" in shown


def test_nothing_is_drawn_where_nobody_looks():
    pipe = Console(file=io.StringIO(), force_terminal=False)
    with FilesBar("encoding", pipe) as bar:
        bar.start(1, 1.0)
        bar.advance(1, 1.0)
    assert pipe.file.getvalue().strip() == ""
