"""cli/pages.py: help.json says what the parsers say; pages are short, whole on demand, and cost no model code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmcodec.cli.commands import Command, every_command
from llmcodec.cli.pages import ALL_FIT, Page, build_page, page_for, render, stored_pages

COMMANDS = dict(every_command())
MOST_FIRST = 10
"""Options that `--help` shows of a command that has too many."""
HEAVY = ("torch", "transformers", "jsonargparse", "numpy", "accelerate", "datasets", "rich", "matplotlib")
MOST_CPU_SECONDS = 0.3


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return stored_pages()


def test_the_stored_pages_are_those_of_the_parsers(pages: dict[str, Page]) -> None:
    assert list(pages) == list(COMMANDS)
    for program, command in COMMANDS.items():
        assert pages[program] == build_page(program, command), f"{program}: run `make help-pages`"


@pytest.mark.parametrize("program", COMMANDS)
def test_a_page_shows_ten_options_first_and_then_all(program: str, pages: dict[str, Page]) -> None:
    page, first = pages[program], COMMANDS[program].first.split()
    options = [entry for entry in page.entries if not entry.positional]
    assert all(page.find(name) is not None for name in first), first
    short, whole = render(program, page, first), render(program, page, first, everything=True)
    shown = re.findall(r"^  (--?[a-z].*?)(?:  |$)", short, re.MULTILINE)
    assert len(shown) == (len(options) if len(options) <= ALL_FIT else len(first)) <= max(MOST_FIRST, ALL_FIT)
    assert len(options) <= ALL_FIT or len(first) <= MOST_FIRST and "--help-all" in short
    for entry in options:
        assert whole.count(f"\n  {', '.join(entry.names)} {entry.value}".rstrip()) >= 1, entry
    helps = [entry.help for entry in (page.find(name) for name in first) if entry is not None]
    assert len(helps) == len(set(helps)) and all(helps), "each says something of its own"
    if page.find("output"):
        assert "-o OUTPUT" in short.partition("\n\n")[0]
    assert f"\n  {program} " in short, "it has an example"
    assert max(map(len, re.sub(r"\n  (llmcodec|torchrun) .*", "", whole).splitlines())) <= 100


def test_no_page_names_a_place_of_this_machine(pages: dict[str, Page]) -> None:
    text = json.dumps([render(program, page, everything=True) for program, page in pages.items()])
    assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text


def test_a_command_without_a_stored_page_is_shown_from_its_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmcodec.cli.pages.stored_pages", dict)
    command = COMMANDS["llmcodec export"]
    assert isinstance(command, Command)
    entry = page_for("llmcodec export", command).find("format")
    assert entry is not None and entry.value == "{hf,onnx}" and entry.default == "hf"


def test_help_costs_no_model_code() -> None:
    """Every page in one process: nothing heavy is imported, and all of them together take less CPU than one may."""
    code = f"""
import contextlib, io, sys, time
from llmcodec.cli.commands import every_command
from llmcodec.cli.main import main
before = time.process_time()
with contextlib.redirect_stdout(io.StringIO()) as shown:
    for program, _ in [("llmcodec", None), *every_command()]:
        for flag in ("--help", "--help-all"):
            assert main([*program.split()[1:], flag]) == 0 or program == "llmcodec"
assert len(shown.getvalue()) > 50_000
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("command", ["train", "compare", "encode", "completion"])
def test_help_takes_little_cpu(command: str) -> None:
    bare = min(cpu_seconds("-c", "pass") for _ in range(3))
    taken = min(cpu_seconds("-m", "llmcodec", command, "--help") for _ in range(3))
    assert taken - bare < MOST_CPU_SECONDS


def cpu_seconds(*arguments: str) -> float:
    """CPU time of a Python process."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
