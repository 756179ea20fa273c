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
  torchrun --nproc-per-node 4 -m llmcodec train --config paper   several processes, GPUs or CPUs
  accelerate launch --multi_gpu --num_processes 4 -m llmcodec train --config paper

A weight or learning rate is a number or a schedule, {value: 0.2, delay: 10000, warmup: 2000}. The run folder gets
run.json (the resolved recipe), log.jsonl, checkpoints/, curves.png and codec/, which `llmcodec compare` reads.

Of several processes each reads clips of its own: N of them with data.clips_per_batch B take the steps of one with N B.
If one dies, all end; --resume continues from the newest checkpoint."""


@cache
def train_parser() -> RecipeParser[Recipe]:
    """Parser of `llmcodec train`."""
    return training_parser(Recipe, "llmcodec train", HELP)


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec train`."""
    recipe, options = train_parser().read(arguments)
    from llmcodec.distributed import rank, together
    from llmcodec.training.trainer import Trainer

    with together(f"the newest checkpoint in {recipe.run}/checkpoints is whole, continue with --resume"):
        trainer = Trainer(recipe, **options)
        lines = [f"codec: {trainer.run()}", *trainer.loader.dataset.bad.lines()]
        if rank() == 0:
            print(*lines, sep="\n")
