"""What a run leaves for people: a JSONL log, a progress bar, curves as PNG, optional accelerate trackers.

Test: tests/training/test_tracking.py.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Shown beside the bar, in this order, when present.
HEADLINE = (
    "recon/mel",
    "recon/multi_mel",
    "lm/ftp_1",
    "lm/rate_bits",
    "align/cosine",
    "adv/generator",
    "bridge/agreement",
    "codes/used",
    "seconds_per_step",
)


class JSONLLog:
    """One JSON object per line; lines beyond a resumed step are cut off: a resumed log equals an uninterrupted one."""

    def __init__(self, path: Path, resume_step: int = 0):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(path) if row["step"] <= resume_step] if path.exists() else []
        cut = path.with_name(f".{path.name}.tmp")
        cut.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(cut, path)  # a kill in between leaves the old log

    def write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log; a last line cut short by a killed process is dropped."""
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise ValueError(f"{path}, line {number + 1}: not JSON; repair or delete the log to resume") from None
    return rows


class TrainingBar:
    """Progress bar with the terms that matter; prints plain lines now and then where there is no terminal."""

    def __init__(self, name: str, total: int, done: int, enabled: bool = True, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.enabled = enabled
        self.live = enabled and self.console.is_terminal
        self.name, self.total, self.started, self.first = name, total, time.monotonic(), done
        self.printed = -math.inf
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.progress.add_task(name, total=total, completed=done, terms="")

    def __enter__(self) -> TrainingBar:
        self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.progress.stop()

    def update(self, step: int, row: Mapping[str, float] | None = None) -> None:
        terms = headline(row or {})
        if terms:
            self.progress.update(self.task, terms=terms)
        self.progress.update(self.task, completed=step)
        now = time.monotonic()
        if self.enabled and not self.live and row and (now - self.printed > 20 or step == self.total):
            self.printed = now
            pace = (now - self.started) / max(1, step - self.first)
            left = time.strftime("%H:%M:%S", time.gmtime(pace * (self.total - step)))
            self.console.print(f"{self.name} {step}/{self.total}, {left} left  {terms}", highlight=False)


def headline(row: Mapping[str, float]) -> str:
    """The few figures worth watching, short."""
    return "  ".join(f"{name.split('/')[-1]} {row[name]:.4g}" for name in HEADLINE if name in row)


def plot_curves(rows: Iterable[Mapping[str, Any]], path: Path, title: str) -> None:
    """Every logged figure over the steps, one small panel each, written as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    names = sorted(
        {name for row in rows for name, value in row.items() if isinstance(value, (int, float))} - {"step", "time"}
    )
    if not names:
        return
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.1 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, name in enumerate(names):
        axis = figure.add_subplot(lines, columns, index + 1)
        points = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
        axis.plot(*zip(*points, strict=True), linewidth=1.2) if points else None
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
