"""Every shipped recipe, at the scale of miniature.yaml, has the losses it had: make_losses.py records them.

Everything is float64 and seeded, so that only the order of sums may differ: between one and two threads the relative
difference stays below 1e-10, and that only where adv/generator passes through 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from .shipped import LOSSES, losses, stacks, write_starting_points
from .shipped_lm import LM_RECIPES, lm_losses

RECORDED: dict[str, dict[str, list[float | None]]] = json.loads(LOSSES.read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the losses were recorded on a CPU")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random codec, LM and small audio LM."""
    folder = tmp_path_factory.mktemp("golden")
    write_starting_points(folder)
    return folder


@pytest.fixture
def place(start: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder as the working directory."""
    monkeypatch.chdir(start)
    return start


def differences(found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """Columns and places that are not there or differ by more than rounding."""
    lines = [f"{name}: in one alone" for name in set(found) ^ set(recorded)]
    for name in set(found) & set(recorded):
        for place, (left, right) in enumerate(zip(found[name], recorded[name], strict=True)):
            if (left is None) != (right is None):
                lines.append(f"{name}[{place}]: {left}, recorded {right}")
            elif left is not None and abs(left - right) > max(1e-9 * abs(right), 1e-12):
                lines.append(f"{name}[{place}]: {left!r}, recorded {right!r}")
    return sorted(lines)


@pytest.mark.parametrize("names", stacks(), ids="+".join)
def test_a_shipped_recipe_has_the_losses_it_had(names: tuple[str, ...], place: Path):
    assert differences(losses(names, place), RECORDED["+".join(names)]) == []


@pytest.mark.parametrize("name", LM_RECIPES)
def test_a_shipped_recipe_of_a_token_lm_has_the_losses_it_had(name: str, place: Path):
    assert differences(lm_losses(name, place), RECORDED[name]) == []


def test_every_recorded_recipe_is_still_shipped():
    assert set(RECORDED) == {"+".join(names) for names in stacks()} | set(LM_RECIPES)
