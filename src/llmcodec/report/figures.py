"""Pictures of results: curves, systems in a plane, spectrograms. SVG for the report page, PNG for `llmcodec evaluate`.

A picture is data (`Curve`, `Scatter`); `to_svg` and `to_png` draw it. matplotlib without a display or global state.
Shapes: S samples, N frequency bins, F frames, W samples of a window.
Test: tests/report/test_figures.py.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcodec.evaluation.results import SystemRow
from llmcodec.metrics.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#6b7280", "#2563eb", "#d9480f", "#0f9d76", "#9333ea", "#b58900")
"""Readable on white and on near-black; the first is for the reference."""
MARKERS = ("o", "s", "^", "D")
INK = "#010203"
"""Text and axes of an SVG while it is drawn; replaced by the colour of the surrounding text."""


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
    """All names on the page: a name keeps its colour in every picture, and gets a legend even if it is the only one."""

    def draw(self, axes: Any) -> None:
        """Draw the lines, with a legend if there are several names, on matplotlib axes."""
        order = list(self.order or self.series)
        drawn = {}
        for name, (x, y) in self.series.items():
            colour = PALETTE[order.index(name) % len(PALETTE)]
            (drawn[name],) = axes.plot(list(x), list(y), color=colour, linewidth=1.8)
        if len(order) > 1:
            _legend(axes, drawn)


@dataclass(frozen=True)
class Scatter:
    """A scatter plot of systems; a line joins the Pareto front (lower left), or the systems of `line`."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Interval, Interval]]
    """Name -> (x, y), with bars where their bounds are finite."""
    caption: str = ""
    line: Sequence[str] = ()
    """Names that the line joins, in the order of y; empty: the Pareto front."""
    better: str = "lower left"
    """Corner of the good systems."""

    def draw(self, axes: Any) -> None:
        """Draw points, bars, line and legend on matplotlib axes."""
        points = {name: (x.value, y.value) for name, (x, y) in self.series.items()}
        joined = sorted((points[name] for name in self.line), key=lambda point: point[1])
        axes.plot(*zip(*(joined or _undominated(points.values())), strict=True), color="#9ca3af", linewidth=1, zorder=1)
        drawn = {}
        for index, (name, (x, y)) in enumerate(self.series.items()):
            drawn[name] = axes.errorbar(
                [x.value],
                [y.value],
                xerr=_bars(x),
                yerr=_bars(y),
                fmt=MARKERS[index // len(PALETTE) % len(MARKERS)],
                markersize=8,
                capsize=3,
                elinewidth=1.2,
                color=PALETTE[index % len(PALETTE)],
            )
        axes.margins(0.15)
        _legend(axes, drawn)


def _legend(axes: Any, drawn: Mapping[str, Any]) -> None:
    """Names as they are written: matplotlib leaves out those that begin with _, and reads formulas between two $."""
    legend = axes.legend(list(drawn.values()), ["name"] * len(drawn), frameon=False)
    for text, name in zip(legend.get_texts(), drawn, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _bars(cell: Interval) -> list[list[float]] | None:
    """Lengths of the bars below and above the value, or None if the interval is unknown."""
    if not cell.has_bounds:
        return None
    return [[max(0.0, cell.value - cell.low)], [max(0.0, cell.high - cell.value)]]


def _undominated(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front, sorted by x."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    return best


def learning_curve(rows: Sequence[SystemRow], each_seed: bool = False) -> Curve:
    """Held-out bits per second of the token language model against audio seen, for the systems that have one.

    Args:
        rows: systems.
        each_seed: a line for every seed of the language model; else the mean over its seeds.
    """
    series = {}
    for row in rows:
        if (lm := row.predictability) is None:
            continue
        seeds = list(lm.seed_bits_per_second)
        lines = {row.name: seeds}
        if each_seed and len(seeds) > 1:
            lines = {f"{row.name}, seed {seed}": [seed] for seed in seeds}
        for name, shown in lines.items():
            steps = list(zip(*([p for p in lm.curve if p.seed == seed] for seed in shown), strict=True))
            minutes = [sum(p.audio_seconds for p in points) / len(points) / 60 for points in steps]
            bits = [sum(p.test_bits for p in points) / len(points) * lm.token_rate for points in steps]
            series[name] = (minutes, bits)
    caption = "Every system starts at its unigram cost; the reported value is the checkpoint chosen on the other split."
    return Curve("Token language model", "minutes of audio seen", "bits per second, test clips", series, caption)


def frontier(rows: Sequence[SystemRow]) -> Scatter:
    """Mel distance against LM bits per second, for the systems that have both: the trade-off."""
    points = {}
    for row in rows:
        cells = row.cells()
        pair = [cells[key] for key in ("lm_bits_per_second", "mel") if key in cells]
        if len(pair) == 2 and all(math.isfinite(cell.value) for cell in pair):
            points[row.name] = (pair[0], pair[1])
    caption = (
        "Lower left is better; a line joins the systems that no other beats in both. Bars: 95 % bootstrap intervals "
        "over files, each system by itself; the paired tests are more sensitive to differences."
    )
    return Scatter("Faithful or predictable", "LM bits per second", "Mel distance", points, caption)


def to_svg(picture: Curve | Scatter, salt: str) -> str:
    """An inline SVG without size or title, which takes the text colour of the page around it.

    Args:
        picture: what to draw.
        salt: makes the ids inside the SVG differ from those of other pictures on the page.
    """
    from matplotlib import rc_context

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": f"llmcodec-{salt}", "font.size": 11}
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.edgecolor": INK, "grid.color": INK}
    buffer = io.StringIO()
    with rc_context(style):
        figure = _figure(picture, (5.6, 3.3))
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = escape(f"{picture.title}: {picture.y_label} against {picture.x_label} for {', '.join(picture.series)}")
    return svg.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def to_png(picture: Curve | Scatter) -> bytes:
    """A PNG of 1,050 x 675 pixels with the title above."""
    figure = _figure(picture, (7, 4.5))
    better = f": {picture.better} is better (95 % intervals)" if isinstance(picture, Scatter) else ""
    figure.axes[0].set_title(f"{picture.title}{better}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _figure(picture: Curve | Scatter, inches: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.add_subplot()
    picture.draw(axes)
    axes.set(xlabel=picture.x_label, ylabel=picture.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.18)
    return figure


def spectrogram_png(
    wav_S: np.ndarray, sample_rate: int, floor_db: float = -75.0, height: int = 160, top_hz: float | None = None
) -> bytes:
    """Log-magnitude spectrogram (32 ms Hann, 8 ms hop), 0 Hz at the bottom, floor_db .. 0 dB below the loudest bin.

    No axes: the page's caption gives duration and bandwidth, so the picture can scale with its column.

    Args:
        wav_S: mono samples, float (S,).
        sample_rate: in Hz.
        floor_db: bins at or below this level, in dB below the loudest bin, are black.
        height: of the picture, in pixels.
        top_hz: highest frequency shown, None for half the sample rate; what the samples do not have is black.
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    window = max(16, round(0.032 * sample_rate))
    padded = np.pad(np.asarray(wav_S, dtype=np.float64), (window // 2, window))
    starts = np.arange(0, max(1, wav_S.size), window // 4)
    frames_FW = padded[starts[:, None] + np.arange(window)] * np.hanning(window)
    magnitude_NF = np.abs(np.fft.rfft(frames_FW, axis=1)).T
    decibel_NF = 20 * np.log10(np.maximum(magnitude_NF, 1e-10) / max(float(magnitude_NF.max()), 1e-6))
    top_bin = decibel_NF.shape[0] - 1 if top_hz is None else top_hz * window / sample_rate
    rows = np.linspace(0, top_bin, height).round().astype(int)
    decibel_NF = np.pad(
        decibel_NF, ((0, max(0, int(rows[-1]) + 1 - len(decibel_NF))), (0, 0)), constant_values=floor_db
    )
    colours = colormaps["magma"](np.clip(1 - decibel_NF[rows] / floor_db, 0, 1), bytes=True)[::-1, :, :3]
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(colours), format="png")
    return buffer.getvalue()


def strip_png(bits_QT: np.ndarray, most_bits: float) -> bytes:
    """Surprisal of tokens as a picture of one pixel a token: dark is expected, bright surprising.

    Args:
        bits_QT: surprisal in bits, a row a codebook, the first above.
        most_bits: from here on everything has the brightest colour.
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(colormaps["viridis"](bits_QT / most_bits, bytes=True)[:, :, :3]), format="png")
    return buffer.getvalue()
