"""Files and folders that appear whole: written under a hidden name beside their own, renamed at the end.

    write_text("out/table.md", text)
    with atomic_file("clip.bin", durable=True) as file:         # a binary file to write to
        file.write(content)
    with atomic_path("codes.safetensors") as temporary:         # for libraries that want a path
        save_file(tensors, temporary)
    with atomic_folder("codec", merge=True) as folder:
        codec.save_pretrained(folder)

An error in the `with` block leaves what was there before and nothing else; a kill leaves a hidden file at most, which
`find_left_overs` finds; between the two renames of a folder that is replaced, the old one, to which `restore_folders`
gives its name back. What goes to a URL is uploaded when it is whole (`io.remote.paths`). Permissions follow the umask,
also where a library makes its files private (safetensors does).
Test: tests/io/test_atomic.py.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError

from llmcodec.io.remote.paths import AnyPath as AnyPath
from llmcodec.io.remote.paths import as_path, publish, shown

LONGEST_NAME = 48
"""Characters of a name that go into the temporary one: most file systems end at 255 bytes."""
_LEFT_OVER = re.compile(r"\..*\.[0-9a-f]{8}\.(tmp|old)", re.DOTALL)


@contextmanager
def atomic_path(path: AnyPath, durable: bool = False) -> Iterator[Path]:
    """The path of an empty file that takes the name `path` when the `with` block ends without an error.

    Args:
        path: the file to write; its folder is made where it is missing.
        durable: wait for the disk, so that the file survives a power failure; costs milliseconds. A kill of the
            process leaves no half file either way.
    """
    target = as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(target)
    try:
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        with disk_errors(target):
            yield temporary
        _permit(temporary, mode)
        if durable:
            flush_to_disk(temporary)
        os.replace(temporary, target)
        publish(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: AnyPath, durable: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` when the `with` block ends without an error; see `atomic_path`."""
    with atomic_path(path, durable) as temporary, open(temporary, "wb") as file:
        yield file


def write_bytes(path: AnyPath, content: bytes, durable: bool = False) -> Path:
    """Write a file whole or not at all; returns its path."""
    with atomic_file(path, durable) as file:
        file.write(content)
    return as_path(path)


def write_text(path: AnyPath, text: str, durable: bool = False) -> Path:
    """Write a UTF-8 file whole or not at all, paths that stand for URLs as those; returns its path."""
    return write_bytes(path, shown(text).encode(), durable)


@contextmanager
def atomic_folder(
    path: AnyPath,
    *,
    merge: bool = False,
    replace: bool = False,
    keep: Collection[str] = ("README.md",),
    durable: bool = False,
) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the `with` block ends without an error.

    Args:
        path: the folder to write; missing parents are made.
        merge: into a folder that is there, the new files are moved one by one.
        replace: a folder that is there goes, or stays if the new one cannot take its place.
        keep: files that `merge` does not overwrite; somebody may have edited them.
        durable: wait for the disk before and after the renaming.

    Raises:
        ValueError: `path` is a file, or a folder that is not empty without `merge` or `replace`.
    """
    place = as_path(path).resolve()
    if place.is_file():
        raise ValueError(f"{path}: is a file; name a folder to write")
    if not (merge or replace) and place.is_dir() and any(place.iterdir()):
        raise ValueError(f"{path}: is not empty; choose another folder, or --overwrite")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(place)
    try:
        temporary.mkdir()
        with disk_errors(place):
            yield temporary
        inside = [entry for entry in temporary.rglob("*") if not entry.is_symlink()]
        for entry in inside:
            _permit(entry, stat.S_IMODE(temporary.stat().st_mode) & (0o777 if entry.is_dir() else 0o666))
        if durable:
            flush_to_disk(*inside, temporary)
        if replace or not place.exists():
            _replace_folder(temporary, place)
        else:
            _move_into(temporary, place, keep)
        if durable:
            flush_to_disk(place.parent)
        publish(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


WRITING_FAILED = ("I/O error", "iostream error", "PytorchStreamWriter failed", "unexpected pos")
"""In messages of safetensors and PyTorch. The last is what `torch.save` says where a write fell short."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What safetensors and PyTorch raise where the disk is full, or fails, as the OSError that it is."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if not any(words in str(error) for words in WRITING_FAILED):
            raise
        raise OSError(f"{path} could not be written: {' '.join(str(error).split())[:200]}") from error


def remove_folder(folder: Path) -> None:
    """Delete a folder; it loses its name first, so that nobody takes it for whole meanwhile."""
    shutil.rmtree(folder.rename(temporary_name(folder)), ignore_errors=True)
    publish(folder)


def flush_to_disk(*paths: Path) -> None:
    """fsync files and folders: a rename is only safe once what it names has reached the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(target: Path) -> Path:
    """Hidden name beside `target` that no other process uses."""
    return target.with_name(f".{target.name[:LONGEST_NAME]}.{secrets.token_hex(4)}.tmp")


def find_left_overs(folder: Path, name: str = "") -> list[Path]:
    """Temporary files and folders in `folder`, of `name` alone where one is given.

    What another process is writing right now looks the same as what a killed one left: ask where a lock, or the user,
    says that there is none.
    """
    if not folder.is_dir():
        return []
    start = f".{name[:LONGEST_NAME]}." if name else "."
    return [path for path in folder.iterdir() if path.name.startswith(start) and _LEFT_OVER.fullmatch(path.name)]


def restore_folders(folder: Path) -> list[Path]:
    """Give folders in `folder` their names back which a kill in the middle of `atomic_folder(replace=True)` took.

    For the holder of a lock, before it deletes what `find_left_overs` finds. Returns the folders that are back.
    """
    olds = [path for path in find_left_overs(folder) if path.suffix == ".old" and path.is_dir()]
    back = []
    for old in sorted(olds, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        name = old.name[1:].rsplit(".", 2)[0]
        if len(name) < LONGEST_NAME and not os.path.lexists(folder / name):  # of a longer name only a part is known
            back.append(old.rename(folder / name))
    return back


def _replace_folder(new: Path, final: Path) -> None:
    """Rename `new` to `final`; what was there goes, or stays if that fails."""
    old = final.rename(temporary_name(final).with_suffix(".old")) if final.exists() else None
    try:
        new.rename(final)
    except OSError:
        if old is not None:
            old.rename(final)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _move_into(new: Path, place: Path, keep: Collection[str] = ()) -> None:
    """Move what is in `new`, file by file where a folder of the name has something in it already."""
    for entry in sorted(new.iterdir()):
        target = place / entry.name
        if entry.is_dir() and target.is_dir() and any(target.iterdir()):
            _move_into(entry, target)
        elif entry.name not in keep or not target.exists():
            os.replace(entry, target)


def _permit(path: Path, mode: int) -> None:
    """Add the permissions `mode`, which the umask allows."""
    found = stat.S_IMODE(path.stat().st_mode)
    if found | mode != found:
        path.chmod(found | mode)
