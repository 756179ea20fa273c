"""One run of a coding command: options in common, what exists already, bar, summary, Ctrl-C. Imports no torch.

Test: tests/transcode/test_session.py.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmcodec.runtime.base import Runtime
from llmcodec.runtime.opening import Precision, RuntimeName, Side, open_runtime
from llmcodec.transcode.inputs import Problem
from llmcodec.transcode.outputs import refuse_existing, remove_left_overs
from llmcodec.transcode.pipeline import Item, Pipeline, Report
from llmcodec.transcode.progress import FilesBar, summarise
from llmcodec.transcode.standard_streams import StandardStreams
from llmcodec.transcode.work import DecodeWork, EncodeWork, ReconstructWork


@dataclass(frozen=True)
class Options:
    """What all coding commands have in common; explained in command.py."""

    codec: str
    runtime: RuntimeName
    device: str
    precision: Precision
    resume: bool
    overwrite: bool
    workers: int
    batch_seconds: float
    long_seconds: float

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume keeps results and --overwrite replaces them: choose one")
        if self.workers < 0:
            raise ValueError(f"--workers must be 0 (automatic) or more, not {self.workers}")
        for name in ("batch_seconds", "long_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be more than 0, not {getattr(self, name)}")

    def open(self, only: Side | None = None) -> Runtime:
        """The codec; `only`: the side that the command uses."""
        return open_runtime(self.codec, self.runtime, self.device, self.precision, self.batch_seconds, only)

    @property
    def threads(self) -> int:
        """That read and write files."""
        return self.workers or min(8, os.cpu_count() or 1)

    def pending(self, items: Sequence[Item], report: Report, check: Callable[[Item], None] | None = None) -> list[Item]:
        """Items still to do. What exists is skipped under --resume (after `check`), refused without --overwrite."""
        targets = [item.target for item in items if item.target is not None]
        if not self.resume and not self.overwrite:
            refuse_existing(targets)
        if not self.resume:
            return list(items)
        remove_left_overs(targets)
        done = [item for item in items if _is_finished(item)]
        for item in done if check else ():
            assert check is not None
            check(item)
        report.skipped += len(done)
        return [item for item in items if not _is_finished(item)]


def _is_finished(item: Item) -> bool:
    """Results appear whole. An empty one is what a power failure may leave of a file that was not waited for."""
    return item.target is not None and item.target.exists() and item.target.stat().st_size > 0


def run_work(
    work: EncodeWork | DecodeWork | ReconstructWork,
    items: Sequence[Item],
    report: Report,
    options: Options,
    streams: StandardStreams,
    words: tuple[str, str],
) -> None:
    """Do the work under a bar, then the summary.

    Args:
        words: what is being done and what has been: `encoding`, `encoded`.

    Raises:
        Failed: files failed. OSError: disk full. KeyboardInterrupt: after a line that says how to go on.
    """
    doing, done = words
    where = "standard output" if streams.writes_output else _place(items, streams.output)
    try:
        with _termination_is_interruption(), FilesBar(doing) as bar:
            Pipeline(
                work, bar, options.threads, options.batch_seconds, options.long_seconds, report, work.runtime.coders
            ).run(items)
    except KeyboardInterrupt:
        summarise(report, done, where, stopped=True)
        raise
    report.failed[:] = [Problem(streams.readable(one.label), streams.readable(one.reason)) for one in report.failed]
    report.warned[:] = [streams.readable(one) for one in report.warned]
    summarise(report, done, where)


def _place(items: Sequence[Item], output: str | None) -> str:
    return output if output is not None else str(items[0].target) if items else "nothing"


@contextmanager
def _termination_is_interruption() -> Iterator[None]:
    """SIGTERM (a batch system's end of time) ends a run as Ctrl-C does: what is under way is finished or removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
