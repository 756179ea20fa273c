"""Hugging Face's trainer with our loss, our evaluation and our checkpoints, in one process or several.

Test: tests/lm/test_train.py, tests/lm/loop/test_ranks.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState

from llmcodec.distributed import most_over_ranks, num_ranks, rank
from llmcodec.io.run_guard import StopSignals
from llmcodec.io.structured import read_object, write_json
from llmcodec.lm.logits import evaluating
from llmcodec.lm.loop.checkpoint import holds_state, load_optimizer, load_random_states, load_weights, save_state
from llmcodec.lm.loop.ranks import RankBatches
from llmcodec.lm.packing import IGNORE, RowDataset, collate
from llmcodec.lm.prepare import TrainedLM
from llmcodec.lm.recipe import TokenLMRecipe
from llmcodec.lm.sequences import TokenSequence
from llmcodec.lm.token_lm import TokenLM

WEIGHTS = "trainable.safetensors"
"""In checkpoints of llmcodec 0.2 and before."""
SCHEDULER = "scheduler.json"


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
        if torch.distributed.is_initialized():  # no DistributedDataParallel around shards
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)  # type: ignore[method-assign]

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Rows of this process."""
        rows: Any = self.train_dataset
        if num_ranks() == 1 and isinstance(rows, RowDataset):
            return super().get_train_dataloader()  # type: ignore[no-any-return]
        size, order = self.args.per_device_train_batch_size, getattr(rows, "order", None)
        batches = RankBatches(len(rows), size, self.recipe.seed, rank(), num_ranks(), order)
        pinned = self.args.dataloader_pin_memory
        return DataLoader(rows, batch_sampler=batches, collate_fn=collate, pin_memory=pinned)

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
        metrics = {} if self.held_out is None else measured(self.held_out, self.trained)
        metrics = {f"eval_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing: the weights are saved with the optimizer."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_state(Path(output_dir), self.trained, self._adamw)
        if rank() == 0:
            write_json(Path(output_dir) / SCHEDULER, self._schedule.state_dict())

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing: the random states are saved with the optimizer."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if holds_state(folder):
            load_weights(folder, self.trained)
        else:
            self._refuse_old(folder)
            self.trained.load_trainable_state(folder / WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not holds_state(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        load_optimizer(Path(checkpoint), self.trained, self._adamw)
        self._schedule.load_state_dict(read_object(Path(checkpoint) / SCHEDULER))
        for group, rate in zip(self._adamw.param_groups, self._schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # which is saved with AdamW elsewhere

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or not holds_state(Path(checkpoint)):
            super()._load_rng_state(checkpoint)
        else:
            load_random_states(Path(checkpoint))

    @property
    def _schedule(self) -> Any:
        assert self.lr_scheduler is not None, "made with the optimizer"
        return self.lr_scheduler

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        """The optimizer without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)  # type: ignore[return-value]

    def _refuse_old(self, folder: Path) -> None:
        if num_ranks() > 1:
            raise ValueError(f"{folder}: a checkpoint of an older version; resume it with one process first")

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
        "rows": {"weight_decay": 0.0, "lr": recipe.lr if recipe.rows_lr is None else recipe.rows_lr},
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


def measured(held_out: HeldOut, module: TrainedLM) -> dict[str, float]:
    """What `HeldOut.measure` gives, with the weights of all ranks; every rank must call it, and gets the same."""
    try:
        return module.run(lambda: held_out.measure(module))
    finally:
        reshard: Any = getattr(module, "reshard", None)  # of a sharded module: gathered weights would grow stale
        if reshard is not None:
            reshard()
