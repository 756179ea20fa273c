"""One job of a sweep: train (or resume) the codec of a row and a seed, measure it, write one JSON.

A result says what it was made of; one that was made of something else, or is damaged, is made again. Jobs of several
processes are claimed by lock files. Test: tests/integration/test_sweep.py, tests/experiments/test_protocol.py.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llmcodec.adapters.load import folder_of_codec, load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.neural_prior import NeuralPrior
from llmcodec.data.manifest import Clip, spread
from llmcodec.evaluation.cache import code_digest, kept, key_of
from llmcodec.evaluation.effort import encoding_speed
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import MeasurementConfig, measure_bits, measure_system
from llmcodec.experiments.parts import Speech
from llmcodec.experiments.sweep_config import MAIN_LM, RowConfig, SweepConfig
from llmcodec.io.digests import digest
from llmcodec.io.run_guard import RUN, Stopped, flat_fields, lock_file
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_check import WEIGHTS
from llmcodec.lm.small_lm import SmallLMConfig
from llmcodec.lm.small_lm_scorer import run_tensors, train_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.protocol import Codec, RateScorer, device_of
from llmcodec.report.tables import to_json
from llmcodec.runtime.opening import pick_device
from llmcodec.training.named_files import content_of, named_files
from llmcodec.training.recipe import Recipe
from llmcodec.training.run_folder import MAY_DIFFER, changed_recipe, clips_changed
from llmcodec.training.trainer import train_or_resume
from llmcodec.transcode.prior import count_prior

ReadRecipe = Callable[[Sequence[str]], Recipe]
NOT_COMPARED = {"name", "data.manifest", *MAY_DIFFER} - {"data.clips_per_batch"}
"""Fields of a recipe that do not decide what is trained; of the manifest the content counts."""
GO_ON = "what is done is kept; start the same sweep again to go on"
MISSING = "not done"
FILE = "file "
"""Before the field that names it: a file's content in what a result is made of."""
RATE_LM = LikelihoodConfig(
    model=SmallLMConfig(
        family="qwen3", num_layers=2, hidden_size=96, num_heads=None, head_dim=32, intermediate_size=288
    ),
    audio_seconds=12_000.0,
    learning_rate=3e-3,
)
"""The LM of rows with `search_lm`: as the bundled one, and three passes over an hour of clips."""


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
class Job:
    """One row and one seed: train (or resume) a codec and measure it; the result appears whole or not at all."""

    config: SweepConfig
    name: str
    seed: int
    folder: Path
    speech: Speech
    here: Path
    read_recipe: ReadRecipe
    first: bool = True
    """Whether this is the first seed of the row."""

    @property
    def row(self) -> RowConfig:
        return self.config.rows[self.name]

    @property
    def place(self) -> Path:
        """The run folder, of both stages."""
        return self.folder / f"{self.name}-{self.seed}"

    @property
    def result(self) -> Path:
        """The result of this stage."""
        return beside(self.config.results / self.place.name, ".json")

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
        manifest, part = config.manifest, self.speech.training
        arguments += [f"--data.manifest={part or manifest}", f"--data.max_bad={config.max_bad}"]
        arguments += ["--data.split=null"] if part else []
        arguments += [*config.options, *row.options, f"--seed={self.seed}", f"--run={self.place}"]
        recipe = replace(self.read_recipe(arguments), name=self.place.name)
        if part and recipe.data.manifest != part:
            raise ValueError(
                f"sweep: {self.name} trains on {recipe.data.manifest}; with `parts:` all rows train on {part}"
            )
        return recipe

    @property
    def further_lms(self) -> dict[str, LikelihoodConfig]:
        """LMs that measure besides, first seed only: other sizes; while tuning, other budgets on the reference row."""
        config = self.config
        lms = {name: size.likelihood for name, size in config.lm_sizes.items() if self.name in size.rows and self.first}
        if config.stage == "tuning":
            lms = {MAIN_LM: config.measurement.likelihood} | lms if self.first and self.name == config.reference else {}
            lms = {
                f"{name}, {budget:g} s": replace(likelihood, audio_seconds=budget)
                for name, likelihood in lms.items()
                for budget in config.budgets
            }
        return {name: replace(likelihood, seeds=(self.seed,)) for name, likelihood in lms.items()}

    def made_from(self) -> dict[str, Any]:
        """Everything that decides the result, as far as it is there: recipe, codec, clips and protocol."""
        recipe, weights = self.recipe, folder_of_codec(self.source) / WEIGHTS
        facts = {"search": self.row.search, "measurement": key_of(self.protocol), **self.speech.facts}
        if self.row.search is not None and self.row.search_effort != "thorough":
            facts["search_effort"] = self.row.search_effort
        if self.row.search_lm:
            facts["search_lm"] = key_of(RATE_LM)
        if self.row.search_rounds > 1:
            facts["search_rounds"] = self.row.search_rounds
        if recipe is not None:
            fields = flat_fields(asdict(recipe))
            facts["recipe"] = {name: value for name, value in fields.items() if name not in NOT_COMPARED}
        else:
            facts["codec"] = self.row.codec or f"row {self.row.of}"
        if self.further_lms:
            facts["further_lms"] = key_of(self.further_lms)
        if self.config.effort_clips:
            facts["effort_clips"] = self.config.effort_clips
        if weights.is_file():
            facts["weights"] = [weights.stat().st_size, weights.stat().st_mtime_ns]
        return facts | {f"{FILE}{name}": content for name, content in self.files.items()}

    @cached_property
    def files(self) -> dict[str, str]:
        """Digests of the files here that recipe, row and protocol name, by field."""
        named = {
            "codec": self.row.codec,
            "measurement.asr": self.protocol.asr,
            "measurement.salmon": self.protocol.salmon,
        }
        found = {name: content for name, path in named.items() if (content := content_of(path)) is not None}
        return found if self.recipe is None else found | named_files(self.recipe)

    @cached_property
    def settings(self) -> str:
        """Digest of all that was chosen for this result: recipe, codec, clips and protocol, not what came of it.

        Where these name files, a digest of their contents follows, which an older version did not write.
        """
        chosen, files = self._chosen(), self.files
        if self.row.of is not None:
            files = files | {f"of {name}": content for name, content in self._source.files.items()}
        return f"{chosen} {digest(json.dumps(files, sort_keys=True))}" if files else chosen

    def _chosen(self) -> str:
        """Digest of the settings by their names."""
        facts = {
            name: fact
            for name, fact in self.made_from().items()
            if name not in ("weights", "audio") and not name.startswith(FILE)
        }
        if self.row.of is not None:
            facts["of"] = self._source._chosen()
        return digest(json.dumps(facts, sort_keys=True, default=str))

    @property
    def _source(self) -> Job:
        """The row that this one is of."""
        assert self.row.of is not None
        return replace(self, name=self.row.of)

    def find_stale(self) -> str:
        """Why the job has to be done; empty where its result is what it would be again."""
        result = read_result(self.config.results, self.name, self.seed)
        if result is None:
            return "its result is damaged" if self.result.exists() else MISSING
        if "made_from" not in result:
            print(
                f"sweep: {self.name}, seed {self.seed}: the result of an older version does not say what it is made of"
            )
            return ""
        changed = self.changed_facts(result)
        if not changed and (unknown := [name for name in self.files if f"{FILE}{name}" not in result["made_from"]]):
            print(
                f"sweep: {self.name}, seed {self.seed}: the result of an older version does not say which files of "
                f"{', '.join(unknown)} it is made of; it is kept"
            )
        return f"other {', '.join(changed)} than its result" if changed else ""

    def changed_facts(self, result: Mapping[str, Any]) -> list[str]:
        """Names of what differs from what a result was made of."""
        before, now = result["made_from"], self.made_from()
        return [
            name
            for name in {**now, **before}
            if before.get(name) != now.get(name)
            and (name in before and name in now or name != "weights" and not name.startswith(FILE))
        ]

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
        searches = self.row.search is not None
        codec = searching(codec, self.speech.counted, self.row, self.seed) if searches else ready_to_run(codec)
        result: dict[str, Any] = {}
        with EncodedCorpus(codec) as encoded:
            row = self.keep("row", lambda: measure_system(self.place.name, encoded, corpus, self.protocol))
            result |= to_json([row])[self.place.name]
            if lms := self.further_lms:
                rows = [
                    SystemRow(n, math.nan, predictability=self.keep(n, partial(measure_bits, encoded, corpus, lm)))
                    for n, lm in lms.items()
                ]
                result["further_lms"] = to_json(rows)
            if count := self.config.effort_clips:
                clips = spread(corpus.held_out, count)
                speed, place = encoding_speed(encoded, clips), str(device_of(codec))
                result["effort"] = {"times_real_time": speed, "clips": len(clips), "device": place}
        result |= {"made_from": self.made_from(), "settings": self.settings, "code": code_digest()}
        if self.speech.bad.reasons:
            result["left_out"] = self.speech.bad.reasons
        write_json(self.result, result, indent=None)
        for what in ("row", *self.further_lms):
            (self.unfinished / f"{self.kept_key(what)}.json").unlink(missing_ok=True)

    @property
    def unfinished(self) -> Path:
        """Measurements of jobs that are not done: an LM of 20 M takes half an hour, and a sweep is often stopped."""
        return self.folder / "unfinished"

    def kept_key(self, what: str) -> str:
        return key_of(json.dumps(self.made_from(), sort_keys=True, default=str), code_digest(), what)

    def keep(self, what: str, measure: Callable[[], Any]) -> Any:
        """One measurement of this job, from an earlier call that was stopped before the job was done."""
        return kept(self.unfinished, self.kept_key(what), measure)

    def put_stale_run_aside(self, recipe: Recipe) -> None:
        """Rename the run folder where it was trained by another recipe, or on other speech; nothing is deleted."""
        if not (self.place / RUN).is_file():
            return
        changed = [name for name in changed_recipe(recipe) if name not in NOT_COMPARED]
        for folder in (self.folder, self.folder / "tuning"):  # of either stage: the training is the same
            result = read_result(folder, self.name, self.seed)
            if result is None or result.get("made_from", {}).get("weights") != self.made_from().get("weights"):
                continue  # of an older run
            facts = ["manifest", "audio", "part codec"]
            facts += [] if changed else [f"{FILE}{name}" for name in named_files(recipe)]
            changed += [name for name in self.changed_facts(result) if name in facts and name not in changed]
        if clips_changed(recipe) and not changed:
            changed.append("clips")
        if changed:
            names = (self.place.with_name(f"{self.place.name}.stale-{number}") for number in itertools.count(1))
            aside = next(name for name in names if not name.exists())
            os.replace(self.place, aside)
            print(f"sweep: {self.place} was trained with other {', '.join(changed)}; it is called {aside.name} now")


