"""Training a token LM with Hugging Face's trainer: `llmcodec lm train --config recipes/lm_small.yaml`.

The loss sums nats over targets and divides by their number in the whole optimizer step, so neither packing nor
accumulation nor the number of processes changes it. Several processes hold the model in shards (`loop/ranks.py`).
Evaluation is `TokenLM.token_log_likelihoods` on held-out clips, as bits per second. Checkpoints contain the trained
weights, the optimizer, the random states and the position; one that a kill left unfinished is skipped.
Test: `pytest tests/lm/test_train.py tests/lm/loop`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from llmcodec.distributed import launched_ranks, num_ranks, refuse_strangers
from llmcodec.io.atomic import disk_errors
from llmcodec.io.digests import digest_all, package_versions, source_commit
from llmcodec.io.lm_card import CARD, TokenLMCard, full_path
from llmcodec.io.run_guard import RUN, RunLock, Stopped, StopSignals, go_on
from llmcodec.io.structured import read_json, read_object, write_json
from llmcodec.io.token_file import TokenProvenance
from llmcodec.lm.bundled import resolve_lm
from llmcodec.lm.loop.blocks import BlockedRows, Blocks
from llmcodec.lm.loop.ranks import shard_model, share_of_step, whole_tensor
from llmcodec.lm.loop.trainer import HeldOut, LMTrainer, StopAtSignal, measured
from llmcodec.lm.packing import RowDataset, check_packing, collate, plan_rows
from llmcodec.lm.prepare import DraftLoss, Prepared, checked_codes, codec_place, prepare_model, size_in_words
from llmcodec.lm.recipe import LMModelConfig, TokenLMRecipe
from llmcodec.lm.sequences import SPEAKS_TEXT, Built, SequenceBuilder
from llmcodec.transcode.flat_rows import FlatRow
from llmcodec.transcode.mapped_rows import MappedRows

MAY_DIFFER = ("name", "run", "log_every", "eval_every", "max_eval_clips", "keep_best", "data.max_bad")
"""Fields that a resumed run may change. Steps and epochs may grow if no learning rate depends on them."""
CLIPS_READ = 4096
"""Of a corpus that stays on disk: clips, evenly spread, that initialise the rows of a model from scratch."""
MOST_UNITS = 1000
"""Units of tts_aligned are named in the card up to this many: phonemes, not words."""


def train_token_lm(
    recipe: TokenLMRecipe,
    train_rows: Sequence[FlatRow],
    valid_rows: Sequence[FlatRow],
    codec: TokenProvenance,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    draft_loss: DraftLoss | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train with evaluations, write `run/lm`; returns that folder.

    Args:
        train_rows: rows of token shards, codes flattened. valid_rows: held-out ones, may be empty.
        codec: of the tokens. draft_loss: of `model.heads`, `objectives.prediction.draft_nats`.
        say: called with messages for the user.
        resume: continue from the newest checkpoint. allow_changes: even if the recipe differs from the run's.

    Raises:
        ValueError: a run folder that is in use, a recipe that does not fit the data or the checkpoint.
    """
    with RunLock(recipe.run, _writes()):  # first: the folder may be that of a training that goes on
        return _train(recipe, train_rows, valid_rows, codec, resume, allow_changes, callbacks, draft_loss, say)


