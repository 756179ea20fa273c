"""`llmcodec quickstart`: adapt the bundled codec on the bundled speech through a pretrained LM, and show what it did.

Trains a control (the same steps without language terms) and the adapted codec; measures base, control, adapted codec,
and the adapted codec encoding by search, all alike; prints the table, says in words what improved and what it cost,
and writes `report.html`. Every stage can be resumed. Test: tests/integration/test_quickstart.py.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from llmcodec import assets
from llmcodec.codec import LLMCodec
from llmcodec.codec.search import SearchConfig, SearchingCodec
from llmcodec.codec.token_prior import BigramPrior
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.evaluation.reconstruction import reconstruct
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import Corpus, MeasurementConfig, encode_all, measure_system, spread
from llmcodec.io import audio
from llmcodec.io.atomic import write_text
from llmcodec.io.digests import package_versions
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD
from llmcodec.protocol import Codec
from llmcodec.report.figures import Curve
from llmcodec.report.page import Example, ReportMeta, Track, write_report
from llmcodec.report.tables import markdown_table, rich_table
from llmcodec.report.verdict import Statement, verdict
from llmcodec.training.recipe import Recipe, Weights
from llmcodec.training.tracking import read_log
from llmcodec.training.trainer import train_or_resume

BASE, CONTROL, ADAPTED, SEARCHING = "base", "control", "LLM-Codec", "LLM-Codec, search"
SEARCH_CAVEAT = (
    f"The bits of {SEARCHING} are too low: its prior is counted on the clips that train the measuring LM "
    "(docs/results/search_in_sample_prior.md)."
)
EXAMPLES = 3
COMMAND = "llmcodec quickstart"
TERMS_SHOWN = {
    "recon/multi_mel": "multi-scale mel loss",
    "lm/rate_bits": "bits per token under the small audio LM",
    "lm/ftp_1": "next-token loss of the frozen LM's first head, nats",
    "align/cosine": "1 - cosine of audio and text states",
}


def run_quickstart(
    recipe: Recipe,
    output: str = "runs/quickstart",
    restart: bool = False,
    corpus: Corpus | None = None,
    measurement: MeasurementConfig | None = None,
) -> Path:
    """The whole quickstart; returns the path of the report.

    Args:
        recipe: how to adapt (`recipes/quickstart.yaml`). The control is the same recipe with language weights of 0.
        output: folder for runs, table and report. restart: delete what an earlier quickstart left there.
        corpus: clips to measure on; default the bundled speech. measurement: protocol; default the small budget.
    """
    console = Console()
    folder, started = Path(output), time.monotonic()
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    report = folder / "report.html"
    if report.exists():
        console.print((folder / "table.md").read_text(encoding="utf-8"), highlight=False)
        console.print(f"\nAlready done: open {report}. To start over: {COMMAND} --restart")
        return report
    stages = Stages(console, started)
    corpus = corpus or bundled_corpus()
    runs = {
        CONTROL: without_language(replace(recipe, name=CONTROL, run=str(folder / "control"))),
        ADAPTED: replace(recipe, name=ADAPTED, run=str(folder / "adapted")),
    }
    folders = {BASE: assets.codec_folder()}
    for name, run in runs.items():
        folders[name] = stages.run(f"train {name}", lambda run=run: train_or_resume(run))
    codecs: dict[str, Codec] = {name: LLMCodec.from_pretrained(folder) for name, folder in folders.items()}
    codecs[SEARCHING] = searching(LLMCodec.from_pretrained(folders[ADAPTED]), corpus)
    config = measurement or MeasurementConfig(likelihood=MINI_LIKELIHOOD)
    rows = [
        stages.run(f"measure {name}", lambda n=name, c=codec: measure_system(n, c, corpus, config))
        for name, codec in codecs.items()
    ]
    console.print(rich_table(rows, "Held-out clips of the bundled speech"))
    *adapted, caveat = verdict(rows[1], rows[2])
    *searched, _ = verdict(rows[1], rows[3])
    statements = [*named(ADAPTED, adapted), *named(SEARCHING, searched), Statement("warning", SEARCH_CAVEAT), caveat]
    for statement in statements:
        console.print(f"- {statement.text}", highlight=False)
    write_text(folder / "table.md", markdown_table(rows) + "\n")
    meta = ReportMeta(
        title="llmcodec quickstart",
        summary="The bundled codec before (base), after the same training without language terms (control), and after "
        "training with them (LLM-Codec), measured alike on held-out speech; the last again, encoding by search.",
        statements=statements,
        commands=[COMMAND],
        versions=package_versions("llmcodec", "torch", "transformers"),
        settings=settings_of(recipe),
        notes=[
            "One seed, ten minutes of speech: a demonstration, not a result. docs/results has the full corpus.",
            SEARCH_CAVEAT,
        ],
        reference=CONTROL,
    )
    write_report(report, rows, examples(codecs, corpus), curves(rows, runs), meta)
    minutes = (time.monotonic() - started) / 60
    console.print(f"\n{minutes:.1f} min. Listen, look, compare: {report}. The adapted codec: {folders[ADAPTED]}")
    return report


class Stages:
    """Numbered stages with elapsed time and an estimate of what is left."""

    SHARES = (0.14, 0.27, 0.13, 0.13, 0.14, 0.19)  # of the whole, as measured on two cores

    def __init__(self, console: Console, started: float):
        self.console, self.started, self.done = console, started, 0

    def run(self, title: str, work: Any) -> Any:
        elapsed = time.monotonic() - self.started
        finished = sum(self.SHARES[: self.done])
        left = f", about {elapsed * (1 - finished) / finished / 60:.0f} min left" if finished and elapsed > 5 else ""
        self.console.print(
            f"[bold]\\[{self.done + 1}/{len(self.SHARES)}] {title}[/bold]  {elapsed / 60:.1f} min so far{left}"
        )
        self.done += 1
        return work()


def without_language(recipe: Recipe) -> Recipe:
    """The control: the same steps on the same audio, every language and token-statistics weight 0."""
    off = {name: 0.0 for name in ("marginal_entropy", "view", "ftp", "rate", "cosine", "contrast", "bridge_ce")}
    weights = {**{f: getattr(recipe.weights, f) for f in Weights.__dataclass_fields__}, **off}
    return replace(recipe, weights=Weights(**weights), language=None)


def bundled_corpus() -> Corpus:
    """Train, valid and test clips of the bundled speech."""
    train_clips, valid, test = (read_manifest(assets.speech_manifest(split)) for split in assets.SPEECH_SPLITS)
    return Corpus(train_clips, valid, test)


def named(name: str, statements: list[Statement]) -> list[Statement]:
    """Statements that say which system they are about."""
    return [s if name in s.text else Statement(s.kind, f"{name}: {s.text}") for s in statements]


def searching(codec: LLMCodec, corpus: Corpus) -> SearchingCodec:
    """The codec, searching by the bigrams of its own codes on the train clips: few, so with half the default weight."""
    prior = BigramPrior.fit(encode_all(codec, corpus.train), codec.codebook_size)
    return SearchingCodec(codec, prior, SearchConfig(weight=0.2))


def examples(codecs: dict[str, Codec], corpus: Corpus) -> list[Example]:
    """Some held-out recordings as every codec gives them back."""
    suitable = [clip for clip in corpus.test if 1.5 <= clip.duration <= 5.0 and clip.text]
    return [example(clip, codecs) for clip in spread(suitable, EXAMPLES)]


def example(clip: Clip, codecs: dict[str, Codec]) -> Example:
    rate = next(iter(codecs.values())).sample_rate
    wav_S = audio.load(clip.path, rate)
    tracks = [Track("original", wav_S, rate), *(Track(n, reconstruct(c, wav_S)[0], rate) for n, c in codecs.items())]
    return Example(clip.id, tracks, clip.text)


def curves(rows: list[SystemRow], runs: dict[str, Recipe]) -> list[Curve]:
    """Learning curves: the token LM of each system, and the terms of the training runs."""
    lm = {
        row.name: ([p.audio_seconds for p in row.predictability.curve], [p.test_bits for p in row.predictability.curve])
        for row in rows
        if row.predictability is not None
    }
    drawn = [Curve("Token LM on held-out clips", "seconds of audio seen", "bits per token", lm)]
    logs = {name: read_log(Path(run.run) / "log.jsonl") for name, run in runs.items()}
    for term, label in TERMS_SHOWN.items():
        series = {}
        for name, log in logs.items():
            if points := [(row["step"], row[term]) for row in log if term in row]:
                series[name] = ([step for step, _ in points], [value for _, value in points])
        if series:
            drawn.append(Curve(f"Training: {label}", "step", label, series))
    return drawn


def settings_of(recipe: Recipe) -> dict[str, str]:
    """The lines of the recipe that matter, for the report."""
    weights = {name: value for name, value in asdict(recipe.weights).items() if value}
    return {
        "steps": str(recipe.steps),
        "clips per step": str(recipe.data.clips_per_batch * recipe.accumulate),
        "weights": ", ".join(f"{k} {v if not isinstance(v, dict) else v['value']}" for k, v in weights.items()),
        "frozen LM": recipe.language.backbone.name if recipe.language and recipe.language.backbone else "none",
        "python": sys.version.split()[0],
    }
