"""`kill -9` at 20 random moments of saving leaves a usable run folder each time: checkpoints whole, log readable."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.io.atomic import find_left_overs
from llmcodec.training.checkpoint import list_checkpoints, load_checkpoint, rng_state, save_checkpoint
from llmcodec.training.tracking import JSONLLog, read_log

KILLS = 20
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


def payload(step: int) -> dict[str, Any]:
    """A state of a run's shape, some 5 MB in many tensors and files, every number of which says its step."""
    value = float(step)
    return {
        "objective": {f"layers.{i}.weight": torch.full((160, 160), value) for i in range(24)},
        "optimizer": {"codec": [{i: {"exp_avg": torch.full((160, 160), value)} for i in range(24)}]},
        "ema": {"weight": torch.full((500, 160), value)},
        "rng": rng_state(),
        "progress": {"step": step},
    }


def is_of(state: Any, step: int) -> bool:
    """Every tensor of a payload carries the step."""
    if isinstance(state, torch.Tensor):
        return bool((state == step).all())
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return all(is_of(child, step) for child in children)


def save_until_killed(folder: Path, begun: int) -> None:
    """A run that does nothing but log and save, resuming from what it finds; every third step is saved twice."""
    found = list_checkpoints(folder / "checkpoints")
    step = load_checkpoint(found[-1])["progress"]["step"] if found else 0
    log = JSONLLog(folder / "log.jsonl", step)
    os.write(begun, b"!")
    while True:
        step += 1
        log.write({"step": step, "filler": "x" * 2000})
        for _ in range(2 if step % 3 == 0 else 1):
            save_checkpoint(folder / "checkpoints", step, payload(step), keep=2)


def start(folder: Path) -> int:
    """Fork a child that saves; returns its id once it has begun."""
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_until_killed(folder, begun)
        finally:
            os._exit(1)
    os.close(begun)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return child


def test_a_killed_save_leaves_the_newest_checkpoint_whole(tmp_path: Path):
    delays = random.Random(0)
    step, in_the_middle = 0, 0
    while step == 0:  # a first checkpoint, however slow the machine is
        child = start(tmp_path)
        time.sleep(0.3)
        step = kill_and_look(child, tmp_path, step)
    for _ in range(KILLS):
        child = start(tmp_path)
        time.sleep(delays.uniform(0.0, 0.12))
        step = kill_and_look(child, tmp_path, step)
        in_the_middle += bool(find_left_overs(tmp_path / "checkpoints"))
    assert in_the_middle >= 5, "most kills fell into a save"
    save_checkpoint(tmp_path / "checkpoints", step + 1, payload(step + 1))
    assert not find_left_overs(tmp_path / "checkpoints"), "the next save removes what kills have left"


def kill_and_look(child: int, folder: Path, step_before: int) -> int:
    """Kill, then check that the folder can be resumed from; returns the newest step."""
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = list_checkpoints(folder / "checkpoints")
    for path in found:
        state = load_checkpoint(path)
        step = state["progress"]["step"]
        assert path.name == f"step_{step:08d}"
        assert is_of({name: value for name, value in state.items() if name not in ("rng", "progress")}, step)
    assert len(found) <= 3
    rows = read_log(folder / "log.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    newest = load_checkpoint(found[-1])["progress"]["step"] if found else 0
    # Between the two renames of a step that is saved again, the checkpoint before it is the newest for an instant.
    assert newest >= step_before - 1 and len(rows) >= newest
    return newest
