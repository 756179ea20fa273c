"""`llmcodec train`; `quickstart` and `sweep`, whole experiments, unattended; and `demo`, to hear what came out.

Test: tests/cli/test_recipes.py, tests/integration/test_quickstart.py, test_sweep.py, tests/demo/test_app.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llmcodec import assets
from llmcodec.assets import BUNDLED
from llmcodec.cli.options import DeviceOptions
from llmcodec.cli.parser import spell_out
from llmcodec.cli.recipes import KEYS, RecipeParser, training_parser
from llmcodec.io.run_guard import Stopped, stopped_in_order

if TYPE_CHECKING:
    from llmcodec.experiments.sweep_config import SweepConfig
    from llmcodec.training.recipe import Recipe

TRAIN_HELP = """\
Train a codec: from scratch, or adapt a pretrained one through a frozen language model.

  llmcodec train --config rate --manifest corpus/manifest.jsonl -o runs/mine
  llmcodec train --config rate --config control                  recipes stack, later ones win
  llmcodec train --config rate --weights.rate 0.2                options win over recipes
  llmcodec train --config rate --steps 800 --optimizer.codec.lr.steps 770    longer, to the end of the learning rate
  llmcodec train --config rate --resume                          resume
  llmcodec train --config rate --print_config                    show the whole recipe, train nothing
  torchrun --nproc-per-node 4 -m llmcodec train --config paper   several processes, GPUs or CPUs
  accelerate launch --multi_gpu --num_processes 4 -m llmcodec train --config paper

A weight or learning rate is a number or a schedule, {value: 0.2, delay: 10000, warmup: 2000}. The run folder gets
run.json (the resolved recipe), log.jsonl, checkpoints/, curves.png and codec/, which `llmcodec compare` reads.

Of several processes each reads clips of its own: N of them with data.clips_per_batch B take the steps of one with N B.
If one dies, all end; --resume continues from the newest checkpoint."""
QUICKSTART_HELP = """\
Adapt the bundled codec on the bundled speech, by the recommended recipe (half the codes) and through a pretrained LM,
both against a control: table, verdict, report.html. About ten minutes on two cores; a second run resumes.

  llmcodec quickstart -o runs/quickstart"""
GO_ON = "what has been trained is kept, measurements begin anew; start the same command again to go on"
SWEEP_HELP = """\
Train and measure several recipes with several seeds, unattended; prints one table, and writes it with pictures as a
page, report.html. Start it again to resume, or in a second process to share the work.

  llmcodec sweep recipes/sweep_objectives.yaml"""
SWEEP_KEYS = {
    "output": "folder",
    "manifest": "manifest",
    "sources": "sources",
    "languages": "languages",
    "max_bad": "max_bad",
}


@cache
def train_parser() -> RecipeParser[Recipe]:
    """Parser of `llmcodec train`."""
    from llmcodec.training.recipe import Recipe

    return training_parser(Recipe, "llmcodec train", TRAIN_HELP)


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


def quickstart_parser() -> RecipeParser[Recipe]:
    """Parser of `llmcodec quickstart`."""
    from llmcodec.training.recipe import Recipe

    keys = {name: key for name, key in KEYS.items() if name != "output"}
    recipes = RecipeParser(
        Recipe,
        "llmcodec quickstart",
        QUICKSTART_HELP,
        keys,
        default_config_files=[str(assets.shipped_recipe("quickstart"))],
    )
    add = recipes.parser.add_argument
    add("-o", "--output", type=str, default="runs/quickstart", help="Folder for runs, table and report.")
    add("--restart", action="store_true", help="Delete what an earlier quickstart left and start over.")
    return recipes


def quickstart(arguments: Sequence[str]) -> None:
    """Run `llmcodec quickstart`."""
    from llmcodec.experiments.quickstart import run_quickstart

    recipe, options = quickstart_parser().read(arguments)
    try:
        with stopped_in_order(GO_ON):
            run_quickstart(recipe, **options)
    except Stopped as stopped:  # a training of its own speaks of its own --resume
        raise Stopped(stopped.exit_code - 128, GO_ON) from stopped


def sweep_parser() -> RecipeParser[SweepConfig]:
    """Parser of `llmcodec sweep`."""
    from llmcodec.experiments.sweep_config import SweepConfig

    recipes = RecipeParser(SweepConfig, "llmcodec sweep", SWEEP_HELP, SWEEP_KEYS)
    recipes.parser.add_argument("file", type=str, help="Sweep file (YAML); options win over it.")
    return recipes


def sweep(arguments: Sequence[str]) -> None:
    """Run `llmcodec sweep`."""
    from llmcodec.experiments.sweep import run_sweep

    recipes = sweep_parser()
    spelled = spell_out(arguments, recipes.spellings)
    file = next((argument for argument in spelled if not argument.startswith("-")), None)
    config, _ = recipes.read(spelled if file is None else ["--config", file, *spelled])
    print(run_sweep(config, Path(file or ".").parent, train_parser().read_recipe).read_text(encoding="utf-8"))


def run_demo(
    codec: list[str] | None = None,
    lm: str | None = BUNDLED,
    port: int | None = None,
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Open a page on this machine: record or drop a file, hear it through codecs, change a token, continue it.

      llmcodec demo
      llmcodec demo --codec mine=runs/rate --codec dac=descript/dac_16khz --lm runs/lm_small

    Plays the original, the nearest codes and the search of the bundled codec (with --lm: of the LM's codec) and every
    further codec in step, also blind. The server listens to this machine only; nothing is sent anywhere, and recordings
    are deleted when it stops. Needs the extra `demo`: pip install 'llmcodec[demo]'.

    Args:
        codec: further codec: a folder, a hub id, or NAME=one of these; may be repeated.
        lm: `bundled`, a folder of `llmcodec lm train` or `lm export`, or a hub id, to continue recordings; null: the
            page does not continue.
        port: of the server; null takes a free one from 7860 on.
    """
    if find_spec("gradio") is None:
        raise ValueError("the demo needs the package gradio: pip install 'llmcodec[demo]'")
    from llmcodec.demo.app import private_files, serve
    from llmcodec.demo.studio import Studio

    studio = Studio.open(codec or [], lm, device.torch_device())
    with private_files():
        serve(studio, port)
