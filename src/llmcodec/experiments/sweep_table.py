"""The table of a sweep: means over seeds, and differences to the reference row, paired by seed and clip.

Test: tests/integration/test_sweep.py, tests/experiments/test_sweep_table.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmcodec.evaluation.results import MEASURES
from llmcodec.metrics.statistics import Interval, two_level_interval
from llmcodec.report.tables import TextTable

PAIRED = {"lm_bits_per_second": ("lm_clips", "bits"), "mel": ("files", "mel"), "stft": ("files", "stft")}
PAIRED |= {"pesq": ("files", "pesq"), "stoi": ("files", "stoi")}


def sweep_table(done: Mapping[str, dict[int, Any]], reference: str) -> str:
    """Markdown of all jobs that are done.

    Args:
        done: results by row and seed.
        reference: row that the others are compared with.
    """
    lines = []
    for measure in MEASURES:
        cells = [mean_and_range(results, measure.key, measure.digits) for results in done.values()]
        if any(cells):
            lines.append([measure.title, *cells])
    if reference in done:
        for key in PAIRED:
            cells = [difference(done[reference], results, key) for results in done.values()]
            lines.append([f"{key} against {reference}", *cells])
    table = TextTable(["", *(f"{name} ({len(results)})" for name, results in done.items())], lines)
    note = (
        "\nIn brackets: number of seeds; lowest to highest seed. Differences: paired by seed and file, 95 % interval\n"
        "over both.\n"
    )
    return table.markdown() + note


def mean_and_range(results: dict[int, Any], key: str, digits: int) -> str:
    values = [r["measures"][key]["value"] for r in results.values() if key in r["measures"]]
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{np.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def difference(reference: dict[int, Any], other: dict[int, Any], key: str) -> str:
    interval = paired_difference(reference, other, key)
    if interval is None:
        return ""
    if not interval.has_bounds:
        return f"{100 * interval.value:+.1f} %"
    return f"{100 * interval.value:+.1f} % [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def paired_difference(reference: dict[int, Any], other: dict[int, Any], key: str) -> Interval | None:
    """Relative difference of a measure, paired by seed and clip, with its 95 % interval over both.

    Clips count that have the measure in both rows at every seed; None where there is none, and for the reference.
    """
    table, column = PAIRED[key]
    seeds = [seed for seed in reference if seed in other]
    if not seeds or other is reference:
        return None

    def measured(result: dict[str, Any]) -> dict[str, float]:
        return {row["id"]: row[column] for row in result.get(table, []) if row.get(column) is not None}

    pairs = [(measured(reference[seed]), measured(other[seed])) for seed in seeds]
    clips = [clip for clip in pairs[0][0] if all(clip in a and clip in b for a, b in pairs)]
    if not clips:
        return None
    values_KN2 = np.asarray([[(a[clip], b[clip]) for clip in clips] for a, b in pairs])
    return two_level_interval(values_KN2, lambda sums: sums[..., 1] / sums[..., 0] - 1)
