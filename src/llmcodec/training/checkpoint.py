"""Complete, atomic checkpoints of a training run, without pickle.

A checkpoint is a folder `step_00001234`: one safetensors file per item (objective, adversary, optimizer, ema, usage,
sampler, progress ...) for its tensors and one `state.json` for everything that is not a tensor. It is written under a
temporary name, flushed and renamed, and renamed again before it is deleted: a folder with the final name is whole, and
a killed save leaves the previous one.
Test: tests/training/test_checkpoint.py, tests/integration/test_kill.py.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmcodec.io.atomic import atomic_folder, find_left_overs, remove_folder, restore_folders
from llmcodec.io.structured import read_object
from llmcodec.io.tensor_check import check_tensors, write_digests

UNBOUNDED = ("usage",)
"""Items in which infinity has a meaning: codes of another partition, which never count as dead."""
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


def missing_items(expected: Any, found: Any, path: str = "") -> list[str]:
    """Paths missing from a nested state; values are not compared."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            return [path.lstrip("/")]
        return [
            line
            for name, value in expected.items()
            for line in (
                missing_items(value, found[name], f"{path}/{name}") if name in found else [f"{path}/{name}".lstrip("/")]
            )
        ]
    return [path.lstrip("/")] if isinstance(expected, Tensor) != isinstance(found, Tensor) else []


def save_checkpoint(root: Path, step: int, items: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `root/step_XXXXXXXX` atomically, then remove all but the newest `keep` checkpoints.

    Args:
        items: name -> nested state (dicts, lists, tensors, scalars), e.g. {"codec": module.state_dict()}.

    Raises:
        OSError: the disk is full or not writable; nothing but a temporary folder was touched, and that is removed.
    """
    restore_folders(root)
    for stale in (*find_left_overs(root), *root.glob(".tmp_step_*")):  # of a killed process, and of llmcodec 0.1
        shutil.rmtree(stale, ignore_errors=True)
    final = root / f"step_{step:08d}"
    try:
        with atomic_folder(final, replace=True, durable=True) as folder:
            tree = {}
            for name, state in items.items():
                tensors: dict[str, Tensor] = {}
                tree[name] = split_tensors(state, name, tensors)
                if tensors:
                    save_file(tensors, folder / f"{name}.safetensors")
            write_digests(folder)
            (folder / "state.json").write_text(json.dumps(tree), encoding="utf-8")
    except SafetensorError as error:
        raise OSError(f"checkpoint {final} could not be written: {error}") from error
    for old in list_checkpoints(root)[: -max(1, keep)]:
        remove_folder(old)
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
        tree = read_object(folder / "state.json")
        items = {}
        for name, state in tree.items():
            path = folder / f"{name}.safetensors"
            items[name] = join_tensors(
                state, load_file(check_tensors(path, finite=name not in UNBOUNDED)) if path.exists() else {}
            )
        return items
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"checkpoint {folder}: unreadable ({error}); delete this folder to resume from the one before"
        ) from error


def rng_state() -> dict[str, Any]:
    """All global random states (training draws from keyed generators; libraries may use these)."""
    _, numbers, *numpy_rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(numbers).astype(np.int64)), *numpy_rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def load_rng_state(state: Mapping[str, Any]) -> None:
    """The inverse of `rng_state`, also after a round trip through a checkpoint."""
    torch.set_rng_state(state["cpu"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