def same_settings(before: object, now: str) -> bool:
    """Whether settings are those of `before`; where one of them names no files, of what else was chosen."""
    parts = [str(before).split(" "), now.split(" ")]
    return all(one == other for one, other in zip(*parts, strict=False))


def ready_to_run(codec: Codec) -> Codec:
    """Our codec packed for speed, in full precision: the same tokens."""
    return optimize_for_inference(codec, "fp32") if isinstance(codec, LLMCodec) else codec


def searching(codec: Codec, clips: Sequence[Clip], row: RowConfig, seed: int) -> Codec:
    """The codec, searching by the bigrams of its codes on these clips, each of them by those of others, or by an LM."""
    from llmcodec.codec.search import SearchConfig, SearchingCodec

    if not isinstance(codec, LLMCodec):
        raise ValueError("sweep: search is for llmcodec's own codecs")
    several: dict[str, Any] = {"rounds": row.search_rounds, "folds": 2} if row.search_rounds > 1 else {}
    prior: RateScorer = count_prior(codec, clips, **several)
    if row.search_lm:
        with EncodedCorpus(ready_to_run(codec)) as encoded:
            codes = encoded.tokens(clips)
        trained = train_scorer(codes, codec.codebook_size, codec.frame_rate, RATE_LM, seed=seed)
        prior = NeuralPrior(run_tensors(trained.model), prior, trained.max_tokens)
    return SearchingCodec(codec, prior, SearchConfig.of(row.search_effort, row.search))


@contextmanager
def claim(lock: Path) -> Iterator[bool]:
    """True for the one process that may do a job; see `lock_file`."""
    file = lock_file(lock)
    try:
        yield file is not None
    finally:
        if file is not None:
            file.close()
