"""Two gloo processes == one process with the double batch, in float64, with every term on.

Loss, gradients, what is logged, and after two steps of SGD and of the discriminators everything in a checkpoint.
"""

from __future__ import annotations

import copy
import os
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from llmcodec.training import trainer as trainer_module
from llmcodec.training.checkpoint import list_checkpoints
from llmcodec.training.recipe import TEACHER_TERMS, TERMS, WAVEFORM_TERMS
from llmcodec.training.trainer import Trainer

from ..miniature import everything_on

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")

SGD = "{kind: sgd, lr: 1.0e-3, momentum: 0.9, clip: 1.0e+9}"
EXACT: dict[str, Any] = {
    "precision": "fp64",
    "optimizer__codec": SGD,
    "optimizer__bridge": SGD,
    "optimizer__audio": SGD,
    "optimizer__audio_lm": SGD,
    "adversary__clip": 1.0e9,
    "codec__revive_every": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "frozen batch norm": {"codec__freeze_batch_norm": "true"},
    "batch norm over all ranks": {"codec__freeze_batch_norm": "false"},
    "native bridge, rate of the backbone, whole clips": {
        "codec__freeze_batch_norm": "true",
        "language__bridge__kind": "native",
        "language__bridge__normalize": "false",
        "weights__bridge_ce": 0.0,
        "language__rate__model": "backbone",
        "window_seconds": "null",
        "adversary_seconds": "null",
        "accumulate": 1,
    },
    "no waveform terms, so that a decoder is left without gradient": {
        f"weights__{name}": 0.0 for name in ("commit", *WAVEFORM_TERMS.values(), *TEACHER_TERMS.values())
    },
}


