"""Scores and failures, and how optional packages are asked for."""

from __future__ import annotations

import math

import pytest

from llmcodec.metrics.base import Measured, load_metric_package


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="pip install no_such_metric"):
        load_metric_package("no_such_metric")


def test_measured_is_a_number_or_a_reason() -> None:
    assert Measured.of(math.nan, "x").failure == "x is nan"
    with pytest.raises(AssertionError):
        Measured(None)
    with pytest.raises(AssertionError):
        Measured(1.0, "why")
