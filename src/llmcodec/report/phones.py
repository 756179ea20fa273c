"""Output of `llmcodec evaluate phones`: tokens against phones, ABX, and who names the phones of unheard clips best.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from llmcodec.evaluation.abx import AbxResult
from llmcodec.evaluation.phones import PhoneResult, TokenPhones, compare_phones
from llmcodec.metrics.statistics import Interval
from llmcodec.report.tables import TextTable

TOKENS: dict[str, Callable[[TokenPhones], str]] = {
    "Phone purity ↑ (by chance)": lambda t: f"{t.purity:.3f} ({t.chance_purity:.3f})",
    "PNMI ↑ (by chance)": lambda t: f"{t.normalised:.3f} ({t.chance_normalised:.3f})",
    "Mutual information ↑ (bit)": lambda t: f"{t.information_bits:.2f}",
    "Code purity": lambda t: f"{t.code_purity:.3f}",
    "Phones named by codes of other clips ↑": lambda t: t.accuracy.format(),
    "Used codes": lambda t: f"{t.num_codes:,}",
}
ABX = {
    "ABX error, tokens, one speaker ↓": ("token_abx", "within"),
    "ABX error, tokens, other speaker ↓": ("token_abx", "across"),
    "ABX error, features, one speaker ↓": ("feature_abx", "within"),
    "ABX error, features, other speaker ↓": ("feature_abx", "across"),
}


def phone_table(results: Mapping[str, PhoneResult]) -> TextTable:
    """A row per measure, a column per system; rows that nobody has are left out."""
    lines = [
        [title, *("-" if r.tokens is None else shown(r.tokens) for r in results.values())]
        for title, shown in TOKENS.items()
    ]
    for title, (kind, name) in ABX.items():
        cells: list[Interval | None] = [getattr(getattr(r, kind), name, None) for r in results.values()]
        lines.append([title, *("-" if cell is None else cell.format() for cell in cells)])
    return TextTable(["", *results], [line for line in lines if set(line[1:]) != {"-"}])


def sentences(results: Mapping[str, PhoneResult]) -> list[str]:
    """What was counted, and every codec against the first."""
    with_tokens = {name: r.tokens for name, r in results.items() if r.tokens is not None}
    said = [
        f"{name}: {tokens.num_frames:,} frames with {tokens.num_phones} phones in {len(tokens.clips)} clips."
        for name, tokens in with_tokens.items()
    ]
    base = next(iter(with_tokens), "")
    for name, tokens in list(with_tokens.items())[1:]:
        paired = compare_phones(with_tokens[base], tokens)
        found = f"{name} names {'more' if paired.difference.value > 0 else 'fewer'} phones than {base}"
        said.append(f"{found if paired.real else f'{name} and {base}: no difference shown'}, {paired.format()}.")
    return said


def to_json(result: PhoneResult) -> dict[str, Any]:
    """Everything, as plain JSON types."""
    made: dict[str, Any] = {"tokens": None}
    if result.tokens is not None:
        made["tokens"] = {**vars(result.tokens), "accuracy": vars(result.tokens.accuracy)}
    return made | {"token_abx": _abx(result.token_abx), "feature_abx": _abx(result.feature_abx)}


def _abx(result: AbxResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    kinds = {"within": (result.within, result.within_pairs), "across": (result.across, result.across_pairs)}
    return {"items": result.num_items} | {
        kind: None
        if mean is None
        else {
            **{name: value if math.isfinite(value) else None for name, value in vars(mean).items()},
            "pairs": {" ".join(pair): error for pair, error in pairs.items()},
        }
        for kind, (mean, pairs) in kinds.items()
    }
