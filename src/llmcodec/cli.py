"""The console script `llmcodec`: every subcommand is a typed function, its help comes from docstrings.

Heavy imports happen inside the commands, so `llmcodec --help` answers at once. Test: tests/unit/test_cli.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, set_parsing_settings

TRAIN_HELP = """\
Train a codec: from scratch, or adapt a pretrained one through a frozen language model.

  llmcodec train --config recipes/rate.yaml --data.manifest corpus/manifest.jsonl --run runs/mine
  llmcodec train --config recipes/rate.yaml --config recipes/control.yaml     recipes stack, later ones win
  llmcodec train --config recipes/rate.yaml --weights.rate 0.2 --steps 800    options win over recipes
  llmcodec train --config recipes/rate.yaml --resume                          go on where it stopped
  llmcodec train --config recipes/rate.yaml --print_config                    show the whole recipe, train nothing
  torchrun --nproc-per-node 4 -m llmcodec train --config recipes/paper.yaml   several processes

A weight or learning rate is a number or a schedule, {value: 0.2, delay: 10000, warmup: 2000}. The run folder gets
run.json (the resolved recipe), log.jsonl, checkpoints/, curves.png and codec/, which `llmcodec evaluate` reads."""


def recipe_parser(prog: str, description: str, **options: Any) -> ArgumentParser:
    """A parser whose help explains every field of the recipe by the docstring below it; the usage line stays short."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=prog, description=description, usage=f"{prog} [options]", **options)


def train_parser() -> ArgumentParser:
    """Parser of `llmcodec train`: the recipe's fields at top level, `--config` as often as you like (later wins)."""
    from jsonargparse import DefaultHelpFormatter

    from .training.recipe import Recipe

    class Formatter(DefaultHelpFormatter):
        """Keeps the line breaks of the description, and those alone."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "".join(indent + line for line in text.splitlines(keepends=True))

    parser = recipe_parser("llmcodec train", TRAIN_HELP, formatter_class=Formatter)
    parser.add_argument("--config", action="config", help="Recipe (YAML); several stack, later ones win.")
    parser.add_argument("--resume", action="store_true", help="Continue from the newest checkpoint in the run folder.")
    parser.add_class_arguments(Recipe)
    return parser


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec train`."""
    from .training.recipe import Recipe
    from .training.trainer import Trainer

    parser = train_parser()
    values = vars(parser.instantiate(parser.parse_args(list(arguments))))
    values.pop("config")
    resume = values.pop("resume")
    quiet_transformers()
    folder = Trainer(Recipe(**values), resume=resume).run()
    print(f"codec: {folder}")


def quickstart(arguments: Sequence[str]) -> None:
    """Run `llmcodec quickstart`."""
    from .quickstart import run_quickstart
    from .training.recipe import Recipe

    parser = recipe_parser(
        "llmcodec quickstart",
        "Adapt the bundled codec on the bundled speech through a pretrained LM, against a control: table, "
        "verdict, report.html. About ten minutes on two cores; a second run resumes. Recipe: recipes/quickstart.yaml.",
        default_config_files=[str(shipped_recipe("quickstart"))],
    )
    parser.add_argument("--config", action="config", help="Recipe differences (YAML) on top of the quickstart's.")
    parser.add_argument("--output", type=str, default="runs/quickstart", help="Folder for runs, table and report.")
    parser.add_argument("--restart", action="store_true", help="Delete what an earlier quickstart left and start over.")
    parser.add_class_arguments(Recipe)
    values = vars(parser.instantiate(parser.parse_args(list(arguments))))
    values.pop("config")
    output, restart = values.pop("output"), values.pop("restart")
    quiet_transformers()
    run_quickstart(Recipe(**values), output, restart)


def evaluate(arguments: Sequence[str]) -> None:
    """Run `llmcodec evaluate`."""
    from .evaluation.command import evaluate_codecs

    run_function(evaluate_codecs, "llmcodec evaluate", arguments, many="codec")


