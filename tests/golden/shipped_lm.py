"""Every shipped recipe of a token LM at the scale of miniature_lm.yaml, and the losses of its first steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llmcodec.cli.lm import lm_train_parser
from llmcodec.io.token_file import TokenProvenance
from llmcodec.lm import train as lm_train
from llmcodec.lm.recipe import TokenLMRecipe
from llmcodec.transcode.flat_rows import FlatRow

from ..miniature import NUM_CODES, SAMPLE_RATE
from .shipped import FIRST_STEPS, HERE, RECIPES, fitting

LM_OVERLAY = HERE / "miniature_lm.yaml"
LM_RECIPES = sorted(path.stem for path in RECIPES.glob("lm_*.yaml"))
HOP = 320
CODEC = TokenProvenance("miniature", "0" * 64, SAMPLE_RATE, HOP, 1, NUM_CODES)


def lm_recipe_of(*arguments: str) -> TokenLMRecipe:
    """A recipe as the command line makes it."""
    return lm_train_parser().read_recipe(arguments)


def miniature_lm_recipe(name: str, folder: Path) -> TokenLMRecipe:
    """A shipped recipe with miniature_lm.yaml behind it."""
    config = ("--config", str(RECIPES / f"{name}.yaml"))
    overlay = fitting(yaml.safe_load(LM_OVERLAY.read_text(encoding="utf-8")), dataclasses.asdict(lm_recipe_of(*config)))
    path = folder / "lm_overlay.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return lm_recipe_of(*config, "--config", str(path), f"--steps={FIRST_STEPS}", f"--run=run_{name}")


def token_rows(count: int, seed: int) -> list[FlatRow]:
    """Clips of 24 to 48 codes, each code one of two that may follow the last; their texts say when a unit begins."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        codes, length = [number % NUM_CODES], int(torch.randint(24, 49, (), generator=generator))
        for step in torch.randint(1, 3, (length - 1,), generator=generator).tolist():
            codes.append((3 * codes[-1] + step) % NUM_CODES)
        units = [f"<|{place * HOP / SAMPLE_RATE:.2f}|> {chr(97 + place % 5)}" for place in range(0, length, 8)]
        text = " ".join([*units, f"<|{length * HOP / SAMPLE_RATE:.2f}|>"])
        duration = length * HOP / SAMPLE_RATE
        rows.append(FlatRow(f"clip{number}", torch.tensor(codes).numpy(), text, "ann", "en", duration))
    return rows


def lm_losses(name: str, folder: Path) -> dict[str, list[float]]:
    """Nats per target of ten optimizer steps, and what is measured on held-out clips at the end.

    The working directory must hold the folder `lm` that `shipped.write_starting_points` wrote.
    """
    recipe = miniature_lm_recipe(name, folder)
    seen: list[float] = []

    def in_float64(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare_model(*args, **kwargs)
        prepared.module.double()
        return prepared

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        assert loss.dtype == torch.float64
        seen.append(float(loss.detach()))
        return result

    prepare_model, compute_loss = lm_train.prepare_model, lm_train.LMTrainer.compute_loss
    measured: dict[str, float] = {}
    measure = lm_train.HeldOut.measure

    def measure_spy(*args: Any, **kwargs: Any) -> dict[str, float]:
        measured.update(measure(*args, **kwargs))
        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_train, "prepare_model", in_float64)
        patch.setattr(lm_train.LMTrainer, "compute_loss", spy)
        patch.setattr(lm_train.HeldOut, "measure", measure_spy)
        lm_train.train_token_lm(recipe, token_rows(24, seed=4), token_rows(3, seed=5), CODEC, say=lambda _: None)
    assert len(seen) == FIRST_STEPS * recipe.accumulate
    sums = [sum(seen[at : at + recipe.accumulate]) for at in range(0, len(seen), recipe.accumulate)]
    return {"loss": sums} | {name: [value] for name, value in measured.items()}
