"""What README.md, docs/ and recipes say can be typed: links, imports, commands and their options."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from llmcodec.cli.commands import COMMANDS, Command
from llmcodec.cli.main import HELP_FLAGS, main
from llmcodec.lm.recipe import TokenLMRecipe
from llmcodec.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
BAD_LINES = (
    "llmcodec encod a.wav",
    "llmcodec decode a.safetensors --sample_rat 3",
    "llmcodec train --weights.rat 1",
    "llmcodec export bundled exported",
)
RECIPE_OF = {"train": Recipe, "quickstart": Recipe, "lm train": TokenLMRecipe}
"""Commands whose options are the fields of a recipe, at any depth."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), link
        assert not anchor or anchor in anchors(place), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_imports_work(page: Path):
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.findall(r"^(?:from llmcodec[\w.]* import [\w, ]+|import llmcodec[\w.]*)", code, re.MULTILINE):
            exec(line, {})


def code_lines(page: Path) -> Iterator[str]:
    """Lines of code blocks of a page, fenced without a language or indented; all lines of another file."""
    text = page.read_text(encoding="utf-8").replace("\\\n#", " ").replace("\\\n", " ")
    fence = None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = line.strip() if fence is None else None
        elif fence == "```" or (fence is None and line.startswith("    ")) or page.suffix != ".md":
            yield line


def commands(page: Path) -> Iterator[str]:
    """Commands of llmcodec in the code of a page, without what follows a comment or a pipe."""
    for line in code_lines(page):
        found = re.match(r"[# ]*(?:.*\| *|.*-m )?(llmcodec [a-z].*)", line)
        command = re.split(r"\s#|\s\||\s{3,}|\s\(", found[1])[0] if found else ""
        if command and "..." not in command:
            yield command


@cache
def help_of(command: str) -> str:
    """What `llmcodec COMMAND --help-all` prints."""
    with redirect_stdout(StringIO()) as out, suppress(SystemExit):
        main([*command.split(), "--help-all"])
    return out.getvalue()


def has_field(kind: object, path: list[str]) -> bool:
    """Whether a recipe's dataclass has this field, at any depth."""
    for part in path:
        choices = [one for one in (kind, *get_args(kind)) if dataclasses.is_dataclass(one)]
        if not choices:
            return False
        hints = get_type_hints(choices[0])
        if part not in hints:
            return part == "help"
        kind = hints[part]
        if kind is dict or get_origin(kind) is dict:
            return True
    return True


def words_of(line: str) -> tuple[str, list[str]]:
    """Command and arguments of a line; the command is empty where there is none such."""
    words, table, path = shlex.split(line)[1:], COMMANDS, []
    while words and words[0] in table:
        path.append(words.pop(0))
        entry = table[path[-1]]
        if isinstance(entry, Command):
            return " ".join(path), words
        table = entry
    return "", words


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=name)
def test_commands_and_options_exist(page: Path):
    for line in commands(page):
        command, arguments = words_of(line)
        assert command or arguments in ([], ["--help"]), line
        needs_output = re.search(r"[^\[]-o OUTPUT", help_of(command).partition("\n\n")[0])
        assert not needs_output or {"-o", "--output"} & set(arguments), line
        for argument in arguments:
            option = argument.partition("=")[0]
            if not re.match(r"--?[a-z]", option) or option in HELP_FLAGS:
                continue
            dotted = option.removeprefix("--").replace("-", "_").split(".")
            known = command in RECIPE_OF and has_field(RECIPE_OF[command], dotted)
            assert known or re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(command)), line


def test_the_check_of_commands_can_fail(tmp_path: Path):
    page = tmp_path / "page.md"
    for line in BAD_LINES:
        page.write_text(f"```\n{line}      # why\n```\n")
        assert list(commands(page)) == [line]
        with pytest.raises(AssertionError):
            test_commands_and_options_exist(page)
