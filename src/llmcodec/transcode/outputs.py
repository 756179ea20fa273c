"""Output paths, planned before any work: no two results at one place, none outside the folder or on top of an input.

Imports no torch. Test: tests/transcode/test_outputs.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmcodec.io.atomic import LONGEST_NAME, find_left_overs
from llmcodec.io.audio_formats import PYAV_ENDINGS, SNDFILE_ENDINGS
from llmcodec.io.structured import read_object, write_json
from llmcodec.transcode.inputs import Found

FILE_ENDINGS = {*SNDFILE_ENDINGS, *PYAV_ENDINGS, ".safetensors", ".arrow", ".parquet"}
"""Nobody means a folder by a name that ends so."""


def plan_outputs(
    found: Sequence[Found], output: str | None, endings: Sequence[str], ending: str | None = None, mark: str = ""
) -> list[Path]:
    """A path for the result of every input.

    Args:
        found: what is read.
        output: a folder, in which the tree of an input folder is kept; or, for one file, the name of the result (with
            one of `endings`). None: next to the input, for one file only.
        endings: allowed endings of a result, the first is the default.
        ending: the requested one, if any.
        mark: goes before the ending if the result is put next to its input (`speech.reconstructed.wav`).

    Raises:
        ValueError: two results at one place, a result on top of an input, a place outside the folder, an ending that
            contradicts `ending` or is that of another kind of file, a folder or several inputs without an output.
    """
    single = len(found) == 1 and not found[0].from_folder
    folder: Path | None = None
    if output is None:
        if not single:
            many = "a folder" if any(one.from_folder for one in found) else "several inputs"
            raise ValueError(f"{many}: name the folder for the results with --output")
        source = Path(found[0].source)
        targets = [source.with_name(f"{source.stem}{mark}{ending or endings[0]}")]
    elif single and Path(output).suffix.lower() in endings and not Path(output).is_dir():
        if ending is not None and Path(output).suffix.lower() != ending:
            raise ValueError(f"{output}: its ending contradicts the format {ending[1:]}")
        targets = [Path(output)]
    else:
        folder = Path(output)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{output}: is a file; for these inputs --output must be a folder")
        if folder.suffix.lower() in FILE_ENDINGS and not folder.is_dir():
            allowed = f"a folder, or a file in {', '.join(endings)}" if single else "a folder for these inputs"
            raise ValueError(f"{output}: --output is {allowed}, not {folder.suffix.lower()}")
        targets = [folder / one.result.with_name(f"{one.result.name}{ending or endings[0]}") for one in found]
    _refuse_doubles(found, targets)
    if folder is not None:
        _refuse_ways_out(folder, targets)
    sources = {os.path.realpath(one.source): one.source for one in found}
    for target in targets:
        if target.is_dir():
            raise ValueError(f"{target}: is a folder, but the result should be a file there")
        if os.path.realpath(target) in sources:
            raise ValueError(f"{target}: the result would overwrite an input; choose another --output")
    return targets


def refuse_existing(targets: Sequence[Path]) -> None:
    """Raise ValueError if results exist already."""
    existing = [target for target in targets if target.exists()]
    if existing:
        many = f"{existing[0]}: is there already" + (f", like {len(existing) - 1} more" if len(existing) > 1 else "")
        raise ValueError(f"{many}; --resume keeps what is there, --overwrite replaces it")


def remove_left_overs(targets: Sequence[Path], own: bool = False) -> int:
    """Delete the hidden temporary files that a killed run left next to `targets`; returns how many.

    Args:
        targets: results.
        own: only those of `targets`, because other processes write into the same folders.
    """
    found = [path for folder in {target.parent for target in targets} for path in find_left_overs(folder)]
    if own:
        names = {f".{target.name[:LONGEST_NAME]}" for target in targets}
        found = [path for path in found if path.name.rsplit(".", 2)[0] in names]
    files = [path for path in found if path.is_file() and not path.is_symlink()]
    for path in files:
        path.unlink()
    return len(files)


@contextmanager
def recorded(
    path: Path, told: Mapping[str, Any], targets: Sequence[Path], resume: bool, some_done: bool
) -> Iterator[None]:
    """Keep a record beside results while they are made, as `keep_record`; where there are none in the end, none."""
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    record = keep_record(path, told, resume, some_done)
    try:
        yield
    finally:
        if record is not None and not any(target.exists() for target in targets):
            record.unlink(missing_ok=True)
            for folder in new:
                with suppress(OSError):
                    folder.rmdir()


def keep_record(path: Path, told: Mapping[str, Any], resume: bool, some_done: bool) -> Path | None:
    """Write down in a folder of results how they are made, which the results themselves do not say; the new file.

    Args:
        path: of the record, in that folder.
        told: what decides the results.
        resume: whether results that are there are kept.
        some_done: whether there are such; without a record nobody knows how they were made, and none is written.

    Raises:
        ValueError: results are to be kept that were made in another way.
    """
    if resume and path.is_file():
        refuse_other_ways(path, told)
    elif not some_done:
        write_json(path, dict(told))
        return path
    return None


def refuse_other_ways(path: Path, told: Mapping[str, Any]) -> None:
    """Raise ValueError where the record at `path` says that results were made in another way."""
    before = read_object(path) if path.is_file() else {}
    for name, now in told.items():
        if before.get(name, now) != now:  # records of before say less
            was, now = (str(one.get(name))[:16] for one in (before, told))
            raise ValueError(
                f"{path.parent}: its results were made with {name} {was}, not {now}; name another folder, or "
                "--overwrite"
            )


def _refuse_doubles(found: Sequence[Found], targets: Sequence[Path]) -> None:
    first: dict[str, Found] = {}
    for one, target in zip(found, targets, strict=True):
        other = first.setdefault(os.path.normpath(target), one)
        if other is not one:
            raise ValueError(
                f"{other.source} and {one.source} would both be written to {target}; give the folder above them, or "
                "code them in two runs"
            )


def _refuse_ways_out(folder: Path, targets: Sequence[Path]) -> None:
    """No target may leave `folder` by `..`, by a linked folder in it, or by being a link itself."""
    root = folder.resolve()
    for parent in {target.parent for target in targets}:
        if not parent.resolve().is_relative_to(root):
            raise ValueError(f"{parent}: leads out of the output folder {folder}; remove the link, nothing was written")
    for target in targets:
        if target.is_symlink() and not target.resolve().is_relative_to(root):
            raise ValueError(f"{target}: is a link out of the output folder {folder}; remove it, nothing was written")
