"""io/atomic.py: whole or not at all, permissions of the umask, what a kill leaves is found."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from llmcodec.io.atomic import (
    atomic_file,
    atomic_folder,
    atomic_path,
    disk_errors,
    find_left_overs,
    remove_folder,
    restore_folders,
    temporary_name,
    write_text,
)
from llmcodec.io.run_guard import RunLock
from llmcodec.training.checkpoint import save_checkpoint


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / ("long name " * 24)  # with a hidden prefix and a suffix it would be too long for a file system
    with atomic_file(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_text_is_written_whole_with_the_folders_above_it(tmp_path):
    path = tmp_path / "deep" / "a.md"
    write_text(path, "one")
    assert write_text(path, "zwei ü") == path
    assert path.read_text("utf-8") == "zwei ü" and list(path.parent.iterdir()) == [path]
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udc80")
    assert path.read_text("utf-8") == "zwei ü"


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_permissions_follow_the_umask_also_where_a_library_keeps_its_files_private(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "alone.safetensors") as temporary:
            save_file({"x": np.zeros(1)}, temporary)
        with atomic_folder(tmp_path / "folder") as folder:
            save_file({"x": np.zeros(1)}, folder / "in.safetensors")
            (folder / "run").touch(0o700)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    plain = 0o666 & ~umask
    assert modes == {
        "alone.safetensors": plain,
        "folder": 0o777 & ~umask,
        "in.safetensors": plain,
        "run": 0o700 | plain,
    }


def test_files_and_folders_wait_for_the_disk_where_they_are_told_to(tmp_path, monkeypatch):
    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are read from /proc")
    flushed: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    write_text(tmp_path / "a", "x")
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "c").touch()
    assert flushed == []
    write_text(tmp_path / "a", "x", durable=True)
    with atomic_folder(tmp_path / "b", replace=True, durable=True) as folder:
        (folder / "c").touch()
    names = [Path(name).name for name in flushed]
    assert names[0].startswith(".a.") and names[1] == "c" and names[2].startswith(".b.") and names[3] == tmp_path.name


def fill(folder: Path, existing: str, **files: str) -> None:
    with atomic_folder(folder, merge=existing == "merge", replace=existing == "replace", keep=("README",)) as inside:
        for name, text in files.items():
            (inside / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_folder_that_is_there_is_refused_filled_or_replaced(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    fill(folder, "refuse", README="1", a="1")  # an empty one is nobody's
    with pytest.raises(ValueError, match="is not empty"):
        fill(folder, "refuse", a="2")
    fill(folder, "merge", README="2", b="2")
    assert content(folder) == {"README": "1", "a": "1", "b": "2"}
    for number in "12":  # folders in it are filled too
        with atomic_folder(folder, merge=True) as inside:
            (inside / "inner").mkdir()
            (inside / "inner" / number).write_text(number)
    assert content(folder / "inner") == {"1": "1", "2": "2"}
    fill(folder, "replace", README="3")
    assert content(folder) == {"README": "3"}
    with pytest.raises(ValueError, match="is a file"):
        fill(folder / "README", "replace")
    assert content(tmp_path / "folder") == {"README": "3"} and os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("flags", [{}, {"merge": True}, {"replace": True}])
def test_a_folder_that_fails_leaves_what_was_there(flags, tmp_path):
    folder = tmp_path / "folder"
    if flags:
        fill(folder, "refuse", a="old")
    with pytest.raises(OSError, match="disk"), atomic_folder(folder, **flags) as inside:
        (inside / "a").write_text("half")
        raise OSError("disk full")
    assert list(tmp_path.rglob("*")) == ([folder, folder / "a"] if flags else [])
    assert not flags or content(folder) == {"a": "old"}


def test_a_folder_that_cannot_take_its_place_gives_the_old_one_back(tmp_path, monkeypatch):
    folder, rename = tmp_path / "folder", Path.rename
    fill(folder, "refuse", a="old")

    def fails(self, target):
        if self.name.endswith(".tmp"):
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        fill(folder, "replace", a="new")
    assert content(folder) == {"a": "old"} and os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that dies is a fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_folder_comes_back_after_a_death_between_the_two_renames(tmp_path):
    fill(tmp_path / "lm", "refuse", a="old")
    if (child := os.fork()) == 0:
        rename = Path.rename

        def dies_at_the_second(self, target):
            if self.suffix == ".tmp":
                os._exit(7)
            return rename(self, target)

        try:
            Path.rename = dies_at_the_second
            fill(tmp_path / "lm", "replace", a="new")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7 and not (tmp_path / "lm").exists()
    shutil.copytree(tmp_path, tmp_path / "checkpoints")
    with RunLock(tmp_path):
        assert content(tmp_path / "lm") == {"a": "old"} and not find_left_overs(tmp_path)
    (tmp_path / "checkpoints" / "lm.old").mkdir()
    save_checkpoint(tmp_path / "checkpoints", 1, {"progress": {"step": 1}})
    assert content(tmp_path / "checkpoints" / "lm") == {"a": "old"} and not find_left_overs(tmp_path / "checkpoints")


def test_only_a_folder_whose_name_is_free_comes_back(tmp_path):
    for name in ("one", "long" * 20):
        temporary_name(tmp_path / name).with_suffix(".old").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / ".file.01234567.old").touch()
    assert restore_folders(tmp_path) == [] == restore_folders(tmp_path / "nowhere")
    (tmp_path / "one").rmdir()
    assert restore_folders(tmp_path) == [tmp_path / "one"]


def test_what_a_killed_process_leaves_is_found(tmp_path):
    one, other = temporary_name(tmp_path / "one"), temporary_name(tmp_path / "other")
    one.touch()
    other.mkdir()
    for name in (".mine.tmp", "x.0123abcd.tmp", ".one.0123abcd.tmp.txt"):
        (tmp_path / name).touch()
    assert set(find_left_overs(tmp_path)) == {one, other}
    assert find_left_overs(tmp_path, "one") == [one]
    assert find_left_overs(tmp_path / "nowhere") == []
    assert set(find_left_overs(tmp_path, "on")) == set()


def test_a_removed_folder_loses_its_name_first(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    gone: list[str] = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: gone.append(Path(path).name))
    remove_folder(tmp_path / "folder")
    assert not (tmp_path / "folder").exists() and gone[0].startswith(".folder.")
    assert find_left_overs(tmp_path) == [tmp_path / gone[0]]


@pytest.mark.parametrize("write", [atomic_path, atomic_folder])
def test_a_full_disk_below_safetensors_is_an_error_of_the_disk(write, tmp_path):
    """Found by `make soak`: an internal error of `prior` on a full disk."""
    with pytest.raises(OSError, match=r"new could not be written: .*I/O error: No space left"), write(tmp_path / "new"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError), write(tmp_path / "new"):
        raise SafetensorError("Error while deserializing header: header too large")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "said",
    [
        "basic_ios::clear: iostream error",
        "[enforce fail at inline_container.cc:672] . unexpected pos 14464 vs 14352",  # of `lm train`, by `make soak`
    ],
)
def test_what_pytorch_raises_on_a_failing_disk_is_an_oserror(tmp_path, said):
    told = re.escape(f"run could not be written: {said}")
    with pytest.raises(OSError, match=told), disk_errors(tmp_path / "run"):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="sizes"), disk_errors(tmp_path / "run"):
        raise RuntimeError("sizes do not match")
