"""`make soak`, third part: a disk that is full, or fails once, at writes all along every command that writes.

    python -m tests.soak.faults                              # 20 faults a command, a new seed, which is printed
    python -m tests.soak.faults --faults 5 --command encode --seed 7

A command that meets the fault must end with one line and an exit code that is not 0 (or have the right results, where
it can do without what was lost), and the same command must then go on to the results of an undisturbed run, so that
nothing half-written is taken for whole. The fault comes from faulty.c, which this script compiles and loads before the
C library: it fails the n-th write, truncation, flush or renaming below the output folder. Needs Linux and gcc.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .kills import COMMANDS, Command, files, finish, left_over, load_everything, start

FAULTS = {"full disk": (errno.ENOSPC, True), "quota": (errno.EDQUOT, True), "bad sector": (errno.EIO, False)}
WRITING = COMMANDS | {
    "decode": Command(
        lambda inputs, out: ["decode", str(inputs / "tokens"), "-o", str(out), "--codec", str(inputs / "codec")],
        lambda out: files(out, "**/*"),
        ("--resume",),
    ),
    "manifest": Command(
        lambda inputs, out: ["data", "manifest", str(inputs / "speech"), "-o", str(out / "m.jsonl")],
        lambda out: files(out, "m.jsonl"),
    ),
    "prior": Command(
        lambda inputs, out: (
            ["prior", str(inputs / "codec"), "-o", str(out), "--overwrite"]
            + ["--manifest", str(inputs / "speech" / "manifest.jsonl")]
        ),
        lambda out: files(out, "*"),
    ),
}


def arm(below: Path, first: int, number: int, lasting: bool) -> Callable[[], None]:
    """Let the `first` and, if `lasting`, every later writing call below a folder fail; -1 lets none fail."""
    library = ctypes.CDLL(None)
    return lambda: library.faulty_arm(f"{below}/".encode(), ctypes.c_long(first), number, int(lasting))


def counted(below: Path, count: Path) -> Callable[[], None]:
    """Write down how many calls there were."""
    return lambda: count.write_text(str(ctypes.CDLL(None).faulty_calls())) and None


def one_fault(command: Command, inputs: Path, out: Path, log: Path, fault: tuple[int, int, bool], right: object) -> str:
    """What is wrong, '' if nothing is."""
    arguments = command.arguments(inputs, out)
    code = finish(start(arguments, log, before=arm(out.parent, *fault)))
    said = log.read_text(errors="replace")
    if code not in (0, 1) or "Traceback" in said or "internal error" in said:
        return f"ends with {code}: {' '.join(said.split())[-300:]}"
    if code and not any(line.startswith("llmcodec ") for line in said.splitlines()):
        return f"ends with {code} without a line of its own: {' '.join(said.split())[-300:]}"
    if code == 0 and command.results(out) != right:
        return "ends with 0 and other results"
    if code == 0:
        return ""
    code = finish(start([*arguments, *command.resumed], log))
    if code:
        return f"goes on and ends with {code}: {' '.join(log.read_text(errors='replace').split())[-300:]}"
    if command.results(out) != right:
        return "goes on to other results"
    return f"left over: {left}" if (left := left_over(out)) else ""


def fail_command(name: str, number: int, seed: int, inputs: Path, scratch: Path) -> int:
    """Let a command meet so many faults; returns how many went wrong, and prints a line for each."""
    command, out, log = WRITING[name], scratch / "run", scratch.with_suffix(".log")
    count, wrong = scratch.with_suffix(".count"), 0
    code = finish(start(command.arguments(inputs, out), log, arm(scratch, -1, 0, False), counted(scratch, count)))
    assert code == 0, log.read_text()
    right, calls = command.results(out), int(count.read_text())
    for case in range(number):
        # One in each stretch of the command's calls, kinds in turn: few faults reach its beginning, middle and end.
        kind = list(FAULTS)[(case + seed) % len(FAULTS)]
        at = 1 + int(calls * (case + random.Random(f"{seed} {name} {case}").random()) / number)
        shutil.rmtree(scratch)
        scratch.mkdir()
        log.unlink()
        what = one_fault(command, inputs, out, log, (at, *FAULTS[kind]), right)
        if what:
            print(f"WRONG {name}, seed {seed}, {kind} at call {at} of {calls}: {what}", flush=True)
            wrong += 1
    print(f"{name}: {number} faults among {calls} calls, {wrong} wrong", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Let the disk fail under commands, then let them go on.")
    parser.add_argument("--faults", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--command", action="append", choices=list(WRITING), help="only these; default all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not hasattr(ctypes.CDLL(None), "faulty_arm"):
            library = Path(folder) / "faulty.so"
            source = Path(__file__).with_name("faulty.c")
            subprocess.run(["gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
            again = [sys.executable, "-m", "tests.soak.faults", *sys.argv[1:]]
            return subprocess.run(again, env=os.environ | {"LD_PRELOAD": str(library)}).returncode
        print(f"seed {options.seed}, {options.faults} faults a command", flush=True)
        inputs, wrong = Path(folder) / "inputs", 0
        load_everything(inputs)
        for name in options.command or list(WRITING):
            scratch = Path(folder) / name.replace(" ", "_")
            scratch.mkdir()
            wrong += fail_command(name, options.faults, options.seed, inputs, scratch)
    print(f"{wrong} wrong" if wrong else "nothing wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
