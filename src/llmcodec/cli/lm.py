"""`llmcodec tokenize` and `llmcodec lm train`: a corpus becomes tokens, tokens become a language model.

    llmcodec tokenize --manifest corpus/manifest.jsonl -o tokens
    llmcodec lm train --config recipes/lm_small.yaml --data.tokens '[tokens]'

Scoring, sampling and export are in `speak.py`. Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcodec import assets
from llmcodec.cli.recipes import TrainingParser
from llmcodec.data.manifest import VALID_SPLITS, Clip, read_manifest

if TYPE_CHECKING:
    from llmcodec.io.token_file import TokenProvenance
    from llmcodec.io.token_shards import ShardFormat
    from llmcodec.lm.recipe import LMDataConfig, TokenLMRecipe
    from llmcodec.runtime.base import Runtime
    from llmcodec.transcode.tokenize import FlatRow

BUNDLED = "bundled"
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
    output: str = "tokens",
    manifest: str = BUNDLED,
    codec: str = BUNDLED,
    split: str | None = None,
    sources: list[str] | None = None,
    languages: list[str] | None = None,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    views: int = 1,
    format: Literal["arrow", "parquet", "slamkit"] = "arrow",
    clips_per_shard: int = 500,
    device: str = "auto",
) -> None:
    """Turn the clips of a manifest into codec tokens, once: shards that `llmcodec lm train` reads.

    A manifest with splits gives one folder of shards per split (OUTPUT/train, OUTPUT/valid, ..). Started again, it goes
    on behind the clips that are in shards already. Each shard says which codec and which manifest it is made of.

    Args:
        output: folder for the shards.
        manifest: JSONL manifest; `bundled` is the corpus in the package.
        codec: `bundled`, a folder or a hub id.
        split: only this split, straight into OUTPUT.
        sources: keep clips of these sources.
        languages: keep clips of these languages.
        min_seconds: drop shorter clips.
        max_seconds: drop longer clips.
        views: encode every clip this often, each time starting a part of a frame later (ID#SAMPLES): the same speech in
            other tokens, so that a small corpus lasts longer. Clips of the splits valid, dev and test (also dev-clean,
            test_other, ..) are encoded once.
        format: of the shards, arrow or parquet; slamkit writes arrow and OUTPUT/SPLIT.jsonl with units and unit text,
            as slamkit reads.
        clips_per_shard: what a kill can cost at most, in clips.
        device: `auto` takes a GPU where there is one; or cpu, cuda, cuda:1, mps.
    """
    from llmcodec.runtime.opening import open_runtime
    from llmcodec.transcode.tokenize import export_slamkit

    path = assets.speech_manifest() if manifest == BUNDLED else Path(manifest)
    clips = read_manifest(
        path, split, sources=sources, languages=languages, min_seconds=min_seconds, max_seconds=max_seconds
    )
    folders = tokenize_splits(
        open_runtime(codec, device=device, only="encoder"),
        clips,
        Path(output),
        split is None,
        clips_per_shard,
        print,
        "parquet" if format == "parquet" else "arrow",
        views,
    )
    if format == "slamkit":
        for folder in folders:
            target = Path(output) / f"{folder.name if folder != Path(output) else 'tokens'}.jsonl"
            print(f"{target}: {export_slamkit(folder, target)} clips for slamkit")


def tokenize_splits(
    runtime: Runtime,
    clips: Sequence[Clip],
    output: Path,
    by_split: bool,
    clips_per_shard: int,
    say: Callable[[str], None],
    format: ShardFormat = "arrow",
    views: int = 1,
) -> list[Path]:
    """Shards of every split, with a progress bar; returns the folders. Files that cannot be read are named.

    Raises:
        ValueError: fewer than one view, or a clip with the id of another's view.
    """
    if views < 1:
        raise ValueError(f"tokenize: views must be at least 1, got {views}")
    from llmcodec.training.tracking import TrainingBar
    from llmcodec.transcode.tokenize import plan_views, split_folders, tokenize_clips

    folders = split_folders(clips, output) if by_split else {output: list(clips)}
    done, lost = 0.0, 0
    planned = [plan_views(members, views, runtime.identity.hop_samples) for members in folders.values()]
    total = math.fsum(len(starts) * clip.duration for plan in planned for clip, starts in plan)
    with TrainingBar("tokenize", round(total), 0) as bar:
        for folder, members in folders.items():

            def on_clip(seconds: float) -> None:
                nonlocal done
                done += seconds
                bar.update(round(done), {"seconds": done})

            result = tokenize_clips(
                runtime,
                members,
                folder,
                views=views,
                clips_per_shard=clips_per_shard,
                format=format,
                on_clip=on_clip,
            )
            known = f", {result.known} there before" if result.known else ""
            say(f"{folder}: {result.clips} clips, {result.seconds:.0f} s of audio{known}")
            for line in result.unreadable or []:
                say(f"left out: {line}")
            lost += len(result.unreadable or [])
    if lost:
        say(f"{lost} clips could not be read and are not in the shards")
    return list(folders)


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

    from llmcodec.lm.train import train_token_lm

    logging.disable_progress_bar()
    if int(os.environ.get("RANK", "0")) > 0:
        say = _say_nothing
    train_rows, valid_rows, codec = token_rows(recipe.data, Path(recipe.run), say)
    progress = progress_callback(recipe, resume)
    folder = train_token_lm(recipe, train_rows, valid_rows, codec, resume=resume, callbacks=[progress], say=say)
    say(f"language model: {folder}")
    return folder


def _say_nothing(line: str) -> None:
    """Of several processes, one speaks."""


def token_rows(
    data: LMDataConfig, run: Path, say: Callable[[str], None]
) -> tuple[list[FlatRow], list[FlatRow], TokenProvenance]:
    """Training rows, held-out rows and their codec; a folder with `train` and `valid` inside gives both.

    Raises:
        ValueError: shards of different codecs, no rows after the filters.
    """
    folders, held_out = [Path(place) for place in data.tokens], [Path(place) for place in data.valid_tokens]
    if not folders:
        from llmcodec.runtime.opening import open_runtime

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("several processes: make the tokens first (`llmcodec tokenize`) and name data.tokens")

        path = assets.speech_manifest() if data.manifest == BUNDLED else Path(data.manifest)
        clips = read_manifest(path, sources=data.sources, languages=data.languages, speakers=data.speakers)
        tokenize_splits(open_runtime(data.codec, only="encoder"), clips, run / "tokens", True, 500, say)
        folders = [run / "tokens"]
    for place in list(folders):
        inside = place / "train"
        if inside.is_dir():
            folders[folders.index(place)] = inside
            if not data.valid_tokens:
                held_out += [place / name for name in VALID_SPLITS if (place / name).is_dir()]
    rows, codec = _read(folders, data, None)
    valid, _ = _read(held_out, data, codec) if held_out else ([], codec)
    if not rows:
        raise ValueError(f"{', '.join(map(str, folders))}: no clip is left after speakers and languages of the recipe")
    return rows, valid, codec


def _read(
    folders: Sequence[Path], data: LMDataConfig, codec: TokenProvenance | None
) -> tuple[list[FlatRow], TokenProvenance]:
    from llmcodec.transcode.tokenize import flat_rows

    kept: list[FlatRow] = []
    for folder in folders:
        provenance, rows = flat_rows(folder)
        if codec is not None and provenance.weights_sha256 != codec.weights_sha256:
            raise ValueError(
                f"{folder}: tokens of codec {provenance.codec!r} ({provenance.weights_sha256[:12]}), the others are of "
                f"{codec.codec!r} ({codec.weights_sha256[:12]}); one language model speaks one codec"
            )
        codec = codec or provenance
        kept += [
            row
            for row in rows
            if (data.speakers is None or row.speaker in data.speakers)
            and (data.languages is None or row.language in data.languages)
        ]
    assert codec is not None
    return kept, codec


LOG_NAMES = {"loss": "lm/loss", "grad_norm": "grad_norm", "learning_rate": "lr", "epoch": "epoch"}


def progress_callback(recipe: TokenLMRecipe, resume: bool) -> Any:
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