def two_steps(folder: Path, name: str, world: int, options: dict[str, Any]) -> dict[str, Any]:
    """Losses, gradients of the first step and the state after the second, as this rank sees them."""
    run = "_".join([*name.split(), str(world)]).replace(",", "")
    recipe = everything_on("paper", folder, run, **EXACT | options, data__clips_per_batch=4 // world)
    trainer = Trainer(recipe, show_progress=False)
    assert trainer.accelerator.num_processes == world
    seen: dict[str, Any] = {"totals": [], "gradients": []}
    non_finite = trainer.non_finite

    def spy(micro: Any, norms: dict[str, Tensor]) -> list[str]:
        seen["totals"].append(float(torch.stack([terms.total.detach() for terms in micro]).mean()))
        groups = trainer.parameter_groups()
        gradients = {f"{g}/{n}": p.grad for g, group in groups.items() for n, p in group.items()}
        seen["gradients"].append({name: None if g is None else g.clone() for name, g in gradients.items()})
        return non_finite(micro, norms)

    trainer.non_finite = spy  # type: ignore[method-assign]
    rows = [trainer.train_step([next(trainer.loader) for _ in range(recipe.accumulate)]) for _ in range(2)]
    return copy.deepcopy(seen | {"rows": rows, "state": trainer.training_state()})


def whole_run(folder: Path, name: str, world: int, options: dict[str, Any]) -> dict[str, Any]:
    """`llmcodec train`, from the start or from a checkpoint, to its end; returns the state it ends with."""
    trainer_module.plot_curves = lambda *_: None  # this process ends with the function
    resume = options.pop("resume")
    recipe = everything_on("paper", folder, name, **EXACT | options, data__clips_per_batch=4 // world)
    trainer = Trainer(recipe, resume=resume, show_progress=False)
    trainer.run()
    return {"state": copy.deepcopy(trainer.training_state())}


def rank_main(rank: int, world: int, port: int, folder: Path, name: str, options: dict[str, Any]) -> None:
    """A process as torchrun starts it."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    torch.set_num_threads(1)
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    try:
        work = whole_run if "resume" in options else two_steps
        torch.save(work(folder, name, world, dict(options)), folder / f"{world}_{rank}.pt")
    except BaseException:
        (folder / f"{world}_{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def ranks(world: int, folder: Path, name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rank of a group of processes saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("fork")
    processes = [context.Process(target=rank_main, args=(r, world, port, folder, name, options)) for r in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    errors = [path.read_text() for path in folder.glob(f"{world}_*.error")]
    assert not errors and all(process.exitcode == 0 for process in processes), "\n".join(errors)
    return [torch.load(folder / f"{world}_{rank}.pt", weights_only=True) for rank in range(world)]


def far(left: Any, right: Any, path: str = "", tolerance: float = 1e-9) -> list[str]:
    """Paths at which two nested states differ by more than rounding; tensors relative to their largest entry."""
    if isinstance(left, Tensor) and left.is_floating_point():
        finite = torch.isfinite(left) & torch.isfinite(right)
        scale = left[finite].abs().amax().clamp_min(1e-3) if finite.any() else left.new_ones(())
        distance = ((left - right)[finite].abs().amax() / scale).item() if finite.any() else 0.0
        return [f"{path}: {distance:.1e}"] if distance > tolerance else []
    if isinstance(left, Tensor):
        return [] if torch.equal(left, right) else [path]
    if isinstance(left, dict):
        if set(left) != set(right):
            return [f"{path}: other keys {sorted(map(str, set(left) ^ set(right)))}"]
        return [line for key in left for line in far(left[key], right[key], f"{path}/{key}", tolerance)]
    if isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        return [line for i, (a, b) in enumerate(zip(left, right, strict=True)) for line in far(a, b, f"{path}/{i}")]
    if isinstance(left, float):
        return [f"{path}: {left} {right}"] if abs(left - right) > tolerance * max(1.0, abs(left)) else []
    return [] if left == right else [f"{path}: {left} {right}"]


SLOW = ("frozen batch norm", "native bridge, rate of the backbone, whole clips")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in VARIANTS])
def test_two_processes_are_one_with_the_double_batch(name: str, tmp_path: Path):
    options = VARIANTS[name]
    everything_on("paper", tmp_path, "made before the ranks start")
    (one,) = ranks(1, tmp_path, name, options)
    first, second = ranks(2, tmp_path, name, options)
    off = [term for term, weight in TERMS.items() if options.get(f"weights__{weight}") == 0.0]
    assert [term for term in TERMS if term not in off and not one["rows"][1].get(term)] == [], "every term is on"
    assert one["rows"][1]["codes/revived"] > 0

    mean_totals = [(a + b) / 2 for a, b in zip(first["totals"], second["totals"], strict=True)]
    assert far(mean_totals, one["totals"]) == []
    zeros = {n: torch.zeros_like(g) for n, g in one["gradients"][0].items() if g is not None}
    for rank in (first, second):
        for step in range(2):
            gradients = {n: g for n, g in rank["gradients"][step].items() if n in zeros}
            assert len(gradients) > 40
            assert far(gradients, {n: one["gradients"][step][n] for n in zeros}, f"gradient of step {step}") == []
            unused = [g for n, g in rank["gradients"][step].items() if n not in zeros and g is not None]
            assert not any(g.any() for g in unused)
        for step, row in enumerate(one["rows"]):  # the log is of all processes; its terms are float32
            assert far(rank["rows"][step], row, f"figures of step {step}", 1e-5) == []
    state = {name: value for name, value in one["state"].items() if name not in ("rng", "sampler")}
    for rank in (first, second):
        assert far(state, {name: rank["state"][name] for name in state}) == []
    assert first["totals"] != second["totals"], "the ranks had clips of their own"


def test_a_run_of_two_processes_can_be_finished_by_one(tmp_path: Path):
    everything_on("paper", tmp_path, "made before the ranks start")
    first, second = ranks(2, tmp_path, "shared", {"steps": 2, "resume": False})
    log = (tmp_path / "shared" / "log.jsonl").read_text().splitlines()
    assert len(log) == 2 and [path.name for path in list_checkpoints(tmp_path / "shared" / "checkpoints")] == [
        "step_00000002"
    ]
    (finished,) = ranks(1, tmp_path, "shared", {"steps": 3, "resume": True})
    (whole,) = ranks(1, tmp_path, "whole", {"steps": 3, "resume": False})
    for state in (finished["state"], whole["state"]):
        state.pop("rng")
    assert finished["state"]["sampler"]["step"] == 6
    assert far(whole["state"], finished["state"]) == []
