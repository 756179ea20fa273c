"""Checkpoints of a sharded model and its AdamW, which any number of ranks can read.

    save_state(folder, module, optimizer)
    load_weights(folder, module); load_optimizer(folder, module, optimizer)

Every rank writes its shards into a safetensors file of its own through torch.distributed.checkpoint. Its storage for
Hugging Face's format keeps places and shapes in the JSON headers of these files: no pickle is written or read.
Test: tests/lm/loop/test_checkpoint.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from llmcodec.distributed import num_ranks, rank
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_check import check_tensors, write_digests

CONTENTS = "shards.json"
"""Names and sizes of the files, so that a lost one is noticed."""
FILES = "shard-*.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the trained weights, their moments and the random states; every rank must call it.

    Args:
        folder: of the checkpoint.
        module: sharded or not.
        optimizer: AdamW.
    """
    state = _weights(module)
    for name, value in trained_parameters(module).items():
        state |= {f"{key}.{name}": one for key, one in _moments(optimizer, value).items()}
    state |= _random_states()
    folder.mkdir(parents=True, exist_ok=True)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _alone():
        save(state, storage_writer=writer, no_dist=num_ranks() == 1)
    if rank() == 0:
        write_digests(folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.glob(FILES))}
        write_json(folder / CONTENTS, {"ranks": num_ranks(), "files": files}, durable=True)


def holds_state(folder: Path) -> bool:
    """Whether `save_state` wrote this checkpoint; those of llmcodec 0.2 and before have other files."""
    return (folder / CONTENTS).is_file()


def check_state(folder: Path) -> None:
    """Raise ValueError where a file of a checkpoint is missing or damaged; it is named."""
    files = read_object(folder / CONTENTS).get("files")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{folder / CONTENTS}: damaged; delete {folder} to resume from the checkpoint before")
    for name, size in files.items():
        path = folder / Path(name).name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise ValueError(f"{path}: {what}; delete {folder} to resume from the checkpoint before")
        if rank() == 0:
            check_tensors(path)
    if others := {path.name for path in folder.glob(FILES)} - set(files):
        raise ValueError(f"{folder / min(others)}: a shard of another checkpoint; delete it")


def load_weights(folder: Path, module: nn.Module) -> None:
    """Read the trained weights into a module, sharded as it is now; every rank must call it.

    Raises:
        ValueError: they are missing, damaged, or of another model.
    """
    check_state(folder)
    _load(folder, _weights(module))


def load_optimizer(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read AdamW's state; every rank must call it. Raises ValueError as `load_weights`."""
    state: dict[str, Tensor] = {}
    for name, value in trained_parameters(module).items():
        own = _moments(optimizer, value)
        state |= {f"{key}.{name}": one for key, one in own.items()}
    _load(folder, state)
    for name, value in trained_parameters(module).items():
        step = torch.tensor(float(state[f"step.{name}"]), device=value.device)
        optimizer.state[value] = {"step": step, **{key: state[f"{key}.{name}"] for key in MOMENTS}}


def load_random_states(folder: Path) -> None:
    """Set the random states of this rank, if the run had one of its number then."""
    own = _random_states()
    known = {name for name in own if name in _names(folder)}
    state = {name: own[name] for name in known}
    if num_ranks() > 1 or state:  # a collective
        _load(folder, state)
    if (name := f"random.{rank()}.cpu") in state:
        torch.set_rng_state(state[name])
    if (name := f"random.{rank()}.cuda") in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state[name])


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; shared ones once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": value.detach() for name, value in trained_parameters(module).items()}


def _moments(optimizer: torch.optim.Optimizer, value: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of a parameter: its own, or zeros before the first step."""
    state: Mapping[str, Any] = optimizer.state.get(value, {})
    step = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32).detach().reshape(1).cpu()
    return {"step": step, **{key: state.get(key, torch.zeros_like(value.detach())) for key in MOMENTS}}


def _random_states() -> dict[str, Tensor]:
    state = {f"random.{rank()}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"random.{rank()}.cuda"] = torch.cuda.get_rng_state()
    return state


@contextmanager
def _alone() -> Iterator[None]:
    """Without a word on there being one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _names(folder: Path) -> set[str]:
    return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def _load(folder: Path, state: dict[str, Tensor]) -> None:
    try:
        with _alone():
            load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=num_ranks() == 1)
    except (CheckpointException, RuntimeError, ValueError) as error:
        reasons = [str(one) for one in getattr(error, "failures", {}).values()] or [str(error)]
        line = " ".join(reasons[0].split())[:200]
        raise ValueError(f"{folder}: the checkpoint is of another model, or damaged ({line})") from error
