"""pipeline.py: one bad file fails alone, batches hold similar lengths, long items stream, a full disk stops."""

from __future__ import annotations

import errno
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmcodec.transcode.inputs import Problem
from llmcodec.transcode.pipeline import Item, Pipeline, Report


class Watch:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total: tuple[int, float] = (0, 0.0)
        self.files, self.seconds = 0, 0.0

    def start(self, files: int, seconds: float) -> None:
        self.total = (files, seconds)

    def advance(self, files: int, seconds: float) -> None:
        self.files, self.seconds = self.files + files, self.seconds + seconds


class Upper:
    """Codes a name into capitals. A name in `bad[step]` fails at that step with the error given there."""

    write_in_threads = True

    def __init__(self, bad: dict[str, dict[str, BaseException]] | None = None) -> None:
        self.bad = bad or {}
        self.batches: list[list[str]] = []
        self.written: dict[str, str] = {}
        self.streamed: list[str] = []
        self.threads: dict[str, set[str]] = {"read": set(), "code": set(), "write": set()}

    def _step(self, step: str, name: str) -> None:
        self.threads.setdefault(step, set()).add(threading.current_thread().name)
        if name in self.bad.get(step, {}):
            raise self.bad[step][name]

    def measure(self, item: Item) -> float:
        self._step("measure", item.label)
        return float(item.header)

    def read(self, item: Item) -> str:
        self._step("read", item.label)
        return item.label

    def code(self, payloads: Sequence[str]) -> list[str]:
        self.batches.append(list(payloads))
        for one in payloads:
            self._step("code", one)
        return [one.upper() for one in payloads]

    def write(self, item: Item, result: str) -> None:
        self._step("write", item.label)
        self.written[item.label] = result

    def stream(self, item: Item, advance: Callable[[float], None]) -> None:
        for _ in range(4):
            advance(item.seconds / 5)
        self._step("stream", item.label)
        self.streamed.append(item.label)


def items(**seconds: float) -> list[Item]:
    return [Item(Path(name), None, name, name, header=value) for name, value in seconds.items()]


def run(work: Upper, todo: Sequence[Item], **options: Any) -> tuple[Report, Watch]:
    watch = Watch()
    return Pipeline(work, watch, workers=2, **options).run(todo), watch


def test_everything_is_coded_once_in_batches_of_similar_length():
    work = Upper()
    report, watch = run(work, items(a=1, b=9, c=8.5, d=1.2, e=0.9), batch_seconds=18)
    assert work.batches == [["b", "c"], ["d", "a", "e"]]
    assert work.written == {name: name.upper() for name in "abcde"} and not work.streamed
    assert (report.done, report.seconds, report.failed) == (5, pytest.approx(20.6), [])
    assert (watch.files, watch.total, watch.seconds) == (5, (5, pytest.approx(20.6)), pytest.approx(20.6))
    assert all("audio-file" in name for step in ("read", "write") for name in work.threads[step])
    assert work.threads["code"] == {"coding_0"}


@contextmanager
def two_coders():
    with ThreadPoolExecutor(2, "coding") as pool:
        yield pool, 2


def test_two_coders_share_the_batches_and_a_bad_item_still_fails_alone():
    """A batch is half as large, both coders work at once, and every result is counted once."""
    work = Upper({"code": {"b": DAMAGED}})
    meeting = threading.Barrier(2, timeout=30)
    step = work._step

    def meet(name: str, label: str) -> None:
        if name == "code" and label in "ac":  # each waits until the other one is being coded as well
            meeting.wait()
        step(name, label)

    work._step = meet  # type: ignore[method-assign]
    report, watch = run(work, items(a=5, c=5, b=4, d=1), batch_seconds=10, coders=two_coders)
    assert sorted(work.batches)[0] == ["a"] and work.written == {"a": "A", "c": "C", "d": "D"}
    assert (report.done, [str(one) for one in report.failed]) == (3, ["b: is damaged"])
    assert (watch.files, watch.seconds) == (4, pytest.approx(15))


def test_long_items_are_streamed_and_their_progress_adds_up():
    work = Upper()
    report, watch = run(work, items(a=1, b=100), long_seconds=60)
    assert work.streamed == ["b"] and work.batches == [["a"]]
    assert report.done == 2 and watch.seconds == pytest.approx(101) and watch.files == 2


DAMAGED, DENIED = ValueError("b: is damaged"), PermissionError(13, "Permission denied", "b")


@pytest.mark.parametrize(
    ("step", "error"),
    [(step, DAMAGED) for step in ("measure", "read", "code", "write")]
    + [(step, DENIED) for step in ("measure", "read", "write")],
)
def test_one_bad_item_fails_alone(step, error):
    work = Upper({step: {"b": error}})
    report, watch = run(work, items(a=1, b=1, c=1))
    assert work.written == {"a": "A", "c": "C"} and report.done == 2
    assert [str(one) for one in report.failed] == ["b: is damaged" if error is DAMAGED else "b: Permission denied"]
    if step != "measure":
        assert watch.files == 3 and watch.seconds == pytest.approx(3)


def test_a_long_item_may_fail_alone_as_well():
    work = Upper({"stream": {"b": ValueError("b: NaN")}})
    report, _ = run(work, items(a=100, b=100, c=1))
    assert work.streamed == ["a"] and report.done == 2 and report.failed == [Problem("b", "b: NaN")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_stops_at_once_and_says_how_to_go_on(code):
    work = Upper({"write": {"b": OSError(code, "x", "out/b")}})
    many = {f"z{i:04}": 0.5 for i in range(2000)}
    with pytest.raises(OSError, match=r"out/b: .*; \d+ files are finished, .* continue with --resume"):
        run(work, items(a=9, b=8, **many), batch_seconds=1)
    assert len(work.written) < 2000


def test_a_bug_is_not_taken_for_a_bad_file():
    with pytest.raises(KeyError):
        run(Upper({"read": {"b": KeyError("b")}}), items(a=1, b=1))


def test_ctrl_c_finishes_what_is_under_way_and_keeps_count():
    work = Upper({"code": {"z": KeyboardInterrupt()}})
    write = work.write

    def slow(item: Item, result: str) -> None:
        time.sleep(0.05)
        write(item, result)

    work.write = slow  # type: ignore[method-assign]
    pipeline = Pipeline(work, Watch(), workers=2, batch_seconds=9)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(items(a=9, b=8, z=1))
    assert work.written == {"a": "A", "b": "B"} and pipeline.report.done == 2


def test_results_are_written_in_the_main_thread_where_the_work_wants_it():
    work = Upper()
    work.write_in_threads = False
    run(work, items(a=1, b=1))
    assert work.threads["write"] == {"MainThread"} and len(work.written) == 2


def test_warnings_about_audio_are_reported_and_others_go_where_they_went():
    class Warns(Upper):
        def read(self, item: Item) -> str:
            from llmcodec.io import audio

            source = audio.__file__
            warnings.warn_explicit(f"{item.label}: truncated", UserWarning, source, 1)
            warnings.warn_explicit("old function", UserWarning, "/elsewhere/package.py", 1)
            return item.label

    with pytest.warns(UserWarning, match="old function") as others:
        report, _ = run(Warns(), items(a=1, b=1))
    assert sorted(report.warned) == ["a: truncated", "b: truncated"]
    assert all("old function" in str(one.message) for one in others)
