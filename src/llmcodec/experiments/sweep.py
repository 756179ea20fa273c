"""`llmcodec sweep FILE`: several recipes x several seeds, trained and measured alike, unattended, as one table.

A sweep file names rows; each is an existing codec or recipes to train from. Every (row, seed) is one job: train,
measure with the same protocol, write one JSON. Several processes may share a sweep: a job is claimed by a lock file.
Differences to the reference row are paired by seed and clip; intervals resample both.
Test: tests/integration/test_sweep.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.results import MEASURES
from llmcodec.evaluation.system import Corpus, MeasurementConfig, measure_system, spread
from llmcodec.io.atomic import write_text
from llmcodec.io.run_guard import lock_file
from llmcodec.io.structured import read_object, write_json
from llmcodec.metrics.statistics import Interval
from llmcodec.protocol import Codec
from llmcodec.report.tables import TextTable, to_json
from llmcodec.runtime.opening import pick_device
from llmcodec.training.recipe import Recipe
from llmcodec.training.trainer import train_or_resume

ReadRecipe = Callable[[Sequence[str]], Recipe]
PAIRED = {"lm_bits_per_second": ("lm_clips", "bits"), "mel": ("files", "mel"), "stft": ("files", "stft")}
PAIRED |= {"pesq": ("files", "pesq"), "stoi": ("files", "stoi")}


@dataclass(frozen=True)
class RowConfig:
    """One row of the table."""

    codec: str | None = None
    """An existing codec (`bundled`, folder, hub id), measured as it is; null trains one."""
    of: str | None = None
    """Another row, whose codec of the same seed is measured in another way; null trains one."""
    search: float | None = None
    """Encode by search (codec/search.py) with this weight of the rate; null takes the nearest codes."""
    configs: list[str] = field(default_factory=list)
    """Recipes to stack, paths relative to the sweep file."""
    options: list[str] = field(default_factory=list)
    """Further options of `llmcodec train`, such as --weights.rate=0.3."""
    seeds: list[int] | None = None
    """Seeds of this row; null takes those of the sweep."""


@dataclass(frozen=True)
class SweepConfig:
    """Rows, seeds and the protocol that all of them share."""

    folder: str
    """Where runs and results go."""
    manifest: str
    """JSONL manifest with splits train, valid, test, for training and for measuring."""
    rows: dict[str, RowConfig]
    """Name -> row."""
    reference: str = "control"
    """The row that the others are compared with."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds: of training, and of the token LM that measures."""
    options: list[str] = field(default_factory=list)
    """Options of `llmcodec train` for every trained row."""
    languages: list[str] | None = None
    """Measure on these languages only; null takes all."""
    sources: list[str] | None = None
    """Measure on these sources only; null takes all."""
    train_clips: int | None = None
    """Clips that the measuring LM and the probe train on, evenly spread over the train split; null takes all."""
    only_train: bool = False
    """Train every row and measure nothing yet: a later call measures."""
    device: str = "auto"
    """Where codecs and the measuring LM run: auto, cpu, cuda, cuda:1; training takes accelerate's device."""
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    """What is measured; the matched probe and SALMon, which take longest, on the first seed of a row only."""

    def seeds_of(self, row: RowConfig) -> list[int]:
        return row.seeds or self.seeds


def run_sweep(config: SweepConfig, here: Path, read_recipe: ReadRecipe) -> Path:
    """Do all jobs that nobody has done or is doing, then write and return `table.md`.

    Args:
        config: rows, seeds, protocol.
        here: folder of the sweep file, where the paths of its recipes start.
        read_recipe: makes a recipe of the options of `llmcodec train`.
    """
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    later_seeds = replace(config.measurement, probe=None, salmon=None)  # the slow columns, on the first seed only
    jobs = [(index, name, seed) for name, row in config.rows.items() for index, seed in enumerate(config.seeds_of(row))]
    for index, name, seed in sorted(jobs, key=lambda job: job[0]):  # the first seed of every row, then the second
        job = folder / f"{name}-{seed}"
        if beside(job, ".json").exists():
            continue
        source = config.rows[name].of
        if source is not None and not beside(folder / f"{source}-{seed}", ".json").exists():
            print(f"sweep: {name}, seed {seed}, needs {source}, which is not measured yet: start the sweep again then")
            continue
        with claim(beside(job, ".lock")) as mine:
            if not mine:
                print(f"sweep: {name}, seed {seed}, is being done by another process")
            elif not beside(job, ".json").exists():
                print(f"sweep: {name}, seed {seed}", flush=True)
                first = replace(config, measurement=config.measurement if index == 0 else later_seeds)
                run_job(first, config.rows[name], seed, job, here, read_recipe)
    return write_table(config)


def beside(job: Path, ending: str) -> Path:
    """The file of a job: row names may hold dots, so the ending is added, not exchanged."""
    return job.with_name(job.name + ending)


