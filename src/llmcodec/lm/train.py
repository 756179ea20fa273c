"""Training a token LM with Hugging Face's trainer: `llmcodec lm train --config recipes/lm_small.yaml`.

The loss sums nats over targets and divides by their number in the whole optimizer step, so neither packing nor
accumulation changes it. Evaluation is `TokenLM.token_log_likelihoods` on held-out clips, as bits per second.
Checkpoints contain the trained weights, the optimizer, the random states and the position; one that a kill left
unfinished is skipped. Test: `pytest tests/lm/test_train.py`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from llmcodec.distributed import most_over_ranks
from llmcodec.io.atomic import disk_errors
from llmcodec.io.digests import digest_all, package_versions, source_commit
from llmcodec.io.lm_card import TokenLMCard, full_path
from llmcodec.io.run_guard import RUN, RunLock, Stopped, StopSignals, go_on
from llmcodec.io.structured import read_json, read_object, write_json
from llmcodec.io.token_file import TokenProvenance
from llmcodec.lm.embeddings import save_tensors
from llmcodec.lm.logits import evaluating
from llmcodec.lm.packing import IGNORE, RowDataset, check_packing, collate, plan_rows
from llmcodec.lm.prepare import Prepared, TrainedLM, checked_codes, codec_place, prepare_model, size_in_words
from llmcodec.lm.recipe import TokenLMRecipe
from llmcodec.lm.sequences import SPEAKS_TEXT, SequenceBuilder, TokenSequence
from llmcodec.lm.token_lm import TokenLM
from llmcodec.transcode.flat_rows import FlatRow

WEIGHTS = "trainable.safetensors"
MAY_DIFFER = ("name", "run", "log_every", "eval_every", "max_eval_clips", "keep_best", "data.max_bad")
"""Fields that a resumed run may change. Steps and epochs may grow if no learning rate depends on them."""
MOST_UNITS = 1000
"""Units of tts_aligned are named in the card up to this many: phonemes, not words."""


class StopAtSignal(TrainerCallback):
    """Saves a checkpoint at the end of the step in which a signal arrived, and ends training."""

    def __init__(self, stop: StopSignals) -> None:
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = most_over_ranks(self.stop.received, args.device)
        if asked:
            self.stop.received = asked
            control.should_save = control.should_training_stop = True


class LMTrainer(Trainer):
    """Hugging Face's trainer with our loss, our evaluation and our checkpoints."""

    def __init__(self, *args: Any, held_out: HeldOut | None, recipe: TokenLMRecipe, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.held_out, self.recipe = held_out, recipe

    @property
    def trained(self) -> TrainedLM:
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)  # type: ignore[no-any-return]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Nats per target of the whole optimizer step; every process counts all of them."""
        nats = model(**inputs)
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"] != IGNORE).sum()
        loss = nats / count * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; decay for matrices inside the layers, a separate learning rate for attached rows."""
        if self.optimizer is None:
            recipe = self.recipe
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.trained, recipe), lr=recipe.lr, betas=recipe.betas, fused=True
            )
        return self.optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Bits per second of held-out clips (and nats per target where text is predicted)."""
        metrics = {} if self.held_out is None else self.held_out.measure(self.trained)
        metrics = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_tensors(Path(output_dir or self.recipe.run) / WEIGHTS, self.trained.trainable_state())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.trained.load_trainable_state(Path(resume_from_checkpoint) / WEIGHTS)

    def finish(self, last: Path) -> None:
        """What `train` does after its last step, for a run that ended there; `train` would take one step more.

        Args:
            last: the checkpoint of the last step.
        """
        self.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        self._load_from_checkpoint(str(last if best is None else last.with_name(Path(best).name)))
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.log({})
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def parameter_groups(module: TrainedLM, recipe: TokenLMRecipe) -> list[dict[str, Any]]:
    """Optimizer groups: layers' matrices (decay), everything else (none), attached audio rows (their own rate)."""
    embeddings = {id(module.causal.get_input_embeddings().weight), id(module.causal.get_output_embeddings().weight)}
    groups: dict[str, list[Tensor]] = {"matrices": [], "others": [], "rows": []}
    for name, value in module.named_parameters():
        if value.requires_grad:
            decays = value.ndim > 1 and id(value) not in embeddings
            groups["rows" if name.startswith("rows.") else "matrices" if decays else "others"].append(value)
    options: dict[str, dict[str, Any]] = {
        "matrices": {"weight_decay": recipe.weight_decay},
        "others": {"weight_decay": 0.0},
        "rows": {"weight_decay": 0.0, "lr": recipe.rows_lr or recipe.lr},
    }
    return [{"params": members, **options[name]} for name, members in groups.items() if members]


