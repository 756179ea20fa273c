"""Output of `llmcodec evaluate salmon`: accuracy by part, compared pair by pair.

Test: tests/cli/test_salmon.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmcodec.metrics.statistics import Interval
from llmcodec.report.tables import TextTable
from llmcodec.salmon.score import SalmonResult, compare_salmon

TITLE = "SALMon: % of pairs whose consistent side is more likely [95 % Wilson interval]"
POOLED, AVERAGE = "all pairs", "mean of the parts"


def salmon_table(results: Mapping[str, SalmonResult], title: str = "") -> TextTable:
    """A row per part. One codec: mean and summed log-likelihood side by side. Several: a column each."""
    first = next(iter(results.values()))
    if len(results) == 1:
        ties = sum(part.ties for part in first.parts.values())
        head = ["", "pairs", "mean log-likelihood", "summed", "ties"]
        lines = [
            [name, str(len(part.pairs)), percent(part.mean), percent(part.sum), str(part.ties)]
            for name, part in first.parts.items()
        ]
        lines.append([POOLED, str(first.overall.num), percent(first.overall), percent(first.overall_sum), str(ties)])
        lines.append([AVERAGE, "", f"{100 * first.average:.1f}", "", ""])
        return TextTable(head, lines, title)
    lines = [
        [name, str(len(part.pairs)), *(percent(result.parts[name].mean) for result in results.values())]
        for name, part in first.parts.items()
    ]
    lines.append([POOLED, str(first.overall.num), *(percent(result.overall) for result in results.values())])
    lines.append([AVERAGE, "", *(f"{100 * result.average:.1f}" for result in results.values())])
    return TextTable(["", "pairs", *results], lines, title)


def percent(cell: Interval) -> str:
    """`61.5 [54.6, 68.0]`, in percent."""
    return Interval(100 * cell.value, 100 * cell.low, 100 * cell.high, cell.num).format(1)


def comparisons(results: Mapping[str, SalmonResult]) -> list[str]:
    """Every other codec against the first, paired by pair."""
    (base, reference), *others = results.items()
    sentences = []
    for name, result in others:
        paired = compare_salmon(reference, result)
        change = [100 * x for x in (paired.difference.value, paired.difference.low, paired.difference.high)]
        word = "differs from" if paired.real else "no difference shown from"
        evidence = f"{change[0]:+.1f} points, paired 95 % interval {change[1]:+.1f} to {change[2]:+.1f}"
        sentences.append(f"{name}: {word} {base}, {evidence}, {paired.num} pairs, one language model each.")
    return sentences
