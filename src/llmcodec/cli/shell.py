"""`llmcodec recipes` and `llmcodec completion`: what a user at the prompt asks for. Imports no torch.

Test: tests/cli/test_shell.py.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser
from itertools import takewhile
from textwrap import shorten
from typing import Any, Literal

from llmcodec import assets
from llmcodec.cli.commands import COMMANDS, GROUP_HELP
from llmcodec.cli.pages import Entry, page_for

PLACES = ("output", "manifest", "codec", "config", "inputs", "corpus", "suite", "lm", "file", "checkpoint", "prompt")
"""Arguments that may be files."""


def recipes(name: str | None = None) -> str:
    """List the recipes of the package, which `--config` takes by name; with a name, show that one.

      llmcodec recipes
      llmcodec recipes --name rate > mine.yaml

    Args:
        name: show this recipe instead of the list.
    """
    if name is not None:
        return assets.shipped_recipe(name).read_text(encoding="utf-8").rstrip()
    names = assets.recipe_names()
    if not names:
        raise ValueError("no recipes here: llmcodec-runtime comes without them, `pip install llmcodec` with")
    width = max(map(len, names))
    return "\n".join(f"{one:<{width}}  {_first_words(one)}" for one in names)


def _first_words(name: str) -> str:
    """The first sentence of a recipe's comment, or as much of it as a line takes."""
    lines = assets.shipped_recipe(name).read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
    return shorten(re.split(r"(?<=[.:?]) ", comment)[0].rstrip(".:"), 90, placeholder=" ...")


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> str:
    """Print a script that lets Tab complete the commands, options and files of llmcodec.

      llmcodec completion bash > ~/.local/share/bash-completion/completions/llmcodec
      llmcodec completion zsh > ~/.zfunc/_llmcodec      with fpath+=~/.zfunc before compinit in ~/.zshrc

    Args:
        shell: whose script.
    """
    import shtab

    whole = ArgumentParser(prog="llmcodec", add_help=False)
    _fill(whole, "llmcodec", COMMANDS, GROUP_HELP, shtab.FILE)
    return str(shtab.complete(whole, shell=shell)).rstrip()


def _fill(parser: ArgumentParser, program: str, commands: Any, helps: dict[str, str], file: Any) -> None:
    """Add commands, and the options of their pages, to a parser that nothing is ever parsed with."""
    under = parser.add_subparsers()
    for name, command in commands.items():
        full = f"{program} {name}"
        if isinstance(command, dict):
            _fill(under.add_parser(name, help=helps[name], add_help=False), full, command, helps, file)
            continue
        own = under.add_parser(name, help=command.help, add_help=False)
        own.add_argument("--help", action="store_true", help="explain the command")
        own.add_argument("--help-all", action="store_true", help="with all options")
        for entry in page_for(full, command).entries:
            _add(own, entry, file)


def _add(parser: ArgumentParser, entry: Entry, file: Any) -> None:
    settings: dict[str, Any] = {"help": entry.help.partition(". ")[0].replace("%", "%%"), "default": SUPPRESS}
    if not entry.value and not entry.positional:
        settings["action"] = "store_true"
    elif entry.value.startswith("{") and entry.value != "{...}":
        settings["choices"] = entry.value.strip("{}").split(",")
    if entry.positional:
        settings["nargs"] = "*"
    action = parser.add_argument(*entry.names, **settings)
    if {name.lstrip("-") for name in entry.names} & set(PLACES):
        action.complete = file  # type: ignore[attr-defined]  # shtab reads it
