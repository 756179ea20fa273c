"""`llmcodec compare`: measure codecs on one corpus in the same way: table, verdict, and a page with figures and audio.

Test: tests/cli/test_compare.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmcodec.assets import BUNDLED
from llmcodec.cli.options import CorpusOptions, DeviceOptions, OutputOptions
from llmcodec.cli.output import name_files, open_console, show
from llmcodec.evaluation.system import Corpus, MeasurementConfig
from llmcodec.experiments.comparison import (
    ALL,
    Comparison,
    absent_codecs,
    all_statements,
    named_systems,
    open_systems,
    prefixed,
    write_comparison,
)
from llmcodec.io.cache import cache_folder
from llmcodec.io.progress import status_line
from llmcodec.io.run_guard import stopped_in_order
from llmcodec.lm.small_lm_training import for_bundled_speech
from llmcodec.report.tables import system_table

GO_ON = "codecs that are measured are kept, the same command goes on with the next"
COLUMNS = 6
"""Codecs side by side in the terminal."""


def compare_codecs(
    codec: list[str],
    corpus: CorpusOptions = CorpusOptions(),
    output: OutputOptions = OutputOptions(),
    measurement: MeasurementConfig | None = None,
    recordings: int = 3,
    cache: str | None = None,
    fresh: bool = False,
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Measure codecs on held-out clips: fidelity, LM bits per second, token health, slice consistency.

      llmcodec compare bundled mine=runs/rate -o report.html
      llmcodec compare all -o every.html          # every codec that opens here; a line for each that does not

    With -o report.html it also writes one self-contained page: tables with intervals, bits against distance,
    spectrograms and players side by side, learning curves, commands and versions. Measurements are cached, so a second
    call with the same inputs only draws, and an interrupted one resumes with the next codec.

    Args:
        codec: `bundled`, a run or codec folder, a hub id, or NAME=one of these; the first is the reference. `all`:
            every name of `llmcodec codecs`, with random weights where no others are here.
        output: write the page (.html), the table (.md), and values, intervals and per-file rows (.json) under this
            name.
        measurement: what to measure and with which budget; the bundled corpus has a small one unless you name another.
        recordings: number of held-out recordings on the page.
        cache: folder of cached measurements; null takes the user's cache folder.
        fresh: measure again instead of using the cache.
    """
    systems = named_systems(codec)
    place = output.output
    if place is not None and Path(place).is_dir():
        raise ValueError(f"{place}: is a folder; give the name of the page, such as {place}/report.html")
    (train, valid, test), bad = corpus.without_bad(*corpus.three_splits())
    clips = Corpus(train, valid, test)
    measurement = measurement or MeasurementConfig()
    if corpus.manifest == BUNDLED:
        measurement = replace(measurement, likelihood=for_bundled_speech(measurement.likelihood))
    console = open_console()
    kept = cache_folder("measurements") if cache is None else Path(cache)
    comparison = Comparison(clips, measurement, recordings if place is not None else 0, kept, fresh)
    left_out = [f"not measured: {line}" for line in (absent_codecs() if ALL in codec else [])]
    with stopped_in_order(GO_ON), status_line(console) as tell:
        for system in systems:
            try:
                for name, encoded in open_systems([system], device.torch_device()):
                    comparison.add(name, encoded, prefixed(tell, name))
            except ValueError as error:
                if not system.optional:
                    raise
                left_out.append(f"not measured: {system.name}: {error}")
    rows = comparison.rows
    tables = [system_table(rows[n : n + COLUMNS], with_interval=len(rows) < 3) for n in range(0, len(rows), COLUMNS)]
    show(console, tables, [*(s.text for s in all_statements(rows)), *left_out])
    if place is not None:
        typed = ["compare", *codec, "--manifest", corpus.manifest, "--output", place]
        with status_line(console) as tell:
            tell("draw", 0.0)
            paths = write_comparison(place, comparison, systems, corpus.manifest, typed, [*bad.lines(), *left_out])
        name_files(console, paths)
