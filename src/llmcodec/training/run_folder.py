"""`run.json`: what a run is (recipe, manifest, versions, commit), whether a resumed run still matches it, is finished.

`audio_files.json` beside it knows the audio: time of change and a digest of samples of every file, so that another
recording of the same size does not go unnoticed. Test: tests/training/test_run_folder.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from llmcodec.codec.folder import check_any_folder
from llmcodec.data.loader import ClipLoader
from llmcodec.data.manifest import Clip, audio_sizes, manifest_hash
from llmcodec.io import run_guard
from llmcodec.io.digests import digest, digest_all, package_versions, source_commit
from llmcodec.io.remote.paths import url_of
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_check import WEIGHTS
from llmcodec.training import checkpoint
from llmcodec.training.build import clips_of
from llmcodec.training.named_files import named_files
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
AUDIO = "audio_files.json"
PIECES, PIECE_BYTES = 4, 1 << 14
"""A digest of an audio file is over its size and so many pieces, evenly spread, first and last bytes among them."""
MOST_FILES = 100_000
"""Clips whose files are looked into; the sizes of all are compared."""
PACKAGES = ("python", "llmcodec", "torch", "transformers", "accelerate", "numpy", "soundfile", "safetensors")


def begin_run(recipe: Recipe, loader: ClipLoader) -> None:
    """Write `run.json` of a new run, enough to run it again, and what its audio files are."""
    _warn_of_rates(recipe)
    _write_audio(recipe, _look_at_audio(_audio_files(loader)))
    write_json(Path(recipe.run) / run_guard.RUN, {"recipe": asdict(recipe), **_facts(recipe, loader)})


def go_on(recipe: Recipe, loader: ClipLoader, step: int, allow_changes: bool = False) -> Callable[[], None]:
    """`run_guard.go_on` for a codec's run; `data.manifest` may move with equal clips.

    Raises:
        ValueError: recipe, clips or audio files differ; the message names old and new values.
    """
    audio, other = _compare_audio(recipe, _audio_files(loader))
    files = _changed_files(recipe)
    record = run_guard.go_on(
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
        changed=files | ({"data.manifest (its audio files)": ("as at its beginning", other)} if other else {}),
        allow_changes=allow_changes,
    )

    def record_all() -> None:
        _warn_of_rates(recipe)
        record()
        _write_audio(recipe, audio)

    return record_all


def refuse_other_recipe(recipe: Recipe) -> None:
    """Raise ValueError where a run was trained by another recipe or on other clips; the message names what differs."""
    changes = changed_recipe(recipe)
    if clips_changed(recipe):
        changes["clips of data.manifest"] = ("as at its beginning", "others")
    run_guard.refuse_changes(changes, {*MAY_DIFFER, "name", "data.manifest"}, Path(recipe.run))


def changed_recipe(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs between the recipe of a run (the last that was accepted) and `recipe`: name -> (old, new).

    A run may grow. One that has made more steps than `recipe` takes is another run, as is one whose recipe names files
    that have been replaced.
    """
    folder = Path(recipe.run)
    changes = run_guard.changed_fields(_accepted(folder)["recipe"], recipe)
    changes = {name: (old, new) for name, (old, new) in changes.items() if not (name in MAY_GROW and new >= old)}
    if (taken := steps_taken(folder)) > recipe.total_steps:
        changes.setdefault("steps", (taken - recipe.warmup_steps, recipe.steps))
    return changes | _changed_files(recipe)


def clips_changed(recipe: Recipe) -> bool:
    """Whether the recipe's clips, or the sizes of their files, are others than when its run was begun."""
    begun = _accepted(Path(recipe.run)).get("manifest", {})
    now = _manifest_facts(recipe, clips_of(recipe))
    return any(begun.get(name, now[name]) != now[name] for name in ("hash", "audio_sizes"))


def is_finished(recipe: Recipe) -> bool:
    """Whether the run has made all its steps and has its complete codec, not that of an earlier, shorter run.

    Raises:
        ValueError: it is finished, or on its way, but by another recipe or on other clips.
    """
    folder = Path(recipe.run)
    finished = _is_complete(recipe)
    if finished or ((folder / run_guard.RUN).is_file() and checkpoint.list_checkpoints(folder / "checkpoints")):
        refuse_other_recipe(recipe)
    return finished


def steps_taken(folder: Path) -> int:
    """Steps of the newest checkpoint of a run, of its warm-up too; without checkpoints, those of the log's last row."""
    if saved := checkpoint.list_checkpoints(folder / "checkpoints"):
        return int(saved[-1].name.removeprefix("step_"))
    log = folder / "log.jsonl"
    rows = read_log(log) if log.exists() else []
    return int(rows[-1]["step"]) if rows else 0


def _is_complete(recipe: Recipe) -> bool:
    """The codec is written after the checkpoint of its step. Without checkpoints, the log says how far the run came."""
    folder = Path(recipe.run)
    try:
        check_any_folder(folder / "codec")
    except ValueError:
        return False
    if saved := checkpoint.list_checkpoints(folder / "checkpoints"):
        written = [path.stat().st_mtime_ns for path in (folder / "codec" / WEIGHTS, saved[-1] / "state.json")]
        if written[0] < written[1]:
            return False
    return steps_taken(folder) >= recipe.total_steps


