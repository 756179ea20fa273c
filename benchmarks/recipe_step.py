"""Processor seconds of one training step of shipped recipes, here and in an earlier checkout, in turns.

    git worktree add ../before 400c053
    python benchmarks/recipe_step.py --before ../before [--recipes base rate,paper_tiny] [--at 100] [--rounds 5]

Every figure is a process of its own with one thread: the recipe (several joined by a comma are stacked) on the bundled
speech, one step to warm up, then `--steps` of them on one batch as at step `--at`; their median. The peer is the other
checkout, which runs with the same packages; the ratio is that of the medians of all rounds.
Test: tests/benchmarks/test_recipe_step.py.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench import in_process, options, report, take_turns

ROOT = Path(__file__).parents[1]


def step_seconds(recipe: str, at: int, steps: int) -> float:
    """Median processor seconds of a step, in this process."""
    from bench import timed

    from llmcodec.cli.recipes import training_parser
    from llmcodec.training.recipe import Recipe
    from llmcodec.training.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        arguments = [part for name in recipe.split(",") for part in ("--config", name)]
        arguments += ["--run", f"{folder}/run", "--data.manifest", "bundled", "--data.prefetch", "0"]
        trainer = Trainer(training_parser(Recipe, "", "").read_recipe(arguments), show_progress=False)
        batch = trainer.read()

        def step() -> Any:
            trainer.step = at
            return trainer.train_step(batch)

        step()
        return statistics.median(timed(step).process for _ in range(steps))


def measured(source: Path, recipe: str, args: Any) -> float:
    """`step_seconds` in a process that imports llmcodec from a checkout."""
    os.environ["PYTHONPATH"] = str(source / "src")
    found = in_process("recipe_step.py", "--one", recipe, "--at", args.at, "--steps", args.steps, threads=1)
    return float(found["seconds"])


def compare(args: Any) -> dict[str, dict[str, float]]:
    """Recipe -> seconds here and before, and how many times as fast it is now."""
    found = {}
    for recipe in args.recipes:
        ways = {"now": partial(measured, ROOT, recipe, args)}
        if args.before is not None:
            ways = {"before": partial(measured, Path(args.before).resolve(), recipe, args)} | ways
        seconds = {name: statistics.median(each) for name, each in take_turns(ways, args.rounds).items()}
        found[recipe] = seconds | ({"times": seconds["before"] / seconds["now"]} if "before" in seconds else {})
        print(recipe, {name: round(value, 3) for name, value in found[recipe].items()}, flush=True)
    return found


if __name__ == "__main__":
    parsed = options(
        __doc__, recipes=["base", "rate"], before=None, at=100, steps=5, rounds=5, one=(None, "this recipe alone, here")
    )
    if parsed.one is not None:
        report({"seconds": step_seconds(parsed.one, parsed.at, parsed.steps)})
    else:
        compare(parsed)
