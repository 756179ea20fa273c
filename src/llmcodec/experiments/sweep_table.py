"""The table of a sweep: means over seeds, and differences to the reference row, paired by seed and clip.

Test: tests/integration/test_sweep.py, tests/experiments/test_protocol.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.evaluation.results import MEASURES
from llmcodec.metrics.statistics import Interval, two_level_interval
from llmcodec.report.figures import Curve, Scatter
from llmcodec.report.files import versions
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.tables import TextTable
from llmcodec.report.verdict import Statement

PAIRED = {"lm_bits_per_second": ("lm_clips", "bits"), "mel": ("files", "mel"), "stft": ("files", "stft")}
PAIRED |= {"pesq": ("files", "pesq"), "stoi": ("files", "stoi")}
CELLS = re.compile(r"(?<!\\)\|")


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
    speeds = [mean_speed(results) for results in done.values()]
    if any(speeds):
        lines.append(["Encoding, times real time, one thread", *speeds])
    table = TextTable(["", *(f"{name} ({len(results)})" for name, results in done.items())], lines)
    note = (
        "\nIn brackets: number of seeds; lowest to highest seed. Differences: paired by seed and file, 95 % interval\n"
        "over both (one seed: over files alone).\n"
    )
    codes = {result.get("code") for results in done.values() for result in results.values()}
    if len(codes) > 1:
        note += "\nThe rows were measured by several versions of the code, which may count differently.\n"
    return table.markdown() + note


def write_page(path: Path, markdown: str, pictures: Sequence[Curve | Scatter], command: str) -> Path:
    """A sweep as a page: the tables and sentences of its Markdown, and pictures.

    Args:
        path: of the page.
        markdown: tables, and paragraphs between them.
        pictures: frontiers and learning curves.
        command: how to make the page again.
    """
    tables, said = [], []
    for kind, lines in groupby(
        markdown.splitlines(), lambda line: "table" if line.startswith("|") else line.strip() > ""
    ):
        if kind == "table":
            head, _, *rows = ([cell.strip().replace("\\|", "|") for cell in CELLS.split(line)[1:-1]] for line in lines)
            tables.append(TextTable(head, rows))
        elif kind:
            said.append(Statement("same", " ".join(lines)))
    meta = ReportMeta(path.parent.name, statements=said, commands=[command], versions=versions(), tables=tables)
    return write_report(path, (), (), pictures, meta)


def mean_speed(results: dict[int, Any]) -> str:
    efforts = [result["effort"] for result in results.values() if "effort" in result]
    elsewhere = sorted({effort.get("device", "cpu") for effort in efforts} - {"cpu"})
    where = f" (on {', '.join(elsewhere)})" if elsewhere else ""
    return f"{np.median([effort['times_real_time'] for effort in efforts]):,.1f}{where}" if efforts else ""


def lm_tables(done: Mapping[str, dict[int, Any]], reference: str, flat: float) -> str:
    """Markdown of what further LMs measured, and whether the budgets tried on the reference row are large enough.

    Args:
        done: results by row and seed.
        reference: row that the others are compared with.
        flat: share of the bits that the next budget may save at most.
    """
    names = dict.fromkeys(n for results in done.values() for r in results.values() for n in r.get("further_lms", {}))
    budgets: dict[str, list[tuple[float, float]]] = {}
    text = ""
    for name in names:
        measured = {
            row: {
                seed: result["further_lms"][name]
                for seed, result in results.items()
                if name in result.get("further_lms", {})
            }
            for row, results in done.items()
        }
        measured = {row: results for row, results in measured.items() if results}
        size, _, budget = name.rpartition(", ")
        if size and budget.endswith(" s"):
            bits = next(iter(measured[reference].values()))["measures"]["lm_bits_per_second"]["value"]
            budgets.setdefault(size, []).append((float(budget[:-2]), bits))
            continue
        cells = [
            [mean_and_range(r, "lm_bits_per_second", 1), _difference_to(measured, reference, r)]
            for r in measured.values()
        ]
        rows = [[row, *cell] for row, cell in zip(measured, cells, strict=True)]
        head = [f"LM {name}", "LM bits per second", f"against {reference}"]
        text += f"\n{TextTable(head, rows).markdown()}"
    for size, tried in budgets.items():
        text += f"\n{budget_table(size, sorted(tried), flat)}"
    return text


def _difference_to(measured: Mapping[str, dict[int, Any]], reference: str, results: dict[int, Any]) -> str:
    return difference(measured[reference], results, "lm_bits_per_second") if reference in measured else ""


def budget_table(size: str, tried: Sequence[tuple[float, float]], flat: float) -> str:
    """Markdown: bits by budget, and the smallest one from which the next saves less than `flat`."""
    lines, enough = [], None
    for index, (budget, bits) in enumerate(tried):
        saved = 1 - tried[index + 1][1] / bits if index + 1 < len(tried) else None
        lines.append([f"{budget:,g} s", f"{bits:,.1f}", "" if saved is None else f"{100 * saved:.1f} %"])
        if enough is None and saved is not None and saved < flat:
            enough = budget
    table = TextTable([f"Budget of {size}", "bits per second", "saved by the next"], lines).markdown()
    if enough is None:
        return f"{table}\nNo budget is large enough: each next one saves {100 * flat:g} % or more. Try longer ones.\n"
    return f"{table}\nLarge enough: {enough:,g} s, the next budget saves less than {100 * flat:g} %.\n"


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
