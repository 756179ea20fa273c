"""Output of `llmcodec evaluate consistency`: shares of unchanged tokens, compared by clip.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmcodec.evaluation.consistency import ConsistencyResult, compare_consistency
from llmcodec.report.tables import TextTable


def consistency_table(results: Mapping[str, ConsistencyResult]) -> TextTable:
    """A row per change, a column per codec, and the share expected by chance."""
    changes = list(dict.fromkeys(change for result in results.values() for change in result.changes))
    lines = [
        [change.label, *(r.share(change).format() if change in r.changes else "-" for r in results.values())]
        for change in changes
    ]
    lines.append(["by chance", *(f"{result.chance:.3f}" for result in results.values())])
    return TextTable(["Share of unchanged tokens", *results], lines)


def comparisons(results: Mapping[str, ConsistencyResult]) -> list[str]:
    """Every codec against the first, for every change measured on clips of both."""
    (base, reference), *others = results.items()
    said = []
    for name, result in others:
        for change in reference.changes:
            if not reference.by_clip(change).keys() & result.by_clip(change).keys():
                continue
            paired = compare_consistency(reference, result, change)
            found = f"{name} keeps {'more' if paired.difference.value > 0 else 'fewer'} tokens than {base}"
            said.append(f"{change.label}: {found if paired.real else 'no difference shown'}, {paired.format()}.")
    return said


def to_json(result: ConsistencyResult) -> dict[str, Any]:
    """Shares, chance, and the rows behind them, as plain JSON types."""
    measures = {change.label: vars(result.share(change)) for change in result.changes}
    rows = [{"id": r.id, "change": r.change.label, "same": r.same, "total": r.total} for r in result.rows]
    return {"measures": measures, "chance": result.chance, "rows": rows}
