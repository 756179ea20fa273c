"""Pictures for the report: spectrograms as PNG, curves as SVG that follows the page's light or dark colours.

Shapes: S samples, N frequency bins, F frames. matplotlib's Agg and SVG back ends, no display, no global state.
Test: `pytest tests/report/test_page.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

PALETTE = ("#6b7280", "#2563eb", "#d9480f", "#0f9d76", "#9333ea", "#b58900")
"""Readable on white and on near-black; the first is for the reference."""
MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Curve:
    """One picture of lines, e.g. learning curves."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Name -> (x values, y values)."""
    caption: str = ""
    order: Sequence[str] = ()
    """All names of the page: a name has one colour in every picture, and a legend even where it stands alone."""


def spectrogram_png(wav_S: np.ndarray, sample_rate: int, floor_db: float = -75.0, height: int = 160) -> bytes:
    """Log-magnitude spectrogram (32 ms Hann, 8 ms hop), 0 Hz at the bottom, floor_db .. 0 dB below the loudest bin.

    No axes: the page's caption gives duration and bandwidth, so the picture scales with the column it stands in.
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    window = max(16, round(0.032 * sample_rate))
    hop = window // 4
    padded = np.pad(np.asarray(wav_S, dtype=np.float64), (window // 2, window))
    starts = np.arange(0, max(1, wav_S.size), hop)
    frames_FW = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    magnitude_NF = np.abs(np.fft.rfft(frames_FW, axis=1)).T
    decibel_NF = 20 * np.log10(np.maximum(magnitude_NF, 1e-10) / max(float(magnitude_NF.max()), 1e-6))
    rows = np.linspace(0, decibel_NF.shape[0] - 1, height).round().astype(int)
    buffer = io.BytesIO()
    colours = colormaps["magma"](np.clip(1 - decibel_NF[rows] / floor_db, 0, 1), bytes=True)[::-1, :, :3]
    imsave(buffer, np.ascontiguousarray(colours), format="png")
    return buffer.getvalue()


@dataclass(frozen=True)
class Point:
    """One system in a plane, with the half-widths of its intervals (below, above) where they are known."""

    name: str
    x: float
    y: float
    x_error: tuple[float, float] | None = None
    y_error: tuple[float, float] | None = None


def curve_svg(curve: Curve, number: int = 0) -> str:
    """Lines with a legend as an inline SVG; text and axes take the colour of the surrounding text."""

    def draw(axes: Any) -> None:
        order = list(curve.order or curve.series)
        for name, (x, y) in curve.series.items():
            axes.plot(list(x), list(y), label=name, color=PALETTE[order.index(name) % len(PALETTE)], linewidth=1.8)
        if len(order) > 1:
            axes.legend(frameon=False)

    return _svg(draw, curve.x_label, curve.y_label, f"llmcodec-{number}")


def scatter_svg(points: Sequence[Point], x_label: str, y_label: str, salt: str = "scatter") -> str:
    """Systems as points with interval bars, in the report's colours, named in a legend."""

    def draw(axes: Any) -> None:
        for index, point in enumerate(points):
            axes.errorbar(
                [point.x],
                [point.y],
                xerr=None if point.x_error is None else [[point.x_error[0]], [point.x_error[1]]],
                yerr=None if point.y_error is None else [[point.y_error[0]], [point.y_error[1]]],
                fmt=MARKERS[index // len(PALETTE) % len(MARKERS)],
                markersize=8,
                capsize=3,
                elinewidth=1.2,
                color=PALETTE[index % len(PALETTE)],
                label=point.name,
            )
        axes.margins(0.15)
        axes.legend(frameon=False, loc="best")

    return _svg(draw, x_label, y_label, f"llmcodec-{salt}")


def _svg(draw: Callable[[Any], None], x_label: str, y_label: str, salt: str) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink = "#010203"
    style = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 11, "axes.edgecolor": ink}
    style |= {"text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
    with rc_context(cast(Any, style)):
        figure = Figure(figsize=(5.6, 3.3), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.18, color=ink)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(ink, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
