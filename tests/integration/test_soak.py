"""`make soak` on a small scale: fixed seeds, a few damaged files a reader, one kill and one disk fault a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "encode", "tokenize", "lm train", "sweep", "compare"]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks; Linux's C library")


def soak(part: str, *options: str) -> str:
    """What a part prints; it must find nothing."""
    command = [sys.executable, "-m", f"tests.soak.{part}", "--seed", "1", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "WRONG" not in done.stdout and "nothing wrong" in done.stdout
    return done.stdout


@pytest.mark.slow
def test_damaged_files_are_one_line():
    names = ["manifest", "layouts", "recipe", "run", "checkpoint", "codec", "lm", "tokens", "arrow", "parquet"]
    names += ["hub", "rows", "suite", "cache", "audio"]
    readers = [part for name in names for part in ("--reader", name)]
    assert soak("fuzz", "--cases", "15", *readers).count(": 15 cases") == len(names), "every reader had its cases"


@pytest.mark.slow
def test_killed_commands_go_on_to_the_same_results():
    shown = soak("kills", "--kills", "1")
    assert all(f"\n{command}: " in shown for command in COMMANDS)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize(
    ("faults", "commands"),
    [
        (1, ["encode", "tokenize", "train"]),
        pytest.param(3, [*COMMANDS, "decode", "manifest", "prior"], marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_is_one_line_and_costs_nothing_that_was_there(faults, commands):
    """A full disk, a quota and a bad sector, at the beginning, in the middle and at the end of what is written."""
    shown = soak("faults", "--faults", str(faults), *(part for name in commands for part in ("--command", name)))
    assert all(f"\n{name}: {faults} faults" in shown for name in commands)
