"""What the benchmarks share: options, clocks, memory, the bundled speech, processes of their own, tables.

Test: tests/benchmarks/test_bench.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

RATE = 16_000
CLOCKS = ("wall", "process")
RESULT = "RESULT "
T = TypeVar("T")


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that prints the script's docstring as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def options(doc: str | None, *positional: str, **known: Any) -> argparse.Namespace:
    """What the command line says.

    Args:
        doc: of the script; its help.
        positional: names of arguments without dashes.
        known: option -> default, or (default, help), or (default, help, choices). The default decides how a value is
            read: False is a switch, a list takes several values, None takes a text.
    """
    parser = new_parser(doc)
    for name in positional:
        parser.add_argument(name)
    for name, said in known.items():
        default, about, choices = (*said, None, None)[:3] if isinstance(said, tuple) else (said, None, None)
        several = isinstance(default, list)
        kind = type(default[0]) if several and default else type(default)
        more: dict[str, Any] = {"action": "store_true"} if default is False else {"choices": choices}
        if kind in (int, float) or isinstance(default, Path):
            more["type"] = kind
        if several:
            more["nargs"] = "+"
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, help=about, **more)
    return parser.parse_args()


class Spent(NamedTuple):
    """Seconds on the wall's clock and of the processor (all threads), and what was made in them."""

    wall: float
    process: float
    result: Any


def timed(call: Callable[[], Any], device: str = "cpu") -> Spent:
    """Run it once; on a GPU until it has really ended."""
    wait_for(device)
    wall, process = time.perf_counter(), time.process_time()
    result = call()
    wait_for(device)
    return Spent(time.perf_counter() - wall, time.process_time() - process, result)


def fastest(call: Callable[[], Any], repeats: int, device: str = "cpu") -> Spent:
    """Run it some times: the fewest seconds of each kind, and what the last run made."""
    walls, processes, results = zip(*(timed(call, device) for _ in range(repeats)), strict=True)
    return Spent(min(walls), min(processes), results[-1])


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def take_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each way returned in every round: a machine that slows down slows all of them."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def memory_mb(field: str) -> float:
    """`VmRSS` (resident now) or `VmHWM` (its peak) of this process, in MB; nan where there is no /proc (not Linux)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let `VmHWM` start again from what is resident now."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def in_process(script: str, *arguments: Any, threads: int = 0) -> Any:
    """What a script of this folder, run in a process of its own, gives to `report`; `threads` 0: as torch likes."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1][len(RESULT) :])


def report(result: Any) -> None:
    """The last line that a measured process prints; `in_process` reads it."""
    print(RESULT + json.dumps(result), flush=True)


def speech(seconds: float, sample_rate: int = RATE) -> Iterator[np.ndarray]:
    """The bundled recordings (S,) one after the other, again and again, up to this length."""
    from llmcodec.assets import speech_manifest
    from llmcodec.io import audio

    left = round(seconds * sample_rate)
    for path in itertools.cycle(sorted(speech_manifest().parent.rglob("*.flac"))):
        wav = audio.load(path, sample_rate)[:left]
        yield wav
        left -= len(wav)
        if left <= 0:
            return


def snr_db(expected: Any, got: Any) -> float:
    """Signal over difference, of arrays or tensors."""
    signal, noise = (np.square(np.asarray(x, np.float64)).sum() for x in (expected, expected - got))
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table; the first `texts` columns are left-aligned, numbers follow."""
    ruler = "|" + "---|" * texts + "---:|" * (len(header) - texts)
    return "\n".join([f"| {' | '.join(header)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)])
