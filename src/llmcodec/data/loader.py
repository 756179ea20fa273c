"""Batches read ahead by a background thread, while the resumable position counts only what training has consumed.

    with ClipLoader(dataset, sampler) as loader:
        batch = next(loader)
        saved = loader.state_dict()     # the position behind `batch`, however far the thread has read

Decoding releases the GIL, so one thread overlaps with the step. Tests: `pytest tests/unit/data/test_loader.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
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
        self._reader: _Reader | None = None

    def __next__(self) -> ClipBatch:
        if self.prefetch == 0:
            batch, self._state = self._read()
            return batch
        if self._reader is None:
            self.sampler.load_state_dict(self._state)
            self._reader = _Reader(self._read, self.prefetch)
        outcome = self._reader.take()
        if isinstance(outcome, BaseException):
            self.close()
            raise outcome
        batch, self._state = outcome
        return batch

    def _read(self) -> tuple[ClipBatch, dict[str, Any]]:
        step = self.sampler.step
        batch = self.dataset.batch(next(self.sampler), step)
        return batch, deepcopy(self.sampler.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Position behind the last batch that `next` returned."""
        return deepcopy(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.close()
        self.sampler.load_state_dict(state)
        self._state = deepcopy(state)

    def close(self) -> None:
        """Stop the thread; the next `next` starts it again at the same position."""
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
            self.sampler.load_state_dict(self._state)

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Reader:
    """A daemon thread that calls `read` until stopped; its results, or its error, wait in a queue."""

    def __init__(self, read: Any, prefetch: int) -> None:
        self._read = read
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clip-reader", daemon=True)
        self._thread.start()

    def take(self) -> Any:
        return self._queue.get()

    def stop(self) -> None:
        self._stopped.set()
        while self._thread.is_alive():  # a full queue may hold the thread
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                outcome = self._read()
            except BaseException as error:  # not swallowed: the consumer raises it
                outcome = error
            self._queue.put(outcome)
            if isinstance(outcome, BaseException):
                return
