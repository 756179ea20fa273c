"""The report: one HTML file with verdict, players, spectrograms, tables, curves and commands. No external requests.

`report.html.jinja` is the page; this module prepares its content. Audio is embedded as 16-bit FLAC, pictures as
PNG and SVG; the page follows light and dark mode and fits a phone. Its content security policy forbids every request
and every script but the one that it brings. Test: tests/report/test_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmcodec.evaluation.results import SystemRow, compare, table_cells
from llmcodec.io.atomic import write_text
from llmcodec.report.figures import Curve, Scatter, frontier, to_svg
from llmcodec.report.player import MOST_BITS, Example, embed, environment, part
from llmcodec.report.tables import TextTable
from llmcodec.report.verdict import Statement, verdict_sentence

MAX_BYTES = 6_000_000


@dataclass(frozen=True)
class ReportMeta:
    """Context of the numbers."""

    title: str
    summary: str = ""
    statements: Sequence[Statement] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    reference: str = ""
    """Name of the system that the others are compared with; empty: the first."""
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Facts about the training run of a system, by its name."""
    tables: Sequence[TextTable] = ()
    """Further tables."""


def write_report(
    path: str | os.PathLike[str],
    rows: Sequence[SystemRow],
    examples: Sequence[Example],
    curves: Sequence[Curve | Scatter],
    meta: ReportMeta,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the page. Examples that would make it larger than `max_bytes` are left out, and the page says so.

    Returns:
        The path of the page.

    Raises:
        ValueError: there are neither systems nor tables, names repeat, or `meta.reference` is not among them.
    """
    names = [row.name for row in rows]
    if not (rows or meta.tables) or len(set(names)) != len(names):
        raise ValueError(f"a report needs at least one system and different names, not {names}")
    reference = meta.reference or next(iter(names), "")
    if rows and reference not in names:
        raise ValueError(f"the reference system {reference!r} is none of {names}")
    plane = frontier(rows)
    template = environment().get_template("report.html.jinja")
    contents = {
        "meta": meta,
        "sentence": verdict_sentence(rows, reference) if rows else "",
        "rows": rows,
        "measurements": table_cells(rows),
        "reference": reference,
        "differences": _differences(rows, rows[names.index(reference)]) if rows else [],
        "frontier": _drawn(plane, "scatter") if len(plane.series) > 1 else None,
        "salmon": [(row.name, row.salmon) for row in rows if row.salmon is not None],
        "curves": [_drawn(curve, str(number)) for number, curve in enumerate(curves)],
        "failures": [(row.name, metric, reasons) for row in rows for metric, reasons in row.failures().items()],
        "num_examples": len(examples),
        "most_bits": MOST_BITS,
        "player_css": part("player.css"),
        "player_js": part("player.js"),
        "script_hash": base64.b64encode(hashlib.sha256(part("player.js").encode()).digest()).decode(),
    }
    shown: list[dict[str, Any]] = []
    page = template.render(contents, examples=shown)
    for example in examples:
        shown.append(embed(example))
        longer = template.render(contents, examples=shown)
        if len(longer.encode()) > max_bytes:
            break
        page = longer
    return write_text(path, page)


def _differences(rows: Sequence[SystemRow], base: SystemRow) -> list[Any]:
    """Measures that can be compared by clip, each with the paired comparisons of all other systems with `base`."""
    lines = []
    for measure, _ in table_cells(rows):
        results = [compare(base, row, measure.key) for row in rows if row is not base]
        if any(result is not None for result in results):
            lines.append((measure, results))
    return lines


def _drawn(picture: Curve | Scatter, salt: str) -> dict[str, Any]:
    return {"title": picture.title, "svg": Markup(to_svg(picture, salt)), "caption": picture.caption}
