"""`llmcodec sweep FILE`: several recipes x several seeds, trained and measured alike, unattended, as one table.

A sweep file names rows; each is an existing codec or recipes to train from. Every (row, seed) is one job: train,
measure with the same protocol, write one JSON. Several processes may share a sweep: a job is claimed by a lock file. A
result says what it was made of; one that was made of something else, or is damaged, is made again.
Differences to the reference row are paired by seed and clip; intervals resample both.
Test: tests/integration/test_sweep.py.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.data.manifest import Clip, audio_states, leave_out_unreadable, manifest_hash, read_manifest
from llmcodec.evaluation.cache import key_of
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.system import Corpus, MeasurementConfig, measure_system, spread
from llmcodec.experiments.sweep_table import sweep_table
from llmcodec.io.atomic import write_text
from llmcodec.io.bad_rows import BadRows, MaxBad, read_max_bad
from llmcodec.io.digests import digest
from llmcodec.io.run_guard import RUN, Stopped, changed_fields, flat_fields, lock_file, stopped_in_order
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_check import WEIGHTS
from llmcodec.protocol import Codec
from llmcodec.report.tables import to_json
from llmcodec.runtime.opening import pick_device
from llmcodec.training.recipe import Recipe
from llmcodec.training.run_folder import MAY_DIFFER, MAY_GROW
from llmcodec.training.trainer import train_or_resume
from llmcodec.transcode.prior import count_prior

ReadRecipe = Callable[[Sequence[str]], Recipe]
NOT_COMPARED = {"name", "data.manifest", *MAY_DIFFER} - {"data.clips_per_batch"}
"""Fields of a recipe that do not decide what is trained; of the manifest the content counts."""
GO_ON = "what is done is kept; start the same sweep again to go on"
MISSING = "not done"


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
    max_bad: MaxBad = 0
    """Clips that may turn out unreadable, 20 or 1%: nothing is measured on them, and training replaces them."""
    device: str = "auto"
    """Where codecs and the measuring LM run: auto, cpu, cuda, cuda:1; training takes accelerate's device."""
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    """What is measured; the matched probe and SALMon, which take longest, on the first seed of a row only."""

    def __post_init__(self) -> None:
        read_max_bad(self.max_bad)

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
    with stopped_in_order(GO_ON):
        do_jobs(config, folder, here, read_recipe)
    return write_text(folder / "table.md", sweep_table(finished(config), config.reference))


def do_jobs(config: SweepConfig, folder: Path, here: Path, read_recipe: ReadRecipe) -> None:
    """Do all jobs that nobody has done or is doing."""
    speech = Speech.read(config)
    later_seeds = replace(config.measurement, probe=None, salmon=None)  # the slow columns, on the first seed only
    jobs = [(index, name, seed) for name, row in config.rows.items() for index, seed in enumerate(config.seeds_of(row))]
    for index, name, seed in sorted(
        jobs, key=lambda job: (job[0], config.rows[job[1]].of is not None)
    ):  # first seeds first, sources first
        first = replace(config, measurement=config.measurement if index == 0 else later_seeds)
        job = Job(first, name, seed, folder, speech, here, read_recipe)
        if not job.find_stale():
            continue
        source = config.rows[name].of
        if source is not None and read_result(folder, source, seed) is None:
            print(f"sweep: {name}, seed {seed}, needs {source}, which is not measured yet: start the sweep again then")
            continue
        with claim(beside(job.place, ".lock")) as mine:
            if not mine:
                print(f"sweep: {name}, seed {seed}, is being done by another process")
            elif reason := job.find_stale():
                print(f"sweep: {name}, seed {seed}{'' if reason == MISSING else f': {reason}, made again'}", flush=True)
                job.run()


def beside(job: Path, ending: str) -> Path:
    """The file of a job: row names may hold dots, so the ending is added, not exchanged."""
    return job.with_name(job.name + ending)


