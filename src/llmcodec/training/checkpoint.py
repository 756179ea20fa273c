"""Complete, atomic checkpoints of a training run, without pickle.

A checkpoint is a folder `step_00001234`: one safetensors file per item (objective, adversary, optimizer, ema, usage,
sampler, progress ...) for its tensors and one `state.json` for everything that is not a tensor. It is written under a
temporary name, flushed and renamed: a folder with the final name is whole, a killed save leaves the previous one.
Test: tests/unit/training/test_checkpoint.py, tests/integration/test_kill.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

STEP_FOLDER = re.compile(r"step_(\d{8})")
TENSOR = "__tensor__"  # marks the place of a tensor in state.json


def split_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Nested dicts, lists, tensors and plain scalars -> a JSON-able tree; tensors are put aside under their path."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {TENSOR: path}
    if isinstance(value, Mapping):
        assert TENSOR not in value
        # Keys keep their type: optimizer states are keyed by integers.
        return {"__keys__": [[k, split_tensors(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [split_tensors(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"checkpoint: {path} holds a {type(value).__name__}; only tensors, scalars, lists and dicts are saved"
    )


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_tensors` (tuples come back as lists)."""
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {k: join_tensors(v, tensors) for k, v in value["__keys__"]}
    if isinstance(value, list):
        return [join_tensors(v, tensors) for v in value]
    return value


def flush_to_disk(*paths: Path) -> None:
    """fsync files and folders: a rename is only safe once what it names has reached the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_checkpoint(root: Path, step: int, items: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `root/step_XXXXXXXX` atomically, then remove all but the newest `keep` checkpoints.

    Args:
        items: name -> nested state (dicts, lists, tensors, scalars), e.g. {"codec": module.state_dict()}.

    Raises:
        OSError: the disk is full or not writable; nothing but a temporary folder was touched, and that is removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step_{step:08d}"
    temporary = root / f".tmp_{final.name}_{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        tree = {}
        for name, state in items.items():
            tensors: dict[str, Tensor] = {}
            tree[name] = split_tensors(state, name, tensors)
            if tensors:
                save_file(tensors, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(tree), encoding="utf-8")
        flush_to_disk(*temporary.iterdir(), temporary)
        shutil.rmtree(final, ignore_errors=True)  # the same step saved twice: the newer wins
        temporary.rename(final)
        flush_to_disk(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(root)[: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    for stale in root.glob(".tmp_step_*"):
        shutil.rmtree(stale, ignore_errors=True)
    return final


def list_checkpoints(root: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if STEP_FOLDER.fullmatch(p.name) and p.is_dir())


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """A checkpoint folder -> items as they were saved.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    try:
        tree = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        items = {}
        for name, state in tree.items():
            path = folder / f"{name}.safetensors"
            items[name] = join_tensors(state, load_file(path) if path.exists() else {})
        return items
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {folder}: unreadable ({error}); delete this folder to resume from the one before"
        ) from error


def rng_state() -> dict[str, Tensor]:
    """Global random states (training draws from keyed generators; libraries may use these)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_rng_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
