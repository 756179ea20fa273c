"""`run.json`: what a run is (recipe, manifest, versions, commit), whether a resumed run still matches it, is finished.

Test: tests/training/test_run_folder.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from llmcodec.codec.folder import check_folder
from llmcodec.data.loader import ClipLoader
from llmcodec.data.manifest import manifest_hash
from llmcodec.io import run_guard
from llmcodec.io.digests import digest, package_versions, source_commit
from llmcodec.io.structured import write_json
from llmcodec.io.tensor_check import WEIGHTS
from llmcodec.training import checkpoint
from llmcodec.training.recipe import Recipe
from llmcodec.training.tracking import read_log

MAY_DIFFER = (
    "run",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
    "data.prefetch",
    "data.max_bad",
    "data.clips_per_batch",
)
"""Fields of a recipe that may change when a run is resumed: they do not affect what it computes. For `clips_per_batch`
the sampler requires that the batch over all processes stays the same."""
MAY_GROW = ("steps",)
"""No schedule of a codec's recipe reads the number of steps."""
PACKAGES = ("python", "llmcodec", "torch", "transformers", "accelerate", "numpy", "soundfile", "safetensors")


def begin_run(recipe: Recipe, loader: ClipLoader) -> None:
    """Write `run.json` of a new run: enough to run it again."""
    write_json(Path(recipe.run) / run_guard.RUN, {"recipe": asdict(recipe), **_facts(recipe, loader)})


def go_on(recipe: Recipe, loader: ClipLoader, step: int, allow_changes: bool = False) -> Callable[[], None]:
    """`run_guard.go_on` for a codec's run; `data.manifest` may move with equal clips.

    Raises:
        ValueError: recipe or clips differ; the message names old and new values.
    """
    return run_guard.go_on(
        Path(recipe.run),
        recipe,
        _facts(recipe, loader),
        step=step,
        content=lambda facts: {
            "its content": str(facts["manifest"]["hash"]),
            "sizes of its audio files": facts["manifest"].get("audio_sizes"),
        },
        content_field="data.manifest",
        may_differ=MAY_DIFFER,
        may_grow=MAY_GROW,
        allow_changes=allow_changes,
    )


def is_finished(recipe: Recipe) -> bool:
    """Whether the run has made all its steps and has its complete codec, not that of an earlier, shorter run.

    The codec is written after the checkpoint of its step. Without checkpoints, the log says how far the run came.
    """
    folder = Path(recipe.run)
    try:
        check_folder(folder / "codec")
    except ValueError:
        return False
    if saved := checkpoint.list_checkpoints(folder / "checkpoints"):
        written = [path.stat().st_mtime_ns for path in (folder / "codec" / WEIGHTS, saved[-1] / "state.json")]
        return int(saved[-1].name.removeprefix("step_")) >= recipe.total_steps and written[0] >= written[1]
    log = folder / "log.jsonl"
    return log.exists() and bool(rows := read_log(log)) and rows[-1]["step"] >= recipe.total_steps


def _facts(recipe: Recipe, loader: ClipLoader) -> dict[str, Any]:
    """Manifest, versions, commit and threads of this process."""
    clips = loader.dataset.clips
    return {
        "manifest": {
            "path": str(recipe.data.manifest),
            "hash": manifest_hash(clips),
            "audio_sizes": digest(str([_size(clip.path) for clip in clips])),  # times change when a corpus is copied
            "clips": len(clips),
        },
        "versions": package_versions(*PACKAGES),
        "commit": source_commit(),
        "threads": torch.get_num_threads(),
    }


def _size(path: Path) -> int:
    """Bytes of a file; -1 for one that is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
