"""What a command reads: single files, folders with their tree, clips of manifests, rows of shards.

    found, problems = find_inputs(["speech/", "a.wav"], AUDIO_ENDINGS)

A link back to a folder above it is reported as a problem; hidden files are left out. Imports no torch.
Test: tests/transcode/test_inputs.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmcodec.data.files import find_files
from llmcodec.data.manifest import read_manifest
from llmcodec.data.member import AudioPath
from llmcodec.io.audio_formats import UNREAD_ENDINGS, why_unread
from llmcodec.io.remote.paths import bring
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import SHARD_ENDINGS, TokenRow, open_token_shards

TOKEN_ENDINGS = (".safetensors", *SHARD_ENDINGS)


@dataclass(frozen=True)
class Found:
    """One file to read."""

    source: AudioPath
    relative: Path
    """Path below the given folder; the file's name if the file itself was given."""
    from_folder: bool = False
    twin: bool = False
    """Whether another file of the run differs from it only by its ending, as `a.flac` from `a.wav`."""

    @property
    def result(self) -> Path:
        """Path of its result without ending: `a`, or `a.wav` if it has a twin."""
        return self.relative if self.twin else self.relative.with_suffix("")

    @property
    def other_result(self) -> Path:
        """What `result` was before its twin came, or has gone."""
        return self.relative.with_suffix("") if self.twin else self.relative


@dataclass(frozen=True)
class Problem:
    """What failed, and why: one line."""

    label: str
    reason: str

    def __str__(self) -> str:
        return self.reason if self.label in self.reason else f"{self.label}: {self.reason}"


def find_inputs(
    inputs: Sequence[str], endings: Sequence[str], leave_out: Path | None = None
) -> tuple[list[Found], list[Problem]]:
    """Files named by `inputs`; of folders, the files with one of `endings`, in the order of their paths.

    Args:
        inputs: files and folders. A file is taken whatever its ending.
        endings: lower-case endings to search for in folders.
        leave_out: a folder to skip: where the results go.

    Raises:
        ValueError: a folder without any such file, or no input.
    """
    if not inputs:
        raise ValueError("name at least one file or folder, or - for standard input")
    found: list[Found] = []
    problems: list[Problem] = []
    for name in inputs:
        place = bring(name, lambda path: True, lambda path: path.lower().endswith((*endings, *UNREAD_ENDINGS)))
        if not place.is_dir():
            found.append(Found(place, Path(place.name)))
            continue
        inside, trouble = find_files(place, (*endings, *UNREAD_ENDINGS), leave_out)
        trouble += [(path, why_unread(path)) for path in inside if path.suffix.lower() in UNREAD_ENDINGS]
        inside = [path for path in inside if path.suffix.lower() not in UNREAD_ENDINGS]
        if not inside and not trouble:
            more = ", ..." if len(endings) > 6 else ""
            raise ValueError(f"{name}: no file in this folder ends in {', '.join(endings[:6])}{more}")
        inside.sort(key=lambda path: path.relative_to(place).as_posix())
        found += [Found(path, path.relative_to(place), from_folder=True) for path in inside]
        problems += [Problem(str(path), reason) for path, reason in trouble]
    ways = Counter(one.result for one in found)
    wholes = Counter(one.relative for one in found)
    return [replace(one, twin=ways[one.result] > wholes[one.relative]) for one in found], problems


def find_clips(name: str) -> tuple[list[Found], list[Problem]]:
    """Clips of a manifest or another source (`data.sources`), whose results are named by their ids.

    Raises:
        ValueError: nothing there that can be read, or clips that are stretches of their files.
    """
    clips = read_manifest(name)
    if stretch := next((clip for clip in clips if clip.start is not None and not clip.problem), None):
        raise ValueError(f"{name}: clip {stretch.id!r} is a stretch of its file; `llmcodec tokenize` codes those")
    found = [Found(clip.path, Path(f"{clip.id}.clip"), from_folder=True) for clip in clips if not clip.problem]
    return found, [Problem(clip.id, clip.problem) for clip in clips if clip.problem]


def expand_shards(
    found: Sequence[Found], problems: list[Problem]
) -> tuple[list[Found], list[tuple[TokenRow, TokenProvenance] | None]]:
    """Every row of a shard as an input of its own, with the shard's provenance; everything else as it is."""
    inputs: list[Found] = []
    rows: list[tuple[TokenRow, TokenProvenance] | None] = []
    for one in found:
        shard = Path(one.source)
        if shard.suffix.lower() not in SHARD_ENDINGS:
            inputs.append(one)
            rows.append(None)
            continue
        try:
            provenance, clips = open_token_shards(shard)
            for row in clips:
                inputs.append(Found(shard, Path(f"{row.id}{shard.suffix}"), from_folder=True))
                rows.append((row, provenance))
        except ValueError as error:
            problems.append(Problem(str(shard), str(error)))
    return inputs, rows
