"""Means over variable lengths that stay right when a batch is split over ranks.

DistributedDataParallel averages gradients over ranks. A rank that divides by its own count of real frames gives each of
them the wrong weight as soon as the counts differ; dividing by the mean count over ranks makes the averaged gradient
equal to that of one process with all clips.

Shapes: B batch, S samples. Test: `pytest tests/test_distributed.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
"""What messages of collectives say when a process at the other end has gone."""


class LostRank(ValueError):
    """Another process of the run has ended."""


def at_least_float32(x: Tensor) -> Tensor:
    """Promote bf16/fp16 to float32; float32 and float64 pass unchanged (tests run in float64)."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def num_ranks() -> int:
    """Processes that train together; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def launched_ranks() -> int:
    """Processes that torchrun or accelerate started with this one, whether they have found each other yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def ranks_on_cpu() -> bool:
    """Whether several processes were started where there is no accelerator; accelerate has to be told."""
    return launched_ranks() > 1 and not (torch.cuda.is_available() or torch.xpu.is_available())


def refuse_strangers(found: int) -> None:
    """Raise ValueError where the processes that were started have not all found each other: each would train alone."""
    if found != launched_ranks():
        raise ValueError(
            f"{launched_ranks()} processes were started (WORLD_SIZE), but this one has found {found}; start them with "
            "torchrun or accelerate launch"
        )


@contextmanager
def together(what_is_left: str) -> Iterator[None]:
    """Work of several processes: the end of one of them ends all, with a line and not with a traceback of sockets.

    Args:
        what_is_left: words on what is on disk, for that line.

    Raises:
        LostRank: another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(sign in str(error) for sign in LOST)
        if launched_ranks() == 1 or not lost:
            raise
        raise LostRank(f"another process of this run has ended; {what_is_left}") from error
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process among those that train together, from 0."""
    return dist.get_rank() if num_ranks() > 1 else 0


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over ranks, with gradient; the tensor itself in a single process."""
    if num_ranks() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(x)
    return total


def mean_count(mask: Tensor) -> Tensor:
    """Number of True entries in `mask`, averaged over ranks (float64 scalar, at least 1 / ranks if any is True).

    A collective when torch.distributed is initialised: every rank must call it equally often.
    """
    count = mask.sum(dtype=torch.int64)
    if num_ranks() > 1:
        dist.all_reduce(count)
    return count.to(torch.float32 if mask.device.type == "mps" else torch.float64) / num_ranks()


def mean_over_ranks(value: float, device: torch.device) -> float:
    """Mean of a plain number over ranks; a collective when torch.distributed is initialised."""
    if num_ranks() == 1:
        return float(value)
    total = torch.tensor(float(value), device=device)
    dist.all_reduce(total)
    return total.item() / num_ranks()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each `.grad` by its mean over ranks, in one message per dtype; nothing to do in a single process.

    Every rank must pass the same parameters in the same order; a missing gradient counts as zeros.
    """
    if num_ranks() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for group in by_dtype.values():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= num_ranks()
        for parameter, mean in zip(group, flat.split([g.numel() for g in gradients]), strict=True):
            parameter.grad = mean.view_as(parameter).clone()


def in_turns(makers: Sequence[Callable[[], Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
    """What each of `makers` returns, made by one rank each (in turns) and sent to all others; a collective.

    Args:
        makers: functions that give the same tensor on every rank.
        like: a tensor of the shape, dtype and device of each result.
    """
    ranks = num_ranks()
    if ranks == 1:
        return [make() for make in makers]
    mine = rank()
    results = [make().contiguous() if i % ranks == mine else torch.empty_like(like[i]) for i, make in enumerate(makers)]
    for i, result in enumerate(results):
        dist.broadcast(result, i % ranks)
    return results


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `limit`; returns the norm before.

    As `torch.nn.utils.clip_grad_norm_`, which also rewrites gradients that are short enough. A norm that is not finite
    leaves them as they are: the caller skips such a step.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu":  # to ask for the norm would wait for the device
        torch._foreach_mul_(gradients, clip_factor(norm, limit))
    elif limit < float(norm) < math.inf:
        for gradient in gradients:
            gradient.mul_(limit / (norm + 1e-6))
    return norm


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """What gradients of this norm are multiplied by, exactly 1 where they are short enough or not finite."""
    clipped = (norm > limit) & (norm < math.inf)
    return torch.where(clipped, limit / (norm + 1e-6), torch.ones_like(norm))


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of `values` where `mask` is True over the number of such entries, as a scalar.

    Args:
        values: any shape, floating.
        mask: bool, of a shape that broadcasts to that of `values`; None means every entry counts. Entries outside the
            mask may have any value, even NaN, and receive zero gradient.

    With torch.distributed initialised the count is the mean of the counts per rank, so that the mean of the results
    (and of their gradients) over ranks is the mean over all entries of all ranks. An empty mask gives 0, connected
    to the graph, so that a rank without a real entry still takes part in the backward pass.
    """
    if mask is None:
        mask = torch.ones((), dtype=torch.bool, device=values.device)
    if mask.dtype != torch.bool:
        raise ValueError(f"masked_mean: the mask must be bool (True = counts), got {mask.dtype}; use `mask > 0`")
    mask = mask.expand(values.shape)
    total = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device)).sum()
    count = mean_count(mask)
    return total / torch.where(count > 0, count, torch.ones_like(count)).to(values.dtype)


def most_over_ranks(value: int, device: torch.device) -> int:
    """The largest of a plain number over ranks; a collective when torch.distributed is initialised."""
    if num_ranks() == 1:
        return value
    most = torch.tensor(value, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)
