"""Bits against the line of smaller codebooks at equal quality: known values, refused extrapolation, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcodec.experiments.frontier import frontier_table, point, saving, sums_of_clips, write_frontiers


def results(bits: float, mel: float, seeds: int = 3, spread: float = 0.0, pesq: float = 1.5, clips: int = 12) -> dict:
    """A row whose every clip has the same values, but for the seeds."""

    def one(seed: int) -> dict[str, Any]:
        factor = 1 + spread * (seed - 1)
        ids = [f"c{n}" for n in range(clips)]
        return {
            "lm_clips": [{"id": id, "bits": 2 * bits * factor, "seconds": 2.0} for id in ids],
            "files": [{"id": id, "mel": mel, "pesq": pesq, "stoi": None} for id in ids[::2]],
            "words": [],
        }

    return {seed: one(seed) for seed in range(seeds)}


CONTROL, SMALL, TINY = results(500, 0.80, pesq=1.6), results(450, 0.90, pesq=1.5), results(430, 1.00, pesq=1.3)


def test_the_saving_is_against_the_straight_line_at_equal_quality():
    found = saving(results(423, 0.84), [TINY, CONTROL, SMALL], "mel")  # the line: 500 - .4 x 50 = 480
    assert found.interval.value == pytest.approx(423 / 480 - 1)
    assert (found.interval.low, found.interval.high) == pytest.approx((423 / 480 - 1,) * 2)
    found = saving(results(430, 0.95), [CONTROL, SMALL, TINY], "mel")  # the second segment: 440
    assert found.interval.value == pytest.approx(430 / 440 - 1)
    assert saving(results(400, 0.0, pesq=1.55), [CONTROL, SMALL, TINY], "pesq").interval.value == pytest.approx(
        400 / 475 - 1
    )
    assert saving(CONTROL, [CONTROL, SMALL], "mel").interval.value == 0.0


def test_the_line_is_never_extended():
    line = [CONTROL, SMALL, TINY]
    cases = [(results(1, 0.79), "mel", "better"), (results(1, 1.01), "mel", "worse")]
    cases += [(results(1, 0.9, pesq=1.61), "pesq", "better"), (results(1, 0.9, pesq=1.29), "pesq", "worse")]
    for row, axis, word in cases:
        found = saving(row, line, axis)
        assert found.interval is None and found.format() == f"{word} than the line"


def test_a_line_whose_quality_does_not_fall_with_its_bits_is_none():
    equal, better = results(450, 0.80), results(450, 0.70)
    for line in ([CONTROL, equal, TINY], [CONTROL, better, TINY]):
        found = saving(results(423, 0.80), line, "mel")
        assert found.interval is None and found.format() == "no line: its quality does not fall with its bits"


def test_the_interval_grows_with_the_spread_of_seeds():
    found = saving(results(423, 0.84, spread=0.01), [CONTROL, SMALL], "mel")
    half = 4.3026527 * 0.01 * 423 / 480 / np.sqrt(3)
    assert found.interval.high - found.interval.value == pytest.approx(half, rel=1e-6)
    one = saving(results(423, 0.84, seeds=1), [CONTROL, SMALL], "mel")
    assert one.format().endswith("(one seed)")


def test_bars_are_of_the_difference_to_the_reference():
    """Clips that differ ten times as much as the rows do leave the difference as certain as it is."""
    control, row = results(500, 0.80), results(450, 0.90)
    for one in (control, row):
        for result in one.values():
            for number, clip in enumerate(result["lm_clips"]):
                clip["bits"] += 1000 * number
    bits, mel = point(row, "mel", control)
    alone, _ = point(row, "mel")
    assert bits.value == alone.value and alone.high - alone.low > 1000
    assert bits.high - bits.low == pytest.approx(0, abs=1e-6) and bits.low == pytest.approx(bits.value)
    assert (mel.value, mel.low, mel.high) == pytest.approx((0.9, 0.9, 0.9))
    assert not any(cell.has_bounds for cell in point(control, "mel", control))


def test_measures_that_are_missing_have_no_figure():
    assert saving(CONTROL, [CONTROL, SMALL], "stoi") is None and point(CONTROL, "wer") is None
    assert saving({7: CONTROL[0]}, [CONTROL, SMALL], "mel") is None, "no seed in common"
    lacking = results(423, 0.84)
    lacking[1]["files"] = lacking[1]["files"][:2]
    seeds, values = sums_of_clips([lacking, CONTROL], "mel")
    assert seeds == [0, 1, 2] and values.shape == (3, 12, 8)
    assert values[0].sum(0).tolist() == pytest.approx([2 * 423 * 12, 24, 1.68, 2, 12_000, 24, 1.6, 2])


def test_table_and_pictures(tmp_path: Path):
    done = {"control": CONTROL, "rate": results(423, 0.84), "smaller": SMALL, "loud": results(9, 2.0)}
    table = frontier_table(done, ["control", "smaller", "tiny"])
    assert "| LM bits against the line | at equal Mel distance | at equal PESQ |" in table
    assert "| rate | -11.9 % [-11.9, -11.9] |" in table and "| loud | worse than the line |" in table
    assert "| control |" not in table and "Not measured yet: tiny." in table
    assert [path.name for path in write_frontiers(done, ["control", "smaller"], tmp_path)] == [
        "frontier_mel.png",
        "frontier_pesq.png",
    ]
    assert "takes two" in frontier_table({"rate": CONTROL}, ["control", "smaller"])
