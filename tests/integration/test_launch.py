"""`torchrun` and `accelerate launch` as the help prints them, without a GPU: one run, clips of its own for each of the
processes, and an end in good order when one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.training.checkpoint import list_checkpoints, load_checkpoint
from llmcodec.training.trainer import Trainer

from ..miniature import everything_on, everything_typed
from ..ranks import run_ranks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or torch.cuda.is_available(), reason="ranks without a GPU")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
# Without a GPU, accelerate starts one process for --cpu; --multi_gpu is torchrun, and the device is ours to choose.
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"]
QUICK: dict[str, Any] = {"precision": "fp32", "accumulate": 1, "data__clips_per_batch": 1, "checkpoint_every": 1}


def start(launcher: list[str], arguments: list[str], log: Path) -> subprocess.Popen[str]:
    """The launcher with `llmcodec train`; torchrun takes --run, the old name of --output, for an option of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONFAULTHANDLER": "1"}
    with open(log, "w") as file:
        return subprocess.Popen(
            [*launcher, port, "-m", "llmcodec", "train", *(one.replace("--run=", "--output=") for one in arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | quiet,
            start_new_session=True,
        )


def children(parent: int) -> dict[str, int]:
    """Process of every rank below a launcher."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = dict(
                entry.split("=", 1) for entry in (path / "environ").read_text().split("\0") if "=" in entry
            )
            above = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if above == parent and "RANK" in environment:
            found[environment["RANK"]] = int(path.name)
    return found


def ended(launcher: subprocess.Popen[str], log: Path) -> int:
    """Its exit status. A run that hangs shows where each rank stood, in what it printed."""
    try:
        return launcher.wait(240)
    except subprocess.TimeoutExpired:
        ranks = children(launcher.pid)
        for pid in (*ranks.values(), launcher.pid):
            os.kill(pid, signal.SIGABRT)
            time.sleep(1)
        os.killpg(launcher.pid, signal.SIGKILL)
        raise AssertionError(f"hangs with ranks {sorted(ranks)}: {log.read_text()}") from None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
def test_a_killed_rank_ends_all_with_a_line_and_the_checkpoint_stays(tmp_path):
    arguments = everything_typed("paper", tmp_path, "run", **QUICK, steps=100_000)
    launcher = start(TORCHRUN, arguments, tmp_path / "out.txt")
    try:
        deadline = time.monotonic() + 240
        while len(list_checkpoints(tmp_path / "run" / "checkpoints")) < 2 and time.monotonic() < deadline:
            assert launcher.poll() is None, (tmp_path / "out.txt").read_text()
            time.sleep(0.2)
        os.kill(children(launcher.pid)["1"], signal.SIGKILL)
        assert launcher.wait(60) != 0
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    said = [line for line in (tmp_path / "out.txt").read_text().splitlines() if line.startswith("llmcodec train:")]
    place = tmp_path / "run" / "checkpoints"
    assert said == [
        "llmcodec train: another process of this run has ended; "
        f"the newest checkpoint in {place} is whole, continue with --resume"
    ]
    assert (tmp_path / "out.txt").read_text().count("Traceback") <= 1  # torchrun's own report
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    step = load_checkpoint(newest)["progress"]["step"]
    more = everything_on("paper", tmp_path, "run", **QUICK, steps=100_000)
    (state,) = run_ranks(1, tmp_path / "seen", resumed_step, more)
    assert state == step >= 2


def resumed_step(recipe: Any) -> int:
    """Where a run of two goes on with one process, which reads the clips of both."""
    from dataclasses import replace

    alone = replace(recipe, data=replace(recipe.data, clips_per_batch=2))
    return Trainer(alone, resume=True, show_progress=False, allow_changes=True).step


@pytest.mark.parametrize(
    "launcher",
    [pytest.param(TORCHRUN, id="torchrun"), pytest.param(ACCELERATE, id="accelerate", marks=pytest.mark.slow)],
)
def test_the_command_of_the_help_is_one_run(tmp_path, launcher):
    arguments = everything_typed("paper", tmp_path, "run", **QUICK, steps=2)
    process = start(launcher, arguments, tmp_path / "out.txt")
    try:
        assert ended(process, tmp_path / "out.txt") == 0, (tmp_path / "out.txt").read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    said = (tmp_path / "out.txt").read_text()
    assert said.count("codec: ") == 1
    run = tmp_path / "run"
    assert len((run / "log.jsonl").read_text().splitlines()) == 2 and (run / "codec" / "model.safetensors").is_file()
    assert load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["sampler"]["identity"]["total_clips"] == 2


def ids_of(recipe: Any) -> dict[str, Any]:
    """Ids of the clips that this rank trains on."""
    trainer = Trainer(recipe, show_progress=False)
    with trainer.loader:
        ids = [next(trainer.loader).ids for _ in range(6)]
    return {"ranks": trainer.accelerator.num_processes, "backend": torch.distributed.get_backend(), "ids": ids}


def test_each_process_reads_clips_of_its_own(tmp_path):
    recipe = everything_on("paper", tmp_path, "run", **QUICK, data__bucket_batches=1)
    first, second = run_ranks(2, tmp_path / "seen", ids_of, recipe)
    assert first["ranks"] == second["ranks"] == 2 and first["backend"] == "gloo"
    steps = [[*a, *b] for a, b in zip(first["ids"], second["ids"], strict=True)]
    assert all(len(set(step)) == 2 for step in steps)
    epochs = [sorted(sum(steps[at : at + 3], [])) for at in (0, 3)]
    assert epochs == [[f"clip{n}" for n in range(6)]] * 2  # six clips: each once an epoch, on one of the two


def alone(recipe: Any) -> str:
    """A process that was told of another one, which it does not find."""
    os.environ["WORLD_SIZE"] = "2"
    del os.environ["LOCAL_RANK"]
    from accelerate.state import PartialState

    PartialState(cpu=False)
    try:
        Trainer(recipe, show_progress=False)
    except ValueError as error:
        return str(error)
    return ""


def test_two_runs_that_do_not_find_each_other_do_not_train(tmp_path):
    recipe = everything_on("paper", tmp_path, "run", **QUICK)
    (said,) = run_ranks(1, tmp_path / "seen", alone, recipe)
    assert "2 processes were started (WORLD_SIZE), but this one has found 1" in said
