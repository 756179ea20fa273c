"""The difference between two systems in sentences; only paired differences are called better or worse.

Every sentence names its number of files and seeds. Test: tests/report/test_verdict.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmcodec.evaluation.results import MEASURES, SystemRow, compare
from llmcodec.metrics.base import Measure
from llmcodec.metrics.statistics import PairedComparison

COLLAPSE_FLOOR = 0.95
"""Warn if used codes, unigram or within-utterance entropy fall below this share of the control's."""
USED = "used codes"
VERDICT_KEYS = ("lm_bits_per_second", "mel", "stft", "pesq", "stoi")


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    kind: Literal["better", "worse", "same", "warning"]
    text: str


def verdict(control: SystemRow, adapted: SystemRow, keys: Sequence[str] = VERDICT_KEYS) -> list[Statement]:
    """How `adapted` differs from `control`, in words, in the order: predictability, quality, token health, caveat.

    A difference is called real only if the paired bootstrap interval and the paired t-test both exclude 0.
    """
    compared = [(m, compare(control, adapted, m.key)) for key in keys for m in MEASURES if m.key == key]
    statements = [_sentence(m, result, control, adapted) for m, result in compared if result is not None]
    lm = adapted.predictability
    seeds = f", {_count(len(lm.config.seeds), 'language-model seed')} each" if lm is not None else ""
    caveat = f"One training run of each system{seeds}: the intervals cover the choice of files"
    return [
        *statements,
        *_health(control, adapted),
        Statement("same", f"{caveat}, not the variance between training runs."),
    ]


def verdict_sentence(rows: Sequence[SystemRow], reference: str = "", shown: int = 3) -> str:
    """The verdict in one sentence: what is really better and worse than in the reference system; empty for one system.

    Args:
        rows: all systems.
        reference: name of the system that the others are compared with; empty: the first.
        shown: systems that the sentence names; it counts the others.
    """
    base = next(row for row in rows if row.name == (reference or rows[0].name))
    others = [row for row in rows if row is not base]
    clauses = [_clause(base, row) for row in others[:shown]]
    if len(others) > shown:
        clauses.append(f"{len(others) - shown} more stand in the tables below")
    return f"Against {base.name}: {'; '.join(clauses)}." if clauses else ""


def _clause(base: SystemRow, other: SystemRow) -> str:
    """What is shown of one system; measures without a difference stand in the tables alone."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for measure in (m for key in VERDICT_KEYS for m in MEASURES if m.key == key):
        result = compare(base, other, measure.key)
        kind = "" if result is None else measure.judge(result)
        if result is None or kind not in found:
            continue
        change = f"{100 * (result.ratio.value - 1):+.1f}\N{NO-BREAK SPACE}%"
        if not math.isfinite(result.ratio.value):
            change = f"{result.difference.value:+.{measure.digits}f} {measure.unit}".strip()
        found[kind].append(f"{measure.label} ({change})")
    told = [f"{kind} in {_listed(found[kind])}" for kind in ("better", "worse") if found[kind]]
    low = [name for name, share in _health_shares(base, other).items() if share < COLLAPSE_FLOOR]
    poorer = "" if not low else "uses fewer codes" if USED in low else "uses its codes less evenly"
    if told:
        return f"{other.name} is {' and '.join(told)}{poorer and f', and it {poorer}'}"
    if found["same"]:
        return f"nothing shown for {other.name}{poorer and f', which {poorer}'}"
    return f"{other.name} {poorer or 'is not compared'}"


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def seed_sentence(row: SystemRow) -> str:
    """Number of language-model seeds behind a row, and how far their results differ."""
    lm = row.predictability
    assert lm is not None
    each = ", ".join(f"{rate:.1f}" for rate in lm.seed_bits_per_second.values())
    count = len(lm.seed_bits_per_second)
    spread = f"; they differ by {lm.seed_spread:.1%}" if count > 1 else ""
    return f"{_count(count, 'language-model seed')} ({each} bit/s{spread}), {len(lm.clips)} held-out clips."


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _sentence(measure: Measure, result: PairedComparison, control: SystemRow, adapted: SystemRow) -> Statement:
    unit = f" {measure.unit}" if measure.unit else ""
    numbers = f"{result.mean_b:.{measure.digits}f} against {result.mean_a:.{measure.digits}f}{unit}"
    if math.isfinite(result.ratio.value):
        value, low, high = (
            f"{100 * (x - 1):+.1f} %" for x in (result.ratio.value, result.ratio.low, result.ratio.high)
        )
    else:
        d = result.difference
        value, low, high = (f"{x:+.{measure.digits}f}" for x in (d.value, d.low, d.high))
        value += unit
    evidence = f"({numbers}; paired 95 % interval {low} to {high}, {_count(result.num, 'file')})"
    kind = measure.judge(result)
    if kind == "same":
        if result.margin and result.difference.excludes(0.0):
            evidence += f", within the {result.margin:.1%} that the language-model seed alone may explain"
        elif result.difference.excludes(0.0):
            evidence += ", too few files for the t-test, which must agree"
        found = f"no difference shown between {adapted.name} and {control.name}"
    elif kind == "changed":
        return Statement("same", f"{measure.label}: {adapted.name} differs from {control.name}, {value} {evidence}.")
    else:
        found = f"{adapted.name} is {kind} than {control.name}"
    return Statement(kind, f"{measure.label}: {found}, {value} {evidence}.")


def _health_shares(control: SystemRow, adapted: SystemRow) -> dict[str, float]:
    """How rich the tokens are, as shares of the control's."""
    if control.codes is None or adapted.codes is None:
        return {}
    pairs = (
        (USED, control.codes.used_codes, adapted.codes.used_codes),
        ("unigram entropy", control.codes.unigram_entropy_bits, adapted.codes.unigram_entropy_bits),
        ("within-utterance entropy", control.codes.within_utterance_entropy, adapted.codes.within_utterance_entropy),
    )
    return {name: new / old for name, old, new in pairs if old > 0}


def _health(control: SystemRow, adapted: SystemRow) -> list[Statement]:
    """Check for collapse: predictable tokens are worthless if they carry less information."""
    if control.codes is None or adapted.codes is None:
        return []
    shares = _health_shares(control, adapted)
    low = [f"{name} {share:.0%}" for name, share in shares.items() if share < COLLAPSE_FLOOR]
    if low:
        text = f"Tokens are poorer: {', '.join(low)} of {control.name} (floor {COLLAPSE_FLOOR:.0%}); "
        return [Statement("warning", text + "part of any gain in bits is this loss.")]
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return [Statement("same", f"Tokens stay rich: {told} of {control.name}.")]
