"""docs/reference: generated pages are up to date, and what the docs import is described there."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from llmcodec.cli.commands import every_command

DOCS = Path(__file__).parents[1] / "docs"
GENERATED = ("cli.md", "recipe_train.md", "recipe_lm.md", "recipe_sweep.md")
API = re.findall(r"^::: (\S+)", (DOCS / "reference/api.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_not_stale(reference: ModuleType) -> None:
    pages = reference.pages()
    assert set(pages) == set(GENERATED)
    for name, content in pages.items():
        assert (DOCS / "reference" / name).read_text(encoding="utf-8") == content, f"{name}: run `make help-pages`"


def test_pages_say_what_a_command_and_a_recipe_take() -> None:
    cli = (DOCS / "reference/cli.md").read_text(encoding="utf-8")
    assert [f"## {program}" for program, _ in every_command()] == re.findall(r"^## .*", cli, re.MULTILINE)
    assert "| `-o, --output OUTPUT` | required | folder to write;" in cli
    train = (DOCS / "reference/recipe_train.md").read_text(encoding="utf-8")
    assert "| `seed` | `int` | `0` | Seed of initialisation, data order, crops, noise. |" in train
    assert "| `language.rate.tau` | `Schedule` | `0.05` |" in train, "parts that are off, too"


@pytest.mark.parametrize("name", API)
def test_described_names_exist(name: str) -> None:
    assert find(name) is not None


def find(name: str) -> object:
    """A module, or what is in one."""
    module, _, attribute = name.rpartition(".")
    if importlib.util.find_spec(module) and hasattr(importlib.import_module(module), attribute):
        return getattr(importlib.import_module(module), attribute)
    return importlib.import_module(name)


def test_what_the_docs_import_is_described() -> None:
    described = [find(name) for name in API]
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"^from (llmcodec[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
            for name in names.split(","):
                found = find(f"{module}.{name.strip()}")
                home = getattr(found, "__module__", "")
                known = found in described or importlib.import_module(home or "llmcodec") in described
                assert known, f"{page.name}: {module}.{name}: add it to docs/reference/api.md"