def run_job(config: SweepConfig, row: RowConfig, seed: int, job: Path, here: Path, read_recipe: ReadRecipe) -> None:
    """Train (or resume) one codec and measure it; the result appears whole or not at all."""
    if row.of is not None:
        source = config.rows[row.of].codec or str(job.parent / f"{row.of}-{seed}" / "codec")
    else:
        source = row.codec or str(train_codec(config, row, seed, job, here, read_recipe))
    if config.only_train:
        return
    keep: dict[str, Any] = {"sources": config.sources, "languages": config.languages, "min_seconds": 0.5}
    train, valid, test = (read_manifest(config.manifest, split, **keep) for split in assets.SPEECH_SPLITS)
    corpus = Corpus(spread(train, config.train_clips), valid, test)
    protocol = config.measurement
    protocol = replace(protocol, likelihood=replace(protocol.likelihood, seeds=(seed,)))
    codec = load_codec(source, pick_device(config.device))
    if row.search is None:
        codec = ready_to_run(codec)
    else:
        codec = searching(codec, corpus.train, row.search)
        protocol = replace(protocol, probe=None, salmon=None)  # latents are the source's; a suite would take too long
    with EncodedCorpus(codec) as encoded:
        measured = measure_system(job.name, encoded, corpus, protocol)
    write_json(beside(job, ".json"), to_json([measured])[job.name], indent=None)


def ready_to_run(codec: Codec) -> Codec:
    """Our codec packed for speed, in full precision: the same tokens."""
    return optimize_for_inference(codec, "fp32") if isinstance(codec, LLMCodec) else codec


def searching(codec: Codec, clips: Sequence[Clip], weight: float) -> Codec:
    """The codec, searching by the bigrams of its nearest codes on these clips."""
    from llmcodec.codec.search import SearchConfig, SearchingCodec
    from llmcodec.codec.token_prior import BigramPrior

    if not isinstance(codec, LLMCodec):
        raise ValueError("sweep: search is for llmcodec's own codecs")
    with EncodedCorpus(ready_to_run(codec)) as encoded:
        prior = BigramPrior.fit(encoded.tokens(clips, keep=False), codec.codebook_size)
    return SearchingCodec(codec, prior, SearchConfig(weight=weight))


def train_codec(config: SweepConfig, row: RowConfig, seed: int, job: Path, here: Path, read_recipe: ReadRecipe) -> Path:
    """Train, or go on training, the recipes of a row with one seed; returns the codec's folder."""
    arguments = [part for path in row.configs for part in ("--config", str(here / path))]
    arguments += [f"--data.manifest={config.manifest}", *config.options, *row.options, f"--seed={seed}", f"--run={job}"]
    return train_or_resume(replace(read_recipe(arguments), name=job.name))


@contextmanager
def claim(lock: Path) -> Iterator[bool]:
    """True for the one process that may do a job; see `lock_file`."""
    file = lock_file(lock)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()


def write_table(config: SweepConfig) -> Path:
    """Means over seeds, and paired differences to the reference, of all jobs that are done."""
    folder = Path(config.folder)
    done: dict[str, dict[int, Any]] = {}
    for name, row in config.rows.items():
        files = {seed: folder / f"{name}-{seed}.json" for seed in config.seeds_of(row)}
        results = {seed: read_object(path) for seed, path in files.items() if path.exists()}
        if results:
            done[name] = results
    lines = []
    for measure in MEASURES:
        cells = [mean_and_range(results, measure.key, measure.digits) for results in done.values()]
        if any(cells):
            lines.append([measure.title, *cells])
    if config.reference in done:
        for key in PAIRED:
            cells = [difference(done[config.reference], results, key) for results in done.values()]
            lines.append([f"{key} against {config.reference}", *cells])
    table = TextTable(["", *(f"{name} ({len(results)})" for name, results in done.items())], lines)
    note = (
        "\nIn brackets: number of seeds; lowest to highest seed. Differences: paired by seed and file, 95 % interval\n"
        "over both.\n"
    )
    return write_text(folder / "table.md", table.markdown() + note)


def mean_and_range(results: dict[int, Any], key: str, digits: int) -> str:
    values = [r["measures"][key]["value"] for r in results.values() if key in r["measures"]]
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{np.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):,.{digits}f}, {max(values):,.{digits}f}]"


def difference(reference: dict[int, Any], other: dict[int, Any], key: str) -> str:
    interval = paired_difference(reference, other, key)
    if interval is None:
        return ""
    return f"{100 * interval.value:+.1f} % [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def paired_difference(
    reference: dict[int, Any], other: dict[int, Any], key: str, resamples: int = 2000
) -> Interval | None:
    """Relative difference of a measure, paired by seed and clip; the 95 % interval resamples seeds and clips.

    Clips count that have the measure in both rows at every seed; None where there is none, and for the reference.
    """
    table, column = PAIRED[key]
    seeds = [seed for seed in reference if seed in other]
    if not seeds or other is reference:
        return None

    def measured(result: dict[str, Any]) -> dict[str, float]:
        return {row["id"]: row[column] for row in result.get(table, []) if row.get(column) is not None}

    pairs = [(measured(reference[seed]), measured(other[seed])) for seed in seeds]
    clips = [clip for clip in pairs[0][0] if all(clip in a and clip in b for a, b in pairs)]
    if not clips:
        return None
    values_KN2 = np.asarray([[(a[clip], b[clip]) for clip in clips] for a, b in pairs])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        chosen = values_KN2[generator.integers(len(seeds), size=len(seeds))]
        drawn = generator.integers(len(clips), size=len(clips))
        sums = chosen[:, drawn].sum((0, 1))
        draws.append(sums[1] / sums[0] - 1)
    total = values_KN2.sum((0, 1))
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(total[1] / total[0] - 1), float(low), float(high), len(clips))
