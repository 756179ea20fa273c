"""What makes the first run work offline: bundled speech, the bundled codecs, and the recipes.

    from llmcodec import assets
    manifest = assets.speech_manifest("train")    # a path; audio paths inside are relative to it
    recipe = assets.shipped_recipe("rate")

The recordings keep their own licences, see `speech/LICENSES.md`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

BUNDLED = "bundled"
"""How users name the codec and the speech of the package."""
CODECS = {BUNDLED: "codec_base", "causal_base": "codec_causal_base"}
"""Name -> folder in the package: 16 kHz, 650 bit/s; `causal_base` is for live streams."""
LM = "lm_base"
SPEECH_SPLITS = ("train", "valid", "test")


def speech_manifest(split: str | None = None) -> Path:
    """Path of the bundled corpus's manifest: `train`, `valid`, `test`, or everything (None).

    The corpus is 191 clips, 9.5 minutes, 16 kHz. The package must be installed as plain files (as pip does), because
    audio is read by seek. Raises ValueError for an unknown split or an installation without the corpus.
    """
    if split is not None and split not in SPEECH_SPLITS:
        raise ValueError(f"no split {split!r} in the bundled speech: choose one of {', '.join(SPEECH_SPLITS)}")
    path = Path(str(files(__name__))) / "speech" / f"{split or 'manifest'}.jsonl"
    if not path.is_file():
        raise ValueError(f"the bundled speech is missing at {path}: reinstall llmcodec with pip")
    return path


def codec_folder(name: str = BUNDLED) -> Path:
    """Folder of a codec of `CODECS`, which `LLMCodec.from_pretrained` reads."""
    path = Path(str(files(__name__))) / CODECS[name]
    if not (path / "model.safetensors").is_file():
        raise ValueError(f"this installation lacks the codec {name} ({path}): pip install --force-reinstall llmcodec")
    return path


def lm_folder() -> Path:
    """Folder of the bundled token LM, which speaks the bundled codec's tokens."""
    path = Path(str(files(__name__))) / LM
    if not (path / "model.safetensors").is_file():
        raise ValueError(f"the bundled token LM is missing at {path}: reinstall llmcodec with pip")
    return path


def shipped_recipe(name: str) -> Path:
    """Path of a recipe of the package, such as `rate` or `ablations/causal`; ValueError for a name that it lacks."""
    path = _recipes() / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no recipe {name!r} in the package; it has {', '.join(recipe_names())}")
    return path


def recipe_names() -> list[str]:
    """Names of the recipes of the package, in order."""
    return sorted(path.relative_to(_recipes()).with_suffix("").as_posix() for path in _recipes().rglob("*.yaml"))


def _recipes() -> Path:
    """The folder of the recipes: inside the package when installed as a wheel, beside `src` in a checkout."""
    inside, beside = Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes"
    return inside if inside.is_dir() else beside
