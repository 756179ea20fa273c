"""Fixtures that several packages share: two gloo ranks, a few short recordings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import settings

from llmcodec.data.manifest import Clip

from .speech import speech_like

Result = dict[str, torch.Tensor]

# The same examples in every run. To look for new ones: HYPOTHESIS_PROFILE=default python -m pytest tests/io
settings.register_profile("fixed", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def _rank(rank: int, function: Callable[[int], Result], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save(function(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Four recordings of 1 to 2.5 s."""
    made = []
    for index, seconds in enumerate((1.0, 1.5, 2.0, 2.5)):
        soundfile.write(tmp_path / f"{index}.flac", speech_like(seconds, index), 16_000)
        made.append(Clip(id=f"clip-{index}", audio=f"{index}.flac", duration=seconds, folder=str(tmp_path)))
    return made


@pytest.fixture
def two_ranks(tmp_path: Path) -> Callable[[Callable[[int], Result]], tuple[Result, Result]]:
    """Two gloo processes that meet in a file (no port, no network).

    Call it with a function of the rank that returns tensors by name; it returns what both ranks returned."""

    def run(function: Callable[[int], Result]) -> tuple[Result, Result]:
        # Forked, so that functions of test modules (which no child could import) can run.
        mp.start_processes(_rank, args=(function, str(tmp_path)), nprocs=2, start_method="fork")
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        return first, second

    return run
