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
        self.seconds: dict[str, float] = defaultdict(float)
        self.borders = [0]  # autograd sequence number ...
        self.owners = [OTHER]  # ... from which on nodes belong to this part
        self.current, self.last = OTHER, 0.0

    def wrap(self, owner: Any, function: str, part: str) -> None:
        """Count calls of `owner.function`, a method of an object or a function of a module, as `part`."""
        inner = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = self.owners[-1]
            self._border(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self._border(outer)

        setattr(owner, function, timed)

    def start(self) -> None:
        self.last = time.perf_counter()

    def stop(self) -> dict[str, float]:
        self._switch(OTHER)
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
            if not hasattr(node, "variable"):  # a leaf runs with whatever came before it
                part = self.owners[bisect_right(self.borders, node._sequence_nr()) - 1]
                node.register_prehook(lambda _, part=part: self._switch(part))

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
