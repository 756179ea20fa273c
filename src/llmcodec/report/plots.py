"""Plots of `llmcodec evaluate` as PNG files: the frontier of bits against quality, and learning curves.

matplotlib's Agg back end, no display, no global state. Test: `pytest tests/report/test_plots.py`.
"""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcodec.metrics.statistics import Interval
from llmcodec.report.figures import PALETTE


def frontier_png(points: Mapping[str, tuple[Interval, Interval]], x_label: str, y_label: str, title: str) -> bytes:
    """Systems as points with 95 % intervals in both directions, named; left and below is better.

    points: name -> (x, y). Systems that no other beats in both directions are joined by a line.
    """
    figure, axes = _axes(x_label, y_label, title)
    best = _undominated({name: (x.value, y.value) for name, (x, y) in points.items()})
    axes.plot(*zip(*best, strict=True), color="#9ca3af", linewidth=1, zorder=1)
    for index, (name, (x, y)) in enumerate(points.items()):
        colour = PALETTE[1 + index % (len(PALETTE) - 1)]
        errors = {
            f"{axis}err": [[max(0, v.value - v.low)], [max(0, v.high - v.value)]] for axis, v in (("x", x), ("y", y))
        }
        axes.errorbar(x.value, y.value, **errors, fmt="o", color=colour, capsize=2, zorder=2)
        axes.annotate(name, (x.value, y.value), xytext=(6, 6), textcoords="offset points", fontsize=9, color=colour)
    axes.margins(0.15)
    return _png(figure)


def _undominated(points: Mapping[str, tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower left staircase, by x."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points.values()):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def curves_png(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str, title: str
) -> bytes:
    """Lines by name: (x values, y values)."""
    figure, axes = _axes(x_label, y_label, title)
    for index, (name, (xs, ys)) in enumerate(curves.items()):
        colour = PALETTE[1 + index % (len(PALETTE) - 1)]
        axes.plot(xs, ys, marker=".", color=colour, label=name)
    if curves:
        axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def write_png(path: Path, png: bytes) -> None:
    """Atomic: the old picture or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_bytes(png)
    os.replace(temporary, path)


def _axes(x_label: str, y_label: str, title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
