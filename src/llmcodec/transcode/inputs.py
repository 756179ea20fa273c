"""Which files a command reads: single files, folders with their tree, standard input. Nothing is opened here.

    found, problems = find_inputs(["speech/", "a.wav"], AUDIO_ENDINGS)

A link back to a folder above it is a problem of that link alone; hidden files are left out. Imports no torch.
Test: tests/transcode/test_inputs.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcodec.data.layouts import AUDIO_ENDINGS
from llmcodec.io.token_shards import SHARD_ENDINGS

STANDARD_STREAM = "-"
TOKEN_ENDINGS = (".safetensors", *SHARD_ENDINGS)

__all__ = ["AUDIO_ENDINGS", "STANDARD_STREAM", "TOKEN_ENDINGS", "Found", "Problem", "find_inputs"]


@dataclass(frozen=True)
class Found:
    """One file to read."""

    source: Path
    relative: Path
    """Where it stands below the folder that was given; its name where the file itself was given."""
    from_folder: bool = False


@dataclass(frozen=True)
class Problem:
    """What could not be done, and why: one line."""

    label: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.label in self.reason else f"{self.label}: {self.reason}"


def find_inputs(
    inputs: Sequence[str], endings: Sequence[str], leave_out: Path | None = None
) -> tuple[list[Found], list[Problem]]:
    """Files named by `inputs`; of folders, the files with one of `endings`, in the order of their paths.

    Args:
        inputs: files and folders. A file is taken whatever its ending, for its content counts.
        endings: lower-case endings that are looked for in folders.
        leave_out: a folder that is not entered: where the results go.

    Raises:
        ValueError: a folder without any such file, or nothing named at all.
    """
    if not inputs:
        raise ValueError("name at least one file or folder, or - for standard input")
    found: list[Found] = []
    problems: list[Problem] = []
    for name in inputs:
        place = Path(name)
        if not place.is_dir():
            found.append(Found(place, Path(place.name)))
            continue
        inside, trouble = _walk(place, tuple(endings), leave_out)
        if not inside and not trouble:
            raise ValueError(f"{name}: no file in this folder ends in {', '.join(endings)}")
        found += inside
        problems += trouble
    return found, problems


def _walk(top: Path, endings: tuple[str, ...], leave_out: Path | None) -> tuple[list[Found], list[Problem]]:
    """Files below `top`. Every folder is entered once, whatever links point to it, so that no loop can hold us up."""
    avoid = None if leave_out is None else leave_out.resolve()
    found: list[Found] = []
    problems: list[Problem] = []
    visited = {_identity(top)}
    folders: list[Path] = [top]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder.is_symlink() and folder != top:
            if _identity(folder) in visited:  # links come last: what they point to was entered under its own name
                if folder.parent.resolve().is_relative_to(folder.resolve()):
                    problems.append(Problem(str(folder), "a link back to a folder above it (a loop); not entered"))
                continue
            visited.add(_identity(folder))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Problem(str(folder), f"cannot be read ({error.strerror})"))
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link to itself
                problems.append(Problem(str(path), f"cannot be followed ({error.strerror})"))
                continue
            if is_folder:
                if avoid is not None and path.resolve() == avoid:
                    continue
                if entry.is_symlink():
                    links.append(path)
                else:
                    visited.add(_identity(path))
                    folders.append(path)
            elif entry.name.lower().endswith(endings):
                found.append(Found(path, path.relative_to(top), from_folder=True))
    return sorted(found, key=lambda one: one.relative.as_posix()), problems


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
