"""Where the time of one training step goes: seconds per named part, forward and backward passes together.

`PartClock` wraps methods of live objects. During the forward pass it notes which autograd nodes each part makes (their
sequence numbers lie between those at its entry and its exit); hooks before each node then attribute the backward pass.
Parts may nest, the inner one counts; what no part claims is "other". Python hooks cost a few per cent of the step.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

OTHER = "other"


class PartClock:
    """Use: `wrap` methods, `start`, run the step (with `watch_backward` before backward), `stop` -> seconds by part."""

    def __init__(self) -> None:
        self.running = False
        self.stack = [OTHER]
        self.seconds: dict[str, float] = defaultdict(float)
        self.borders: list[int] = []  # autograd sequence number ...
        self.owners: list[str] = []  # ... from which on nodes belong to this part
        self.last = 0.0
        self.current = OTHER

    def wrap(self, owner: Any, method: str, part: str) -> None:
        """Count calls of `owner.method` as `part`."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.running:
                return inner(*args, **kwargs)
            self._enter(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._leave()

        object.__setattr__(owner, method, timed)

    def start(self) -> None:
        self.running, self.last, self.current = True, time.perf_counter(), OTHER

    def stop(self) -> dict[str, float]:
        self._switch(OTHER)
        self.running = False
        return dict(self.seconds)

    def watch_backward(self, loss: Tensor) -> None:
        """Hook every node of the graph below `loss`."""
        seen, todo = set(), [loss.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            if hasattr(node, "variable"):  # a leaf: runs with whatever came before it
                continue
            node.register_prehook(self._hook(self._owner(node._sequence_nr())))

    def _hook(self, part: str) -> Any:
        def before(_: Any) -> None:
            self._switch(part)

        return before

    def _owner(self, number: int) -> str:
        place = bisect_right(self.borders, number)
        return self.owners[place - 1] if place else OTHER

    def _enter(self, part: str) -> None:
        self.stack.append(part)
        self._border(part)

    def _leave(self) -> None:
        self.stack.pop()
        self._border(self.stack[-1])

    def _border(self, part: str) -> None:
        self._switch(part)
        self.borders.append(next_sequence_number())
        self.owners.append(part)

    def _switch(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[self.current] += now - self.last
        self.last, self.current = now, part


def next_sequence_number() -> int:
    """One above the number of the newest autograd node of this thread."""
    with torch.enable_grad():
        probe = torch.zeros((), requires_grad=True).clone()
    assert probe.grad_fn is not None
    return probe.grad_fn._sequence_nr() + 1
