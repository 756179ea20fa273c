"""The training loop: `Trainer(recipe).run()`, or `llmcodec train --config recipes/X.yaml`.

Base training from scratch and adaptation by a language model take the same path; the recipe decides. One step is
`train_step`. Checkpoints are complete (`training_state`): a resumed run equals an uninterrupted one bit for bit on the
CPU. Test: tests/integration/test_resume.py, test_two_processes.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from llmcodec.codec.hub import remove_graphs
from llmcodec.codec.quantizer import CodebookUsage
from llmcodec.data.clips import ClipBatch
from llmcodec.data.sampler import clip_seed
from llmcodec.distributed import most_over_ranks, num_ranks, ranks_on_cpu, refuse_strangers
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.remote.paths import publish
from llmcodec.io.run_guard import RunLock, Stopped, StopSignals
from llmcodec.objectives.collapse import CodeStatistics
from llmcodec.protocol import tokens_of
from llmcodec.training import checkpoint
from llmcodec.training.build import (
    build_adversary,
    build_bigram,
    build_codec,
    build_distillation,
    build_language,
    build_loader,
    partition_of,
)
from llmcodec.training.objective import CodecObjective, LossTerms
from llmcodec.training.optimizer import GroupOptimizer
from llmcodec.training.recipe import Recipe
from llmcodec.training.run_folder import begin_run, go_on, is_finished
from llmcodec.training.tracking import JSONLLog, TrainingBar, as_floats, plot_curves, read_log
from llmcodec.training.warmup import enter_phase


class CollapseError(ArithmeticError):
    """Token statistics fell below the recipe's floors and the recipe says stop."""


