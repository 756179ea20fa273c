"""`llmcodec tokenize` and `llmcodec lm train`: a corpus becomes tokens, tokens become a language model.

    llmcodec tokenize --manifest corpus/manifest.jsonl -o tokens
    llmcodec lm train --config recipes/lm_small.yaml --data.tokens '[tokens]'

Scoring, sampling and export are in `speak.py`. Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.cli.options import ClipOptions, CodecOptions, OutputOptions
from llmcodec.cli.recipes import TrainingParser

if TYPE_CHECKING:
    from llmcodec.lm.recipe import TokenLMRecipe

CODEC, CLIPS, TOKENS = CodecOptions(), ClipOptions(min_seconds=0.0), OutputOptions("tokens")
SHORT_NAMES = {
    "output": "run",
    "manifest": "data.manifest",
    "sources": "data.sources",
    "languages": "data.languages",
    "codec": "data.codec",
}

TRAIN_HELP = """\
Train a language model on codec tokens: from scratch, or any causal LM of the Hugging Face hub.

  llmcodec lm train --config lm_small                  bundled speech, works offline
  llmcodec lm train --config lm_small --data.tokens '[tokens]'     shards of `llmcodec tokenize`
  llmcodec lm train --config lm_paper --data.tokens '[tokens]'     Qwen3-4B with LoRA
  llmcodec lm train --config lm_small --resume                     go on where it stopped
  torchrun --nproc-per-node 4 -m llmcodec lm train --config lm_paper

The run folder gets run.json, log.jsonl, curves.png, checkpoint-N/, result.json and lm/, which `llmcodec lm score`,
`lm sample`, `lm export` and `evaluate salmon` read."""


def tokenize(
    codec: CodecOptions = CODEC,
    corpus: ClipOptions = CLIPS,
    output: OutputOptions = TOKENS,
    views: int = 1,
    format: Literal["arrow", "parquet", "slamkit"] = "arrow",
    clips_per_shard: int = 500,
) -> None:
    """Turn the clips of a manifest into codec tokens, once: shards that `llmcodec lm train` reads.

    A manifest with splits gives one folder of shards per split (OUTPUT/train, OUTPUT/valid, ..). Started again, it goes
    on behind the clips that are in shards already. Each shard says which codec and which manifest it is made of.

    Args:
        output: folder for the shards.
        split: take these splits, joined by commas; a single one goes straight into OUTPUT.
        views: encode every clip this often, each time starting a part of a frame later (ID#SAMPLES): the same speech in
            other tokens, so that a small corpus lasts longer. Clips of the splits valid, dev and test (also dev-clean,
            test_other, ..) are encoded once.
        format: of the shards, arrow or parquet; slamkit writes arrow and OUTPUT/SPLIT.jsonl with units and unit text,
            as slamkit reads.
        clips_per_shard: what a kill can cost at most, in clips.
    """
    from llmcodec.transcode.tokenize import describe, export_slamkit, tokenize_splits

    place, clips = output.place, corpus.clips()
    with tokenize_bar() as show:
        results = tokenize_splits(
            codec.open("encoder"),
            clips,
            place,
            by_split=corpus.split is None or len(corpus.split) > 1,
            views=views,
            clips_per_shard=clips_per_shard,
            format="parquet" if format == "parquet" else "arrow",
            on_progress=show,
        )
    print(*describe(results), sep="\n")
    if format == "slamkit":
        for folder in results:
            target = place / f"{folder.name if folder != place else 'tokens'}.jsonl"
            print(f"{target}: {export_slamkit(folder, target)} clips for slamkit")


@contextmanager
def tokenize_bar() -> Iterator[Callable[[float], None]]:
    """A progress bar, or lines now and then; takes the share that is done."""
    from llmcodec.training.tracking import TrainingBar

    with TrainingBar("tokenize", 100, 0) as bar:
        yield lambda share: bar.update(int(100 * share), {"share": share})


@cache
def lm_train_parser() -> TrainingParser[TokenLMRecipe]:
    """Parser of `llmcodec lm train`."""
    from llmcodec.lm.recipe import TokenLMRecipe

    return TrainingParser(TokenLMRecipe, "llmcodec lm train", TRAIN_HELP, SHORT_NAMES)


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec lm train`."""
    recipe, resume = lm_train_parser().start(arguments)
    run_training(recipe, resume)


def run_training(recipe: TokenLMRecipe, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Tokens (made on the way where the recipe names none), training, curves; returns the folder of the LM."""
    from transformers.utils import logging

    from llmcodec.lm.prepare import prepare_rows
    from llmcodec.lm.train import train_token_lm

    logging.disable_progress_bar()
    if int(os.environ.get("RANK", "0")) > 0:
        say = _say_nothing
    with ExitStack() as stack:
        bar = None if recipe.data.tokens else stack.enter_context(tokenize_bar())
        train_rows, valid_rows, codec = prepare_rows(recipe.data, Path(recipe.run), say, bar)
    progress = progress_callback(recipe)
    folder = train_token_lm(recipe, train_rows, valid_rows, codec, resume=resume, callbacks=[progress], say=say)
    say(f"language model: {folder}")
    return folder


def _say_nothing(line: str) -> None:
    """Of several processes, one speaks."""


LOG_NAMES = {"loss": "lm/loss", "grad_norm": "grad_norm", "learning_rate": "lr", "epoch": "epoch"}


def progress_callback(recipe: TokenLMRecipe) -> Any:
    """A trainer callback: bar, log.jsonl, curves.png."""
    from transformers import TrainerCallback

    from llmcodec.training.tracking import JSONLLog, TrainingBar, plot_curves, read_log

    path = Path(recipe.run) / "log.jsonl"

    class Progress(TrainerCallback):
        """Writes what Hugging Face's trainer reports."""

        def __init__(self) -> None:
            self.log: JSONLLog | None = None
            self.bar: TrainingBar | None = None
            self.started = time.monotonic()
            self.first = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first, self.started = state.global_step, time.monotonic()
            if state.is_world_process_zero:
                self.log = JSONLLog(path, state.global_step)
                self.bar = TrainingBar(recipe.name, state.max_steps, state.global_step)
                self.bar.__enter__()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.log is None or self.bar is None:
                return
            logs: dict[str, float] = kwargs["logs"]
            row = {LOG_NAMES.get(name, name.replace("eval_", "lm/")): value for name, value in logs.items()}
            row = {name: value for name, value in row.items() if "/" in name or name in LOG_NAMES.values()}
            pace = (time.monotonic() - self.started) / max(1, state.global_step - self.first)
            self.log.write({"step": state.global_step, **row, "seconds_per_step": pace})
            self.bar.update(state.global_step, row | {"seconds_per_step": pace})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.log is not None:
                plot_curves(read_log(path), path.with_name("curves.png"), recipe.name)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.bar is not None:
                self.bar.__exit__()
                plot_curves(read_log(path), path.with_name("curves.png"), recipe.name)

    return Progress()
