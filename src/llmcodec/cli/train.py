"""`llmcodec train`: a codec from scratch, or adapted through a frozen language model.

Test: tests/cli/test_train.py, tests/training/test_recipe.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from llmcodec.cli.recipes import RecipeParser, training_parser
from llmcodec.training.recipe import Recipe

HELP = """\
Train a codec: from scratch, or adapt a pretrained one through a frozen language model.

  llmcodec train --config rate --manifest corpus/manifest.jsonl -o runs/mine
  llmcodec train --config rate --config control                  recipes stack, later ones win
  llmcodec train --config rate --weights.rate 0.2 --steps 800    options win over recipes
  llmcodec train --config rate --resume                          resume
  llmcodec train --config rate --print_config                    show the whole recipe, train nothing
  torchrun --nproc-per-node 4 -m llmcodec train --config paper   several processes

A weight or learning rate is a number or a schedule, {value: 0.2, delay: 10000, warmup: 2000}. The run folder gets
run.json (the resolved recipe), log.jsonl, checkpoints/, curves.png and codec/, which `llmcodec compare` reads."""


@cache
def train_parser() -> RecipeParser[Recipe]:
    """Parser of `llmcodec train`."""
    return training_parser(Recipe, "llmcodec train", HELP)


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec train`."""
    recipe, options = train_parser().read(arguments)
    from llmcodec.training.trainer import Trainer

    trainer = Trainer(recipe, **options)
    print(f"codec: {trainer.run()}", *trainer.loader.dataset.bad.lines(), sep="\n")