class Trainer:
    """A run: builds everything from the recipe, trains, writes `codec/` (which loads as what it started from).

    Args:
        recipe: what to do. resume: continue from the newest checkpoint in the run folder (if any).
        allow_changes: resume with a recipe that differs from the run's; run.json then says in what.
    """

    def __init__(self, recipe: Recipe, resume: bool = False, show_progress: bool = True, allow_changes: bool = False):
        self.recipe, self.folder, self.allow_changes = recipe, Path(recipe.run), allow_changes
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        AcceleratorState._reset_state()  # an earlier trainer in this process may have had another precision
        self.accelerator = Accelerator(
            mixed_precision="no",  # the recipe decides (`CodecObjective.autocast`), not the user's accelerate settings
            log_with=recipe.trackers or None,
            project_dir=recipe.run,
            kwargs_handlers=[ddp],
            cpu=ranks_on_cpu(),
        )
        refuse_strangers(self.accelerator.num_processes)
        self.device, self.dtype = (
            self.accelerator.device,
            torch.float64 if recipe.precision == "fp64" else torch.float32,
        )
        torch.manual_seed(recipe.seed)
        codec: Any = build_codec(recipe, self.device)
        ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.loader = build_loader(recipe, codec.sample_rate, *ranks)
        saved = checkpoint.list_checkpoints(self.folder / "checkpoints")
        language = build_language(recipe, codec, fresh=not (resume and saved))
        self.adversary = build_adversary(recipe)
        distillation = build_distillation(recipe, codec)
        parts = partition_of(recipe, codec), distillation, build_bigram(recipe, codec)
        objective = CodecObjective(recipe, codec, language, self.adversary, *parts)
        self.objective = objective.to(self.device).train()
        if self.adversary is not None:
            self.adversary.to(self.device)
        if recipe.precision == "fp64":
            self.objective.double()
            self.adversary = None if self.adversary is None else self.adversary.double()
        num_tokens = tokens_of(codec)
        self.usage = CodebookUsage(num_tokens, recipe.codec.usage_decay).to(self.device)
        self.statistics = CodeStatistics(num_tokens, num_codebooks=codec.num_codebooks).to(self.device)
        low, high = objective.partition or (0, num_tokens)
        self.unreachable_V = ~torch.isin(torch.arange(num_tokens), torch.arange(low, high)).to(self.device)
        average = get_ema_multi_avg_fn(recipe.ema_decay) if recipe.ema_decay is not None else None
        self.ema = AveragedModel(self.codec, multi_avg_fn=average) if average is not None else None
        self.groups = [
            GroupOptimizer(name, parameters, getattr(recipe.optimizer, name))
            for name, parameters in self.parameter_groups().items()
            if any(p.requires_grad for p in parameters.values())
        ]
        self.model = self.accelerator.prepare(self.objective)
        self.step, self.bad_steps, self.skipped, self.revived = 0, 0, 0, 0
        self.warmup_steps, self.first_batch = recipe.warmup_steps, self.loader.state_dict()
        self.record: Callable[[], None] = partial(begin_run, recipe, self.loader)
        self.bar_enabled = show_progress and self.accelerator.is_main_process
        if resume:
            self.resume()
        elif saved:
            raise ValueError(
                f"{self.folder} already holds a run ({saved[-1].name}): continue it with --resume, "
                "or choose another folder with --run, or delete it"
            )

    @property
    def codec(self) -> Any:
        return self.objective.codec

    @property
    def joint_step(self) -> int:
        """The step that schedules count, from 0 after the warm-up phase; negative in it."""
        return self.step - self.warmup_steps

    def parameter_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Group -> named parameters; every trainable parameter is in exactly one."""
        groups: dict[str, dict[str, nn.Parameter]] = {"codec": self.objective.codec_parameters()}
        if self.objective.language is not None:
            groups |= self.objective.language.parameter_groups()
        grouped = sum(sum(p.requires_grad for p in parameters.values()) for parameters in groups.values())
        assert grouped == sum(p.requires_grad for p in self.objective.parameters())
        return groups

    # -- one step --------------------------------------------------------------------------------------------------
    def train_step(self, batches: Sequence[ClipBatch]) -> dict[str, float] | None:
        """Forward and backward of all micro-batches, update, then the adversary on the same audio. None: skipped."""
        step = enter_phase(self.joint_step, self.recipe, self.objective, self.groups)
        micro: list[LossTerms] = []
        buffers = [buffer.clone() for buffer in self.objective.buffers()]  # the forward pass moves bank and batch norm
        for index, batch in enumerate(batches):
            last = index + 1 == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                terms = self.model(self.move(batch), step)
                if terms.total.requires_grad:  # else only the adversary trains at this step
                    self.accelerator.backward(terms.total / len(batches))
            micro.append(terms)
        norms = self.clip()
        if guilty := self.non_finite(micro, norms):
            self.skip(guilty, buffers)
            return None
        rates = {group.name: group.step(step) for group in self.groups}
        self.zero_grad()
        adversarial = self.train_adversary(micro)
        with torch.no_grad():
            for terms in micro:
                self.usage.update(terms.encoding.codes_BT, terms.encoding.mask_BT)
                self.usage.usage_V.masked_fill_(self.unreachable_V, torch.inf)  # codes of other partitions are not dead
                self.statistics.update(terms.encoding.codes_BT, terms.encoding.mask_BT)
            revived = self.revive(micro)
            if self.ema is not None and self.joint_step >= 0:
                self.ema.update_parameters(self.codec)
        self.step += 1
        self.bad_steps = 0
        self.revived += revived
        row = {**self.figures(micro, norms, rates), **adversarial, "codes/revived": float(revived)}
        return as_floats(row, over_ranks=self.recipe.logs(self.step))

    def clip(self) -> dict[str, Tensor]:
        """Clip every group; returns the norms before, on our device (a group without gradients gives a CPU tensor)."""
        return {group.name: group.clip().to(self.device) for group in self.groups}

    def move(self, batch: ClipBatch) -> ClipBatch:
        batch = batch.to(self.device)
        return replace(batch, wav_BS=batch.wav_BS.to(self.dtype))

    def zero_grad(self) -> None:
        for group in self.groups:
            group.zero_grad()

    def train_adversary(self, micro: Sequence[LossTerms]) -> dict[str, Tensor]:
        """Train the discriminators on all micro-batches of the step, once their generator term is on."""
        windows = [(t.fake_BS.detach(), t.real_BS) for t in micro if t.fake_BS is not None and t.real_BS is not None]
        if self.adversary is None or not windows or "adv/generator" not in micro[0].raw:
            return {}
        return self.adversary.step(windows, self.joint_step)

    def non_finite(self, micro: Sequence[LossTerms], norms: dict[str, Tensor]) -> list[str]:
        """Names of terms or gradients that are NaN or infinite, on any rank; all ranks return the same."""
        checks = {name: torch.stack([t.raw[name].detach().float() for t in micro]).sum() for name in micro[0].raw}
        checks |= {f"grad_norm/{name}": norm.float() for name, norm in norms.items()}
        bad = torch.stack([~torch.isfinite(value) for value in checks.values()]).float()
        bad = self.accelerator.reduce(bad, "sum")
        return [name for name, count in zip(checks, bad.tolist(), strict=True) if count > 0]

    def skip(self, guilty: list[str], buffers: Sequence[Tensor]) -> None:
        """Skip the step, leave everything unchanged and count it; too many in a row end the run."""
        self.zero_grad()
        with torch.no_grad():
            for buffer, before in zip(self.objective.buffers(), buffers, strict=True):
                buffer.copy_(before)
        self.step += 1
        self.skipped += 1
        self.bad_steps += 1
        if self.bad_steps >= self.recipe.max_bad_steps:
            raise FloatingPointError(
                f"step {self.step}: {self.bad_steps} non-finite steps in a row ({', '.join(guilty)}); "
                f"lower its weight or learning rate; the newest checkpoint in {self.folder / 'checkpoints'} is intact"
            )

    def revive(self, micro: Sequence[LossTerms]) -> int:
        """Move unused codes onto latents of this step (all ranks move the same codes to the same places)."""
        cfg = self.recipe.codec
        step = self.joint_step
        settled = cfg.revive_until and step >= cfg.revive_until
        if not cfg.revive_below or step < 0 or settled or (step + 1) % cfg.revive_every:
            return 0
        rows = torch.cat([self.from_all_ranks(self.projected(t)) for t in micro])
        generator = torch.Generator().manual_seed(clip_seed(self.recipe.seed, step, "", "revive"))
        return self.usage.revive(self.codec.quantizer.codebook.data, rows, cfg.revive_below, generator)

    def projected(self, terms: LossTerms) -> Tensor:
        """Real frames (N, C) of a micro-batch as the quantiser sees them, before normalisation."""
        latent_ND = terms.encoding.latent_BTD[terms.encoding.places]
        projected: Tensor = self.codec.quantizer.in_proj(latent_ND.to(self.dtype))
        return projected

    def from_all_ranks(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in rank order, which is the order of one process with the whole batch."""
        if self.accelerator.num_processes == 1:
            return rows
        count = self.accelerator.gather(torch.tensor([rows.shape[0]], device=self.device))
        padded = self.accelerator.gather(self.accelerator.pad_across_processes(rows)[None])
        return torch.cat([part[:n] for part, n in zip(padded, count.tolist(), strict=True)])

    def figures(
        self, micro: Sequence[LossTerms], norms: dict[str, Tensor], rates: dict[str, float]
    ) -> dict[str, Tensor | float]:
        """Logged numbers of a step: mean raw terms, token statistics, gradient norms, learning rates."""
        mean: dict[str, Tensor | float] = {}
        for name in {**micro[0].raw, **micro[0].logged}:
            mean[name] = torch.stack([(t.raw | t.logged)[name].detach().float() for t in micro]).mean()
        mean |= self.statistics.summary()
        mean |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
        mean |= {f"lr/{name}": rate for name, rate in rates.items()}
        return mean

    # -- the run ---------------------------------------------------------------------------------------------------
    def read(self) -> list[ClipBatch]:
        """Micro-batches of the next step. Joint steps begin with the first batch, as without a warm-up phase."""
        if self.warmup_steps and self.joint_step == 0:
            self.loader.load_state_dict(self.first_batch)
        return [next(self.loader) for _ in range(self.recipe.accumulate)]

    def phase(self) -> dict[str, str]:
        """The log's word for the phase of the step before this one, where a run has two."""
        return {"phase": "joint" if self.joint_step > 0 else "warm-up"} if self.warmup_steps else {}

    def run(self) -> Path:
        """Train to `recipe.total_steps`; returns the folder of the trained codec."""
        main = self.accelerator.is_main_process
        with RunLock(self.folder, main):
            if main:  # only now: the folder may be that of a training that goes on
                self.record()
            log = JSONLLog(self.folder / "log.jsonl", self.step) if main else None
            if self.recipe.trackers:
                self.accelerator.init_trackers(self.recipe.name)
            self.take_steps(log)
        return self.finish()

    def take_steps(self, log: JSONLLog | None) -> None:
        """The steps that are left. Raises Stopped at a signal, once its step is saved."""
        started, told, last = time.monotonic(), self.step, self.recipe.total_steps
        bar = TrainingBar(self.recipe.name, last, self.step, self.bar_enabled)
        with StopSignals() as stop, bar, self.loader:
            while self.step < last:
                row = self.train_step(self.read())
                if row is not None and self.recipe.logs(self.step):
                    row = {"step": self.step, **row, "skipped": float(self.skipped)}
                    row["seconds_per_step"] = (time.monotonic() - started) / (self.step - told)
                    started, told = time.monotonic(), self.step
                    if log is not None:
                        log.write(row | self.phase())
                    if self.recipe.trackers:
                        self.accelerator.log(row, step=self.step)
                    self.guard(row, bar)
                bar.update(self.step, row if self.recipe.logs(self.step) or num_ranks() == 1 else None)
                asked = most_over_ranks(stop.received, self.device)  # the same step on all ranks
                if asked or self.step % self.recipe.checkpoint_every == 0 or self.step == last:
                    self.save()
                if asked and self.step < last:
                    raise Stopped(asked, f"step {self.step} is saved; continue with --resume")

    def guard(self, row: dict[str, float], bar: TrainingBar) -> None:
        """Collapse floors: warn, or stop the run when the recipe says so."""
        usable = int((~self.unreachable_V).sum())
        violated = self.recipe.floors.violated(self.statistics.summary(), usable)
        for line in violated:
            if self.bar_enabled:
                bar.console.print(f"warning, step {self.step}: {line}", style="yellow", highlight=False)
        if violated and self.recipe.floors.action == "stop":
            self.save()
            raise CollapseError(f"step {self.step}: tokens are collapsing: {'; '.join(violated)}")

    def finish(self) -> Path:
        """Draw the curves, and export the codec (its average, if there is one) atomically."""
        folder = self.folder / "codec"
        if self.accelerator.is_main_process:
            if self.objective.language is not None:
                self.objective.language.save_parts(self.folder)
            plot_curves(read_log(self.folder / "log.jsonl"), self.folder / "curves.png", self.recipe.name)
            codec: Any = (self.codec if self.ema is None else self.ema.module).float()
            # The codec comes last, since with it a run counts as finished. The card names its final folder.
            with atomic_folder(folder, merge=True) as temporary:
                codec.save_pretrained(temporary, card=codec.card(f"{self.folder.resolve().name}/codec"))
            remove_graphs(folder)
        if self.recipe.trackers:
            self.accelerator.end_training()
        self.accelerator.wait_for_everyone()
        return folder

    # -- saving and resuming ---------------------------------------------------------------------------------------
    def training_state(self) -> dict[str, Any]:
        """Everything that determines the next step."""
        state: dict[str, Any] = {
            "objective": self.objective.state_dict(),
            "optimizer": {group.name: group.state_dict() for group in self.groups},
            "usage": self.usage.state_dict(),
            "statistics": self.statistics.state_dict(),
            "sampler": self.loader.state_dict(),
            "rng": checkpoint.rng_state(),
            "progress": {
                "step": self.step,
                "bad_steps": self.bad_steps,
                "skipped": self.skipped,
                "revived": self.revived,
            },
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.training_state()
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        return state

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The inverse of `training_state`.

        Raises:
            ValueError: the state lacks an item, or has one that this recipe does not use.
        """
        expected = self.training_state()
        expected["rng"].pop("cuda", None)  # a run may move from or to a GPU
        if self.adversary is not None:
            expected["adversary"]["optimizer"] = {}  # moments exist from the first step on
        wrong = checkpoint.missing_items(expected, state) or sorted(set(state) - set(expected))
        if wrong:
            raise ValueError(f"the checkpoint and this recipe differ in {wrong[:5]}; resume with the same recipe")
        try:
            self.objective.load_state_dict(state["objective"])
            for group in self.groups:
                group.load_state_dict(state["optimizer"][group.name])
            self.usage.load_state_dict(state["usage"])
            self.statistics.load_state_dict(state["statistics"])
            if self.adversary is not None:
                self.adversary.load_training_state(state["adversary"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
        except RuntimeError as error:
            raise ValueError(f"the checkpoint is of another model, resume with the same recipe: {error}") from error
        self.loader.load_state_dict(state["sampler"], self.allow_changes)
        checkpoint.load_rng_state(state["rng"])
        progress = state["progress"]
        self.step, self.bad_steps = progress["step"], progress["bad_steps"]
        self.skipped, self.revived = progress["skipped"], progress["revived"]

    def save(self) -> None:
        """Write a checkpoint (main process)."""
        if self.accelerator.is_main_process:
            checkpoint.save_checkpoint(
                self.folder / "checkpoints", self.step, self.training_state(), self.recipe.keep_checkpoints
            )
            publish(self.folder)  # the log up to here
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, after comparing the recipe with run.json."""
        if found := checkpoint.list_checkpoints(self.folder / "checkpoints"):
            state = checkpoint.load_checkpoint(found[-1])
            if self.accelerator.is_main_process:
                self.record = go_on(self.recipe, self.loader, state["progress"]["step"], self.allow_changes)
            self.load_training_state(state)


def train_or_resume(recipe: Recipe) -> Path:
    """Folder of the trained codec: starts or resumes the run, or leaves it alone if it is finished."""
    return Path(recipe.run) / "codec" if is_finished(recipe) else Trainer(recipe, resume=True).run()
