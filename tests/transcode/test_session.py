"""transcode/session.py: options that make sense, what exists already, SIGTERM as Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from llmcodec.transcode.pipeline import Item, Report
from llmcodec.transcode.session import Options, _termination_is_interruption


def options(**changes) -> Options:
    values = dict(
        codec="bundled",
        runtime="torch",
        device="auto",
        precision="auto",
        resume=False,
        overwrite=False,
        workers=0,
        batch_seconds=64.0,
        long_seconds=60.0,
    )
    return Options(**values | changes)


def items(folder: Path, *names: str) -> list[Item]:
    return [Item(folder / name, folder / f"{name}.out", name) for name in names]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resume": True, "overwrite": True}, "choose one"),
        ({"workers": -1}, "--workers"),
        ({"batch_seconds": 0.0}, "--batch_seconds"),
        ({"batch_seconds": float("nan")}, "--batch_seconds"),
        ({"long_seconds": -1.0}, "--long_seconds"),
    ],
)
def test_options_that_make_no_sense(changes, said):
    with pytest.raises(ValueError, match=said):
        options(**changes)


def test_threads():
    assert options(workers=3).threads == 3 and 1 <= options().threads <= 8


def test_what_is_there_is_refused_replaced_or_kept(tmp_path):
    both = items(tmp_path, "a", "b")
    (tmp_path / "a.out").write_bytes(b"whole")
    with pytest.raises(ValueError, match="--resume keeps"):
        options().pending(both, Report())
    assert options(overwrite=True).pending(both, Report()) == both
    report, checked = Report(), []
    assert options(resume=True).pending(both, report, checked.append) == both[1:]
    assert report.skipped == 1 and checked == both[:1]


def test_resuming_redoes_empty_results_and_clears_half_ones(tmp_path):
    both = items(tmp_path, "a", "b")
    (tmp_path / "a.out").touch()  # what a power failure may leave
    (tmp_path / ".b.out.0123abcd.tmp").write_bytes(b"half")  # what a kill may leave
    report = Report()
    assert options(resume=True).pending(both, report) == both and report.skipped == 0
    assert not (tmp_path / ".b.out.0123abcd.tmp").exists()


def test_the_end_of_a_batch_jobs_time_is_like_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _termination_is_interruption():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) == before
