"""Output of `llmcodec evaluate generation`: a table of figures per system, and the comparisons with the first one.

Test: tests/cli/test_generation.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llmcodec.evaluation.generation_results import (
    FIGURES,
    GeneratedRow,
    GenerationDifference,
    compare_generation,
    figure,
)
from llmcodec.evaluation.wer import character_languages
from llmcodec.metrics.statistics import holm
from llmcodec.report.tables import TextTable

Seeds = Sequence[Sequence[GeneratedRow]]
"""Rows of every training of one system."""


def generation_table(systems: Mapping[str, Seeds], title: str) -> TextTable:
    """A row per figure, a column per system."""
    lines = []
    for key, measure in FIGURES.items():
        cells = [figure(seeds, key) for seeds in systems.values()]
        if any(cell is not None for cell in cells):
            texts = ["-" if cell is None else cell.format(measure.digits) for cell in cells]
            label = measure.title
            if key == "wer":
                rows = [row for seeds in systems.values() for seed in seeds for row in seed]
                label += character_languages(row.words for row in rows if row.words is not None)
            lines.append([label, *texts])
    return TextTable(["", *systems], lines, title)


def comparisons(systems: Mapping[str, Seeds], primary: str) -> list[tuple[str, GenerationDifference, float]]:
    """Every other system against the first: name, difference, adjusted p.

    The second system's `primary` figure is the one comparison that was fixed beforehand, and keeps its p. All others
    are secondary: theirs are adjusted for how many they are (Holm).
    """
    (_, reference), *others = systems.items()
    found = [
        (name, difference)
        for name, seeds in others
        for key, measure in FIGURES.items()
        if measure.higher_is_better is not None and (difference := compare_generation(reference, seeds, key))
    ]
    first = others[0][0] if others else ""
    secondary = [one for one in found if (one[0], one[1].key) != (first, primary)]
    adjusted = dict(zip(map(id, secondary), holm([one[1].p for one in secondary]), strict=True))
    return [(*one, adjusted.get(id(one), one[1].p)) for one in found]


def sentences(systems: Mapping[str, Seeds], primary: str) -> list[str]:
    """What the comparisons say, the primary one first; then draws without a value."""
    reference = next(iter(systems))
    said = []
    for place, (name, difference, p) in enumerate(comparisons(systems, primary)):
        measure, interval = FIGURES[difference.key], difference.interval
        is_primary = difference.key == primary and name == list(systems)[1]
        verdict = "no difference shown"
        if not math.isnan(p) and p < 0.05:
            verdict = "better" if (interval.value > 0) == measure.higher_is_better else "worse"
        text = (
            f"{measure.label} of {name} against {reference}: {verdict}, {interval.value:+.{measure.digits}f} "
            f"(95 % interval over seeds and passages {interval.low:+.{measure.digits}f} to "
            f"{interval.high:+.{measure.digits}f}; p = {p:.3f}{'' if is_primary else ', adjusted'})."
        )
        said.append((not is_primary, place, f"{'Primary comparison: ' if is_primary else ''}{text}"))
    for name, seeds in systems.items():
        for key in ("speaker", "dnsmos"):
            missing = [row.measured[key] for rows in seeds for row in rows if key in row.measured]
            failed = [value.failure for value in missing if not value.ok]
            if failed:
                label = FIGURES[key].label
                reason = max(set(failed), key=failed.count)
                text = (
                    f"{name}: {len(failed)} of {len(missing)} draws have no {label} and do not count in it ({reason})."
                )
                said.append((True, len(said), text))
    return [text for *_, text in sorted(said)]


def to_json(systems: Mapping[str, Seeds]) -> dict[str, Any]:
    """All rows as plain JSON types."""
    return {name: [[asdict(row) for row in rows] for rows in seeds] for name, seeds in systems.items()}
