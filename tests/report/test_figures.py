"""Pictures of the right size in the page's colours; the frontier joins whom nobody beats."""

from __future__ import annotations

import io
import math
import re
from html import escape

import numpy as np
import pytest
from matplotlib.image import imread

from llmcodec.evaluation.results import SystemRow
from llmcodec.metrics.statistics import Interval
from llmcodec.report.figures import (
    Curve,
    Scatter,
    _bars,
    _undominated,
    frontier,
    learning_curve,
    spectrogram_png,
    to_png,
    to_svg,
)

from .made_up import made_up_row


def points(names: str) -> Scatter:
    cells = {
        name: (Interval(i, i - 0.1, i + 0.1, 9), Interval(9.0 - i, math.nan, math.nan, 9))
        for i, name in enumerate(names)
    }
    return Scatter("where", "x", "y", cells)


def test_learning_curves_are_in_minutes_and_bits_per_second() -> None:
    curve = learning_curve([made_up_row("a"), SystemRow("not measured", 500.0)])
    assert list(curve.series) == ["a"]
    minutes, bits = curve.series["a"]
    assert minutes == pytest.approx([0, 100 / 60, 200 / 60, 300 / 60]) and bits == pytest.approx([455, 450, 445, 440])
    each = learning_curve([made_up_row("a")], each_seed=True).series
    assert each["a, seed 0"][1] == pytest.approx([450, 445, 440, 435])
    assert each["a, seed 1"][1] == pytest.approx([460, 455, 450, 445]) and len(each) == 2


def test_the_frontiers_points_are_the_tables_numbers_with_their_intervals() -> None:
    row = made_up_row("a", bits=300.0, mel=0.7)
    picture = frontier([row, SystemRow("bare", 500.0)])
    cells = row.cells()
    assert picture.series == {"a": (cells["lm_bits_per_second"], cells["mel"])}
    assert (picture.x_label, picture.y_label) == ("LM bits per second", "Mel distance")


def test_bars_reach_to_the_bounds() -> None:
    assert _bars(Interval(5.0, 4.0, 7.5, 9)) == [[1.0], [2.5]]
    assert _bars(Interval(5.0, 5.1, 5.0, 9)) == [[0.0], [0.0]]  # a degenerate bootstrap
    assert _bars(Interval(5.0, math.nan, math.nan, 9)) is None


def test_the_frontier_is_the_lower_left_staircase() -> None:
    assert _undominated([(1.0, 9.0), (2.0, 5.0), (3.0, 6.0), (4.0, 4.0), (2.0, 7.0)]) == [(1, 9), (2, 5), (4, 4)]
    assert _undominated([]) == []


@pytest.mark.parametrize("picture", [Curve("t", "x", "y", {"a": ([0, 1], [3.0, 2.0])}), points("abc")])
def test_plots_are_png_pictures(picture: Curve | Scatter) -> None:
    pixels = imread(io.BytesIO(to_png(picture)))
    assert pixels.shape[0] == 675 and pixels.shape[1] == 1050 and pixels[..., :3].std() > 0.01


@pytest.mark.parametrize("picture", [Curve("t", "x", "y", {"one": ([0, 1], [1, 2])}), points("ab")])
def test_an_svg_takes_the_colour_of_the_page(picture: Curve | Scatter) -> None:
    svg = to_svg(picture, "0")
    assert svg.startswith("<svg") and "currentColor" in svg and "#010203" not in svg
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)
    assert f'aria-label="{picture.title}: y against x for {", ".join(picture.series)}"' in svg


def test_scatter_and_curves_give_a_system_one_colour() -> None:
    scatter = to_svg(points("abc"), "0")
    alone = to_svg(Curve("t", "x", "y", {"c": ([0, 1], [0, 1])}, order=["a", "b", "c"]), "0")
    assert "currentColor" in scatter and all(f">{name}<" in scatter for name in "abc")
    assert "#d9480f" in alone and "#6b7280" not in alone and ">c<" in alone  # the third colour, and a legend
    assert ">c<" not in to_svg(Curve("t", "x", "y", {"c": ([0, 1], [0, 1])}), "0")


@pytest.mark.parametrize("names", [("_base", "_mine", "c"), ("a$x", "b$y"), ("lr=$1 vs $2", r"$\foo$"), ("<b>&", "b")])
def test_every_name_is_in_the_legend_as_it_is_written(names: tuple[str, ...]) -> None:
    curve = Curve("t", "x", "y", {name: ([0, 1], [1, 2]) for name in names})
    scatter = Scatter("t", "x", "y", dict(zip(names, points("abc").series.values(), strict=False)))
    for picture in (curve, scatter):
        svg = to_svg(picture, "0")
        assert all(f">{escape(name, quote=False)}</text>" in svg for name in names)
        assert to_png(picture)


def test_a_tone_is_a_line_at_its_height() -> None:
    tone = np.sin(2 * np.pi * 2000 * np.arange(16_000) / 16_000).astype(np.float32)
    picture = imread(io.BytesIO(spectrogram_png(tone, 16_000, height=161)), format="png")
    brightness = picture[:, 10:-10, :3].sum(axis=(1, 2))
    assert picture.shape[0] == 161 and abs(int(brightness.argmax()) - 120) <= 1  # 2 of 8 kHz, from the bottom


def test_silence_and_tiny_clips_have_pictures() -> None:
    assert spectrogram_png(np.zeros(16_000, np.float32), 16_000).startswith(b"\x89PNG")
    assert spectrogram_png(np.ones(3, np.float32), 16_000).startswith(b"\x89PNG")
