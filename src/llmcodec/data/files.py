"""Files and folders below a folder: hidden ones are left out, links are followed, no loop can hold us up.

Imports no torch. Test: tests/transcode/test_inputs.py, tests/data/test_layouts.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def find_files(
    top: Path, endings: tuple[str, ...], leave_out: Path | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below `top`, by folder: those of a folder in the order of their names, then those of its subfolders.

    Args:
        top: folder that is searched with all its subfolders, as `walk` does.
        endings: lower-case endings of the files that are looked for.
        leave_out: a folder that is not entered: where results go.

    Returns:
        The files, and (path, reason) of what could not be entered.
    """
    avoid = None if leave_out is None else leave_out.resolve()
    problems: list[tuple[Path, str]] = []
    found: list[Path] = []
    for folder, subfolders, names in walk(top, lambda path, reason: problems.append((path, reason))):
        subfolders[:] = [name for name in subfolders if (folder / name).resolve() != avoid]
        found += [folder / name for name in names if name.lower().endswith(endings)]
    return sorted(found, key=lambda path: [(1, part) for part in path.parts[:-1]] + [(0, path.name)]), problems


def walk(top: Path, on_problem: Callable[[Path, str], None]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`top` and every folder below it: path, names of subfolders, names of files, both sorted, hidden ones left out.

    Every folder is entered once, under its own name where it has one below `top`: links come last. Names removed from
    the list of subfolders are not entered, as in `os.walk`.

    Args:
        top: where to begin.
        on_problem: called with the path and the reason of what cannot be entered.
    """
    visited: set[tuple[int, int]] = set()
    folders, links = [top], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            identity = _identity(folder)
            if identity in visited:
                if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
                    on_problem(folder, "a link back to a folder above it (a loop); not entered")
                continue
            visited.add(identity)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            on_problem(folder, f"cannot be read ({error.strerror})")
            continue
        inside: dict[str, bool] = {}
        files: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    inside[entry.name] = entry.is_symlink()
                else:
                    files.append(entry.name)
            except OSError as error:  # a link to itself
                on_problem(folder / entry.name, f"cannot be followed ({error.strerror})")
        entered = list(inside)
        yield folder, entered, files
        links += [folder / name for name in entered if inside[name]]
        folders += [folder / name for name in reversed(entered) if not inside[name]]


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
