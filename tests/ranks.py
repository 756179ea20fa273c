"""Processes as torchrun starts them, on the CPU, for tests."""

from __future__ import annotations

import faulthandler
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def run_ranks(world: int, folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 240) -> list[Any]:
    """What `work(*arguments)` returns in each of `world` forked processes: anything that torch.save takes."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("fork")
    processes = [
        context.Process(target=_rank_main, args=(rank, world, port, folder, work, arguments, seconds))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds + 10)
    errors = [text for path in folder.glob(f"{world}_*.error") if (text := path.read_text())]
    for process in processes:
        process.kill()
    assert not errors and all(process.exitcode == 0 for process in processes), "\n".join(errors)
    return [torch.load(folder / f"{world}_{rank}.pt", weights_only=True) for rank in range(world)]


def _rank_main(
    rank: int, world: int, port: int, folder: Path, work: Callable[..., Any], arguments: Any, seconds: float
) -> None:
    said = open(folder / f"{world}_{rank}.error", "w")  # noqa: SIM115  open until the process ends
    faulthandler.dump_traceback_later(seconds, file=said)  # where it stands, if it hangs
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    try:
        torch.save(work(*arguments), folder / f"{world}_{rank}.pt")
    except BaseException:
        traceback.print_exc(file=said)
        said.flush()
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
