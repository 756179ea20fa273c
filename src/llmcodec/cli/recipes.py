"""Commands that take a recipe: `--config` files that stack, an option for every field, short names for common ones.

    llmcodec train --config rate --manifest corpus.jsonl -o runs/mine     the same as --data.manifest and --run

Test: tests/cli/test_recipes.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from llmcodec import assets
from llmcodec.cli.options import DeviceOptions
from llmcodec.cli.parser import Spelling, new_parser, parameter_helps, spell_list, spell_out
from llmcodec.cli.urls import local_recipe, no_url
from llmcodec.io.remote.paths import bring, is_url
from llmcodec.io.structured import read_text
from llmcodec.runtime.opening import pick_device

RecipeType = TypeVar("RecipeType")
KEYS = {
    "output": "run",
    "manifest": "data.manifest",
    "split": "data.split",
    "sources": "data.sources",
    "languages": "data.languages",
    "min_seconds": "data.min_seconds",
    "max_seconds": "data.max_seconds",
    "max_bad": "data.max_bad",
    "codec": "codec.start",
}
"""Option of the other commands -> the recipe's key."""
LISTS = ("sources", "languages")


class RecipeParser(Generic[RecipeType]):
    """Reads the arguments of a command into a recipe; `parser` takes further options of the command.

    Args:
        kind: the dataclass of the recipe; its fields are options.
        program: what the user typed before the arguments.
        description: of the command.
        keys: option -> the recipe's key.
        settings: of the `ArgumentParser`.
    """

    def __init__(
        self,
        kind: type[RecipeType],
        program: str,
        description: str,
        keys: Mapping[str, str] = KEYS,
        **settings: Any,
    ) -> None:
        self.kind = kind
        self.spellings = {
            name: Spelling(f"--{key}", spell_list if name in LISTS else str) for name, key in keys.items()
        } | {"config": Spelling("--config", find_recipe)}
        self.short_flags = {
            key: [*(["-o"] if name == "output" else []), f"--{name.replace('_', '-')}"] for name, key in keys.items()
        }
        self.parser = new_parser(program, description, **settings)
        self.parser.further_flags = [flag for flags in self.short_flags.values() for flag in flags]
        self.parser.add_argument(
            "--config", action="config", help="Recipe: a YAML file, or the name of one in the package; several stack."
        )
        self.parser.add_class_arguments(kind)

    def read(self, arguments: Sequence[str]) -> tuple[RecipeType, dict[str, Any]]:
        """The recipe, and the values of the command's further options; also selects the device for training."""
        parsed = self.parser.parse_args(spell_out(arguments, self.spellings))
        if empty := empty_sections(self.kind, vars(parsed)):
            raise ValueError(f"{empty[0]} is null; leave it out, or give its fields")
        values = vars(self.parser.instantiate(parsed))
        del values["config"]
        recipe = self.kind(**{field.name: values.pop(field.name) for field in fields(self.kind)})  # type: ignore[arg-type]
        if "device" in values:
            show_device(values.pop("device"))
        return local_recipe(recipe), {name: no_url(name, value) for name, value in values.items()}

    def read_recipe(self, arguments: Sequence[str]) -> RecipeType:
        """The recipe that the arguments describe."""
        return self.read(arguments)[0]


def empty_sections(kind: Any, values: Mapping[str, Any], path: str = "") -> list[str]:
    """Sections of a recipe that are null although their type is no option; the parser lets them through."""
    found: list[str] = []
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            section = values.get(name)
            inner = vars(section) if hasattr(section, "__dict__") else {}
            found += [path + name] if section is None else empty_sections(hint, inner, f"{path}{name}.")
    return found


def training_parser(
    kind: type[RecipeType], program: str, description: str, keys: Mapping[str, str] = KEYS
) -> RecipeParser[RecipeType]:
    """Parser of a command that trains from a recipe: also `--resume`, `--allow-changes` and `--device`."""
    recipes = RecipeParser(kind, program, description, keys)
    add = recipes.parser.add_argument
    add("--resume", action="store_true", help="Resume from the newest checkpoint of the run.")
    text = "With --resume: continue although the recipe differs from the run's; run.json records the differences."
    add("--allow-changes", action="store_true", help=text)
    add("--device", type=str, default="auto", help=parameter_helps(DeviceOptions)["device"])
    return recipes


def show_device(device: str) -> None:
    """Show only this device to accelerate, which picks the device for training; call it before CUDA is used.

    Raises:
        ValueError: a card by its number for several processes, which take one card each.
    """
    kind, _, number = device.partition(":")
    if number and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"--device {device}: several processes take a GPU each; choose them by CUDA_VISIBLE_DEVICES")
    if kind == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    elif number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = dict(enumerate(visible)).get(int(number), "") if visible[0] else number
    pick_device(kind)


def find_recipe(place: str) -> str:
    """A file as it is; `rate` and `recipes/rate.yaml` as the path of the recipe in the package, if there is one.

    Raises:
        ValueError: the file is too large, or no text; a single word that names no recipe.
    """
    name = place.removeprefix("recipes/").removesuffix(".yaml")
    if is_url(place):
        return str(bring(place))
    if Path(place).is_file():
        read_text(place)  # the parser would not name it
        return place
    if name in assets.recipe_names():
        return str(assets.shipped_recipe(name))
    if place.isidentifier():  # no path
        near = get_close_matches(place, assets.recipe_names(), 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"no recipe {place}: {meant}`llmcodec recipes` lists them; a file of your own ends with .yaml")
    return place
