"""Writes systems.md, who can do what, out of systems.yaml: `python docs/explanation/systems.py`.

Test: tests/test_systems.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SOURCE, PAGE = FOLDER / "systems.yaml", FOLDER / "systems.md"
ANSWERS = {"has": "yes", "partly": "partly", "lacks": "no"}
HEAD = """\
# Who can do what

This page is made from [systems.yaml](systems.yaml) by `python docs/explanation/systems.py`. Every *yes* of llmcodec
leads to the test that shows it, and `tests/test_systems.py` checks that the test is there. An answer about another
project leads to the place where it was read, in the version that was read; a bare *no* means that we found nothing of
the kind in that version, to which the head of the column leads. Corrections are welcome. The table says what exists,
not how well it works: for that see [other people's codecs](../codecs.md) and [speed and memory](../speed.md).

"""


def answer_of(cell: dict[str, str]) -> tuple[str, str]:
    """The answer of a cell, and what is said about it."""
    (key,) = (name for name in ANSWERS if name in cell)
    return ANSWERS[key], cell[key]


def link_of(cell: dict[str, str], home: str) -> str:
    """Where the answer was read; empty where nothing is named."""
    if "test" in cell:
        return f"../../{cell['test'].partition('::')[0]}"
    place = cell.get("at", "")
    return place if "://" in place or not place else f"{home.replace('/tree/', '/blob/')}/{place}"


def page(source: dict[str, Any]) -> str:
    """The page as Markdown."""
    systems, rows = source["systems"], []
    titles = [f"[{one['title']}]({one['home']})" if "home" in one else one["title"] for one in systems.values()]
    rows.append(["", *titles])
    rows.append(["---"] * len(rows[0]))
    for feature in source["features"]:
        cells = [feature["ask"]]
        for name, system in systems.items():
            answer, said = answer_of(feature[name])
            link = link_of(feature[name], system.get("home", ""))
            cells.append((f"[{answer}]({link})" if link else answer) + (f": {said}" if said else ""))
        rows.append(cells)
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page(yaml.safe_load(SOURCE.read_text(encoding="utf-8"))), encoding="utf-8")
