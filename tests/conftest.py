"""The fixture `two_ranks`: run a function on two gloo processes that meet in a file (no port, no network)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Result = dict[str, torch.Tensor]


def _rank(rank: int, function: Callable[[int], Result], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save(function(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[Callable[[int], Result]], tuple[Result, Result]]:
    """Call it with a function of the rank that returns tensors by name; it returns what both ranks returned."""

    def run(function: Callable[[int], Result]) -> tuple[Result, Result]:
        # Forked, so that functions of test modules (which no child could import) can run.
        mp.start_processes(_rank, args=(function, str(tmp_path)), nprocs=2, start_method="fork")
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        return first, second

    return run
