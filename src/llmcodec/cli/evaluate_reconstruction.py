"""`llmcodec evaluate reconstruction`: how faithful codecs are, per file, per codec and per domain.

Test: `pytest tests/cli/test_evaluate.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcodec.adapters.load import BUNDLED
from llmcodec.cli.requests import (
    check_names,
    clips_of,
    comma,
    fingerprint,
    named_codecs,
    progress_bar,
    settings,
    write_csv,
    write_results,
)
from llmcodec.evaluation.pairs import evaluate_pairs, read_pairs
from llmcodec.evaluation.reconstruction import ReconstructionResult, evaluate_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import nominal_bits_per_second, spread
from llmcodec.evaluation.workers import Journal
from llmcodec.metrics.registry import FAST, METRICS, SUPERB
from llmcodec.metrics.token_statistics import code_statistics
from llmcodec.report.tables import markdown_table, rich_table, to_json
from llmcodec.report.verdict import verdict

GROUPS = {"superb": SUPERB, "fast": FAST, "all": tuple(METRICS)}


def evaluate_reconstruction_command(
    codec: list[str] | None = None,
    manifest: str = BUNDLED,
    pairs: str | None = None,
    metrics: str = "superb",
    asr: str | None = None,
    asr_languages: str = "en",
    split: str | None = None,
    sources: str | None = None,
    languages: str | None = None,
    min_seconds: float = 0.0,
    clips: int | None = None,
    domain: str = "source",
    workers: int | None = None,
    predictability: str | None = None,
    per_file: str | None = None,
    output: str | None = None,
    device: str = "cpu",
) -> None:
    """Measure how faithful codecs are: Codec-SUPERB's metrics and more, means with 95 % intervals, paired comparison.

      llmcodec evaluate reconstruction --codec bundled --codec mine=runs/rate/codec --per-file rows.csv -o quality
      llmcodec evaluate reconstruction --pairs pairs.csv --per-file rows.csv

    Results are kept as they come, in NAME.rows.jsonl beside the output: a killed run goes on where it stopped. A file
    on which a metric cannot be computed is counted and named, never scored.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is what others are compared with.
        manifest: JSONL manifest; `bundled` is the corpus in the package.
        pairs: CSV with columns reference, reconstruction, codec, domain (also text, language): audio made elsewhere.
        metrics: names joined by commas (mel,stft,pesq,stoi,f0corr,sdr,logmel,dnsmos,speaker), or superb, fast, all.
        asr: also word error rate by this recogniser: `faster-whisper`, or a Hugging Face speech model.
        asr_languages: languages of the recogniser, joined by commas.
        split: splits joined by commas; null takes valid and test where there are any, else everything.
        sources: keep clips of these sources, joined by commas.
        languages: keep clips of these languages, joined by commas.
        min_seconds: drop shorter clips.
        clips: measure this many clips, evenly spread; null takes all.
        domain: field of the manifest that splits the table: source, language, speaker, split.
        workers: processes that measure; null takes as many as there are free cores.
        predictability: JSON written by `evaluate predictability`; its LM bits per second join the table.
        per_file: write a row per file to this CSV.
        output: write NAME.md (tables) and NAME.json (everything).
        device: where the codec runs.
    """
    from rich.console import Console

    console = Console()
    names = GROUPS.get(metrics) or tuple(comma(metrics) or ())
    journal = Journal(journal_path(output, per_file))
    shared: dict[str, Any] = {"metrics": names, "asr": asr, "num_workers": workers, "journal": journal}
    rows: list[SystemRow] = []
    if pairs is not None:
        if codec:
            raise ValueError(
                "--pairs measures audio made elsewhere and takes no --codec; run the two one after the other"
            )
        listed = read_pairs(pairs)
        with progress_bar(console, f"{len(listed)} pairs") as show:
            results = evaluate_pairs(listed, on_progress=show, **shared)
        rows = [SystemRow(name, float("nan"), result) for name, result in results.items()]
        told = settings()
    else:
        check_names(codec)
        wanted = spread(clips_of(manifest, split, sources, languages, min_seconds), clips)
        if not hasattr(wanted[0], domain):
            raise ValueError(f"--domain {domain}: clips have no such field; choose source, language, speaker or split")
        for name, loaded in named_codecs(codec, device):
            with progress_bar(console, name) as show:
                result = evaluate_reconstruction(
                    loaded,
                    wanted,
                    fingerprint=fingerprint(loaded),
                    asr_languages=comma(asr_languages) or ["en"],
                    domain=domain,
                    on_progress=show,
                    **shared,
                )
            rows.append(system_row(name, loaded, result))
        told = settings(wanted)
    rows = [with_lm_bits(row, predictability) for row in rows]
    rows = [replace(row, words=row.reconstruction.words) if row.reconstruction else row for row in rows]
    for title, table_rows in tables(rows):
        console.print(rich_table(table_rows, title, with_interval=len(table_rows) < 3))
    sentences = [*comparisons(rows, names), *failures(rows)]
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)
    if per_file is not None:
        write_csv(Path(per_file), csv_columns(names, asr is not None), csv_rows(rows))
        console.print(f"written: {per_file}", highlight=False)
    if output is not None:
        text = "".join(f"## {title}\n\n{markdown_table(part)}\n" for title, part in tables(rows))
        text += "".join(f"- {sentence}\n" for sentence in sentences)
        paths = write_results(output, text, {"settings": told, "systems": to_json(rows), "statements": sentences})
        console.print(f"written: {', '.join(map(str, paths))}", highlight=False)


def journal_path(output: str | None, per_file: str | None) -> Path | None:
    """Where single results are kept: beside the output, else beside the CSV, else nowhere."""
    name = output or per_file
    if name is None:
        return None
    place = Path(name)
    place = place.with_suffix("") if place.suffix in (".md", ".json", ".csv") else place
    return place.with_name(place.name + ".rows.jsonl")


def system_row(name: str, codec: Any, result: ReconstructionResult) -> SystemRow:
    """Bitrates and codebook use beside the reconstruction."""
    codes = [row.codes for row in result.rows if row.codes is not None and row.codes.numel()]
    if not codes:
        return SystemRow(name, nominal_bits_per_second(codec), result)
    statistics = code_statistics(codes, codec.codebook_size, codec.num_codebooks)
    rate = codec.frame_rate * codec.num_codebooks
    more = {"entropy_bits_per_second": rate * statistics.unigram_entropy_bits}
    return SystemRow(name, nominal_bits_per_second(codec), result, codes=statistics, more=more)


def with_lm_bits(row: SystemRow, path: str | None) -> SystemRow:
    """Add LM bits per second of the same name from a predictability JSON."""
    if path is None:
        return row
    try:
        systems = json.loads(Path(path).read_text(encoding="utf-8"))["systems"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a result of `llmcodec evaluate predictability` ({error})") from error
    value = systems.get(row.name, {}).get("measures", {}).get("lm_bits_per_second", {}).get("value")
    return row if value is None else replace(row, more={**row.more, "lm_bits_per_second": float(value)})


def tables(rows: Sequence[SystemRow]) -> list[tuple[str, list[SystemRow]]]:
    """The table over everything, then one per domain where there are several."""
    found: list[tuple[str, list[SystemRow]]] = [("All files", list(rows))]
    domains = sorted({domain for row in rows if row.reconstruction for domain in row.reconstruction.domains})
    if len(domains) < 2:
        return found
    for domain in domains:
        parts = []
        for row in rows:
            part = row.reconstruction.of_domain(domain) if row.reconstruction else None
            if part is not None and part.rows:
                parts.append(SystemRow(row.name, float("nan"), part, words=part.words))
        files = len(parts[0].reconstruction.rows) if parts and parts[0].reconstruction else 0
        found.append((f"{domain or 'no domain'} ({files} files)", parts))
    return found


def comparisons(rows: Sequence[SystemRow], names: Sequence[str]) -> list[str]:
    """Paired comparison of every codec with the first, on the files that both have."""
    said: list[str] = []
    for other in rows[1:]:
        first, second = on_the_same_files(rows[0], other)
        if first is None or second is None:
            said.append(f"{rows[0].name} and {other.name} have no file in common: no comparison.")
            continue
        said += [statement.text for statement in verdict(first, second, keys=(*names, "wer"))]
    return said


def on_the_same_files(a: SystemRow, b: SystemRow) -> tuple[SystemRow | None, SystemRow | None]:
    """Both rows cut to the files that both have, in the order of the first."""
    assert a.reconstruction is not None and b.reconstruction is not None
    theirs = {row.id: row for row in b.reconstruction.rows}
    both = [row for row in a.reconstruction.rows if row.id in theirs]
    if not both:
        return None, None
    cut = []
    for row, kept in ((a, both), (b, [theirs[one.id] for one in both])):
        result = ReconstructionResult(kept)
        cut.append(SystemRow(row.name, row.nominal_bits_per_second, result, codes=row.codes, words=result.words))
    return cut[0], cut[1]


def failures(rows: Sequence[SystemRow], shown: int = 5) -> list[str]:
    """One line per codec, metric and reason: how many files, and which."""
    said = []
    for row in rows:
        if row.reconstruction is None:
            continue
        for metric, reasons in row.failures().items():
            for reason, count in reasons.items():
                ids = [r.id for r in row.reconstruction.rows if r.metrics[metric].failure == reason]
                more = f" and {count - shown} more" if count > shown else ""
                said.append(
                    f"{row.name}: no {metric} for {count} of {len(row.reconstruction.rows)} files ({reason}): "
                    f"{', '.join(ids[:shown])}{more}"
                )
    return said


def csv_columns(names: Sequence[str], with_words: bool) -> list[str]:
    words = ["wer", "words", "word_errors", "heard"] if with_words else []
    return ["reference", "reconstruction", "codec", "domain", *names, "id", "seconds", *words, "failures"]


def csv_rows(rows: Sequence[SystemRow]) -> list[dict[str, Any]]:
    """A row per codec and file; what could not be measured is empty and named in `failures`."""
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
            if row.words is not None:
                line |= {
                    "wer": row.words.rate,
                    "words": row.words.num_words,
                    "word_errors": row.words.errors,
                    "heard": row.words.heard,
                }
            out.append(line)
    return out
