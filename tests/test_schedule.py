"""Schedules against values written out by hand."""

from __future__ import annotations

import math

import pytest

from llmcodec.schedule import Schedule, blend, constant, progress


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**6)] == [0.3] * 3


def test_weight_with_delay_and_ramp():
    weight = Schedule(0.2, delay=10, warmup=4)
    assert [weight(step) for step in (0, 9)] == [0.0, 0.0]
    assert [weight(step) for step in range(10, 16)] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2, 0.2])
    assert weight(9) == 0.0 and weight(10) > 0.0


def test_delay_without_ramp_is_a_jump():
    assert [Schedule(2.0, delay=3)(step) for step in range(5)] == [0, 0, 0, 2, 2]


def test_linear_temperature_stays_at_its_start_during_the_delay():
    tau = Schedule(1.0, end=0.1, delay=2, steps=9, shape="linear")
    assert [tau(step) for step in (0, 2)] == [1.0, 1.0]
    assert [tau(step) for step in (3, 6, 10)] == pytest.approx([0.9, 0.6, 0.2])
    assert [tau(step) for step in (11, 500)] == [0.1, 0.1]


def test_cosine_temperature_of_the_paper():
    tau = Schedule(1.0, end=0.3, steps=20_000, shape="cosine")
    for step in (0, 1, 5_000, 10_000, 19_999):
        assert tau(step) == pytest.approx(0.3 + 0.7 * (1 + math.cos(math.pi * step / 20_000)) / 2, abs=1e-12)
    assert tau(20_000) == tau(10**7) == 0.3


def test_learning_rate_with_warmup_then_cosine():
    rate = Schedule(1e-3, end=0.0, warmup=3, steps=10, shape="cosine")
    assert [rate(step) for step in range(4)] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert rate(8) == pytest.approx(0.5e-3)
    assert rate(13) == rate(99) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"delay": -1},
        {"warmup": -1},
        {"steps": -5, "end": 0.0, "shape": "linear"},
        {"shape": "linear"},
        {"end": 0.0, "shape": "cosine"},
        {"end": 0.0, "shape": "linear", "warmup": 3},
        {"shape": "square"},
        {"end": 0.0},
        {"steps": 10},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(ValueError, match="Schedule"):
        Schedule(1.0, **arguments)


def test_negative_step_is_refused():
    with pytest.raises(ValueError, match="step"):
        constant(1.0)(-1)


def test_helpers():
    assert progress(5, 5, 0) == 1.0 and progress(4, 5, 0) == 0.0 and progress(7, 5, 4) == 0.5
    assert blend(0.0, 1.0, 0.5, "constant") == 1.0 and blend(0.0, 1.0, 0.5, "cosine") == pytest.approx(0.5)
