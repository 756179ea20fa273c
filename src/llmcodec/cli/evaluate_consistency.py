"""`llmcodec evaluate consistency`: do tokens stay the same where the sound does?

Test: `pytest tests/cli/test_evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcodec.adapters.load import BUNDLED
from llmcodec.cli.requests import check_names, clips_of, named_codecs, numbers, progress_bar, settings, write_results
from llmcodec.evaluation.consistency import ConsistencyResult, slice_consistency
from llmcodec.evaluation.stability import Change, StabilityResult, compare_stability, measure_stability
from llmcodec.evaluation.system import spread
from llmcodec.metrics.statistics import Interval, PairedComparison, compare_paired


@dataclass(frozen=True)
class _Row:
    name: str
    slices: ConsistencyResult | None
    changes: StabilityResult


def evaluate_consistency_command(
    codec: list[str],
    manifest: str = BUNDLED,
    slices: str = "0.2,0.5,1,2",
    slices_per_clip: int = 2,
    shifts: str = "0.125,0.25,0.5",
    phases: str = "90,180",
    noises: str = "40,30",
    seed: int = 0,
    split: str | None = None,
    sources: str | None = None,
    languages: str | None = None,
    min_seconds: float = 0.5,
    clips: int | None = 100,
    output: str | None = None,
    device: str = "cpu",
) -> None:
    """Share of tokens that stay when a slice is encoded alone, and after time shifts, phase changes and light noise.

      llmcodec evaluate consistency --codec bundled --codec mine=runs/rate/codec -o consistency

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is what others are compared with.
        manifest: JSONL manifest; `bundled` is the corpus in the package.
        slices: lengths in seconds, joined by commas.
        slices_per_clip: slices of each length per clip, at places drawn by the seed.
        shifts: time shifts in frames, above 0 and at most 0.5.
        phases: constant phase added at every frequency, in degrees.
        noises: signal-to-noise ratios of white noise, in dB.
        seed: of slice places and noise.
        split: splits joined by commas; null takes valid and test where there are any, else everything.
        sources: keep clips of these sources, joined by commas.
        languages: keep clips of these languages, joined by commas.
        min_seconds: drop shorter clips.
        clips: measure this many clips, evenly spread; null takes all.
        output: write NAME.md (table) and NAME.json (everything).
        device: where the codec runs.
    """
    from rich.console import Console
    from rich.table import Table

    check_names(codec)
    lengths = numbers(slices, "slices")
    changes = [
        Change(kind, amount)
        for kind, text in (("shift", shifts), ("phase", phases), ("noise", noises))
        for amount in numbers(text, f"{kind}s")
    ]
    wanted = spread(clips_of(manifest, split, sources, languages, min_seconds), clips)
    console, rows = Console(), []
    for name, loaded in named_codecs(codec, device):
        sliced = None
        if lengths:
            with progress_bar(console, f"{name}: slices") as show:
                sliced = slice_consistency(loaded, wanted, lengths, slices_per_clip, seed, show)
        with progress_bar(console, f"{name}: changes") as show:
            rows.append(_Row(name, sliced, measure_stability(loaded, wanted, changes, seed, show)))
    cells = [_cells(row) for row in rows]
    labels = list(dict.fromkeys(label for cell in cells for label in cell))
    table = Table()
    table.add_column("Share of tokens that stay")
    for row in rows:
        table.add_column(row.name, justify="right")
    shown = [[cell[label].format() if label in cell else "-" for cell in cells] for label in labels]
    shown.append([f"{row.changes.chance:.3f}" for row in rows])
    for label, values in zip([*labels, "by chance"], shown, strict=True):
        table.add_row(label, *values)
    console.print(table)
    sentences = [line for other in rows[1:] for line in _comparisons(rows[0], other)]
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)
    if output is not None:
        names = [row.name.replace("|", "\\|") for row in rows]
        lines = ["| Share of tokens that stay | " + " | ".join(names) + " |", "|---|" + "---:|" * len(rows)]
        lines += [f"| {label} | {' | '.join(v)} |" for label, v in zip([*labels, "by chance"], shown, strict=True)]
        text = "\n".join(lines) + "\n\n" + "".join(f"- {sentence}\n" for sentence in sentences)
        systems = {row.name: _json(row, cell) for row, cell in zip(rows, cells, strict=True)}
        told = {"settings": {**settings(wanted), "seed": seed}, "systems": systems, "statements": sentences}
        paths = write_results(output, text, told)
        console.print(f"written: {', '.join(map(str, paths))}", highlight=False)


def _cells(row: _Row) -> dict[str, Interval]:
    cells = {}
    if row.slices is not None:
        cells = {f"slice of {seconds:g} s": row.slices.share(seconds) for seconds in row.slices.slice_seconds}
    return cells | {change.label: row.changes.share(change) for change in row.changes.changes}


def _by_clip(result: ConsistencyResult, seconds: float) -> dict[str, float]:
    same: dict[str, int] = {}
    total: dict[str, int] = {}
    for row in result.rows:
        if row.slice_seconds == seconds:
            same[row.id] = same.get(row.id, 0) + row.same
            total[row.id] = total.get(row.id, 0) + row.total
    return {name: same[name] / total[name] for name in same}


def _comparisons(a: _Row, b: _Row) -> list[str]:
    """Paired comparison of B with A in every line of the table."""
    found: dict[str, PairedComparison] = {}
    if a.slices is not None and b.slices is not None:
        for seconds in a.slices.slice_seconds:
            mine, theirs = _by_clip(a.slices, seconds), _by_clip(b.slices, seconds)
            both = [name for name in mine if name in theirs]
            if both:
                found[f"slice of {seconds:g} s"] = compare_paired([mine[n] for n in both], [theirs[n] for n in both])
    for change in a.changes.changes:
        found[change.label] = compare_stability(a.changes, b.changes, change)
    lines = []
    for label, result in found.items():
        word = "more" if result.difference.value > 0 else "fewer"
        said = f"{b.name} keeps {word} tokens than {a.name}" if result.real else "no difference shown"
        d = result.difference
        lines.append(
            f"{label}: {said}, {d.value:+.3f} (paired 95 % interval {d.low:+.3f} to {d.high:+.3f}, {result.num} clips)."
        )
    return lines


def _json(row: _Row, cells: dict[str, Interval]) -> dict[str, Any]:
    measures = {label: {"value": c.value, "low": c.low, "high": c.high, "num": c.num} for label, c in cells.items()}
    slices: Sequence[Any] = row.slices.rows if row.slices is not None else ()
    changes = [{"id": r.id, "change": r.change.label, "same": r.same, "total": r.total} for r in row.changes.rows]
    return {"measures": measures, "chance": row.changes.chance, "slices": [vars(r) for r in slices], "changes": changes}
