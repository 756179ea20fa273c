"""Help pages, kept in help.json, so that `--help` builds no parser and imports no model code.

    make help-pages        write help.json again (python -m llmcodec.cli.pages), after an option or its help has changed

A page is read off the command's own parser; a test compares the file with the parsers. A command without a stored page
is shown from its parser. Test: tests/cli/test_pages.py.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, get_args, get_origin

from llmcodec.cli.commands import Command, every_command

if TYPE_CHECKING:
    from argparse import Action

    from jsonargparse import ArgumentParser

FILE = Path(__file__).with_name("help.json")
ALL_FIT = 12
"""A command with no more options shows all of them."""
HIDDEN = "==SUPPRESS=="
"""What argparse has for the help or the default of an option that shows none."""
MOST_WIDE, LEFT = 100, 26
"""Columns of a page at most, and of what stands left of the help texts."""


@dataclass(frozen=True)
class Entry:
    """One argument of a command."""

    names: tuple[str, ...]
    """How it is typed: (`-o`, `--output`), or (`inputs`,) for one without dashes."""
    value: str
    """What stands for its value; empty for a switch; `...` for an argument without dashes that takes several."""
    help: str
    default: str
    """Empty where the help says it, or where there is none."""
    required: bool = False
    section: str = ""
    """Of a recipe: the part that it belongs to."""

    @property
    def positional(self) -> bool:
        return not self.names[0].startswith("-")


@dataclass(frozen=True)
class Page:
    """What `--help` knows of a command."""

    about: str
    """Paragraphs; indented ones are examples."""
    entries: tuple[Entry, ...]

    def find(self, name: str) -> Entry | None:
        """The option `--name`; None if there is none."""
        return next((entry for entry in self.entries if f"--{name}" in entry.names), None)


@cache
def stored_pages() -> dict[str, Page]:
    """Full name of a command -> its page, from help.json; empty if it is missing."""
    if not FILE.is_file():
        return {}
    pages = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        program: Page(page["about"], tuple(Entry(**one | {"names": tuple(one["names"])}) for one in page["entries"]))
        for program, page in pages.items()
    }


def page_for(program: str, command: Command) -> Page:
    """The stored page of a command; one from its parser if there is none."""
    return stored_pages().get(program) or build_page(program, command)


def build_page(program: str, command: Command) -> Page:
    """The page of a command, from its parser."""
    module, _, name = (command.parser or command.target).partition(":")
    made = getattr(import_module(f"llmcodec.{module}"), name)
    if command.parser:
        recipes = made()
        return page_of(recipes.parser, recipes.short_flags)
    from llmcodec.cli.parser import function_parser

    return page_of(function_parser(made, program))


def page_of(parser: ArgumentParser, short: Mapping[str, Sequence[str]] | None = None) -> Page:
    """The page of a parser.

    Args:
        parser: of a command.
        short: key of a recipe -> further spellings of its option.
    """
    values: Any = parser.parse_args([]) if parser.default_config_files else {}  # of a recipe
    entries = []
    for group in parser._action_groups:
        section = group.title if group.title not in ("positional arguments", "options") else ""
        for action in group._group_actions:
            own = type(action).__name__ not in ("_HelpAction", "_ActionConfigLoad", "_ActionHelpClassPath")
            if not own or action.help == HIDDEN:
                continue  # of jsonargparse; `--SECTION.help` is named where the section is
            default = values.get(action.dest, action.default)
            entries.append(_entry(action, default, (short or {}).get(action.dest, ()), section or ""))
    return Page(parser.description or "", tuple(entries))


def _entry(action: Action, default: Any, short: Sequence[str], section: str) -> Entry:
    flags = [name for name in action.option_strings if not name.endswith("+")]
    kinds = _kinds(getattr(action, "_typehint", None) or action.type)
    text = " ".join((action.help or "").split())
    value = _value(action, kinds, default)
    if type(action).__name__ == "_ActionPrintConfig":
        value, text = "", "Show the whole recipe, with what was typed before this, and stop."
    if any(map(is_dataclass, kinds)) and kinds[0] is not float:
        if not any(kind is float for kind in kinds):
            value, text = "{...}", f"{text} {flags[-1]}.help lists its fields."
        default = default if isinstance(default, int | float) else None
    names = tuple([*short, *flags] or [action.dest])
    required = bool(action.required) and not short  # the field of a recipe may stand in its file
    return Entry(names, value, text, _shown(default), required, section)


def _kinds(hint: Any) -> list[Any]:
    """Types that an option may have, without None."""
    parts = get_args(hint) if get_origin(hint) is not None and _is_union(hint) else (hint,)
    return [part for part in parts if part is not type(None)]


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is not None and get_origin(hint).__name__ in ("Union", "UnionType")


def _value(action: Action, kinds: Sequence[Any], default: Any) -> str:
    if not action.option_strings:
        return "..." if action.nargs in ("+", "*") else ""
    if action.nargs == 0 or (kinds == [bool] and default is False):
        return ""
    if isinstance(action.metavar, str):
        return action.metavar
    known = {int: "N", float: "X"}
    if all(kind in known or is_dataclass(kind) for kind in kinds):
        return next(known[kind] for kind in reversed([*kinds]) if kind in known) if set(kinds) & set(known) else ""
    return action.dest.rpartition(".")[2].upper()


def _shown(default: Any) -> str:
    """A default as it would be typed; empty for those that say nothing."""
    if default is None or isinstance(default, bool) or default in ("", HIDDEN, math.inf):
        return "true" if default is True else ""
    if isinstance(default, list | tuple):
        return ",".join(map(str, default))
    return str(default) if isinstance(default, str | int | float) else ""


def render(program: str, page: Page, first: Sequence[str] = (), everything: bool = False) -> str:
    """The page as text.

    Args:
        program: full name of the command.
        page: of the command.
        first: names of the options that are shown before the others, in this order.
        everything: show the others too.
    """
    width = min(MOST_WIDE, shutil.get_terminal_size().columns)
    named = [entry for entry in page.entries if entry.positional]
    options = [entry for entry in page.entries if not entry.positional]
    whole = everything or len(options) <= ALL_FIT
    found = [entry for name in first if (entry := page.find(name)) is not None]
    parts = [usage_line(program, page), _wrapped(page.about, width)]
    if named:
        parts.append(_block("arguments", named, width))
    leading = found + [entry for entry in options if entry not in found and whole and not entry.section]
    parts.append(_block("options", leading, width))
    if whole:
        rest = [entry for entry in options if entry not in leading]
        for section in dict.fromkeys(entry.section for entry in rest):
            parts.append(_block(section, [entry for entry in rest if entry.section == section], width))
    elif left := len(options) - len(leading):
        parts.append(f"{left} more options: {program} --help-all")
    return "\n\n".join(parts)


def usage_line(program: str, page: Page) -> str:
    """`usage: llmcodec export CODEC -o OUTPUT [options]`."""
    words = [program]
    for entry in page.entries:
        if entry.positional:
            words.append(_named(entry) if entry.required else f"[{_named(entry)}]")
    output = page.find("output")
    if output is not None:
        words.append("-o OUTPUT" if output.required else "[-o OUTPUT]")
    return f"usage: {' '.join(words)} [options]"


def _named(entry: Entry) -> str:
    return (
        f"{entry.names[0].upper()}{entry.value}"
        if entry.positional
        else f"{', '.join(entry.names)} {entry.value}".strip()
    )


def _block(title: str, entries: Iterable[Entry], width: int) -> str:
    return "\n".join([f"{title}:", *(_two_columns(_named(one), _text(one), width) for one in entries)])


def _text(entry: Entry) -> str:
    return f"{entry.help} (default: {entry.default})" if entry.default else entry.help


def _two_columns(left: str, text: str, width: int) -> str:
    gap = " " * LEFT
    folded = fill(text, width, initial_indent=gap, subsequent_indent=gap, break_on_hyphens=False)
    return f"  {left:<{LEFT - 4}}  {folded[LEFT:]}" if len(left) <= LEFT - 4 else f"  {left}\n{folded}"


def _wrapped(text: str, width: int) -> str:
    """Paragraphs wrapped; indented ones stay as they are."""
    parts = text.strip().split("\n\n")
    return "\n\n".join(part if "\n  " in f"\n{part}" else fill(" ".join(part.split()), width) for part in parts)


def write_pages() -> Path:
    """Write help.json from the parsers of all commands: a line for each option, so that changes can be read."""
    parts = []
    for program, command in every_command():
        page = build_page(program, command)
        lines = ",\n".join(f"   {json.dumps(asdict(entry), ensure_ascii=False)}" for entry in page.entries)
        about = json.dumps(page.about, ensure_ascii=False)
        parts.append(f' {json.dumps(program)}: {{\n  "about": {about},\n  "entries": [\n{lines}\n  ]\n }}')
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    return FILE


if __name__ == "__main__":
    print(write_pages())
