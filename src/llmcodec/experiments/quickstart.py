"""`llmcodec quickstart`: adapt the bundled codec on the bundled speech through a pretrained LM, and show the effect.

Trains a control (the same steps without language terms), the recommended recipe (the control with half the codes) and
the codec adapted through the LM; measures them, the base, and the recommended codec encoding by search, all the same
way; prints the table and a verdict in words, and writes `report.html`. Every stage can be resumed.
Test: tests/integration/test_quickstart.py.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from llmcodec import assets
from llmcodec.adapters.load import folder_of_codec
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.search import SearchingCodec
from llmcodec.data.manifest import read_manifest
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.system import Corpus, MeasurementConfig
from llmcodec.experiments.comparison import Comparison, System, curves, number_of
from llmcodec.io.atomic import write_text
from llmcodec.lm.bundled import resolve_lm
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD
from llmcodec.metrics.registry import FAST, SUPERB, check_metrics
from llmcodec.protocol import Codec
from llmcodec.report.files import versions
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.tables import system_table
from llmcodec.report.verdict import Statement, verdict
from llmcodec.training.recipe import Recipe, Weights
from llmcodec.training.run_folder import is_finished
from llmcodec.training.trainer import train_or_resume
from llmcodec.transcode.prior import count_prior

BASE, CONTROL, HALF, ADAPTED, SEARCHING = "base", "control", "half the codes", "LLM-Codec", "half the codes, search"
EXAMPLES = 3
COMMAND = "llmcodec quickstart"


def run_quickstart(
    recipe: Recipe,
    output: str = "runs/quickstart",
    restart: bool = False,
    corpus: Corpus | None = None,
    measurement: MeasurementConfig | None = None,
) -> Path:
    """The whole quickstart; returns the path of the report.

    Args:
        recipe: how to adapt (`recipes/quickstart.yaml`). The control is the same recipe with language weights of 0;
            with half the codes it is `recipes/recommended.yaml` in this recipe's number of steps.
        output: folder for runs, table and report. restart: delete what an earlier quickstart left there.
        corpus: clips to measure on; default the bundled speech. measurement: protocol; default the small budget.
    """
    console = Console(markup=False, emoji=False)
    folder, started = Path(output), time.monotonic()
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    report = folder / "report.html"
    control = without_language(replace(recipe, name=CONTROL, run=str(folder / "control")))
    runs = {
        CONTROL: control,
        HALF: with_half_the_codes(replace(control, name=HALF, run=str(folder / "half"))),
        ADAPTED: replace(recipe, name=ADAPTED, run=str(folder / "adapted")),
    }
    finished = [is_finished(run) for run in runs.values()]  # refuses another recipe than that of a run
    if report.exists() and all(finished):
        console.print((folder / "table.md").read_text(encoding="utf-8"), highlight=False)
        console.print(f"\nAlready done: open {report}. To start over: {COMMAND} --restart")
        return report
    protocol = measurement or MeasurementConfig(likelihood=MINI_LIKELIHOOD)
    check_needs(recipe, protocol)
    stages = Stages(console, started)
    corpus = corpus or bundled_corpus()
    folders = {BASE: assets.codec_folder()}
    for name, run in runs.items():
        folders[name] = stages.run(f"train {name}", lambda run=run: train_or_resume(run))
    comparison = Comparison(corpus, protocol, EXAMPLES)

    def measure(name: str, codec: Codec) -> None:
        with EncodedCorpus(codec) as encoded:
            stages.run(f"measure {name}", lambda: comparison.add(name, encoded))

    codecs = {name: LLMCodec.from_pretrained(place) for name, place in folders.items()}
    for name, codec in codecs.items():
        measure(name, codec)
    measure(SEARCHING, SearchingCodec(codecs[HALF], count_prior(codecs[HALF], corpus.train)))
    rows = {row.name: row for row in comparison.rows}
    table = system_table(comparison.rows, "Held-out clips of the bundled speech", with_interval=False)
    console.print(table.rich())
    verdicts = {name: verdict(rows[CONTROL], rows[name]) for name in (HALF, ADAPTED, SEARCHING)}
    statements = [one for name, (*found, _) in verdicts.items() for one in named(name, found)]
    statements.append(verdicts[HALF][-1])  # the last one is the same for all
    for statement in statements:
        console.print(f"- {statement.text}", highlight=False)
    write_text(folder / "table.md", system_table(comparison.rows).markdown() + "\n")
    meta = ReportMeta(
        title="llmcodec quickstart",
        summary="The bundled codec before (base), after training without language terms (control), after the same with "
        "half the codes (recommended), and after training with language terms (LLM-Codec), measured alike on held-out "
        "speech; the one with half the codes again, encoding by search.",
        statements=statements,
        commands=[COMMAND],
        versions=versions(),
        settings=settings_of(recipe),
        notes=["One seed, ten minutes of speech: a demonstration, not a result. docs/results has the full corpus."],
        reference=CONTROL,
    )
    systems = [System(name, str(place)) for name, place in folders.items()]
    write_report(report, comparison.rows, comparison.examples, curves(comparison.rows, systems), meta)
    minutes = (time.monotonic() - started) / 60
    console.print(f"\n{minutes:.1f} min. Listen, look, compare: {report}")
    console.print(f"Recommended: {folders[HALF]}. Adapted through the LM: {folders[ADAPTED]}")
    return report


def check_needs(recipe: Recipe, protocol: MeasurementConfig) -> None:
    """Look for the language model and the packages that are needed later. Raises ValueError if one is missing."""
    check_metrics(protocol.metrics or (SUPERB if protocol.slow_metrics else FAST))
    if recipe.language is not None and recipe.language.backbone is not None:
        resolve_lm(recipe.language.backbone.name)


class Stages:
    """Numbered stages with elapsed time and an estimate of what is left."""

    SHARES = (0.10, 0.10, 0.22, 0.11, 0.11, 0.11, 0.11, 0.14)  # of the whole, as measured on two cores

    def __init__(self, console: Console, started: float):
        self.console, self.started, self.done = console, started, 0

    def run(self, title: str, work: Any) -> Any:
        elapsed = time.monotonic() - self.started
        finished = sum(self.SHARES[: self.done])
        left = f", about {elapsed * (1 - finished) / finished / 60:.0f} min left" if finished and elapsed > 5 else ""
        named = Text(f"[{self.done + 1}/{len(self.SHARES)}] {title}", style="bold")
        self.console.print(named, f" {elapsed / 60:.1f} min so far{left}")
        self.done += 1
        return work()


def without_language(recipe: Recipe) -> Recipe:
    """The control: the same steps on the same audio, every language and token-statistics weight 0."""
    off = {name: 0.0 for name in ("marginal_entropy", "view", "ftp", "rate", "cosine", "contrast", "bridge_ce")}
    weights = {**{f: getattr(recipe.weights, f) for f in Weights.__dataclass_fields__}, **off}
    return replace(recipe, weights=Weights(**weights), language=None)


def with_half_the_codes(recipe: Recipe) -> Recipe:
    """The same with the half of the codes that are used most."""
    codec, size = recipe.codec, recipe.codec.smaller_codebook
    if size is None:
        folder = folder_of_codec(codec.start)
        size = LLMCodecConfig.from_pretrained(folder, trust_remote_code=False).codebook_size
    return replace(recipe, codec=replace(codec, smaller_codebook=size // 2))


def bundled_corpus() -> Corpus:
    """Train, valid and test clips of the bundled speech."""
    train_clips, valid, test = (read_manifest(assets.speech_manifest(split)) for split in assets.SPEECH_SPLITS)
    return Corpus(train_clips, valid, test)


def named(name: str, statements: list[Statement]) -> list[Statement]:
    """Statements with the system's name in them."""
    return [s if name in s.text else Statement(s.kind, f"{name}: {s.text}") for s in statements]


def settings_of(recipe: Recipe) -> dict[str, str]:
    """The main settings of the recipe, for the report."""
    weights = {name: value for name, value in asdict(recipe.weights).items() if value}
    return {
        "steps": str(recipe.steps),
        "clips per step": str(recipe.data.clips_per_batch * recipe.accumulate),
        "weights": ", ".join(f"{name} {number_of(weight)}" for name, weight in weights.items()),
        "frozen LM": recipe.language.backbone.name if recipe.language and recipe.language.backbone else "none",
    }
