"""URLs among the options of a command: what is read is brought, what is written is uploaded, the rest takes none.

    with uploaded_results():
        name = local_value("encode", "output", "s3://bucket/tokens")      # what stands for it, see io.remote.paths
    forget_urls()

Every option and every field of a recipe has its place in `OPTIONS` or `FIELDS`; one that has none refuses URLs, so that
none becomes a folder called `s3:`. Test: tests/cli/test_urls.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TextIO, TypeVar

from llmcodec.io.remote import paths
from llmcodec.io.remote.paths import StoreError, bring, fetch, is_url, lazy_endings, publish, shown

R = TypeVar("R")


class Kind(Enum):
    """What a command does with an option that may be a URL."""

    READ = "a file, or a folder of which audio and shards are read when their turn comes"
    COPY = "as READ, but everything is copied first: other packages open it"
    HUB = "as COPY; hf:// is for the function below"
    MODEL = "the name of a codec or a language model; a run folder without its checkpoints"
    OWN = "the function below takes URLs itself"
    WRITE = "results"
    RUN = "a run folder, which is resumed from its newest checkpoint"
    TEXT = "no path: text that may look like a URL"


OPTIONS = {
    "inputs": Kind.READ,
    "encode inputs": Kind.OWN,
    "decode inputs": Kind.OWN,
    "reconstruct inputs": Kind.OWN,
    "codec": Kind.MODEL,
    "lm": Kind.MODEL,
    "checkpoint": Kind.HUB,
    "manifest": Kind.OWN,
    "texts": Kind.OWN,
    "pairs": Kind.READ,
    "alignments": Kind.COPY,
    "features": Kind.MODEL,
    "encoder": Kind.MODEL,
    "clap": Kind.MODEL,
    "predictability": Kind.READ,
    "suite": Kind.COPY,
    "prompt": Kind.READ,
    "folder": Kind.READ,
    "dataset": Kind.COPY,
    "data salmon speakers": Kind.READ,
    "speakers": Kind.TEXT,
    "noises": Kind.READ,
    "rooms": Kind.READ,
    "output": Kind.WRITE,
    "per_file": Kind.WRITE,
    "tokens": Kind.WRITE,
    "cache": Kind.WRITE,
    **dict.fromkeys(("text", "licence", "license", "source", "speaker", "language", "like", "pauses"), Kind.TEXT),
}
"""Options, where one command differs with its name before it."""
FIELDS = {
    "run": Kind.RUN,
    "data.manifest": Kind.OWN,
    "data.tokens": Kind.READ,
    "data.valid_tokens": Kind.READ,
    "data.codec": Kind.MODEL,
    "codec.start": Kind.MODEL,
    "teacher.name": Kind.MODEL,
    "language.backbone.name": Kind.MODEL,
    "language.audio_lm": Kind.READ,
    "model.base": Kind.MODEL,
    "manifest": Kind.OWN,
    **dict.fromkeys(("name", "data.text_template", "data.speakers", "data.sources"), Kind.TEXT),
}
"""Fields of recipes."""
BESIDE = (".rows.jsonl", ".kept")
"""Endings of what a command finds beside its output when it is started again."""
CHECKPOINT = re.compile(r"(checkpoints/step_\d+|checkpoint-\d+)/.*", re.DOTALL)
_CODEC = re.compile(r"((?:[^=:/]+=)?(?:search(?:@\d*\.?\d+)?:|auv:)?)([A-Za-z][A-Za-z0-9+.-]+://.+?)((?::\d+)?)")
_outputs: list[Path] = []
_streams: list[TextIO] = []


class ShownStream:
    """Standard output or error on which paths that stand for URLs appear as those."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(shown(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def uploaded_results() -> Iterator[None]:
    """Uploads what a command has written to URLs at its end, also where it was stopped or fails.

    Raises:
        StoreError: the store fails.
    """
    done = False
    try:
        yield
        done = True
    finally:
        failed_before = isinstance(sys.exc_info()[1], StoreError)  # it would again; what was finished is there
        try:
            for place in () if failed_before else _outputs:
                publish(place)
        except StoreError as error:
            if done:
                raise
            print(f"not everything is uploaded: {error}", file=sys.stderr)
        finally:
            _outputs.clear()


