"""Every shipped recipe of codec training at the scale of miniature.yaml, and the losses of its first steps."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from llmcodec.assets import shipped_recipe
from llmcodec.lm.small_lm import SmallLM
from llmcodec.objectives.rate import RateConfig
from llmcodec.training.build import SCRATCH
from llmcodec.training.recipe import TERMS, Recipe
from llmcodec.training.trainer import Trainer

from ..miniature import NUM_CODES, miniature_codec, miniature_counts, miniature_lm, miniature_teacher, recipe_of

HERE = Path(__file__).parent
RECIPES = shipped_recipe("paper").parent
OVERLAY = HERE / "miniature.yaml"
LOSSES = HERE / "losses.json"

DIFFERENCES = {
    "control": ["rate"],
    "paper_as_released": ["paper"],
    "paper_tiny": ["rate"],
    "librispeech_100": ["paper"],
    "librispeech_960": ["rate"],
}
FIRST_STEPS = 10
LATER = (0.5, 0.65, 0.9, 0.95, 0.99)
"""Shares of the recipe's steps at which five more steps are taken: by then every schedule has done its work."""


def stacks() -> list[tuple[str, ...]]:
    """Recipes that stand alone, and differences behind what their first line names (`Stack on a.yaml or b.yaml`)."""
    found: list[tuple[str, ...]] = []
    for path in sorted(RECIPES.glob("*.yaml")):
        if "rows" not in yaml.safe_load(path.read_text(encoding="utf-8")) and not path.stem.startswith("lm_"):
            found += [(base, path.stem) for base in DIFFERENCES.get(path.stem, [])] or [(path.stem,)]
    for path in sorted((RECIPES / "ablations").glob("*.yaml")):
        named = re.search(r"Stack on (.*)$", path.read_text(encoding="utf-8").splitlines()[0])
        assert named, f"{path.name} says what it stacks on"
        for choice in re.split(r", | or ", named[1]):
            found.append((*re.findall(r"(\w+)\.yaml", choice), f"ablations/{path.stem}"))
    return found


def write_starting_points(folder: Path) -> None:
    """What miniature.yaml names: `codec`, `lm`, `teacher`, `audio_lm.safetensors` and `counts.safetensors`, all random
    with fixed seeds."""
    codec = miniature_codec()
    codec.save_pretrained(folder / "codec")
    miniature_counts().save(folder / "counts.safetensors", codec)
    miniature_lm(folder / "lm", layers=2)
    miniature_teacher(folder / "teacher")
    sizes = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["language"]["rate"]["small_lm"]
    state = SmallLM(dataclasses.replace(RateConfig().small_lm, **sizes), NUM_CODES, seed=2).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "audio_lm.safetensors")


def fitting(overlay: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The part of an overlay that changes a recipe: null stays null, a number is a ceiling, a list at most as long."""
    kept: dict[str, Any] = {}
    for name, value in overlay.items():
        own = recipe[name]
        if isinstance(value, dict) and isinstance(own, dict) and name != "overrides":
            kept[name] = fitting(value, own)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and own is not None:
            kept[name] = min(value, own)
        elif own is not None:
            kept[name] = value[: len(own)] if isinstance(value, list) else value
    return kept


def miniature_recipe(names: tuple[str, ...], folder: Path) -> Recipe:
    """A stack of shipped recipes with miniature.yaml behind it."""
    configs = [argument for name in names for argument in ("--config", str(RECIPES / f"{name}.yaml"))]
    shipped = recipe_of(*configs)
    overlay = fitting(yaml.safe_load(OVERLAY.read_text(encoding="utf-8")), dataclasses.asdict(shipped))
    if any(name.startswith("librispeech") for name in names):
        overlay["data"]["sources"] = None  # the bundled clips have others
    del overlay["codec"]["start" if shipped.codec.start in SCRATCH else "overrides"]
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return recipe_of(*configs, "--config", str(path))


def losses(names: tuple[str, ...], folder: Path) -> dict[str, list[float | None]]:
    """Total, raw terms and gradient norms of ten steps from 0 and of five later ones, before rounding to float32.

    The working directory must hold what `write_starting_points` wrote.
    """
    recipe = miniature_recipe(names, folder)
    trainer = Trainer(recipe, show_progress=False)
    assert trainer.dtype == torch.float64
    seen: list[dict[str, float]] = []
    non_finite = trainer.non_finite

    def spy(micro: Any, norms: dict[str, torch.Tensor]) -> list[str]:
        row = {"total": float(torch.stack([terms.total.detach() for terms in micro]).mean())}
        for term in micro[0].raw:
            row[term] = float(torch.stack([terms.raw[term].detach() for terms in micro]).mean())
        row |= {f"grad_norm/{group}": float(norm) for group, norm in norms.items()}
        seen.append(row)
        return non_finite(micro, norms)

    trainer.non_finite = spy  # type: ignore[method-assign]
    with trainer.loader as batches:
        for step in (*range(FIRST_STEPS), *(int(share * recipe.steps) for share in LATER)):
            trainer.step = step
            row = trainer.train_step([next(batches) for _ in range(recipe.accumulate)])
            assert row is not None, f"step {step} was skipped"
            seen[-1] |= {name: row[name] for name in ("adv/discriminator", "adv/r1") if name in row}
            seen[-1]["codes/revived"] = row["codes/revived"]
    columns = sorted({name for row in seen for name in row}, key=lambda name: (name != "total", name))
    assert set(columns) >= set(recipe.weights.ever()) <= set(TERMS)
    return {name: [row.get(name) for row in seen] for name in columns}
