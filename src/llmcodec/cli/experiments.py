"""`llmcodec quickstart` and `llmcodec sweep`: whole experiments, unattended.

Test: tests/cli/test_recipes.py, tests/integration/test_quickstart.py, test_sweep.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcodec import assets
from llmcodec.cli.parser import spell_out
from llmcodec.cli.recipes import KEYS, RecipeParser
from llmcodec.cli.train import train_parser
from llmcodec.io.run_guard import Stopped, stopped_in_order

if TYPE_CHECKING:
    from llmcodec.experiments.sweep_config import SweepConfig
    from llmcodec.training.recipe import Recipe

QUICKSTART_HELP = """\
Adapt the bundled codec on the bundled speech through a pretrained LM, against a control: table, verdict, report.html.
About ten minutes on two cores; a second run resumes. Recipe: quickstart.

  llmcodec quickstart -o runs/quickstart"""
GO_ON = "what has been trained is kept, measurements begin anew; start the same command again to go on"
SWEEP_HELP = """\
Train and measure several recipes with several seeds, unattended; prints one table. Start it again to resume, or in a
second process to share the work.

  llmcodec sweep recipes/sweep_objectives.yaml"""
SWEEP_KEYS = {
    "output": "folder",
    "manifest": "manifest",
    "sources": "sources",
    "languages": "languages",
    "max_bad": "max_bad",
}


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