def forget_urls() -> None:
    """Delete what stood for URLs, once the last line is printed."""
    if _streams:
        sys.stdout, sys.stderr = _streams
        _streams.clear()
        paths.forget()


def local_value(command: str, name: str, value: Any) -> Any:
    """The value of an option, URLs in it replaced by what stands for them.

    Args:
        command: without the program: `evaluate salmon`.
        name: of the option, with underscores.
        value: as parsed; lists and tuples too.
    """
    return _local(value, f"--{name.replace('_', '-')}", OPTIONS.get(f"{command} {name}") or OPTIONS.get(name))


def local_recipe(recipe: R, before: str = "") -> R:
    """A recipe, or a part of one whose fields are called `before...`, with URLs replaced."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):  # type: ignore[arg-type]
        name, value = f"{before}{field.name}", getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            made = local_recipe(value, f"{name}.")
        else:
            made = _local(value, f"--{name}", FIELDS.get(name))
        if made is not value:
            changed[field.name] = made
    return dataclasses.replace(recipe, **changed) if changed else recipe  # type: ignore[type-var]


def no_url(name: str, value: Any) -> Any:
    """The value of an option that takes none. Raises ValueError for a URL."""
    return _local(value, f"--{name}", None)


def _local(value: Any, flag: str, kind: Kind | None) -> Any:
    if isinstance(value, (list, tuple)):
        made = [_local(one, flag, kind) for one in value]
        return value if all(map(lambda old, new: old is new, value, made)) else type(value)(made)
    if isinstance(value, Mapping):
        named = {name: _local(one, flag, kind) for name, one in value.items()}
        return value if all(named[name] is value[name] for name in value) else named
    if not isinstance(value, str) or kind is Kind.TEXT:
        return value
    if kind is Kind.MODEL:
        found = _CODEC.fullmatch(value)
        return value if found is None else f"{found[1]}{_take(kind, found[2])}{found[3]}"
    if not is_url(value) or kind is None and "://" not in value:
        return value
    if kind is None:
        raise ValueError(f"{flag} {value}: takes no URL; name a local path, and copy")
    return str(_take(kind, value))


def _take(kind: Kind, url: str) -> Path | str:
    if not _streams:
        _streams.extend((sys.stdout, sys.stderr))
        sys.stdout, sys.stderr = ShownStream(sys.stdout), ShownStream(sys.stderr)  # type: ignore[assignment]
    if kind is Kind.OWN or kind is Kind.HUB and url.startswith("hf://"):
        paths.as_path(url)  # refuses what nobody reads before anything begins
        return url
    if kind in (Kind.WRITE, Kind.RUN):
        return _output(url, kind is Kind.RUN)
    lazy: Callable[[str], bool] | None = (lambda name: False) if kind in (Kind.COPY, Kind.HUB) else None
    wanted = (lambda name: not CHECKPOINT.fullmatch(name)) if kind is Kind.MODEL else (lambda name: True)
    return bring(url, lazy, wanted)


def _output(url: str, is_run: bool) -> Path:
    """Where results for a URL are written; what is there is known by name, and a run can be resumed."""
    if is_run and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{url}: several processes need a run folder on a disk that all see; name one, and copy it")
    endings = (*lazy_endings(), ".safetensors")
    place = bring(url, CHECKPOINT.fullmatch if is_run else lambda name: name.lower().endswith(endings))  # type: ignore[arg-type]
    if is_run:
        _fetch_newest(place)
    stem = url if Path(url).suffix == "" else url[: -len(Path(url).suffix)]
    beside = [bring(f"{stem}{ending}", lambda name: False) for ending in BESIDE if not is_run]
    _outputs.extend([place, *beside])
    return place


def _fetch_newest(run: Path) -> None:
    """Copy the newest checkpoint of a run folder; those that were not uploaded to their end go, there as well."""
    whole = []
    for folder in (*run.glob("checkpoints/step_*"), *run.glob("checkpoint-*")):
        if any((folder / name).exists() for name in ("state.json", "trainer_state.json")):
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    if whole:
        newest = max(whole, key=lambda folder: int(re.sub(r"\D", "", folder.name)))
        for path in newest.rglob("*"):
            fetch(path)
