"""The console script `llmcodec`: every subcommand is a typed function, its help comes from docstrings.

Heavy imports happen inside the commands, so `llmcodec --help` answers at once. Test: tests/unit/test_cli.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser


def train_parser() -> ArgumentParser:
    """Parser of `llmcodec train`: the recipe's fields at top level, `--config` as often as you like (later wins)."""
    from .training.recipe import Recipe

    parser = ArgumentParser(
        prog="llmcodec train",
        description="Train a codec: from scratch, or adapt a pretrained one through a frozen language model. "
        "Example: llmcodec train --config recipes/quickstart.yaml --steps 200 --run runs/try",
    )
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


def quiet_transformers() -> None:
    """Our own bars are enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()


COMMANDS: dict[str, tuple[str, Any]] = {
    "train": ("train a codec, or adapt one through a frozen language model", train),
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
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"llmcodec {argv[0]}: {error}", file=sys.stderr)
        return 1
    return 0
