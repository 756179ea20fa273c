"""Output of `llmcodec evaluate reconstruction`: tables by domain, comparisons, failures, rows per file.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmcodec.evaluation.reconstruction import ReconstructionResult
from llmcodec.evaluation.results import SystemRow
from llmcodec.report.verdict import verdict

LENGTHS = {"cut": "", "superb": "; the shorter signal of a pair is padded with zeros, as in Codec-SUPERB"}
"""What the tables' titles say of pairs of unequal length; the default is not mentioned."""


def by_domain(rows: Sequence[SystemRow]) -> dict[str, list[SystemRow]]:
    """Title -> rows: over everything, then per domain if there are several."""
    found = {"All files": list(rows)}
    domains = sorted({domain for row in rows if row.reconstruction for domain in row.reconstruction.domains})
    if len(domains) < 2:
        return found
    for domain in domains:
        parts = [(row.name, row.reconstruction.of_domain(domain)) for row in rows if row.reconstruction]
        systems = [SystemRow(name, float("nan"), part, words=part.words) for name, part in parts if part.rows]
        files = next((len(part.rows) for _, part in parts if part.rows), 0)
        found[f"{domain or 'no domain'} ({files} files)"] = systems
    return found


def comparisons(rows: Sequence[SystemRow], metrics: Sequence[str]) -> list[str]:
    """Paired comparison of every codec with the first, on the files that both have."""
    said: list[str] = []
    for other in rows[1:]:
        first, second = on_the_same_files(rows[0], other)
        if first.reconstruction is None or not first.reconstruction.rows:
            said.append(f"{rows[0].name} and {other.name} have no file in common: no comparison.")
            continue
        said += [statement.text for statement in verdict(first, second, keys=(*metrics, "wer"))]
    return list(dict.fromkeys(reversed(said)))[::-1]  # what holds for all pairs is said once, at the end


def on_the_same_files(a: SystemRow, b: SystemRow) -> tuple[SystemRow, SystemRow]:
    """Both rows cut to the files that both have, in the order of the first."""
    assert a.reconstruction is not None and b.reconstruction is not None
    theirs = {row.id: row for row in b.reconstruction.rows}
    first = ReconstructionResult([row for row in a.reconstruction.rows if row.id in theirs])
    second = ReconstructionResult([theirs[row.id] for row in first.rows])
    return replace(a, reconstruction=first, words=first.words), replace(b, reconstruction=second, words=second.words)


def failures(rows: Sequence[SystemRow], shown: int = 5) -> list[str]:
    """One line per codec, metric and reason: how many files, and which."""
    said = []
    for row in rows:
        files = row.reconstruction.rows if row.reconstruction is not None else []
        for metric, reasons in row.failures().items():
            for reason, count in reasons.items():
                ids = [
                    file.id
                    for file in files
                    if (file.no_words if metric == "wer" else file.metrics[metric].failure) == reason
                ]
                more = f" and {count - shown} more" if count > shown else ""
                said.append(
                    f"{row.name}: no {metric} for {count} of {len(files)} files ({reason}): "
                    f"{', '.join(ids[:shown])}{more}"
                )
    return said


def word_counts(rows: Sequence[SystemRow]) -> list[str]:
    """A line per codec whose word errors are of some files alone; one for all where they agree."""
    counts: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        files = row.reconstruction.rows if row.reconstruction is not None else []
        heard = sum(file.words is not None for file in files)
        if heard and heard + sum(bool(file.no_words) for file in files) < len(files):
            counts.setdefault((heard, len(files)), []).append(row.name)
    return [
        f"{'' if len(names) == len(rows) else ', '.join(names) + ': '}word errors of {heard} of {total} clips: the "
        "others have no transcript, too short a one, or another language than the recogniser's"
        for (heard, total), names in counts.items()
    ]


def csv_columns(metrics: Sequence[str], with_words: bool) -> list[str]:
    """Names of the columns of `csv_rows`, in order."""
    words = ["wer", "words", "word_errors", "heard"] if with_words else []
    return ["reference", "reconstruction", "codec", "domain", *metrics, "id", "seconds", *words, "failures"]


def csv_rows(rows: Sequence[SystemRow]) -> list[dict[str, Any]]:
    """A row per codec and file; what could not be measured is left empty and named in `failures`."""
    out = []
    for system in rows:
        for row in system.reconstruction.rows if system.reconstruction else ():
            line: dict[str, Any] = {
                "reference": row.reference,
                "reconstruction": row.reconstruction,
                "codec": system.name,
                "domain": row.domain,
                "id": row.id,
                "seconds": round(row.seconds, 6),
                **{name: m.value for name, m in row.metrics.items() if m.ok},
                "failures": "; ".join(f"{name}: {m.failure}" for name, m in row.metrics.items() if not m.ok),
            }
            if (said := row.words) is not None:
                line |= {"wer": said.rate, "words": said.num_words, "word_errors": said.errors, "heard": said.heard}
            out.append(line)
    return out
