"""Output of `llmcodec evaluate robustness`: a table of conditions per codec, and one of the output for silence.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmcodec.evaluation.robustness import RobustnessResult, compare_robustness
from llmcodec.metrics.registry import METRICS
from llmcodec.report.tables import TextTable


def tables(results: Mapping[str, RobustnessResult], metrics: tuple[str, ...]) -> list[TextTable]:
    """Speech under each condition, one table per codec; then the loudest output for silent input."""
    found = [_speech_table(name, result, metrics) for name, result in results.items()]
    conditions = list(dict.fromkeys(c for result in results.values() for c in result.conditions))
    quiet = [c for c in conditions if any(result.values(c, "silence") for result in results.values())]
    lines = [
        [
            f"{c.label} inside speech" if c.kind == "pause" else c.label,
            *(f"{r.loudest(c):.1f}" for r in results.values()),
        ]
        for c in quiet
    ]
    if lines:
        found.append(TextTable(["Loudest output, dBFS", *results], lines, "Silence"))
    return [table for table in found if table.lines]


def _speech_table(name: str, result: RobustnessResult, metrics: tuple[str, ...]) -> TextTable:
    lines = []
    for condition in (c for c in result.conditions if not c.silent):
        errors = result.values(condition, "level_error").values()
        cells = [result.mean(condition, "level_error").format(1), f"{max(errors, key=abs):.1f}"]
        for metric in metrics:
            measured = result.values(condition, metric)
            cells.append(result.mean(condition, metric).format(METRICS[metric].digits) if measured else "-")
        lines.append([condition.label, *cells])
    return TextTable([name, "Level error (dB)", "Largest", *(METRICS[metric].title for metric in metrics)], lines, name)


def sentences(results: Mapping[str, RobustnessResult], metrics: tuple[str, ...]) -> list[str]:
    """Failures by name, and every codec against the first."""
    said = []
    for name, result in results.items():
        for condition in result.conditions:
            for metric in metrics:
                failed = [id for id, value in result.measured(condition, metric).items() if not value.ok]
                if failed:
                    said.append(f"{name}, {condition.label}: {METRICS[metric].label} failed on {', '.join(failed)}.")
    (base, reference), *others = results.items()
    for name, result in others:
        for condition in (c for c in reference.conditions if not c.silent):
            for metric in metrics:
                if not reference.values(condition, metric).keys() & result.values(condition, metric).keys():
                    continue
                paired = compare_robustness(reference, result, condition, metric)
                measure = METRICS[metric]
                found = f"{measure.label} of {name} is {measure.judge(paired)} against {base}"
                said.append(f"{condition.label}: {found}, {paired.format(measure.digits)}.")
    return said


def to_json(result: RobustnessResult) -> list[dict[str, Any]]:
    """The rows as plain JSON types; failures are null."""
    return [
        {"id": row.id, "condition": row.condition.label, **{key: value.value for key, value in row.metrics.items()}}
        for row in result.rows
    ]