def _accepted(folder: Path) -> dict[str, Any]:
    """What run.json says of a run: its beginning, or the last resumption for which a change was accepted."""
    described = read_object(folder / run_guard.RUN)
    return next((row for row in reversed(described.get("resumed", [])) if row["changes"]), described)


def _changed_files(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Files that the recipe names and that are others than those of its run; a line where nobody knows."""
    path = Path(recipe.run) / run_guard.RUN
    if not path.is_file() or not (now := named_files(recipe)):
        return {}
    rows = [_accepted(path.parent), *read_object(path).get("resumed", [])]
    known = next((row["files"] for row in rows if "files" in row), None)
    if known is None:
        older = "an older version, which kept no digests of files, began this run"
        _tell_once(f"{recipe.run}: {older}: whether those of {', '.join(now)} are the same is unknown")
        return {}
    return {f"{name} (its files)": (known[name], new) for name, new in now.items() if known.get(name, new) != new}


def _warn_of_rates(recipe: Recipe) -> None:
    for line in recipe.rate_lines():
        print(f"warning, {recipe.run}: {line}", file=sys.stderr)


@cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)


def _facts(recipe: Recipe, loader: ClipLoader) -> dict[str, Any]:
    """Manifest, files that the recipe names, versions, commit and threads of this process."""
    return {
        "manifest": _manifest_facts(recipe, loader.dataset.clips),
        "files": named_files(recipe),
        "versions": package_versions(*PACKAGES),
        "commit": source_commit(),
        "threads": torch.get_num_threads(),
    }


def _manifest_facts(recipe: Recipe, clips: Sequence[Clip]) -> dict[str, Any]:
    return {
        "path": str(recipe.data.manifest),
        "hash": manifest_hash(clips),
        "audio_sizes": digest_all(_as_list(audio_sizes(clips))),  # times change when a corpus is copied
        "clips": len(clips),
    }


def _as_list(sizes: Iterable[int]) -> Iterator[str]:
    """The text of a list of numbers, piece by piece."""
    yield "["
    for number, size in enumerate(sizes):
        yield f", {size}" if number else str(size)
    yield "]"


def _audio_files(loader: ClipLoader) -> list[Path]:
    """Every audio file once, in the order of the manifest; many clips may be stretches or members of one.

    Of very many clips, MOST_FILES evenly spread ones stand for the others.
    """
    clips = loader.dataset.clips
    step = -(-len(clips) // MOST_FILES)
    return list(dict.fromkeys(clips[index].file for index in range(0, len(clips), step)))


def _look_at_audio(paths: Sequence[Path], known: Sequence[Sequence[Any]] = ()) -> list[list[Any]]:
    """Time of change (ns) and digest of each file; what is `known` is kept where the time is the same."""

    def look(path: Path, before: Sequence[Any]) -> list[Any]:
        try:
            state = path.stat()
            if before and before[0] == state.st_mtime_ns:
                return list(before)
            if url_of(path) is not None:  # pieces of it would have to be fetched: its store knows its versions
                return [state.st_mtime_ns, digest(str(state.st_size), str(state.st_mtime_ns))]
            return [state.st_mtime_ns, digest(str(state.st_size), *_pieces(path, state.st_size))]
        except OSError:
            return [0, ""]  # one of those that --max-bad leaves out

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(look, paths, [*known, *[()] * (len(paths) - len(known))]))


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for number in range(PIECES):
            file.seek(max(0, size - PIECE_BYTES) * number // (PIECES - 1))
            yield file.read(PIECE_BYTES)


def _compare_audio(recipe: Recipe, paths: Sequence[Path]) -> tuple[list[list[Any]], str]:
    """The audio files as they are, and in words which of them are not those that the run was begun with."""
    say = partial(print, f"{recipe.run}:", file=sys.stderr)
    path = Path(recipe.run) / AUDIO
    if not path.is_file():
        say(f"an older version, which kept no {AUDIO}, began this run: whether its audio is the same is unknown")
        return _look_at_audio(paths), ""
    before = read_object(path).get("files")
    if not isinstance(before, list) or not all(isinstance(row, list) and len(row) == 2 for row in before):
        raise ValueError(f"{path}: damaged; if the audio is still the same, delete this file and resume")
    if len(before) != len(paths):
        return _look_at_audio(paths), f"{len(paths)} files instead of {len(before)}"
    now = _look_at_audio(paths, before)
    other = [path for path, old, new in zip(paths, before, now, strict=True) if old[1] != new[1]]
    touched = sum(old[0] != new[0] for old, new in zip(before, now, strict=True)) - len(other)
    if touched:
        say(
            f"{touched} of {len(paths)} audio files have another time than at the beginning of the run; size and "
            f"{PIECES} pieces of {PIECE_BYTES >> 10} KiB of each are as they were (no more was compared)"
        )
    return now, f"{len(other)} of {len(paths)} are others, the first {other[0]}" if other else ""


def _write_audio(recipe: Recipe, files: list[list[Any]]) -> None:
    write_json(Path(recipe.run) / AUDIO, {"pieces": [PIECES, PIECE_BYTES], "files": files}, indent=None)
