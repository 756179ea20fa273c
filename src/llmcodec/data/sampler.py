"""The order in which training reads clips: a pure function of a seed and a step, so that resuming is exact.

    sampler = ResumableSampler([clip.duration for clip in clips], batch_clips=8, seed=1)
    indices = next(sampler)                      # this rank's clips of the next batch
    saved = sampler.state_dict()                 # JSON; load_state_dict(saved) goes on as if nothing had happened

Batches are made for all ranks together and then cut in rank order: two ranks of 8 clips read what one rank of 16 reads.
Tests: `pytest tests/data/test_sampler.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmcodec.io.digests import digest, digest_number

WINDOW = 8
"""Runs of clips that are shuffled together; half of the row groups that `data.member` keeps, for two may overlap."""


def clip_seed(seed: int, step: int, clip_id: str, purpose: str) -> int:
    """A 63-bit seed for one clip, step and purpose (`crop`, `gumbel`, ...): the same on any rank and in any batch."""
    return digest_number(repr((int(seed), int(step), clip_id, purpose))) >> 1


class ResumableSampler(Iterator[list[int]]):
    """Endless batches of clip indices, for one rank of `world_size`.

    The epochs are joined to one stream, so no batch is short and no clip is dropped.

    Args:
        durations: seconds of each clip.
        batch_clips: clips of a batch, per rank.
        bucket_batches: clips of similar length share a batch; they are sorted within pools of this many batches. 1
            sorts nothing.
        blocks: first index of every run of clips that are read together (row groups of Parquet, see `find_blocks`). The
            runs are then shuffled, and the clips of WINDOW of them that follow each other; None, or so few: all clips.
    """

    def __init__(
        self,
        durations: Sequence[float] | np.ndarray,
        *,
        batch_clips: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        bucket_batches: int = 1,
        blocks: np.ndarray | None = None,
    ) -> None:
        if not len(durations):
            raise ValueError("there is no clip to sample from")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size} ranks")
        if bucket_batches < 1 or batch_clips < 1:
            raise ValueError("batch_clips and bucket_batches must be at least 1")
        self.durations = np.asarray(durations, dtype=np.float64)
        self.seed, self.rank, self.world_size, self.bucket_batches = seed, rank, world_size, bucket_batches
        self.blocks = blocks if blocks is not None and len(blocks) > WINDOW else None
        self._clips = batch_clips * world_size
        self.step = 0  # batches drawn so far
        self._cache: dict[tuple[str, int], Any] = {}

    def __next__(self) -> list[int]:
        pool, index = divmod(self.step, self.bucket_batches)
        batch: list[int] = self._cached("pool", pool)[index]
        self.step += 1
        return _share(batch, self.rank, self.world_size)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch starts in."""
        return self.step * self._clips // len(self.durations)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "epoch": 0, "index": 0, "identity": self._identity()}  # two for older versions

    def load_state_dict(self, state: dict[str, Any], allow_changes: bool = False) -> None:
        """Go on after the batch at which `state` was taken. The number of ranks may differ, the total batch not.

        Args:
            state: from `state_dict`.
            allow_changes: accept other clips or another batch size, and go on in the order that they make.

        Raises:
            ValueError: the order was made differently, and this is not allowed.
        """
        now = self._identity()
        if state["identity"] != now and not allow_changes:
            different = [
                f"{name}: {state['identity'].get(name)!r} then, {value!r} now"
                for name, value in now.items()
                if state["identity"].get(name) != value
            ]
            raise ValueError("the data order cannot be resumed, it was made differently (" + "; ".join(different) + ")")
        self.step = state["step"]

    def _identity(self) -> dict[str, Any]:
        blocks = {} if self.blocks is None else {"blocks": digest(np.asarray(self.blocks, np.int64).tobytes())}
        return blocks | {
            "num_clips": len(self.durations),
            "durations": digest(self.durations.tobytes()),
            "total_clips": self._clips,
            "total_seconds": None,  # as this and `shuffle` stand in checkpoints
            "seed": self.seed,
            "bucket_batches": self.bucket_batches,
            "shuffle": True,
        }

    def _order(self, epoch: int) -> np.ndarray:
        random = self._random("epoch", epoch)
        if self.blocks is None:
            return random.permutation(len(self.durations))
        runs = np.split(np.arange(len(self.durations)), self.blocks[1:])
        mixed = [runs[number] for number in random.permutation(len(runs))]
        windows = (np.concatenate(mixed[at : at + WINDOW]) for at in range(0, len(mixed), WINDOW))
        return np.concatenate([random.permutation(window) for window in windows])

    def _random(self, purpose: str, number: int) -> np.random.RandomState:
        """NumPy's legacy generator, because its streams are frozen over NumPy versions."""
        return np.random.RandomState(clip_seed(self.seed, number, "", purpose) % 2**32)

    def _cached(self, kind: str, number: int) -> Any:
        """The order of an epoch or the plan of a pool; the last few are kept."""
        key = (kind, number)
        if key not in self._cache:
            value = {"order": self._order, "pool": self._pool_plan}[kind](number)
            while len(self._cache) >= 4:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = value
        return self._cache[key]

    def _pool_plan(self, pool: int) -> list[list[int]]:
        """Batches of pool number `pool` of the stream that joins the epochs."""
        size = self._clips * self.bucket_batches
        positions = range(pool * size, (pool + 1) * size)
        total = len(self.durations)
        indices = [int(self._cached("order", at // total)[at % total]) for at in positions]
        if self.bucket_batches == 1:
            return [indices]
        indices.sort(key=lambda index: -self.durations[index])  # stable: equal lengths stay in stream order
        batches = [indices[at : at + self._clips] for at in range(0, size, self._clips)]
        return [batches[at] for at in self._random("batches", pool).permutation(len(batches))]


def _share(batch: list[int], rank: int, world_size: int) -> list[int]:
    """The contiguous part of a batch that belongs to `rank`; the first ranks take the remainder."""
    size, rest = divmod(len(batch), world_size)
    start = rank * size + min(rank, rest)
    share = batch[start : start + size + (rank < rest)]
    assert share, "a rank without a clip"
    return share
