"""The table of systems (docs/explanation/systems.yaml) is what its page shows, and what it says has a source."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("systems", ROOT / "docs/explanation/systems.py")
assert SPEC is not None and SPEC.loader is not None
systems = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(systems)
TABLE = yaml.safe_load(systems.SOURCE.read_text(encoding="utf-8"))
CELLS = [(feature["ask"], name, feature[name]) for feature in TABLE["features"] for name in TABLE["systems"]]


def test_the_page_is_made_of_the_table():
    assert systems.PAGE.read_text(encoding="utf-8") == systems.page(TABLE), "run: python docs/explanation/systems.py"


def test_every_question_has_an_answer_for_every_system_and_nothing_else():
    for feature in TABLE["features"]:
        assert set(feature) == {"ask", *TABLE["systems"]}, feature["ask"]
    for ask, name, cell in CELLS:
        assert len(set(cell) & set(systems.ANSWERS)) == 1 and set(cell) <= {*systems.ANSWERS, "at", "test"}, (ask, name)


def test_every_yes_of_ours_names_a_test_that_exists():
    for ask, name, cell in CELLS:
        if name == "llmcodec" and "lacks" not in cell:
            path, _, function = cell["test"].partition("::")
            assert re.search(rf"^def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), ask


def test_every_yes_of_others_says_where_it_was_read():
    for ask, name, cell in CELLS:
        if name != "llmcodec":
            assert "lacks" in cell or "at" in cell, (ask, name)
            assert re.search(r"/tree/[0-9a-f]{40}$", TABLE["systems"][name]["home"]), name
