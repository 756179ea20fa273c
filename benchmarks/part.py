"""Run one part of all.sh under a limit; its tables as JSON with machine, versions, load, and whether they are final.

    python benchmarks/part.py FOLDER NAME SECONDS COMMAND...    # FOLDER/NAME.json, FOLDER/NAME.log
    python benchmarks/part.py FOLDER                            # FOLDER/tables.md of all parts, and how each ended

A part is `final` only if the machine did nothing else: all processor time that /proc/stat counts while it runs, less
the part's own, stays below BUSY_CORES. Else it is `busy`, and its figures are not for publication. `failed`, `cut off`
and `miniature` (MINIATURE=1) are not final either. Test: tests/benchmarks/test_part.py.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUSY_CORES = 0.1
PACKAGES = (
    "llmcodec",
    "torch",
    "numpy",
    "transformers",
    "onnxruntime",
    "auv",
    "snac",
    "bigcodec",
    "rustymimi",
    "moshi",
)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    facts = {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()}
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        known = {key.strip(): value.strip() for key, value in fields.items()}
        flags = [one for one in known.get("flags", "").split() if one.startswith(("avx2", "avx512", "amx", "avx_vnni"))]
        facts |= {"processor": known.get("model name", ""), "model": known.get("model", ""), "flags": flags}
    if meminfo.exists():
        facts["memory_mb"] = int(meminfo.read_text().split()[1]) // 1024
    return facts


def versions() -> dict[str, str]:
    """Of Python and of the packages that are there; the commit of this checkout."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no checkout
        found["commit"] = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return found


def used_seconds() -> float | None:
    """Processor seconds that all of the machine has used since it started; None where there is no /proc/stat."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def state_of(exit_code: int | None, others: float, miniature: bool) -> str:
    """`final`, or why it is not.

    Args:
        exit_code: None: cut off.
        others: cores that other processes used.
        miniature: sizes that only show that it runs.
    """
    if exit_code:
        return "failed"
    if exit_code is None:
        return "cut off"
    return "miniature" if miniature else "busy" if others > BUSY_CORES else "final"


def tables_in(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table of an output, as rows by column."""
    tables: list[list[dict[str, str]]] = []
    header: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            header = []
        elif not header:
            header = cells
            tables.append([])
        elif set(line) - set("|-: "):
            tables[-1].append(dict(zip(header, cells, strict=False)))
    return [rows for rows in tables if rows]


def run(folder: Path, name: str, limit: float, command: Sequence[str]) -> dict[str, Any]:
    """Run a part; returns what was written, with what its script wrote by `--json FOLDER/NAME.figures.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    log, figures = folder / f"{name}.log", folder / f"{name}.figures.json"
    figures.unlink(missing_ok=True)
    before, wall, used, own = os.getloadavg(), time.monotonic(), used_seconds(), own_seconds()
    began = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
            code = None
    seconds, after = time.monotonic() - wall, used_seconds()
    if used is None or after is None:
        others = max(0.0, before[0])  # no better evidence: what ran before
    else:
        others = max(0.0, after - used - (own_seconds() - own)) / max(seconds, 1e-9)
    text = log.read_text(errors="replace")
    part = {
        "part": name,
        "state": state_of(code, others, bool(os.environ.get("MINIATURE"))),
        "command": list(command),
        "exit": code,
        "began": began,
        "seconds": round(seconds, 1),
        "limit": limit,
        "load": {"others_cores": round(others, 3), "average_before": before, "average_after": os.getloadavg()},
        "machine": machine(),
        "versions": versions(),
        "tables": tables_in(text),
        "figures": json.loads(figures.read_text()) if figures.is_file() else None,
        "output": text.splitlines(),
    }
    figures.unlink(missing_ok=True)
    unfinished = folder / f"{name}.json.part"
    unfinished.write_text(json.dumps(part, indent=1) + "\n")
    unfinished.replace(folder / f"{name}.json")
    print(line_of(part), flush=True)
    return part


def line_of(part: dict[str, Any]) -> str:
    """How a part ended."""
    others = part["load"]["others_cores"]
    return f"{part['part']}: {part['state']}, {part['seconds']:.0f} s, others used {others:.2f} cores"


def is_final(folder: Path, name: str) -> bool:
    """Whether a part need not run again."""
    place = folder / f"{name}.json"
    return place.is_file() and json.loads(place.read_text())["state"] == "final"


def summary(folder: Path) -> str:
    """All tables as Markdown, each part under what it is worth."""
    texts = []
    for place in sorted(folder.glob("*.json")):
        part = json.loads(place.read_text())
        worth = "" if part["state"] == "final" else " **Not for publication.**"
        texts.append(f"## {line_of(part)}\n\n`{' '.join(part['command'])}`{worth}\n")
        texts += [*part["output"], ""]
    return "\n".join(texts)


def main() -> int:
    """Exit status: 1 if the part failed or was cut off."""
    folder, *rest = sys.argv[1:]
    if not rest:
        Path(folder, "tables.md").write_text(summary(Path(folder)))
        parts = [json.loads(place.read_text()) for place in sorted(Path(folder).glob("*.json"))]
        missing = [part["part"] for part in parts if part["state"] != "final"]
        print(f"{folder}/tables.md: {len(parts)} parts" + (f"; not final: {', '.join(missing)}" if missing else ""))
        return 0
    name, limit, *command = rest
    if is_final(Path(folder), name):
        print(f"{name}: final already")
        return 0
    return int(run(Path(folder), name, float(limit), command)["state"] in ("failed", "cut off"))


if __name__ == "__main__":
    raise SystemExit(main())
