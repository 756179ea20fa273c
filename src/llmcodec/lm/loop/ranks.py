"""A token LM over several processes: its weights in shards (FSDP2), and the rows that each rank reads.

    shard_model(prepared.module, torch.device("cpu"))       # every rank holds its part of every parameter
    batches = RankBatches(num_rows, per_rank=4, seed=0, rank=0, num_ranks=2)

Two ranks with 4 rows each take the step that one process takes with 8: the same rows, each once, and the mean of the
gradients. Test: tests/lm/loop/test_ranks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler

from llmcodec.distributed import num_ranks

FILLER = -1
"""In place of a row, where the last step of an epoch has fewer rows than ranks; it has no target."""


def shard_model(module: nn.Module, device: torch.device) -> None:
    """Cut every parameter over all ranks: each layer is a group that is gathered when it runs, the rest is another.

    Nothing happens in a single process. `module.run` runs a function on gathered weights.
    """
    if num_ranks() == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (num_ranks(),))
    layers = max((one for one in module.modules() if isinstance(one, nn.ModuleList)), key=len, default=nn.ModuleList())
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # The loss reads embeddings and output rows outside their modules, so they stay gathered until the backward pass.
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(module, "run")


def whole_tensor(value: torch.Tensor) -> torch.Tensor:
    """A parameter as one tensor on the CPU; every rank must call it."""
    gather: Any = getattr(value, "full_tensor", None)  # of a DTensor
    return (value if gather is None else gather()).detach().cpu()


class RankBatches(Sampler[list[int]]):
    """Places of the rows of one rank, a list for every micro-batch; each row goes to one rank, once an epoch.

    Args:
        num_rows: of the whole corpus.
        per_rank: rows in a micro-batch of one rank.
        seed: of the order, which is that of one process.
        rank: of this process.
        num_ranks: of the run.
        order: of an epoch; None takes that of one process with all rows in memory.
    """

    def __init__(
        self,
        num_rows: int,
        per_rank: int,
        seed: int,
        rank: int,
        num_ranks: int,
        order: Callable[[int], Iterable[int]] | None = None,
    ) -> None:
        self.num_rows, self.per_rank, self.seed, self.order_of = num_rows, per_rank, seed, order or self.order
        self.rank, self.num_ranks, self.epoch = rank, num_ranks, 0

    @property
    def batch_sampler(self) -> RankBatches:
        """Hugging Face's trainer tells this one the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_rows // (self.per_rank * self.num_ranks))

    def __iter__(self) -> Iterator[list[int]]:
        places, size = iter(self.order_of(self.epoch)), self.per_rank * self.num_ranks
        while batch := list(islice(places, size)):
            share, rest = divmod(len(batch), self.num_ranks)
            first = self.rank * share + min(self.rank, rest)
            yield batch[first : first + share + (self.rank < rest)] or [FILLER]

    def order(self, epoch: int) -> list[int]:
        """All rows in the order of an epoch: that of accelerate's `SeedableRandomSampler`."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(self.num_rows, generator=generator).tolist()  # type: ignore[no-any-return]


def share_of_step(rows: int, accumulate: int, before: int, now: int) -> tuple[int, int]:
    """Rows of a micro-batch and micro-batches of a step with which `now` ranks take the steps of `before` ranks.

    Args:
        rows: of a micro-batch then.
        accumulate: micro-batches of a step then.

    Raises:
        ValueError: the rows of a step cannot be shared equally.
    """
    total = rows * accumulate * before
    if total % now:
        raise ValueError(
            f"the run takes {total} rows a step ({before} processes, rows_per_batch {rows}, accumulate {accumulate}), "
            f"which {now} processes cannot share; resume with a number that divides it"
        )
    own = total // now
    micro = next(size for size in range(min(rows, own), 0, -1) if own % size == 0)
    return micro, own // micro
