"""Numbers that change over training, as pure functions of the step: nothing to save, nothing to resume.

One dataclass serves weights (`delay` + ramp), temperatures (start to end) and learning rates (warm-up, then decay).
Test: `pytest tests/test_schedule.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


def progress(step: int, delay: int, steps: int) -> float:
    """Share of the way from `delay` to `delay + steps` at `step`, in [0, 1]; a jump at `delay` when `steps` is 0."""
    if step < delay:
        return 0.0
    return 1.0 if steps <= 0 else min(1.0, (step - delay) / steps)


def blend(start: float, end: float, share: float, shape: Shape) -> float:
    """From `start` (share 0) to `end` (share 1) on a line or half a cosine; `constant` is `end` throughout."""
    if shape == "constant":
        return end
    weight = share if shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * share))
    # The two ends are exact, not up to rounding.
    return start + (end - start) * weight if weight < 1.0 else end


@dataclass(frozen=True)
class Schedule:
    """A value that depends on the training step only: call it with the step (0 = first).

    Weight that starts late: `Schedule(0.2, delay=10_000, warmup=2_000)`.
    Temperature: `Schedule(1.0, end=0.3, steps=20_000, shape="cosine")`.
    Learning rate: `Schedule(1e-4, end=0.0, warmup=1_000, steps=25_000, shape="cosine")`.
    """

    value: float
    """The value after delay and warm-up, before any decay (a constant schedule stays here)."""
    end: float | None = None
    """The value reached when the decay is over; None keeps `value`."""
    delay: int = 0
    """Optimizer steps during which the value is 0 (with an `end` and no warm-up: during which it stays at `value`)."""
    warmup: int = 0
    """Optimizer steps of the linear rise from 0 to `value` that follows the delay."""
    steps: int = 0
    """Optimizer steps from `value` to `end`, counted from the end of delay and warm-up."""
    shape: Shape = "constant"
    """Shape of the curve from `value` to `end`: constant (no change), linear or cosine (half a cosine)."""

    def __post_init__(self) -> None:
        for name in ("delay", "warmup", "steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"Schedule: {name} counts steps and cannot be negative, got {getattr(self, name)}")
        if self.shape not in ("constant", "linear", "cosine"):
            raise ValueError(f"Schedule: shape must be constant, linear or cosine, got {self.shape!r}")
        if self.shape != "constant" and self.end is None:
            raise ValueError(f"Schedule: shape {self.shape!r} needs an `end` to go to")
        if self.shape == "constant" and self.end is not None:
            raise ValueError("Schedule: an `end` needs a shape, linear or cosine")
        if self.shape != "constant" and not self.steps:
            raise ValueError(f"Schedule: shape {self.shape!r} needs `steps`, the optimizer steps from `value` to `end`")
        if self.shape == "constant" and self.steps:
            raise ValueError(
                "Schedule: `steps` is the length of a linear or cosine curve; for a rise from 0 use `warmup`"
            )

    def __call__(self, step: int) -> float:
        """The value at `step` (0 = first optimizer step)."""
        if step < 0:
            raise ValueError(f"Schedule: step must be at least 0, got {step}")
        if self.end is None or self.warmup > 0:
            if step < self.delay:
                return 0.0
            # The first warm-up step already moves: a learning rate of 0 would waste it.
            if step < self.delay + self.warmup:
                return self.value * (step - self.delay + 1) / (self.warmup + 1)
        if self.end is None:
            return self.value
        return blend(self.value, self.end, progress(step, self.delay + self.warmup, self.steps), self.shape)


def constant(value: float) -> Schedule:
    """A schedule that is `value` at every step."""
    return Schedule(value)