class HeldOut:
    """Held-out clips and their measurements during training."""

    def __init__(
        self, lm: TokenLM, clips: Sequence[Tensor], token_rate: float, sequences: Sequence[TokenSequence] = ()
    ):
        self.lm, self.clips, self.token_rate, self.sequences = lm, clips, token_rate, sequences

    def measure(self, module: TrainedLM) -> dict[str, float]:
        """bits_per_second and bits_per_token of the audio; nats_per_target of the sequences."""
        metrics: dict[str, float] = {}
        if self.clips:
            scores = self.lm.token_log_likelihoods(self.clips)
            bits = -sum(float(row.double().sum()) for row in scores) / math.log(2)
            metrics["bits_per_token"] = bits / sum(len(row) for row in scores)
            metrics["bits_per_second"] = metrics["bits_per_token"] * self.token_rate
        if self.sequences:
            nats, count = 0.0, 0
            rows = RowDataset(self.sequences, [[place] for place in range(len(self.sequences))])
            with evaluating(module):
                for start in range(0, len(rows), 8):
                    batch = collate([rows[place] for place in range(start, min(start + 8, len(rows)))])
                    nats += float(module(**{name: value.to(self.lm.device) for name, value in batch.items()}))
                    count += int((batch["labels"] != IGNORE).sum())
            metrics["nats_per_target"] = nats / count
        return metrics


