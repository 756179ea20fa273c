"""Progress display while files are coded: a bar with real-time factor and time left, a summary, failures.

Everything goes to standard error, so that standard output stays free for audio and tokens. Imports no torch.
Test: tests/cli/test_summary.py.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from llmcodec.io.progress import ProgressBar
from llmcodec.transcode.pipeline import Report, Watcher

MAX_LISTED_WARNINGS = 20


class Failed(ValueError):
    """Some files failed; the message lists them. The console script ends with exit code 1."""


class SpeedColumn(ProgressColumn):
    """How many times faster than the audio plays."""

    def render(self, task: Task) -> Text:
        if not task.elapsed or not task.completed:
            return Text("")
        return Text(times_real_time(task.completed, task.elapsed), style="cyan")


class FilesBar(ProgressBar, Watcher):
    """A bar over seconds of audio, with files and speed."""

    def __init__(self, verb: str, console: Console | None = None) -> None:
        columns = (TextColumn("{task.fields[files]}"), SpeedColumn(), TimeRemainingColumn())
        super().__init__(verb, None, columns=columns, console=console, files="")
        self.files, self.total, self.seconds = 0, 0, 0.0

    def start(self, files: int, seconds: float) -> None:
        self.total = files
        self.bar.reset(self.task, total=seconds, files=f"0/{files}")

    def advance(self, files: int, seconds: float) -> None:
        self.files, self.seconds = self.files + files, self.seconds + max(0.0, seconds)
        self.update(self.seconds, files=f"{self.files}/{self.total}")


def summarise(report: Report, verb: str, where: str, ran_by: str = "", stopped: bool = False) -> None:
    """Print a summary to standard error; raise `Failed` with the list if files failed.

    Args:
        verb: what was done, in the past: `encoded`.
        where: the result, for the end of the line.
        ran_by: what ran the codec: `by ONNX Runtime`.
        stopped: by a signal: nothing is raised.
    """
    for warning in report.warned[:MAX_LISTED_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(report.warned) > MAX_LISTED_WARNINGS:
        print(f"warning: ... and {len(report.warned) - MAX_LISTED_WARNINGS} more of this kind", file=sys.stderr)
    for line in report.again[:MAX_LISTED_WARNINGS]:
        print(f"made again: {line}", file=sys.stderr)
    if len(report.again) > MAX_LISTED_WARNINGS:
        print(f"made again: ... and {len(report.again) - MAX_LISTED_WARNINGS} more", file=sys.stderr)
    parts = [f"{verb} {_files(report.done)}, {readable_seconds(report.seconds)} of audio"]
    if report.done:
        parts.append(f"in {readable_seconds(report.elapsed)} ({times_real_time(report.seconds, report.elapsed)})")
        parts += [ran_by] if ran_by else []
    line = " ".join(parts)
    if report.skipped:
        line += f"; {_files(report.skipped)} done before"
    if report.done or report.skipped:
        line += f": {where}"
    if report.failed:
        line += f"; {_files(len(report.failed))} failed"
    print(line, file=sys.stderr)
    if stopped:
        return
    if len(report.failed) == 1 and not report.done and not report.skipped:
        raise Failed(str(report.failed[0]))
    if report.failed:
        problems = "\n".join(f"  {problem}" for problem in report.failed)
        raise Failed(f"{_files(len(report.failed))} failed, the others are done:\n{problems}")


def times_real_time(seconds: float, elapsed: float) -> str:
    """`37.2x real time`: seconds of audio per second of work."""
    return f"{seconds / max(elapsed, 1e-9):.1f}x real time"


def readable_seconds(seconds: float) -> str:
    """`3.2 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
