"""run_guard.py: locks between processes, signals, and what a resumed run may change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import InitVar, asdict, dataclass, field

import pytest

from llmcodec.io.atomic import temporary_name
from llmcodec.io.run_guard import (
    SIGNALS,
    RunLock,
    Stopped,
    StopSignals,
    changed_fields,
    recipe_of,
    refuse_changes,
    stopped_in_order,
)

HOLD = """
import sys, time
from llmcodec.io.run_guard import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_folder_has_one_writer_and_a_dead_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"process {holder.pid} on .* is writing this run"), RunLock(tmp_path):
        pass
    with RunLock(tmp_path, enabled=False):  # other ranks of a run
        pass
    holder.kill()
    holder.wait()
    with RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        pass


def test_the_next_holder_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    left, other = temporary_name(tmp_path / "curves.png"), temporary_name(tmp_path / "quality.md")
    for path in (left, other, tmp_path / "curves.png"):
        path.touch()
    (temporary_name(tmp_path / "codec") / "inside").mkdir(parents=True)
    with RunLock(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {other.name, "curves.png", ".lock"}


@pytest.mark.parametrize("name", SIGNALS)
def test_the_first_signal_is_remembered_and_handlers_come_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.received
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert signal.getsignal(number) == before
    assert Stopped(number, "x").exit_code == 128 + number and name in str(Stopped(number, "x"))


@pytest.mark.parametrize("name", SIGNALS)
def test_work_without_steps_is_interrupted_and_says_by_what(name):
    number, before, tidied = getattr(signal, name), signal.getsignal(signal.SIGTERM), []
    with pytest.raises(Stopped, match=f"by {name}: --resume goes on") as stopped, stopped_in_order("--resume goes on"):
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)  # not signal.pause(), which waits for ever where another thread has taken the signal
        finally:
            os.kill(os.getpid(), number)  # to the process and to its group, as `timeout` does
            tidied.append(name)
    assert stopped.value.exit_code == 128 + number and tidied == [name]
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(Stopped, match="SIGINT"), stopped_in_order("x"):
        raise KeyboardInterrupt


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_in_order("x"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\nfrom llmcodec.io.run_guard import StopSignals\nwith StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 130


def test_threads_leave_signals_alone():
    def use() -> None:
        with StopSignals() as stop:
            seen.append(stop.received)

    seen: list[int] = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [0]


@dataclass(frozen=True)
class Inner:
    size: int = 1
    young: str = "default"
    old_size: InitVar[int | None] = None

    def __post_init__(self, old_size: int | None) -> None:
        if old_size is not None:
            object.__setattr__(self, "size", old_size)


@dataclass(frozen=True)
class Outer:
    steps: int = 10
    span: tuple[float, float] = (0.0, 1.0)
    inner: Inner | None = None
    rate: Inner | float = 0.5
    more: Inner = field(default_factory=Inner)


def test_changes_are_named_whatever_the_version_that_wrote_them():
    now = Outer(inner=Inner(2), rate=Inner(3))
    written = {"steps": 10, "span": [0.0, 1.0], "inner": {"old_size": 2}, "rate": {"size": 3}, "gone": 1}
    assert recipe_of(Outer, written) == Outer(span=[0.0, 1.0], inner=Inner(2), rate=Inner(3))  # type: ignore[arg-type]
    assert changed_fields(written, now) == {}
    assert changed_fields(written | {"steps": 9}, now) == {"steps": (9, 10)}
    assert changed_fields(written | {"rate": 0.5}, now)["rate"] == (0.5, None)
    assert set(changed_fields(asdict(now), Outer())) == {
        "inner.size", "inner.young", "rate", "rate.size", "rate.young",
    }  # fmt: skip


def test_what_may_not_change_is_said_with_both_values():
    changes = {"seed": (1, 2), "run": ("a", "b")}
    refuse_changes(changes, {"seed", "run"}, "runs/x")
    with pytest.raises(ValueError, match=r"runs/x: .*seed was 1, is 2\. Resume.*--allow-changes"):
        refuse_changes(changes, {"run"}, "runs/x")