def sweep(arguments: Sequence[str]) -> None:
    """Run `llmcodec sweep`."""
    from .sweep import SweepConfig, run_sweep

    parser = ArgumentParser(
        prog="llmcodec sweep",
        description="Train and measure several recipes with several seeds, unattended; prints one table. Start it "
        "again to resume, or in a second process to share the work. Example: llmcodec sweep recipes/sweep_first.yaml",
    )
    parser.add_argument("file", type=str, help="Sweep file (YAML).")
    parser.add_class_arguments(SweepConfig)
    file = next((argument for argument in arguments if not argument.startswith("-")), None)
    extra = list(arguments) if file is None else ["--config", file, *arguments]
    parser.add_argument("--config", action="config", help="The sweep file again; set by itself.")
    values = vars(parser.instantiate(parser.parse_args(extra)))
    values.pop("config"), values.pop("file")
    quiet_transformers()
    print(run_sweep(SweepConfig(**values), Path(file or ".").parent).read_text(encoding="utf-8"))


def data(arguments: Sequence[str]) -> None:
    """Run `llmcodec data manifest` or `llmcodec data hub`."""
    from .data.build import make_manifest
    from .data.hub import make_hub_manifest

    commands = {"manifest": make_manifest, "hub": make_hub_manifest}
    if not arguments or arguments[0] not in commands:
        lines = "\n".join(
            f"  {name:<9} {(function.__doc__ or '').splitlines()[0]}" for name, function in commands.items()
        )
        print(f"usage: llmcodec data COMMAND ...\n\n{lines}")
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"no command {arguments[0]!r}; choose manifest or hub")
        return
    print(run_function(commands[arguments[0]], f"llmcodec data {arguments[0]}", arguments[1:]))


def run_function(function: Any, program: str, arguments: Sequence[str], many: str | None = None) -> Any:
    """A typed function as a command: docstring as help, required parameters positional, `many` takes several."""
    description, _, parameters = (function.__doc__ or "").partition("Args:")
    parser = ArgumentParser(prog=program, description=description.strip())
    if many is not None:
        about = parameters.partition(f"{many}:")[2].splitlines()[0].strip()
        parser.add_argument(many, nargs="+", type=str, help=about)
    parser.add_function_arguments(function, as_positional=True, skip={many} if many is not None else None)
    quiet_transformers()
    return function(**vars(parser.instantiate(parser.parse_args(list(arguments)))))


def shipped_recipe(name: str) -> Path:
    """Path of a recipe that comes with the package: inside it when installed as a wheel, beside `src` in a checkout."""
    inside = Path(__file__).parent / "recipes" / f"{name}.yaml"
    beside = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    for path in (inside, beside):
        if path.is_file():
            return path
    raise ValueError(f"recipe {name} is missing at {inside}: reinstall llmcodec with pip")


def quiet_transformers() -> None:
    """Our own bars are enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()


COMMANDS: dict[str, tuple[str, Any]] = {
    "quickstart": ("adapt the bundled codec on bundled speech, ten minutes, table and report", quickstart),
    "train": ("train a codec, or adapt one through a frozen language model", train),
    "evaluate": ("measure codecs: fidelity, LM bits per second, token health", evaluate),
    "sweep": ("train and measure several recipes with several seeds, as one table", sweep),
    "data": ("make manifests from folders, LibriSpeech layouts, Hugging Face data sets", data),
}


def usage() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {help_line}" for name, (help_line, _) in COMMANDS.items()]
    return "usage: llmcodec COMMAND ...\n\n" + "\n".join(lines) + "\n\n`llmcodec COMMAND --help` explains a command."


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Bad input ends in one line on stderr."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from . import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        print(f"llmcodec: no command {argv[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        COMMANDS[argv[0]][1](argv[1:])
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"llmcodec {argv[0]}: {error}", file=sys.stderr)
        return 1
    return 0
