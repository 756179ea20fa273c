"""report/sections.py and the scatter of figures.py: what stands in the sections, and when they stay away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmcodec.evaluation.results import SystemRow
from llmcodec.report.figures import Curve, Point, curve_svg, scatter_svg
from llmcodec.report.sections import frontier_points, frontier_section, runs_section, salmon_section
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult

from .made_up import made_up_row


def test_points_are_the_tables_numbers_with_their_intervals():
    row = made_up_row("a", bits=300.0, mel=0.7)
    (point,) = frontier_points([row, SystemRow("bare", 500.0)])
    cells = row.cells()
    bits, mel = cells["lm_bits_per_second"], cells["mel"]
    assert (point.name, point.x, point.y) == ("a", bits.value, mel.value)
    assert point.x_error == (bits.value - bits.low, bits.high - bits.value)
    assert point.y_error == pytest.approx((mel.value - mel.low, mel.high - mel.value))


def test_the_frontier_needs_two_systems():
    assert frontier_section([made_up_row("a")]) == ""
    page = frontier_section([made_up_row("a"), made_up_row("<b>", mel=0.8)])
    assert "Lower left is better" in page and "&lt;b&gt;" in page and "<b>" not in page and "<svg role=" in page


def test_scatter_and_curves_give_a_system_one_colour():
    points = [Point(name, i, i) for i, name in enumerate("abc")]
    scatter = scatter_svg(points, "x", "y")
    alone = curve_svg(Curve("t", "x", "y", {"c": ([0, 1], [0, 1])}, order=["a", "b", "c"]))
    assert "currentColor" in scatter and all(f">{name}<" in scatter for name in "abc")
    assert "#d9480f" in alone and "#6b7280" not in alone and ">c<" in alone  # the third colour, and a legend
    assert ">c<" not in curve_svg(Curve("t", "x", "y", {"c": ([0, 1], [0, 1])}))


def test_salmon_by_task():
    result = SalmonResult({"rir_consistency": PartScore([PairScore(i, float(i % 4), 0.5, 1, 1) for i in range(100)])})
    rows = [replace(made_up_row("a"), salmon=result), SystemRow("b", 500.0)]
    page = salmon_section(rows)
    assert "rir consistency" in page and "<td>75.0<small>65.7 … 82.5</small></td>" in page and ">b<" not in page
    assert salmon_section(rows[1:]) == ""


def test_runs():
    page = runs_section({"a<": {"steps": "160", "commit": "abc"}})
    assert "a&lt;" in page and "<dt>steps</dt><dd>160</dd>" in page and runs_section({}) == ""
