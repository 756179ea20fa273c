"""`llmcodec compare`: measure one or more codecs on one corpus, alike, and print one table.

Test: tests/unit/evaluation/test_command.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from .. import assets
from ..codecs.load import BUNDLED, load_codec
from ..data.manifest import read_manifest
from .summary import markdown_table, rich_table, to_json, verdict
from .systems import Corpus, MeasurementConfig, measure_system
from .token_training import MINI_LIKELIHOOD


def compare_codecs(
    codec: list[str],
    manifest: str = BUNDLED,
    sources: list[str] | None = None,
    languages: list[str] | None = None,
    min_seconds: float = 0.5,
    output: str | None = None,
    measurement: MeasurementConfig | None = None,
) -> None:
    """Measure codecs on held-out clips: fidelity, LM bits per second, token health, slice consistency.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is what others are compared with.
        manifest: JSONL manifest with splits train, valid, test; `bundled` is the corpus in the package.
        sources: keep clips of these sources.
        languages: keep clips of these languages.
        min_seconds: drop shorter clips.
        output: also write table (.md), values, intervals and per-file rows (.json) under this name.
        measurement: what is measured and with which budget; null takes the small budget for the bundled corpus.
    """
    from rich.console import Console

    path = assets.speech_manifest() if manifest == BUNDLED else Path(manifest)
    splits = (
        read_manifest(path, split, sources=sources, languages=languages, min_seconds=min_seconds)
        for split in assets.SPEECH_SPLITS
    )
    corpus = Corpus(*splits)
    if measurement is None:
        measurement = MeasurementConfig(likelihood=MINI_LIKELIHOOD) if manifest == BUNDLED else MeasurementConfig()
    console, rows = Console(), []
    with console.status("") as status:
        for entry in codec:
            name, _, place = entry.rpartition("=")
            loaded = load_codec(place)

            def show(stage: str, share: float, name: str = name or place) -> None:
                status.update(f"{name}: {stage} {share:.0%}")

            rows.append(measure_system(name or place, loaded, corpus, measurement, show))
    console.print(rich_table(rows, with_interval=len(rows) < 3))
    for other in rows[1:]:
        for statement in verdict(rows[0], other):
            console.print(f"- {statement.text}", highlight=False)
    if output is not None:
        stem = Path(output)
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".md").write_text(markdown_table(rows), encoding="utf-8")
        stem.with_suffix(".json").write_text(json.dumps(to_json(rows), indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {stem.with_suffix('.md')}, {stem.with_suffix('.json')}")