def _train(
    recipe: TokenLMRecipe,
    train_rows: Sequence[FlatRow],
    valid_rows: Sequence[FlatRow],
    codec: TokenProvenance,
    resume: bool,
    allow_changes: bool,
    callbacks: Sequence[TrainerCallback],
    draft_loss: DraftLoss | None,
    say: Callable[[str], None],
) -> Path:
    """`train_token_lm`, in a folder that is this process's."""
    run = Path(recipe.run)
    start = _start(recipe, _facts(train_rows, codec), resume, allow_changes, say)
    num_codes = codec.num_codebooks * codec.codebook_size
    if "tts_stream" in recipe.data.formats and recipe.data.turns[1] % codec.num_codebooks:
        raise ValueError(f"recipe: data.turns[1] must be whole frames of {codec.num_codebooks} codes")
    known = train_rows[:: -(-len(train_rows) // CLIPS_READ)] if isinstance(train_rows, MappedRows) else train_rows
    clips = checked_codes(known, num_codes)

    def make(clips: Sequence[Tensor]) -> Prepared:
        torch.manual_seed(recipe.seed)  # adapters
        checkpointing = recipe.gradient_checkpointing
        return prepare_model(recipe.model, num_codes, recipe.loss_over == "audio", recipe.seed, checkpointing, clips)

    if recipe.model.heads and (draft_loss is None or launched_ranks() > 1):
        raise ValueError(
            "recipe: model.heads needs draft_loss=objectives.prediction.draft_nats"
            if draft_loss is None
            else "recipe: model.heads train in one process; train them afterwards, with model.train heads"
        )
    prepared = make(clips)
    _check_base(recipe, prepared, codec, say)
    prepared.module.draft_loss = draft_loss
    say(size_in_words(prepared, recipe))
    builder = _builder(prepared, recipe, codec)
    if recipe.data.packing:
        check_packing(prepared.module.causal, int(prepared.tokens.first))
    dataset, built = _dataset(train_rows, builder, recipe, say)
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
        voice_seconds=recipe.data.voice_seconds or None,
        units=sorted(built.units) if 0 < len(built.units) <= MOST_UNITS else None,
    )
    card = prepared.card or card
    held_out = _held_out(prepared, recipe, builder, valid_rows, codec, card, say)
    shared = shared_recipe(recipe, run, say)
    arguments = _arguments(shared, held_out)
    device = arguments.device  # which starts the process group
    refuse_strangers(num_ranks())
    shard_model(prepared.module, device)
    trainer = LMTrainer(
        model=prepared.module,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=None if held_out is None else RowDataset([], []),
        data_collator=collate,
        callbacks=list(callbacks),
        held_out=held_out,
        recipe=recipe,
    )
    trainer.remove_callback(PrinterCallback)
    with StopSignals() as stop:
        trainer.add_callback(StopAtSignal(stop))
        last = shared.last_step(len(dataset), trainer.args.world_size)
        if start is not None and int(start.name.removeprefix("checkpoint-")) >= last:
            trainer.finish(start)
        else:
            with disk_errors(run):
                trainer.train(resume_from_checkpoint=None if start is None else str(start))
    if trainer.control.should_training_stop and stop.received:
        raise Stopped(stop.received, f"step {trainer.state.global_step} is saved; continue with --resume")
    _save(run, prepared, make, card, held_out)
    return run / "lm"


def _dataset(
    rows: Sequence[FlatRow], builder: SequenceBuilder, recipe: TokenLMRecipe, say: Callable[[str], None]
) -> tuple[RowDataset | BlockedRows, Built]:
    """Packed rows, all in memory or, where the clips stay on disk, a block at a time."""
    most = recipe.data.max_tokens if recipe.data.packing else None
    if isinstance(rows, MappedRows):
        if builder.voice_codes:
            raise ValueError("recipe: data.voice_seconds needs all clips in memory: raise data.most_in_memory")
        blocks = Blocks(rows, builder, recipe.data.formats, most, recipe.seed)
        dataset: RowDataset | BlockedRows = BlockedRows(blocks, recipe.seed)
        built, sizes = blocks.built, (blocks.num_sequences, blocks.num_tokens, sum(blocks.num_rows))
    else:
        built = builder.build(rows, recipe.data.formats)
        lengths = [len(one) for one in built.sequences]
        plan = plan_rows(lengths, most, recipe.seed) if most else [[place] for place in range(len(lengths))]
        dataset, sizes = RowDataset(built.sequences, plan), (len(lengths), sum(lengths), len(plan))
    if built.left_out:
        say(f"left out or cut, of {len(rows)} clips: {built.report()}")
    say(f"{sizes[0]} sequences, {sizes[1]} tokens in {sizes[2]} rows")
    return dataset, built


def _save(
    run: Path,
    prepared: Prepared,
    make: Callable[[Sequence[Tensor]], Prepared],
    card: TokenLMCard,
    held_out: HeldOut | None,
) -> None:
    """Write the trained LM and its figures (main process); of a sharded one the whole is put together."""
    whole = prepared
    if num_ranks() > 1:
        state = {name: whole_tensor(value) for name, value in prepared.module.trainable_state().items()}
        if _writes():
            whole = make(())
            whole.module.take_state(state)
    if _writes():
        whole.save(run / "lm", card)
    if held_out is not None:
        final = measured(held_out, prepared.module)
        if _writes():
            write_json(run / "result.json", final)


def shared_recipe(recipe: TokenLMRecipe, run: Path, say: Callable[[str], None]) -> TokenLMRecipe:
    """The recipe of this number of processes: a step has the rows that it had with the number that began the run."""
    now = launched_ranks()
    # That of a new run is perhaps not there yet: the first process writes it.
    before = read_object(run / RUN).get("ranks", now) if (run / RUN).is_file() else now
    rows, accumulate = share_of_step(recipe.rows_per_batch, recipe.accumulate, before, now)
    if before != now:
        say(f"{before} processes then, {now} now: {rows} rows in a micro-batch, {accumulate} of them a step")
    return dataclasses.replace(recipe, rows_per_batch=rows, accumulate=accumulate) if before != now else recipe


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
    digest = rows.digest() if isinstance(rows, MappedRows) else None
    parts = (part for row in rows for part in (row.id, row.text, np.ascontiguousarray(row.codes, np.int64)))
    return {
        "codec": dataclasses.asdict(codec),
        "rows": digest_all(parts) if digest is None else digest,
        "ranks": launched_ranks(),
        "versions": package_versions("python", "llmcodec", "torch", "transformers", "accelerate"),
        "commit": source_commit(),
    }


def voice_codes(seconds: float, codec: TokenProvenance) -> int:
    """Codes of a voice prompt: whole frames."""
    return round(seconds * codec.frame_rate) * codec.num_codebooks


def _check_base(recipe: TokenLMRecipe, prepared: Prepared, codec: TokenProvenance, say: Callable[[str], None]) -> None:
    """Draft heads need tokens of their LM's own codec; an LM that goes on with other tokens is told of."""
    if (base := recipe.model.base) is None:
        return
    place = Path(resolve_lm(base))
    card = prepared.card or (TokenLMCard.load(place) if (place / CARD).is_file() else None)
    if card is None:
        return
    theirs = card.codec
    if theirs is not None and theirs.weights_sha256 != codec.weights_sha256:
        differs = f"{base} speaks the tokens of {theirs.codec!r}, these are of {codec.codec!r}"
        if recipe.model.train == "heads":
            raise ValueError(f"recipe: {differs}: draft heads need tokens of the LM's own codec")
        say(f"{differs}: its rows of codes start with the meaning of the other codec")
    if recipe.model.audio_rows != LMModelConfig.audio_rows:
        say(f"{base} has rows of codes: they are kept, and model.audio_rows does nothing")


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
        voice_codes(recipe.data.voice_seconds, codec),
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
        load_best_model_at_end=measured and recipe.keep_best and recipe.model.train != "heads",  # the LM stays the same
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
