"""Batches read ahead by a background thread, while the resumable position counts only what training has consumed.

    with ClipLoader(dataset, sampler) as loader:
        batch = next(loader)
        saved = loader.state_dict()     # the position after `batch`, however far the thread has read

Decoding releases the GIL, so one thread overlaps with the step. Tests: `pytest tests/data/test_loader.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from types import TracebackType
from typing import Any

from llmcodec.data.clips import ClipBatch, ClipDataset
from llmcodec.data.sampler import ResumableSampler


class ClipLoader(Iterator[ClipBatch]):
    """Endless `ClipBatch`es of `dataset` in the order of `sampler`, `prefetch` of them read ahead (0: no thread).

    The loader owns the sampler: take the position from the loader. An error while reading is raised by `next`.
    """

    def __init__(self, dataset: ClipDataset, sampler: ResumableSampler, prefetch: int = 2) -> None:
        assert len(dataset) == len(sampler.durations), "the sampler was made for other clips"
        if prefetch < 0:
            raise ValueError("prefetch must be 0 or more batches")
        self.dataset, self.sampler, self.prefetch = dataset, sampler, prefetch
        self._state = deepcopy(sampler.state_dict())
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: deque[Future[tuple[ClipBatch, dict[str, Any]]]] = deque()

    def __next__(self) -> ClipBatch:
        if self.prefetch == 0:
            batch, self._state = self._read()
            return batch
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clip-reader")
        while len(self._ahead) <= self.prefetch:
            self._ahead.append(self._thread.submit(self._read))
        batch, self._state = self._ahead.popleft().result()
        return batch

    def _read(self) -> tuple[ClipBatch, dict[str, Any]]:
        step = self.sampler.step
        batch = self.dataset.batch(next(self.sampler), step)
        return batch, deepcopy(self.sampler.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch that `next` returned."""
        return deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any], allow_changes: bool = False) -> None:
        self.close()
        self.sampler.load_state_dict(state, allow_changes)
        self._state = self.sampler.state_dict()

    def close(self) -> None:
        """Stop the thread; the next `next` starts it again at the same position."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None
            self._ahead.clear()
            self.sampler.load_state_dict(self._state)

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
