"""Results of several systems as one table: for the terminal, as Markdown, as JSON.

Test: tests/report/test_tables.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmcodec.evaluation.results import SystemRow, table_cells
from llmcodec.evaluation.wer import character_languages

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """Text and numbers in columns; the first column is left-aligned, the others right-aligned."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    title: str = ""

    def rich(self) -> Table:
        """For `rich.print`; its cells are no markup, whichever console prints them."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.title, "table.title") if self.title else None)
        for number, name in enumerate(self.head):
            table.add_column(Text(name), justify="right" if number else "left")
        for line in self.lines:
            table.add_row(*map(Text, line))
        return table

    def markdown(self) -> str:
        """The same in Markdown, without the title."""
        head, *lines = (
            f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|"
            for row in ([name.replace("|", "\\|") for name in self.head], *self.lines)
        )
        return "\n".join([head, "|---|" + "---:|" * (len(self.head) - 1), *lines]) + "\n"


def system_table(rows: Sequence[SystemRow], title: str = "", with_interval: bool = True) -> TextTable:
    """A row per measure, a column per system; `-` where something was not measured."""
    lines = []
    for measure, cells in table_cells(rows):
        label = measure.title
        if measure.key == "wer":
            label += character_languages(words for row in rows for words in row.words or ())
        lines.append([label, *("-" if cell is None else cell.format(measure.digits, with_interval) for cell in cells)])
    return TextTable(["", *(row.name for row in rows)], lines, title)


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
        out["curve"] = [vars(point) for point in row.predictability.curve]
        out["lm_seeds"] = {str(seed): rate for seed, rate in row.predictability.seed_bits_per_second.items()}
    return out
