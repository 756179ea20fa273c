"""What the measurements share: bundled speech of any length, clocks, memory of a process, figures of another one."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
"""process: processor seconds of all threads, for a busy machine."""


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints the module's docstring as it stands."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def speech(seconds: float, sample_rate: int = 16_000) -> Iterator[np.ndarray]:
    """The bundled recordings (S,) one after the other, again and again, up to this length."""
    from llmcodec import assets
    from llmcodec.io import audio

    left = round(seconds * sample_rate)
    for path in itertools.cycle(sorted(assets.speech_manifest().parent.rglob("*.flac"))):
        wav = audio.load(path, sample_rate)[:left]
        yield wav
        left -= len(wav)
        if left <= 0:
            return


def fastest(call: Callable[[], Any], repeats: int, clock: str = "process") -> tuple[float, Any]:
    """Seconds of the fastest call, and the last result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = CLOCKS[clock]()
        result = call()
        best = min(best, CLOCKS[clock]() - start)
    return best, result


def snr_db(expected: Any, got: Any) -> float:
    """Signal to difference in dB, of arrays or tensors."""
    expected, got = (np.asarray(one, np.float64) for one in (expected, got))
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum()))


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


def report(result: dict[str, Any]) -> None:
    """The last line that a measured process prints; `result_of` reads it."""
    print("RESULT " + json.dumps(result), flush=True)


def result_of(command: list[str], **environment: str) -> dict[str, Any]:
    """What a measured process, a script with its arguments, reports."""
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(lines[-1][len("RESULT ") :])
    return found
