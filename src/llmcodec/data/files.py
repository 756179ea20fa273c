"""Audio and token files below a folder: hidden ones are left out, links are followed, no loop can hold us up.

Imports no torch. Test: tests/transcode/test_inputs.py, tests/data/test_layouts.py.
"""

from __future__ import annotations

import os
from pathlib import Path


def find_files(
    top: Path, endings: tuple[str, ...], leave_out: Path | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Files below `top`, by folder: those of a folder in the order of their names, then those of its subfolders.

    Every folder is entered once, under its own name where it has one below `top`.

    Args:
        top: folder that is searched with all its subfolders.
        endings: lower-case endings of the files that are looked for.
        leave_out: a folder that is not entered: where results go.

    Returns:
        The files, and (path, reason) of what could not be entered.
    """
    avoid = None if leave_out is None else leave_out.resolve()
    found: list[Path] = []
    problems: list[tuple[Path, str]] = []
    visited = {_identity(top)}
    folders: list[Path] = [top]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder.is_symlink() and folder != top:
            if _identity(folder) in visited:  # links come last: what they point to was entered under its own name
                if folder.parent.resolve().is_relative_to(folder.resolve()):
                    problems.append((folder, "a link back to a folder above it (a loop); not entered"))
                continue
            visited.add(_identity(folder))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append((folder, f"cannot be read ({error.strerror})"))
            continue
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link to itself
                problems.append((path, f"cannot be followed ({error.strerror})"))
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
                found.append(path)
    return sorted(found, key=lambda path: [(1, part) for part in path.parts[:-1]] + [(0, path.name)]), problems


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
