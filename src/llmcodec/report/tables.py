"""Results of several systems as one table (terminal, Markdown, JSON) and as words: what improved, what it cost.

A system is one codec on one set of clips. Differences are called real only by the paired test of stats.py; every
sentence names its number of files and seeds. Test: `pytest tests/report/test_tables.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.evaluation.results import MEASURES, Measure, SystemRow, compare, used_measures
from llmcodec.metrics.statistics import Interval, PairedComparison

if TYPE_CHECKING:
    from rich.table import Table

COLLAPSE_FLOOR = 0.95
"""Used codes, unigram and within-utterance entropy below this share of the control's are warned about."""


def format_value(cell: Interval | None, digits: int, with_interval: bool = True) -> str:
    """`1.23 [1.20, 1.26]`, without brackets where there is no interval, `-` where there is no value."""
    if cell is None or not math.isfinite(cell.value):
        return "-"
    if not with_interval or not math.isfinite(cell.low):
        return f"{cell.value:,.{digits}f}"
    return f"{cell.value:,.{digits}f} [{cell.low:,.{digits}f}, {cell.high:,.{digits}f}]"


def _label(measure: Measure) -> str:
    return f"{measure.label} {measure.arrow}".strip() + (f" ({measure.unit})" if measure.unit else "")


def rich_table(rows: Sequence[SystemRow], title: str = "", with_interval: bool = False) -> Table:
    """Measures down, systems across, for `rich.print`."""
    from rich.table import Table

    cells = [row.cells() for row in rows]
    table = Table(title=title or None)
    table.add_column("")
    for row in rows:
        table.add_column(row.name, justify="right")
    for measure in used_measures(rows):
        values = (format_value(cell.get(measure.key), measure.digits, with_interval) for cell in cells)
        table.add_row(_label(measure), *values)
    return table


def markdown_table(rows: Sequence[SystemRow], with_interval: bool = True) -> str:
    """The same table in Markdown."""
    cells = [row.cells() for row in rows]
    lines = ["| | " + " | ".join(row.name.replace("|", "\\|") for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    for measure in used_measures(rows):
        values = [format_value(cell.get(measure.key), measure.digits, with_interval) for cell in cells]
        lines.append(f"| {_label(measure)} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


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


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    kind: Literal["better", "worse", "same", "warning"]
    text: str


VERDICT_KEYS = ("lm_bits_per_second", "mel", "stft", "pesq", "stoi")


def verdict(
    control: SystemRow, adapted: SystemRow, num_training_seeds: int = 1, keys: Sequence[str] = VERDICT_KEYS
) -> list[Statement]:
    """What `adapted` changed against `control`, in words, in the order: predictability, quality, token health, caveat.

    A difference is called real only where the paired bootstrap interval and the paired t-test both exclude 0.
    """
    statements = []
    for key in keys:
        measure = next(m for m in MEASURES if m.key == key)
        comparison = compare(control, adapted, key)
        if comparison is not None:
            statements.append(_sentence(measure, comparison, control, adapted))
    statements.extend(_health(control, adapted))
    lm = adapted.predictability
    seeds = f", {_count(len(lm.config.seeds), 'language-model seed')} each" if lm is not None else ""
    plural = "One training run" if num_training_seeds == 1 else f"{num_training_seeds} training runs"
    caveat = f"{plural} of each system{seeds}: the intervals cover the choice of files"
    caveat += ", not the luck of a training run." if num_training_seeds == 1 else "; compare the seeds for the rest."
    return [*statements, Statement("same", caveat)]


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _sentence(measure: Measure, result: PairedComparison, control: SystemRow, adapted: SystemRow) -> Statement:
    unit = f" {measure.unit}" if measure.unit else ""
    numbers = f"{result.mean_b:.{measure.digits}f} against {result.mean_a:.{measure.digits}f}{unit}"
    if math.isfinite(result.ratio.value):
        percent = [100 * (x - 1) for x in (result.ratio.value, result.ratio.low, result.ratio.high)]
        change = f"{percent[0]:+.1f} %"
        interval = f"paired 95 % interval {percent[1]:+.1f} % to {percent[2]:+.1f} %"
    else:
        d = result.difference
        change = f"{d.value:+.{measure.digits}f}{unit}"
        interval = f"paired 95 % interval {d.low:+.{measure.digits}f} to {d.high:+.{measure.digits}f}"
    evidence = f"({numbers}; {interval}, {_count(result.num, 'file')})"
    if not result.real:
        if result.margin and result.difference.excludes(0.0):
            evidence += f", within the {result.margin:.1%} that the luck of a language-model seed may explain"
        text = f"{measure.label}: no difference shown between {adapted.name} and {control.name}, {change} {evidence}."
        return Statement("same", text)
    kind: Literal["better", "worse"] = (
        "better" if (result.difference.value > 0) == measure.higher_is_better else "worse"
    )
    return Statement(kind, f"{measure.label}: {adapted.name} is {kind} than {control.name}, {change} {evidence}.")


def _health(control: SystemRow, adapted: SystemRow) -> list[Statement]:
    """Collapse watch: predictable tokens are worthless if they say less."""
    if control.codes is None or adapted.codes is None:
        return []
    pairs = (
        ("used codes", control.codes.used_codes, adapted.codes.used_codes),
        ("unigram entropy", control.codes.unigram_entropy_bits, adapted.codes.unigram_entropy_bits),
        ("within-utterance entropy", control.codes.within_utterance_entropy, adapted.codes.within_utterance_entropy),
    )
    low = [f"{name} {new / old:.0%}" for name, old, new in pairs if old > 0 and new < COLLAPSE_FLOOR * old]
    if low:
        text = f"Tokens are poorer: {', '.join(low)} of {control.name} (floor {COLLAPSE_FLOOR:.0%}); "
        text += "part of any gain in bits is this loss."
        return [Statement("warning", text)]
    shares = ", ".join(f"{name} {new / old:.0%}" for name, old, new in pairs if old > 0)
    return [Statement("same", f"Tokens stay rich: {shares} of {control.name}.")]
