"""transcode/inputs.py: files as they are, folders with their tree, loops that end, unreadable folders named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmcodec.data import files
from llmcodec.io.audio import AUDIO_ENDINGS
from llmcodec.transcode.inputs import Problem, find_inputs


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_formats_that_cannot_be_read_here_are_problems(tmp_path, monkeypatch):
    for name in ("a.wav", "b.m4a", "c.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr("llmcodec.transcode.inputs.UNREAD_ENDINGS", (".m4a",))
    found, problems = find_inputs([str(tmp_path)], (".wav",))
    assert [one.relative.name for one in found] == ["a.wav"]
    assert [str(one) for one in problems] == [f"{tmp_path / 'b.m4a'}: .m4a needs PyAV: pip install 'llmcodec[formats]'"]


def test_files_are_taken_whatever_their_ending_folders_by_ending(tmp_path):
    touch(tmp_path / "a.bin", *(tmp_path / "in" / name for name in ("b.WAV", "x y/ü.flac", "x y/notes.txt", ".c.wav")))
    found, problems = find_inputs([str(tmp_path / "a.bin"), str(tmp_path / "in")], AUDIO_ENDINGS)
    assert [(one.relative.as_posix(), one.from_folder) for one in found] == [
        ("a.bin", False),
        ("b.WAV", True),
        ("x y/ü.flac", True),
    ]
    assert all(one.source.is_file() for one in found) and not problems


def test_nothing_to_do_is_said(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"no file in this folder ends in .wav, .flac"):
        find_inputs([str(tmp_path)], AUDIO_ENDINGS)
    with pytest.raises(ValueError, match="at least one file"):
        find_inputs([], AUDIO_ENDINGS)


def test_a_loop_ends_and_is_named_and_the_rest_is_found(tmp_path):
    touch(tmp_path / "a.wav", tmp_path / "deep/er/b.wav")
    (tmp_path / "deep/er/up").symlink_to(tmp_path)
    (tmp_path / "deep/self").symlink_to(tmp_path / "deep/self")
    found, problems = find_inputs([str(tmp_path)], AUDIO_ENDINGS)
    assert [one.relative.as_posix() for one in found] == ["a.wav", "deep/er/b.wav"]
    assert [str(one) for one in problems] == [
        f"{tmp_path}/deep/self: cannot be followed (Too many levels of symbolic links)",
        f"{tmp_path}/deep/er/up: a link back to a folder above it (a loop); not entered",
    ]


def test_many_folders_that_link_to_each_other_are_entered_once(tmp_path):
    names = [f"d{i}" for i in range(12)]  # followed blindly, 12! paths
    touch(*(tmp_path / name / "x.wav" for name in names))
    for name in names:
        for other in names:
            if other != name:
                (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    found, problems = find_inputs([str(tmp_path)], AUDIO_ENDINGS)
    assert len(found) == 12 and not problems


def test_a_linked_folder_elsewhere_belongs_to_the_tree(tmp_path):
    touch(tmp_path / "elsewhere/x.wav", tmp_path / "in/y.wav")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    found, _ = find_inputs([str(tmp_path / "in")], AUDIO_ENDINGS)
    assert [one.relative.as_posix() for one in found] == ["link/x.wav", "y.wav"]


def test_the_output_folder_is_not_read(tmp_path):
    touch(tmp_path / "a.wav", tmp_path / "out/a.wav")
    found, _ = find_inputs([str(tmp_path)], AUDIO_ENDINGS, leave_out=tmp_path / "out")
    assert [one.relative.as_posix() for one in found] == ["a.wav"]


def test_a_folder_that_cannot_be_read_is_a_problem_of_its_own(tmp_path, monkeypatch):
    touch(tmp_path / "a.wav", tmp_path / "locked/b.wav")
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(files.os, "scandir", refuse)
    found, problems = find_inputs([str(tmp_path)], AUDIO_ENDINGS)
    assert len(found) == 1 and str(problems[0]) == f"{tmp_path}/locked: cannot be read (Permission denied)"


def test_a_problem_names_its_file_once():
    assert str(Problem("a.wav", "a.wav: is empty")) == "a.wav: is empty"
    assert str(Problem("a.wav", "is empty")) == "a.wav: is empty"
