"""Rows of a table: what was measured, by key; failures counted; pairs compared without them."""

from __future__ import annotations

import pytest

from llmcodec.evaluation.results import MEASURES, SystemRow, compare
from llmcodec.metrics.base import Measure

from ..report.made_up import NUM, made_up_row


def test_cells_hold_what_was_measured() -> None:
    row = made_up_row("A")
    cells = row.cells()
    assert row.predictability is not None
    assert cells["lm_bits_per_second"].value == pytest.approx(row.predictability.bits_per_second)
    assert cells["lm_bits_per_token"].value * 50 == pytest.approx(cells["lm_bits_per_second"].value)
    assert cells["context_gain"].value == pytest.approx(9.0 - cells["lm_bits_per_token"].value)
    assert cells["accuracy"].value == pytest.approx(0.15)
    assert cells["slice_consistency"].value == pytest.approx(0.8)
    assert cells["pesq"].num == NUM
    assert set(cells) <= {measure.key for measure in MEASURES}


def test_failures_are_counted_and_compared_without_them() -> None:
    broken = made_up_row("broken", fail=True)
    assert broken.failures() == {"pesq": {"No utterances detected": 2}}
    comparison = compare(made_up_row("a"), broken, "pesq")
    assert comparison is not None and comparison.num == NUM - 2


def test_what_was_not_measured_is_not_compared() -> None:
    bare, full = SystemRow("bare", 500.0), made_up_row("full")
    assert compare(bare, full, "mel") is None and compare(bare, full, "lm_bits_per_second") is None


def test_a_difference_is_judged_by_the_measures_direction() -> None:
    result = compare(made_up_row("a", mel=0.7), made_up_row("b", mel=0.8), "mel")
    same = compare(made_up_row("a"), made_up_row("b", bits=270), "mel")
    assert result is not None and same is not None
    directions = {False: "worse", True: "better", None: "changed"}
    assert {better: Measure("mel", "", 3, better).judge(result) for better in directions} == directions
    assert {Measure("mel", "", 3, better).judge(same) for better in directions} == {"same"}
