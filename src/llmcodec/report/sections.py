"""Sections of the report page that not every page has: the frontier, SALMon by task, training runs.

Test: tests/report/test_sections.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from llmcodec.evaluation.results import SystemRow
from llmcodec.metrics.statistics import Interval
from llmcodec.report.figures import Point, scatter_svg


def frontier_points(rows: Sequence[SystemRow]) -> list[Point]:
    """LM bits per second against Mel distance, for the systems that have both."""
    points = []
    for row in rows:
        cells = row.cells()
        if "mel" in cells and "lm_bits_per_second" in cells:
            mel, bits = cells["mel"], cells["lm_bits_per_second"]
            if math.isfinite(mel.value) and math.isfinite(bits.value):
                points.append(Point(row.name, bits.value, mel.value, _arms(bits), _arms(mel)))
    return points


def _arms(cell: Interval) -> tuple[float, float] | None:
    if not math.isfinite(cell.low):
        return None
    return max(0.0, cell.value - cell.low), max(0.0, cell.high - cell.value)


def frontier_section(rows: Sequence[SystemRow]) -> str:
    """The picture that decides: few bits and a small distance are both wanted, so lower left is better."""
    points = frontier_points(rows)
    if len(points) < 2:
        return ""
    names = ", ".join(point.name for point in points)
    svg = scatter_svg(points, "LM bits per second", "Mel distance")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(f"Mel distance against bits: {names}")}"', 1)
    note = (
        "Lower left is better. Bars: 95 % bootstrap intervals over files, each system by itself; whether two systems "
        "differ is told by the paired tests above, which are sharper."
    )
    return (
        f"<section><h2>Faithful or predictable</h2><figure class=curve>{svg}"
        f"<p class=note>{escape(note)}</p></figure></section>"
    )


def salmon_section(rows: Sequence[SystemRow]) -> str:
    """Accuracy by task."""
    measured = [(row.name, row.salmon) for row in rows if row.salmon is not None]
    if not measured:
        return ""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name, _ in measured)
    lines = ""
    for part in measured[0][1].parts:
        cells = ""
        for _, result in measured:
            score = result.parts[part].mean if part in result.parts else None
            cells += "<td>-</td>" if score is None else _percent(score)
        lines += f"<tr><th scope=row>{escape(part.replace('_', ' '))}</th>{cells}</tr>"
    note = "Percent of pairs whose consistent side the token LM finds more likely; chance is 50. Small: 95 % Wilson."
    return (
        "<section><h2>Consistency heard by the token LM (SALMon)</h2>"
        "<div class=scroll tabindex=0 role=region aria-label='SALMon'><table><thead><tr>"
        f"<th scope=col><span class=hidden>Task</span></th>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
        f"<p class=note>{note}</p></section>"
    )


def _percent(cell: Interval) -> str:
    return f"<td>{100 * cell.value:.1f}<small>{100 * cell.low:.1f} … {100 * cell.high:.1f}</small></td>"


def runs_section(runs: Mapping[str, Mapping[str, str]]) -> str:
    """What each training run was: facts by name."""
    if not runs:
        return ""
    parts = []
    for name, facts in runs.items():
        pairs = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
        parts.append(f"<h3>{escape(name)}</h3><dl>{pairs}</dl>")
    return f"<section><h2>Training runs</h2>{''.join(parts)}</section>"