def read_result(folder: Path, name: str, seed: int) -> dict[str, Any] | None:
    """The result of a job; None where there is none that can be read."""
    try:
        result = read_object(beside(folder / f"{name}-{seed}", ".json"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result.get("measures"), dict) else None


@dataclass
class Speech:
    """What is measured on, read once a sweep."""

    corpus: Corpus
    facts: dict[str, Any]
    """Digests of the whole manifest and of the state of its audio, and the filters."""
    bad: BadRows

    @classmethod
    def read(cls, config: SweepConfig) -> Speech:
        """Raises ValueError for a corpus without clips, and for more bad clips than allowed."""
        clips = read_manifest(config.manifest)
        bad = BadRows(config.max_bad, len(clips))
        readable = leave_out_unreadable(clips, bad) if bad.allowed else clips
        for line in bad.lines():
            print(line)
        facts = {"manifest": manifest_hash(clips), "audio": digest(json.dumps(audio_states(readable)))}
        keep: dict[str, Any] = {"sources": config.sources, "languages": config.languages, "min_seconds": 0.5}
        train, valid, test = (
            [clip for clip in read_manifest(config.manifest, split, **keep) if clip.id not in bad.reasons]
            for split in assets.SPEECH_SPLITS
        )
        filters = {name: getattr(config, name) for name in ("sources", "languages", "train_clips")}
        return cls(Corpus(spread(train, config.train_clips), valid, test), facts | filters, bad)


@dataclass
class Job:
    """One row and one seed: train (or resume) a codec and measure it; the result appears whole or not at all."""

    config: SweepConfig
    name: str
    seed: int
    folder: Path
    speech: Speech
    here: Path
    read_recipe: ReadRecipe

    @property
    def row(self) -> RowConfig:
        return self.config.rows[self.name]

    @property
    def place(self) -> Path:
        """The run folder; the result stands beside it."""
        return self.folder / f"{self.name}-{self.seed}"

    @property
    def source(self) -> str:
        """Codec that is measured."""
        if self.row.of is not None:
            return self.config.rows[self.row.of].codec or str(self.folder / f"{self.row.of}-{self.seed}" / "codec")
        return self.row.codec or str(self.place / "codec")

    @property
    def protocol(self) -> MeasurementConfig:
        """What is measured."""
        protocol = self.config.measurement
        protocol = replace(protocol, likelihood=replace(protocol.likelihood, seeds=(self.seed,)))
        if self.row.search is None:
            return protocol
        return replace(protocol, probe=None, salmon=None)  # latents are the source's; a suite would take too long

    @cached_property
    def recipe(self) -> Recipe | None:
        """What the codec is trained by; None for one that is there."""
        if self.row.of is not None or self.row.codec is not None:
            return None
        config, row = self.config, self.row
        arguments = [part for path in row.configs for part in ("--config", str(self.here / path))]
        arguments += [f"--data.manifest={config.manifest}", f"--data.max_bad={config.max_bad}"]
        arguments += [*config.options, *row.options, f"--seed={self.seed}", f"--run={self.place}"]
        return replace(self.read_recipe(arguments), name=self.place.name)

    def made_from(self) -> dict[str, Any]:
        """Everything that decides the result, as far as it is there: recipe, codec, clips and protocol."""
        recipe, weights = self.recipe, Path(self.source) / WEIGHTS
        facts = {"search": self.row.search, "measurement": key_of(self.protocol), **self.speech.facts}
        if recipe is not None:
            fields = flat_fields(asdict(recipe))
            facts["recipe"] = {name: value for name, value in fields.items() if name not in NOT_COMPARED}
        else:
            facts["codec"] = self.row.codec or f"row {self.row.of}"
        if weights.is_file():
            facts["weights"] = [weights.stat().st_size, weights.stat().st_mtime_ns]
        return facts

    def find_stale(self) -> str:
        """Why the job has to be done; empty where its result is what it would be again."""
        result = read_result(self.folder, self.name, self.seed)
        if result is None:
            return "its result is damaged" if beside(self.place, ".json").exists() else MISSING
        if "made_from" not in result:
            print(
                f"sweep: {self.name}, seed {self.seed}: the result of an older version does not say what it is made of"
            )
            return ""
        changed = self.changed_facts(result)
        return f"other {', '.join(changed)} than its result" if changed else ""

    def changed_facts(self, result: Mapping[str, Any]) -> list[str]:
        """Names of what differs from what a result was made of."""
        before = result["made_from"]
        return [name for name, now in self.made_from().items() if name in before and before[name] != now]

    def run(self) -> None:
        """Train and measure."""
        if (recipe := self.recipe) is not None:
            self.put_stale_run_aside(recipe)
            try:
                train_or_resume(recipe)
            except Stopped as stopped:
                raise Stopped(stopped.exit_code - 128, GO_ON) from stopped
        if self.config.only_train:
            return
        corpus = self.speech.corpus
        codec = load_codec(self.source, pick_device(self.config.device))
        codec = ready_to_run(codec) if self.row.search is None else searching(codec, corpus.train, self.row.search)
        with EncodedCorpus(codec) as encoded:
            measured = measure_system(self.place.name, encoded, corpus, self.protocol)
        result = to_json([measured])[self.place.name] | {"made_from": self.made_from()}
        if self.speech.bad.reasons:
            result["left_out"] = self.speech.bad.reasons
        write_json(beside(self.place, ".json"), result, indent=None)

    def put_stale_run_aside(self, recipe: Recipe) -> None:
        """Rename the run folder where it was trained by another recipe, or on other speech; nothing is deleted."""
        path = self.place / RUN
        if not path.is_file():
            return
        changes = changed_fields(read_object(path)["recipe"], recipe)
        changed = [
            name for name, (old, new) in changes.items() if name not in NOT_COMPARED and not _grew(name, old, new)
        ]
        if (result := read_result(self.folder, self.name, self.seed)) is not None and "made_from" in result:
            changed += [name for name in self.changed_facts(result) if name in ("manifest", "audio")]
        if changed:
            names = (self.place.with_name(f"{self.place.name}.stale-{number}") for number in itertools.count(1))
            aside = next(name for name in names if not name.exists())
            os.replace(self.place, aside)
            print(f"sweep: {self.place} was trained with other {', '.join(changed)}; it is called {aside.name} now")


def _grew(name: str, old: Any, new: Any) -> bool:
    """Whether a run may go on with the new value."""
    return name in MAY_GROW and isinstance(old, (int, float)) and new >= old


def ready_to_run(codec: Codec) -> Codec:
    """Our codec packed for speed, in full precision: the same tokens."""
    return optimize_for_inference(codec, "fp32") if isinstance(codec, LLMCodec) else codec


def searching(codec: Codec, clips: Sequence[Clip], weight: float) -> Codec:
    """The codec, searching by the bigrams of its nearest codes on these clips; each of them by those of others."""
    from llmcodec.codec.search import SearchConfig, SearchingCodec

    if not isinstance(codec, LLMCodec):
        raise ValueError("sweep: search is for llmcodec's own codecs")
    return SearchingCodec(codec, count_prior(codec, clips), SearchConfig(weight=weight))


@contextmanager
def claim(lock: Path) -> Iterator[bool]:
    """True for the one process that may do a job; see `lock_file`."""
    file = lock_file(lock)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()


def finished(config: SweepConfig) -> dict[str, dict[int, Any]]:
    """Results by row and seed."""
    folder = Path(config.folder)
    done: dict[str, dict[int, Any]] = {}
    for name, row in config.rows.items():
        results = {seed: read_result(folder, name, seed) for seed in config.seeds_of(row)}
        if whole := {seed: result for seed, result in results.items() if result is not None}:
            done[name] = whole
    return done
