"""Many files through a codec: read ahead by threads, coded in batches of similar length, written by threads.

The codec says how many batches it codes at once (`runtime.Coders`); the next one is always ready, so that no core idles
while results are handed over.

A file that fails is named in the report and the others continue; a full disk or Ctrl-C stops at once, and finished
results stay. Long files go one by one through the work's `stream`, in constant memory. Imports no torch.
Test: tests/transcode/test_pipeline.py.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llmcodec.data.member import AudioPath
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.runtime.base import Coders, length_batches, one_coder
from llmcodec.transcode.inputs import Problem

WINDOW = 1024  # files sorted by length together: enough for full batches, few enough to keep the order of a corpus
READ_AHEAD = 2  # batches for every coder
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class CannotWrite(OSError):
    """Results of several items could not be written: nobody can say that it was the fault of the last one."""


@dataclass
class Item:
    """One input and where its result goes."""

    source: AudioPath
    target: Path | None
    label: str
    """Name of the input in messages."""
    name: str = ""
    """Id in a corpus: the path below its folder, without ending."""
    seconds: float = 0.0
    """Seconds of audio according to the header."""
    seconds_read: float | None = None
    """Seconds that were read, fewer where the file is cut short; None: not read as audio."""
    header: Any = None
    """What `Work.measure` learnt."""


class Work(Protocol):
    """The work on every item. `read`, `code` and `write` run in threads, `stream` in the main thread."""

    write_in_threads: bool

    def measure(self, item: Item) -> float:
        """Seconds of audio from the header only; fills `item.header`."""

    def read(self, item: Item) -> Any:
        """Load one short item."""

    def code(self, payloads: Sequence[Any]) -> list[Any]:
        """Encode or decode a batch."""

    def write(self, item: Item, result: Any) -> None:
        """Put one result in its place, atomically."""

    def stream(self, item: Item, advance: Callable[[float], None]) -> None:
        """Read, code and write one long item in constant memory; `advance(seconds)` reports progress."""


@dataclass
class Report:
    """Outcome of a run."""

    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    """Seconds of audio in finished items."""
    elapsed: float = 0.0
    failed: list[Problem] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """A line on every existing result that is made again because it was stale or damaged."""
    warned: list[str] = field(default_factory=list)
    first_target: Path | None = None
    """Path of the first result."""
    bad: BadRows = field(default_factory=lambda: BadRows("100%", what="files"))
    """`failed` against what `--max-bad` allows."""

    def allow(self, max_bad: MaxBad, total: int) -> None:
        """Set the limit of `--max-bad` for this many files. Raises TooManyBad if more have failed already."""
        self.bad = BadRows(max_bad, total, "files")
        for problem in self.failed:
            self.bad.add(problem.label, problem.reason)

    def fail(self, problem: Problem) -> None:
        """Report one more failed file. Raises TooManyBad."""
        self.failed.append(problem)
        self.bad.add(problem.label, problem.reason)


class Watcher:
    """Receives progress; this one ignores it."""

    def start(self, files: int, seconds: float) -> None:
        """Total work."""

    def advance(self, files: int, seconds: float) -> None:
        """Additional work done."""


class Pipeline:
    """Runs a `Work` over items.

    Args:
        work: what to do.
        watcher: receives progress.
        workers: threads that read and write.
        batch_seconds: padded seconds of audio that are coded at once.
        long_seconds: longer items are streamed.
        report: counts and failures; may already contain those of planning.
        coders: opens the threads that code.
    """

    def __init__(
        self,
        work: Work,
        watcher: Watcher,
        workers: int,
        batch_seconds: float = 64.0,
        long_seconds: float = 60.0,
        report: Report | None = None,
        coders: Callable[[], AbstractContextManager[Coders]] = one_coder,
    ) -> None:
        self.work, self.watcher, self.workers, self.coders = work, watcher, workers, coders
        self.batch_seconds, self.long_seconds = batch_seconds, long_seconds
        self.report = report or Report()
        self._lock = threading.Lock()
        self._elsewhere: Callable[..., None] = warnings.showwarning

    def run(self, items: Sequence[Item]) -> Report:
        """Code every item.

        Raises:
            OSError: the disk is full or read-only. KeyboardInterrupt: after the work in progress has been finished.
        """
        started = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            self._elsewhere, warnings.showwarning = warnings.showwarning, self._warned
            pool = ThreadPoolExecutor(self.workers, thread_name_prefix="audio-file")
            try:
                known = self._measure(pool, items)
                self.watcher.start(len(known), sum(item.seconds for item in known))
                for at in range(0, len(known), WINDOW):
                    window = known[at : at + WINDOW]
                    self._short(pool, [item for item in window if item.seconds <= self.long_seconds])
                    for item in (item for item in window if item.seconds > self.long_seconds):
                        self._stream(item)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                self.report.elapsed = time.monotonic() - started
        return self.report

    def _measure(self, pool: ThreadPoolExecutor, items: Sequence[Item]) -> list[Item]:
        """Items whose header can be read; the others are reported as failed."""
        known = []
        for item, future in zip(items, [pool.submit(self.work.measure, item) for item in items], strict=True):
            with self._failing(item):
                item.seconds = future.result()
                known.append(item)
        return known

    def _short(self, pool: ThreadPoolExecutor, items: Sequence[Item]) -> None:
        """Items that fit into batches."""
        milliseconds = [max(1, round(item.seconds * 1000)) for item in items]
        coding: deque[Future[list[tuple[Item, Any]]]] = deque()
        writing: deque[tuple[Item, Future[None]]] = deque()
        with self.coders() as (coder, number):
            batches = [
                [items[i] for i in indices]
                for indices in length_batches(milliseconds, round(1000 * self.batch_seconds / number))
            ]
            try:
                for batch, payloads in self._read_ahead(pool, batches, READ_AHEAD * number):
                    coding.append(coder.submit(self._coded, batch, payloads))
                    if len(coding) > number:
                        self._write(pool, coding.popleft().result(), writing)
                while coding:
                    self._write(pool, coding.popleft().result(), writing)
            finally:
                coder.shutdown(wait=True, cancel_futures=True)
                while writing:
                    self._finish(*_first(writing))

    def _write(
        self, pool: ThreadPoolExecutor, coded: list[tuple[Item, Any]], writing: deque[tuple[Item, Future[None]]]
    ) -> None:
        for item, result in coded:
            if self.work.write_in_threads:
                writing.append((item, pool.submit(self.work.write, item, result)))
            else:
                self._finish(item, partial(self.work.write, item, result))
        while len(writing) > 4 * self.workers or writing and writing[0][1].done():
            self._finish(*_first(writing))

    def _read_ahead(
        self, pool: ThreadPoolExecutor, batches: Sequence[list[Item]], ahead: int
    ) -> Iterator[tuple[list[Item], list[Any]]]:
        """Batches that could be read, the next ones being read meanwhile."""
        waiting: deque[list[tuple[Item, Future[Any]]]] = deque()
        coming = iter(batches)
        while True:
            while len(waiting) <= ahead and (batch := next(coming, None)) is not None:
                waiting.append([(item, pool.submit(self.work.read, item)) for item in batch])
            if not waiting:
                return
            items, payloads = [], []
            for item, future in waiting.popleft():
                with self._failing(item):
                    payloads.append(future.result())
                    items.append(item)
            if items:
                yield items, payloads

    def _coded(self, items: Sequence[Item], payloads: Sequence[Any]) -> list[tuple[Item, Any]]:
        """Results of a batch; if it fails, its items one by one, so that only the bad one fails."""
        try:
            return list(zip(items, self.work.code(payloads), strict=True))
        except ValueError:
            results = []
            for item, payload in zip(items, payloads, strict=True):
                with self._failing(item):
                    results.append((item, self.work.code([payload])[0]))
            return results

    def _finish(self, item: Item, finish: Callable[[], None]) -> None:
        with self._failing(item):
            finish()
            self._count(item)
            self.watcher.advance(1, item.seconds)

    def _stream(self, item: Item) -> None:
        reported = 0.0

        def advance(seconds: float) -> None:
            nonlocal reported
            reported += seconds
            self.watcher.advance(0, seconds)

        with self._failing(item):
            self.work.stream(item, advance)
            self._count(item)
            self.watcher.advance(1, item.seconds - reported)

    def _count(self, item: Item) -> None:
        self.report.done += 1
        self.report.seconds += item.seconds if item.seconds_read is None else item.seconds_read

    @contextmanager
    def _failing(self, item: Item) -> Iterator[None]:
        """Report errors of one item; raise those that would affect every other item as well."""
        try:
            yield
        except (ValueError, OSError) as error:
            reason = str(error)
            if isinstance(error, CannotWrite) or isinstance(error, OSError) and error.errno in _FATAL:
                why = os.strerror(error.errno) if error.errno else str(error)
                raise OSError(
                    f"{error.filename or item.target}: {why}; {self.report.done} files are "
                    "finished, nothing is half-written; make room and continue with --resume"
                ) from error
            if isinstance(error, OSError) and error.strerror:
                reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            with self._lock:  # coders may fail at the same time
                self.watcher.advance(1, item.seconds)
                self.report.fail(Problem(item.label, reason))

    def _warned(self, message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        """Put warnings about audio into the report; show those of other packages as usual."""
        if not Path(filename).resolve().is_relative_to(Path(__file__).parents[1]):
            self._elsewhere(message, category, filename, *rest, **more)
            return
        with self._lock:
            self.report.warned.append(str(message))


def _first(writing: deque[tuple[Item, Future[None]]]) -> tuple[Item, Callable[[], None]]:
    item, future = writing.popleft()
    return item, future.result
