"""Bits against quality: what a row saves against a smaller codebook of the same quality, as a table and as pictures.

A smaller codebook also saves bits and costs quality. `line` names such rows, the control first; between their measured
points the line is straight. A row is compared with the line at its own quality. Where its quality is beyond the points,
nothing is said: the line is not extended. Shapes: K seeds, N clips, R rows, M columns (four a row).
Test: tests/experiments/test_frontier.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.evaluation.results import MEASURES
from llmcodec.io.atomic import write_bytes
from llmcodec.metrics.statistics import Interval, two_level_interval
from llmcodec.report.figures import Scatter, to_png
from llmcodec.report.tables import TextTable

Results = Mapping[int, Mapping[str, Any]]
"""Seed -> result of a row."""
AXES = ("mel", "stoi", "pesq", "wer")
MEASURE = {measure.key: measure for measure in MEASURES}
BITS, SECONDS, QUALITY, WEIGHT = range(4)


@dataclass(frozen=True)
class Saving:
    """LM bits of a row against those of the line at equal quality."""

    interval: Interval | None
    """Relative difference, negative where the row needs fewer bits; None where the line does not reach."""
    note: str
    """How many seeds, or why there is no figure."""

    def format(self) -> str:
        if self.interval is None:
            return self.note
        value, low, high = (100 * x for x in (self.interval.value, self.interval.low, self.interval.high))
        bounds = f" [{low:+.1f}, {high:+.1f}]" if self.interval.has_bounds else ""
        return f"{value:+.1f} %{bounds}{self.note}"


def sums_of_clips(rows: Sequence[Results], axis: str) -> tuple[list[int], np.ndarray]:
    """Seeds that all rows have, and bits, seconds, quality and weight of every clip, (K, N, 4 R).

    Bits are of the clips that the LM scored in all rows at every seed, quality of those that have it in all; where a
    clip lacks one of the two, it counts zero.
    """
    seeds = [seed for seed in rows[0] if all(seed in row for row in rows)]
    tables = [[(_bits(row[seed]), _quality(row[seed], axis)) for row in rows] for seed in seeds]
    every = [pair for tables_R in tables for pair in tables_R]
    if not every:
        return seeds, np.zeros((0, 0, 4 * len(rows)))
    scored, heard = ([c for c in every[0][i] if all(c in pair[i] for pair in every)] for i in (0, 1))
    if not scored or not heard:
        return seeds, np.zeros((len(seeds), 0, 4 * len(rows)))
    clips = list(dict.fromkeys([*scored, *heard]))
    both = set(scored), set(heard)
    values = [
        [
            [v for bits, quality in tables_R for v in (*_known(bits, clip, both[0]), *_known(quality, clip, both[1]))]
            for clip in clips
        ]
        for tables_R in tables
    ]
    return seeds, np.asarray(values)


def _known(table: Mapping[str, tuple[float, float]], clip: str, clips: set[str]) -> tuple[float, float]:
    return table[clip] if clip in clips else (0.0, 0.0)


def _bits(result: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    return {row["id"]: (row["bits"], row["seconds"]) for row in result.get("lm_clips", [])}


def _quality(result: Mapping[str, Any], axis: str) -> dict[str, tuple[float, float]]:
    if axis == "wer":
        return {row["id"]: (row["errors"], row["words"]) for row in result.get("words", [])}
    return {row["id"]: (row[axis], 1.0) for row in result.get("files", []) if row.get(axis) is not None}


def rate(sums: np.ndarray, row: int) -> np.ndarray:
    """Bits per second of a row, from sums over clips (..., 4 R)."""
    return np.asarray(sums[..., 4 * row + BITS] / sums[..., 4 * row + SECONDS])


def quality(sums: np.ndarray, row: int) -> np.ndarray:
    """Mean quality of a row, from sums over clips (..., 4 R)."""
    return np.asarray(sums[..., 4 * row + QUALITY] / sums[..., 4 * row + WEIGHT])


def saving(row: Results, line: Sequence[Results], axis: str) -> Saving | None:
    """What a row saves against the line at its own quality; None where a measure is missing.

    The two points of the line on either side are chosen by the means over all seeds and clips. Single seeds and the
    jackknife keep them, even where the row's quality then lies a little beyond. Where a point of the line with fewer
    bits is no worse than one with more, as word errors of few clips often have it, there is no line to compare with.
    """
    seeds, values = sums_of_clips([row, *line], axis)
    if 0 in values.shape:
        return None
    total = values.sum((0, 1))
    if (total[WEIGHT::4] == 0).any():
        return None
    wanted = float(quality(total, 0))
    points = sorted((float(quality(total, number)), number) for number in range(1, len(line) + 1))
    bits = [float(rate(total, number)) for _, number in points]
    rising = sorted(bits) if MEASURE[axis].higher_is_better else sorted(bits, reverse=True)
    if bits != rising or len({value for value, _ in points}) < len(points):
        return Saving(None, "no line: its quality does not fall with its bits")
    below = [number for value, number in points if value <= wanted]
    above = [number for value, number in points if value >= wanted]
    if not below or not above:
        better = bool(below) == bool(MEASURE[axis].higher_is_better)
        return Saving(None, f"{'better' if better else 'worse'} than the line")
    a, b = below[-1], above[0]

    def against_line(sums: np.ndarray) -> np.ndarray:
        if a == b:
            return np.asarray(rate(sums, 0) / rate(sums, a) - 1)
        share = (quality(sums, 0) - quality(sums, a)) / (quality(sums, b) - quality(sums, a))
        return np.asarray(rate(sums, 0) / (rate(sums, a) + share * (rate(sums, b) - rate(sums, a))) - 1)

    note = "" if len(seeds) > 1 else " (one seed)"
    return Saving(two_level_interval(values, against_line), note)


def difference(measure: Callable[[np.ndarray, int], np.ndarray], sums: np.ndarray) -> np.ndarray:
    """`rate` or `quality` of the first row less that of the second."""
    return np.asarray(measure(sums, 0) - measure(sums, 1))


def point(row: Results, axis: str, reference: Results | None = None) -> tuple[Interval, Interval] | None:
    """Bits per second and quality of a row; None where one of them is missing.

    Intervals are over seeds and clips. With a reference they are those of the difference to it, paired by seed and
    clip: clips differ far more than rows do. The reference itself has none.
    """
    _, values = sums_of_clips([row] if reference is None else [row, reference], axis)
    if 0 in values.shape or (values.sum((0, 1))[WEIGHT::4] == 0).any():
        return None
    pair = []
    for measure in (rate, quality):
        if reference is None:
            pair.append(two_level_interval(values, partial(measure, row=0)))
            continue
        value, against = (float(measure(values.sum((0, 1)), number)) for number in (0, 1))
        found = two_level_interval(values, partial(difference, measure))
        bounds = (math.nan, math.nan) if row is reference else (against + found.low, against + found.high)
        pair.append(Interval(value, *bounds, found.num))
    return pair[0], pair[1]


def frontier_table(done: Mapping[str, Results], line: Sequence[str]) -> str:
    """Markdown: LM bits of every row against the line at equal Mel, STOI, PESQ and WER; empty without two points."""
    points = [done[name] for name in line if name in done]
    if len(points) < 2:
        return f"\nNo frontier: of the line ({', '.join(line)}), {len(points)} rows are measured; it takes two.\n"
    axes = [axis for axis in AXES if all(point(results, axis) for results in points)]
    lines = []
    for name, results in done.items():
        if name not in line:
            found = [saving(results, points, axis) for axis in axes]
            lines.append([name, *("" if one is None else one.format() for one in found)])
    head = ["LM bits against the line", *(f"at equal {MEASURE[axis].label}" for axis in axes)]
    missing = [name for name in line if name not in done]
    note = (
        f"\nThe line: {', '.join(name for name in line if name in done)}; straight between the measured points, never\n"
    )
    note += (
        "extended: what is better or worse than all its points has no figure. 95 % intervals over seeds and clips.\n"
    )
    if missing:
        note += f"Not measured yet: {', '.join(missing)}.\n"
    return f"\n{TextTable(head, lines).markdown()}{note}"


def write_frontiers(done: Mapping[str, Results], line: Sequence[str], folder: Path) -> list[Path]:
    """A picture for every measure of quality that the rows have, `frontier_mel.png`; the line is drawn in it."""
    pictures = frontiers(done, line)
    return [write_bytes(folder / f"frontier_{axis}.png", to_png(picture)) for axis, picture in pictures.items()]


def frontiers(done: Mapping[str, Results], line: Sequence[str]) -> dict[str, Scatter]:
    """LM bits against every measure of quality that the rows have, by its name."""
    pictures = {}
    reference = done.get(line[0]) if line else None
    for axis in AXES:
        found = {name: pair for name, results in done.items() if (pair := point(results, axis, reference)) is not None}
        if len(found) > 1:
            corner = "upper left" if MEASURE[axis].higher_is_better else "lower left"
            joined = tuple(name for name in line if name in found)
            title = f"LM bits against {MEASURE[axis].label}"
            label = MEASURE[axis].label
            caption = "" if reference is None else f"Bars: 95 % intervals of the difference to {line[0]}."
            pictures[axis] = Scatter(title, "LM bits per second", label, found, caption, line=joined, better=corner)
    return pictures