def train_token_lm(
    recipe: TokenLMRecipe,
    train_rows: Sequence[FlatRow],
    valid_rows: Sequence[FlatRow],
    codec: TokenProvenance,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Train with evaluations, write `run/lm`; returns that folder.

    Args:
        train_rows: rows of token shards, codes flattened. valid_rows: held-out ones, may be empty.
        codec: of the tokens. say: called with messages for the user.
        resume: continue from the newest checkpoint. allow_changes: even if the recipe differs from the run's.

    Raises:
        ValueError: a run folder that is in use, a recipe that does not fit the data or the checkpoint.
    """
    run = Path(recipe.run)
    start = _start(recipe, _facts(train_rows, codec), resume, allow_changes, say)
    num_codes = codec.num_codebooks * codec.codebook_size
    if "tts_stream" in recipe.data.formats and recipe.data.turns[1] % codec.num_codebooks:
        raise ValueError(f"recipe: data.turns[1] must be whole frames of {codec.num_codebooks} codes")
    torch.manual_seed(recipe.seed)  # adapters
    prepared = prepare_model(
        recipe.model,
        num_codes,
        recipe.loss_over == "audio",
        recipe.seed,
        recipe.gradient_checkpointing,
        checked_codes(train_rows, num_codes),
    )
    say(size_in_words(prepared, recipe))
    builder = _builder(prepared, recipe, codec)
    built = builder.build(train_rows, recipe.data.formats)
    if built.left_out:
        say(f"left out of {len(train_rows)} clips: {built.report()}")
    lengths = [len(one) for one in built.sequences]
    if recipe.data.packing:
        check_packing(prepared.module.causal, int(prepared.tokens.first))
        plan = plan_rows(lengths, recipe.data.max_tokens, recipe.seed)
    else:
        plan = [[place] for place in range(len(lengths))]
    say(f"{len(lengths)} sequences, {sum(lengths)} tokens in {len(plan)} rows")
    card = TokenLMCard(
        codec=codec,
        codec_path=codec_place(recipe.data),
        formats=list(recipe.data.formats),
        loss=recipe.loss_in_words(),
        base=full_path(recipe.model.base or ""),
        seed=recipe.seed,
        max_tokens=recipe.data.max_tokens,
        text_template=recipe.data.text_template,
        turns=recipe.data.turns if "tts_stream" in recipe.data.formats else None,
        units_ahead=recipe.data.units_ahead if "tts_aligned" in recipe.data.formats else None,
        longest_unit=sorted(built.unit_codes)[len(built.unit_codes) * 99 // 100] if built.unit_codes else None,
        units=sorted(built.units) if 0 < len(built.units) <= MOST_UNITS else None,
    )
    held_out = _held_out(prepared, recipe, builder, valid_rows, codec, card, say)
    trainer = LMTrainer(
        model=prepared.module,
        args=_arguments(recipe, held_out),
        train_dataset=RowDataset(built.sequences, plan),
        eval_dataset=None if held_out is None else RowDataset([], []),
        data_collator=collate,
        callbacks=list(callbacks),
        held_out=held_out,
        recipe=recipe,
    )
    trainer.remove_callback(PrinterCallback)
    with RunLock(run, _writes()), StopSignals() as stop:
        trainer.add_callback(StopAtSignal(stop))
        last = recipe.last_step(len(plan), trainer.args.world_size)
        if start is not None and int(start.name.removeprefix("checkpoint-")) >= last:
            trainer.finish(start)
        else:
            with disk_errors(run):
                trainer.train(resume_from_checkpoint=None if start is None else str(start))
    if trainer.control.should_training_stop and stop.received:
        raise Stopped(stop.received, f"step {trainer.state.global_step} is saved; continue with --resume")
    if trainer.is_world_process_zero():
        prepared.save(run / "lm", card)
        if held_out is not None:
            final = held_out.measure(prepared.module)
            write_json(run / "result.json", final)
    return run / "lm"


def newest_checkpoint(run: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest complete checkpoint of a run; one that a kill left unfinished is reported and deleted."""
    found = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-"))):
        try:
            read_json(path / "trainer_state.json")  # written last
            return path
        except (OSError, ValueError):
            say(f"{path}: unfinished, passed over")
            if _writes():
                shutil.rmtree(path, ignore_errors=True)
    return None


def _writes() -> bool:
    """Whether this process writes: one of several (torchrun), which have no group yet when a run starts."""
    return int(os.environ.get("RANK", "0")) == 0


def _start(
    recipe: TokenLMRecipe,
    facts: dict[str, Any],
    resume: bool,
    allow_changes: bool,
    say: Callable[[str], None],
) -> Path | None:
    """Checkpoint to resume from; writes run.json for a new run, and compares a resumed one with it."""
    run, path = Path(recipe.run), Path(recipe.run) / RUN
    if resume and path.is_file():
        before = read_object(path)["codec"]
        if before["weights_sha256"] != facts["codec"]["weights_sha256"]:
            raise ValueError(f"{run}: the run was started with tokens of codec {before['codec']!r}")
        found = newest_checkpoint(run, say)
        if _writes():
            steady = recipe.schedule == "constant_with_warmup" and not recipe.warmup_share
            go_on(
                run,
                recipe,
                facts,
                step=int(found.name.removeprefix("checkpoint-")) if found is not None else 0,
                content=lambda facts: {"its content": facts.get("rows")},
                content_field="data.tokens",
                may_differ=MAY_DIFFER,
                may_grow=("steps", "epochs") if steady else (),
                allow_changes=allow_changes,
            )()
        return found
    if any(run.glob("checkpoint-*")) or (run / "lm").exists():
        raise ValueError(f"{run}: contains a run already; continue with --resume, or name another folder with --output")
    if _writes():
        write_json(path, {"recipe": dataclasses.asdict(recipe), **facts}, durable=True)
    return None


def _facts(rows: Sequence[FlatRow], codec: TokenProvenance) -> dict[str, Any]:
    """Contents of run.json besides the recipe: the codec, a digest of the training rows, versions and commit."""
    parts = (part for row in rows for part in (row.id, row.text, np.ascontiguousarray(row.codes, np.int64)))
    return {
        "codec": dataclasses.asdict(codec),
        "rows": digest_all(parts),
        "versions": package_versions("python", "llmcodec", "torch", "transformers", "accelerate"),
        "commit": source_commit(),
    }


def _builder(prepared: Prepared, recipe: TokenLMRecipe, codec: TokenProvenance) -> SequenceBuilder:
    longest = prepared.token_lm().max_positions
    if recipe.data.max_tokens > longest:
        raise ValueError(
            f"recipe: data.max_tokens is {recipe.data.max_tokens}, but the language model reads {longest} at most"
        )
    return SequenceBuilder(
        prepared.tokenizer,
        prepared.tokens,
        recipe.data.max_tokens,
        recipe.data.text_template,
        recipe.everywhere,
        recipe.data.clips_per_sequence,
        recipe.seed,
        recipe.data.turns,
        recipe.data.units_ahead,
        codec.frame_rate,
        codec.num_codebooks,
    )


def _held_out(
    prepared: Prepared,
    recipe: TokenLMRecipe,
    builder: SequenceBuilder,
    rows: Sequence[FlatRow],
    codec: TokenProvenance,
    card: TokenLMCard,
    say: Callable[[str], None],
) -> HeldOut | None:
    if not rows:
        say("no held-out clips: no evaluation during training")
        return None
    rows = rows[:: -(-len(rows) // recipe.max_eval_clips)]
    lm = prepared.token_lm(card)
    lm.long_clips = "window"
    formats = recipe.data.formats
    clips = [torch.as_tensor(row.codes).long() for row in rows] if set(formats) - SPEAKS_TEXT - {"asr"} else []
    pairs = [name for name in formats if name != "audio"]
    sequences = builder.build(rows, pairs).sequences if pairs else []
    return HeldOut(lm, clips, codec.frame_rate * codec.num_codebooks, sequences)


def _arguments(recipe: TokenLMRecipe, held_out: HeldOut | None) -> TrainingArguments:
    measured = held_out is not None
    metric = "eval_bits_per_second" if held_out is not None and held_out.clips else "eval_nats_per_target"
    arguments = TrainingArguments(
        output_dir=recipe.run,
        seed=recipe.seed,
        data_seed=recipe.seed,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.steps or -1,
        per_device_train_batch_size=recipe.rows_per_batch,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=recipe.lr,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_share,
        max_grad_norm=recipe.clip_norm,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if measured else "no",
        eval_steps=recipe.eval_every,
        save_strategy="steps",
        save_steps=recipe.eval_every,
        save_total_limit=2,
        load_best_model_at_end=measured and recipe.keep_best,
        metric_for_best_model=metric if measured else None,
        greater_is_better=False,
        logging_steps=recipe.log_every,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        label_names=["labels"],
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs: torchrun, not threads
    return arguments
