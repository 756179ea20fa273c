"""Results of several systems as one table: for the terminal, as Markdown, as JSON.

Test: tests/report/test_tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmcodec.evaluation.results import SystemRow, table_cells

if TYPE_CHECKING:
    from rich.table import Table


def rich_table(rows: Sequence[SystemRow], title: str = "", with_interval: bool = False) -> Table:
    """Measures down, systems across, for `rich.print`."""
    from rich.table import Table

    table = Table(title=title or None)
    table.add_column("")
    for row in rows:
        table.add_column(row.name, justify="right")
    for line in _lines(rows, with_interval):
        table.add_row(*line)
    return table


def markdown_table(rows: Sequence[SystemRow], with_interval: bool = True) -> str:
    """The same table in Markdown."""
    names = [row.name.replace("|", "\\|") for row in rows]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(rows)]
    lines += [f"| {' | '.join(line)} |" for line in _lines(rows, with_interval)]
    return "\n".join(lines) + "\n"


def _lines(rows: Sequence[SystemRow], with_interval: bool) -> Iterator[list[str]]:
    """Label of a measure, then its value for every system, `-` where it was not measured."""
    for measure, cells in table_cells(rows):
        label = f"{measure.label} {measure.arrow}".strip() + (f" ({measure.unit})" if measure.unit else "")
        yield [label, *("-" if cell is None else cell.format(measure.digits, with_interval) for cell in cells)]


def to_json(rows: Sequence[SystemRow]) -> dict[str, Any]:
    """Values, intervals, failures and per-clip rows as plain JSON types (NaN becomes null)."""
    return {row.name: _row_json(row) for row in rows}


def _row_json(row: SystemRow) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    cells = {
        key: {"value": number(cell.value), "low": number(cell.low), "high": number(cell.high), "num": cell.num}
        for key, cell in row.cells().items()
    }
    out: dict[str, Any] = {"measures": cells, "failures": row.failures()}
    if row.reconstruction is not None:
        out["files"] = [
            {"id": r.id, "seconds": r.seconds, **{name: number(m.value) for name, m in r.metrics.items()}}
            for r in row.reconstruction.rows
        ]
    if row.words is not None:
        out["words"] = [{"id": r.id, "words": r.num_words, "errors": r.errors, "heard": r.heard} for r in row.words]
    if row.salmon is not None:
        out["salmon"] = row.salmon.to_json()
    if row.predictability is not None:
        out["lm_clips"] = [vars(clip) for clip in row.predictability.clips]
        out["lm_seeds"] = {str(seed): rate for seed, rate in row.predictability.seed_bits_per_second.items()}
    return out
