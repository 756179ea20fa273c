"""What the commands of `llmcodec evaluate` are asked for: codecs by name, clips of a manifest, where results go.

Test: `pytest tests/cli/test_requests.py`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcodec import assets
from llmcodec.adapters.load import BUNDLED, load_codec
from llmcodec.data.manifest import Clip, manifest_hash, read_manifest
from llmcodec.protocol import Codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

HELD_OUT = ("valid", "test")
PACKAGES = ("llmcodec", "torch", "transformers", "numpy", "scipy", "praat-parselmouth", "jiwer", "faster-whisper")


def named_codecs(entries: Sequence[str] | None, device: str = "cpu") -> Iterator[tuple[str, Codec]]:
    """`NAME=PLACE` or `PLACE` -> name and loaded codec, one at a time. Raises ValueError for none, or equal names."""
    names = check_names(entries)
    for name, entry in zip(names, entries or (), strict=True):
        yield name, load_codec(entry.rpartition("=")[2], device)


def check_names(entries: Sequence[str] | None) -> list[str]:
    """Names of the codecs asked for, unique."""
    if not entries:
        raise ValueError("name at least one codec: --codec bundled, --codec FOLDER, or --codec NAME=FOLDER")
    names = [entry.rpartition("=")[0] or entry for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two codecs are called {twice[0]!r}: name them, --codec first={twice[0]} --codec second=...")
    return names


def place_of(manifest: str) -> Path:
    return assets.speech_manifest() if manifest == BUNDLED else Path(manifest)


def clips_of(
    manifest: str,
    split: str | None = None,
    sources: str | None = None,
    languages: str | None = None,
    min_seconds: float = 0.0,
) -> list[Clip]:
    """Clips of a manifest; `split` None: valid and test where the manifest has them, else everything.

    split, sources and languages are names joined by commas.
    """
    wanted: dict[str, Any] = {"sources": comma(sources), "languages": comma(languages), "min_seconds": min_seconds}
    path = place_of(manifest)
    if split is not None:
        return read_manifest(path, comma(split), **wanted)
    clips = read_manifest(path, **wanted)
    return [clip for clip in clips if clip.split in HELD_OUT] or clips


def comma(text: str | None) -> list[str] | None:
    """`a,b` -> ["a", "b"]; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str, what: str) -> list[float]:
    """`0.2,0.5` -> [0.2, 0.5]. Raises ValueError that names the option."""
    try:
        return [float(part) for part in comma(text) or ()]
    except ValueError:
        raise ValueError(f"--{what} takes numbers joined by commas, such as 0.2,0.5; not {text!r}") from None


def fingerprint(codec: Codec) -> str:
    """16 hex digits of the codec's class and weights, for looking up earlier results."""
    digest = hashlib.blake2b(type(codec).__qualname__.encode(), digest_size=8)
    state = getattr(codec, "state_dict", None) or getattr(getattr(codec, "model", None), "state_dict", None)
    facts = [codec.sample_rate, codec.hop_samples, codec.num_codebooks, codec.codebook_size]
    plain = sorted((name, repr(v)) for name, v in vars(codec).items() if isinstance(v, int | float | str))
    digest.update(repr((facts, plain, repr(getattr(codec, "config", None)))).encode())
    for name, value in state().items() if state is not None else ():
        digest.update(name.encode())
        if hasattr(value, "numpy"):
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def settings(clips: Sequence[Clip] | None = None) -> dict[str, Any]:
    """Command, versions and corpus, to stand beside every result."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    told: dict[str, Any] = {"command": " ".join(["llmcodec", *sys.argv[1:]]), "versions": versions}
    if clips is not None:
        told |= {"clips": len(clips), "manifest_hash": manifest_hash(clips)}
    return told


def write_text(path: Path, text: str) -> None:
    """Atomic: the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_results(output: str, markdown: str, results: dict[str, Any]) -> tuple[Path, Path]:
    """NAME.md and NAME.json; an ending .md or .json on the name is taken off."""
    stem = Path(output)
    stem = stem.with_suffix("") if stem.suffix in (".md", ".json") else stem
    paths = stem.with_name(stem.name + ".md"), stem.with_name(stem.name + ".json")
    write_text(paths[0], markdown)
    write_text(paths[1], json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return paths


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """A CSV file with these columns; missing values are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told the share done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(text, total=1.0)
        yield lambda share: bar.update(task, completed=share)
