"""Writes losses.json and tokens.json, which test_losses.py and test_tokens.py compare with.

Made at commit f9f99d7, from the root of the repository, by

    OMP_NUM_THREADS=1 python -m tests.golden.make_losses

Made again where a recipe or what it computes changes on purpose; the difference in git is then what changed.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .shipped import LOSSES, losses, stacks, write_starting_points
from .shipped_lm import LM_RECIPES, lm_losses
from .tokens import TOKENS, token_summaries


def write(path: Path, facts: dict[str, dict[str, Any]]) -> None:
    """JSON with a line for each column or clip, so that git shows what changed."""
    blocks = []
    for name, columns in facts.items():
        lines = ",\n".join(f"  {json.dumps(column)}: {json.dumps(values)}" for column, values in columns.items())
        blocks.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def all_losses(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipe stack, joined by +, -> its columns. The working directory is `folder`."""
    write_starting_points(folder)
    found: dict[str, dict[str, Any]] = {"+".join(names): losses(names, folder) for names in stacks()}
    return found | {name: lm_losses(name, folder) for name in LM_RECIPES}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        write(LOSSES, all_losses(Path(".")))
    write(TOKENS, token_summaries())
