"""Plots are pictures of the right size, the frontier joins whom nobody beats, and writing is atomic."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.image import imread

from llmcodec.metrics.statistics import Interval
from llmcodec.report.plots import _undominated, curves_png, frontier_png, write_png


def test_the_frontier_is_the_lower_left_staircase() -> None:
    points = {"a": (1.0, 9.0), "b": (2.0, 5.0), "c": (3.0, 6.0), "d": (4.0, 4.0), "e": (2.0, 7.0)}
    assert _undominated(points) == [(1.0, 9.0), (2.0, 5.0), (4.0, 4.0)]
    assert _undominated({}) == []


def test_plots_are_png_pictures(tmp_path: Path) -> None:
    points = {
        f"codec {i}": (Interval(i, i - 0.1, i + 0.1, 9), Interval(9.0 - i, 8.5 - i, 9.2 - i, 9)) for i in range(3)
    }
    png = frontier_png(points, "Mel", "bit/s", "frontier")
    write_png(tmp_path / "deep" / "f.png", png)
    picture = imread(tmp_path / "deep" / "f.png")
    assert picture.shape[0] == 675 and picture.shape[1] == 1050 and picture[..., :3].std() > 0.01
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f.png"]
    curves = imread(io.BytesIO(curves_png({"a": ([0, 1], [3.0, 2.0])}, "x", "y", "t")))
    assert curves.shape[:2] == picture.shape[:2]
