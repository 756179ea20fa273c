"""Logs of a run: a JSONL log, a progress bar, curves as PNG, optional accelerate trackers.

Test: tests/training/test_tracking.py.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from llmcodec.distributed import num_ranks, sum_over_ranks
from llmcodec.io.atomic import atomic_path, write_text
from llmcodec.io.progress import ProgressBar
from llmcodec.io.structured import parse_json

# Shown next to the bar, in this order, when present.
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
        kept = [row for row in read_log(path) if row["step"] <= resume_step] if path.exists() else []
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))  # a kill in between leaves the old log

    def write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log; a last line cut short by a killed process is dropped.

    Raises:
        ValueError: another line is no JSON object with a step; it names the line.
    """
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row, why = parse_json(line, path), "no row with a step"
        except ValueError:
            row, why = None, "not JSON"
        if isinstance(row, dict) and isinstance(row.get("step"), (int, float)):
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}, line {number}: {why}; repair or delete the log to resume")
    return rows


def as_floats(row: Mapping[str, Tensor | float], over_ranks: bool = False) -> dict[str, float]:
    """The row as floats. All tensors are copied from their device together: one synchronisation instead of many.

    over_ranks: means over all processes, which must have the same tensors; a collective.
    """
    tensors = {name: value for name, value in row.items() if isinstance(value, Tensor)}
    numbers = torch.stack([value.detach().double() for value in tensors.values()])
    if over_ranks:
        numbers = sum_over_ranks(numbers) / num_ranks()
    return {name: float(value) for name, value in {**row, **dict(zip(tensors, numbers.tolist(), strict=True))}.items()}


class TrainingBar(ProgressBar):
    """Progress bar with the main terms; without a terminal it prints a line now and then."""

    def __init__(self, name: str, total: int, done: int, enabled: bool = True, console: Console | None = None):
        columns = (
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
        )
        super().__init__(
            name, total, done=done, columns=columns, console=console, transient=False, enabled=enabled, terms=""
        )
        self.enabled, self.name, self.total = enabled, name, total
        self.started, self.first, self.printed = time.monotonic(), done, -math.inf

    def update(self, done: float, row: Mapping[str, float] | None = None, **fields: Any) -> None:
        """Show how many steps are done, and the terms of the last one if there are any."""
        terms = headline(row or {})
        super().update(done, **({"terms": terms} if terms else {}))
        now = time.monotonic()
        if self.enabled and not self.live and row and (now - self.printed > 20 or done == self.total):
            self.printed = now
            pace = (now - self.started) / max(1, done - self.first)
            left = time.strftime("%H:%M:%S", time.gmtime(pace * (self.total - done)))
            self.console.print(f"{self.name} {done}/{self.total}, {left} left  {terms}", highlight=False)


def headline(row: Mapping[str, float]) -> str:
    """The few figures worth watching, as short text."""
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
    width, height = 3.4 * columns, 2.1 * lines + 0.5
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    # Margins in inches; a layout that fits itself takes most of the time.
    edges = {"left": 0.6 / width, "right": 1 - 0.15 / width, "bottom": 0.3 / height, "top": 1 - 0.75 / height}
    figure.subplots_adjust(**edges, wspace=0.25, hspace=0.45)
    for index, name in enumerate(names):
        axis = figure.add_subplot(lines, columns, index + 1)
        points = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
        axis.plot(*zip(*points, strict=True), linewidth=1.2) if points else None
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.25)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
