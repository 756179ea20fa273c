"""`llmcodec compare`: measure one or more codecs on one corpus, alike: a table, words, and a page to look at and hear.

Test: tests/cli/test_compare.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from llmcodec import assets
from llmcodec.adapters.load import BUNDLED, load_codec
from llmcodec.cli.output import progress, write_text
from llmcodec.data.manifest import manifest_hash, read_manifest
from llmcodec.evaluation.cache import kept
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import Corpus, MeasurementConfig, Progress, measure_system
from llmcodec.experiments.comparison import (
    all_statements,
    codec_key,
    command_line,
    curves,
    examples,
    named_systems,
    run_facts,
    versions,
)
from llmcodec.io.cache import cache_folder
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD
from llmcodec.protocol import Codec
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.tables import markdown_table, rich_table, to_json


def compare_codecs(
    codec: list[str],
    manifest: str = BUNDLED,
    sources: list[str] | None = None,
    languages: list[str] | None = None,
    min_seconds: float = 0.5,
    output: str | None = None,
    measurement: MeasurementConfig | None = None,
    recordings: int = 3,
    cache: str | None = None,
    fresh: bool = False,
    device: str = "cpu",
) -> None:
    """Measure codecs on held-out clips: fidelity, LM bits per second, token health, slice consistency.

    With -o report.html it also writes one self-contained page: tables with intervals, bits against distance,
    spectrograms and players side by side, learning curves, commands and versions. Measurements are kept, so a second
    call with the same inputs only draws, and one that was stopped goes on with the next codec.

    Args:
        codec: `bundled`, a run or codec folder, a hub id, or NAME=one of these; the first is the reference.
        manifest: JSONL manifest with splits train, valid, test; `bundled` is the corpus in the package.
        sources: keep clips of these sources, as '[a,b]'.
        languages: keep clips of these languages, as '[en,fr]'.
        min_seconds: drop shorter clips.
        output: write the page (.html), the table (.md), and values, intervals and per-file rows (.json) under this
            name; -o for short.
        measurement: what is measured and with which budget; null takes the small budget for the bundled corpus.
        recordings: held-out recordings on the page.
        cache: folder where measurements are kept; null takes the user's cache folder.
        fresh: measure again what was kept.
        device: where the codecs and the measuring language model run, such as cuda.
    """
    from rich.console import Console

    systems = named_systems(codec)
    if output is not None and Path(output).is_dir():
        raise ValueError(f"{output}: is a folder; give the name of the page, such as {output}/report.html")
    path = assets.speech_manifest() if manifest == BUNDLED else Path(manifest)
    splits = [
        read_manifest(path, split, sources=sources, languages=languages, min_seconds=min_seconds)
        for split in assets.SPEECH_SPLITS
    ]
    corpus = Corpus(*splits)
    if measurement is None:
        measurement = MeasurementConfig(likelihood=MINI_LIKELIHOOD) if manifest == BUNDLED else MeasurementConfig()
    hashes = [manifest_hash(split) for split in splits]
    folder = Path(cache) if cache is not None else cache_folder("measurements")
    console, rows = Console(), []
    loaded: dict[str, Codec] = {}
    with progress(console) as show:
        for system in systems:
            show(f"{system.name}: load", 0.0)
            one = loaded[system.name] = load_codec(system.place, device)

            def report(stage: str, share: float, name: str = system.name) -> None:
                show(f"{name}: {stage}", share)

            def measure(name: str = system.name, one: Codec = one, report: Progress = report) -> SystemRow:
                return measure_system(name, one, corpus, measurement, report)

            key = codec_key(one, hashes, measurement)
            if fresh and key is not None:
                (folder / f"{key}.json").unlink(missing_ok=True)
            rows.append(replace(kept(folder, key, measure), name=system.name))
    console.print(rich_table(rows, with_interval=len(rows) < 3))
    statements = all_statements(rows)
    for statement in statements:
        console.print(f"- {statement.text}", highlight=False)
    if output is None:
        return
    stem = Path(output)
    stem = stem.with_suffix("") if stem.suffix in (".html", ".md", ".json") else stem
    files = [stem.with_name(stem.name + ending) for ending in (".html", ".md", ".json")]
    typed = ["compare", *codec, "--manifest", manifest, "--output", output]
    lm = measurement.likelihood
    meta = ReportMeta(
        title=", ".join(row.name for row in rows) if len(rows) < 4 else f"{len(rows)} codecs compared",
        summary=f"Measured alike on {len(corpus.held_out)} held-out clips of {manifest}; the token LM was trained on "
        f"{len(corpus.train)} others. Compared with {rows[0].name}.",
        statements=statements,
        commands=[command_line(typed)],
        versions=versions(),
        settings={
            "manifest": f"{manifest} ({', '.join(hashes)})",
            "token LM": f"{lm.model.num_layers} x {lm.model.hidden_size}, {lm.audio_seconds:,.0f} s of audio",
            "LM seeds": ", ".join(map(str, lm.seeds)),
            **{system.name: system.place for system in systems if system.name != system.place},
        },
        notes=[
            "The intervals cover the choice of files, not the luck of a training run. Every number: docs/evaluation.md."
        ],
        reference=rows[0].name,
        runs=run_facts(systems),
    )
    with progress(console) as show:
        show("draw", 0.0)
        shown = examples(loaded, corpus.held_out, recordings)
        write_report(files[0], rows, shown, curves(rows, systems), meta)
    write_text(files[1], markdown_table(rows))
    write_text(files[2], json.dumps(to_json(rows), indent=1) + "\n")
    console.print(f"written: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)
