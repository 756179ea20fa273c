"""Clips of a JSONL manifest. Test: tests/data/test_manifest.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.clip import Clip, clip_of_row
from llmcodec.io.structured import read_lines


def read_jsonl(path: Path) -> Iterator[Clip]:
    """Clips line by line; nobody compares their ids.

    Raises:
        ValueError: a broken row, which it names by file and line.
    """
    folder = str(path.parent)
    for number, row in read_lines(path):
        yield clip_of_row(row, f"{path}:{number}", folder)


def read_all_jsonl(path: Path) -> list[Clip]:
    """All clips of a manifest.

    Raises:
        ValueError: as `read_jsonl`; an id that stands twice, with both lines; no clip.
    """
    clips: list[Clip] = []
    lines_by_id: dict[str, int] = {}
    folder = str(path.parent)
    for number, row in read_lines(path):
        clip = clip_of_row(row, f"{path}:{number}", folder)
        if clip.id in lines_by_id:
            raise ValueError(f"{path}:{number}: id {clip.id!r} stands in line {lines_by_id[clip.id]} already")
        lines_by_id[clip.id] = number
        clips.append(clip)
    if not clips:
        raise ValueError(f"{path}: the manifest is empty")
    return clips
