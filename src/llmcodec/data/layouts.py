"""A manifest from a folder of audio: `llmcodec data manifest FOLDER`.

Any folder works. Transcripts stand beside the audio (`x.normalized.txt`, `x.txt` or `x.lab` for `x.flac`), or, in the
layout of LibriSpeech (`speaker/chapter/speaker-chapter-0000.flac`), in `speaker-chapter.trans.txt` of the same folder.
Only headers are read. Tests: `pytest tests/data/test_layouts.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmcodec.data.files import AUDIO_ENDINGS, find_files
from llmcodec.data.manifest import Clip, total_seconds, write_manifest
from llmcodec.io import audio

TEXT_ENDINGS = (".normalized.txt", ".txt", ".lab")
_LIBRISPEECH = re.compile(r"^(\d+)-(\d+)[-_][\d_-]+$")
_SUBSETS = {"train": "train", "dev": "valid", "valid": "valid", "validation": "valid", "test": "test", "eval": "test"}


@dataclass(frozen=True)
class ManifestSummary:
    """What a builder wrote; print it."""

    path: Path
    num_clips: int
    seconds: float
    num_with_text: int
    splits: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)
    """File -> why it is not in the manifest."""

    def __str__(self) -> str:
        splits = ", ".join(f"{name} {count}" for name, count in sorted(self.splits.items()))
        hours = f"{self.seconds / 3600:.2f} hours"
        lines = [f"{self.path}: {self.num_clips} clips, {hours}, {self.num_with_text} with text; {splits}"]
        if self.skipped:
            lines.append(f"{len(self.skipped)} files skipped:")
            lines += [f"  {why}" for why in list(self.skipped.values())[:10]]
            lines += ["  ..."] if len(self.skipped) > 10 else []
        return "\n".join(lines)


def make_manifest(
    folder: str,
    output: str = "",
    *,
    language: str = "",
    license: str = "",
    source: str = "",
    valid_share: float = 0.05,
    test_share: float = 0.05,
    split_by: Literal["id", "speaker"] = "id",
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
) -> ManifestSummary:
    """Write the manifest of all audio files below a folder.

    Splits: a folder on the way named train*, dev*/valid*, test*/eval* decides; elsewhere a hash of `split_by`, so that
    a clip keeps its split when the corpus grows. Files that cannot be read are skipped, counted and listed.

    Args:
        folder: folder that is searched, with all its subfolders.
        output: the manifest to write; `manifest.jsonl` in the folder if empty.
        language: language code of every clip, such as en.
        license: licence of the recordings, such as CC-BY-4.0.
        source: name of the corpus; the folder's name if empty.
        valid_share: share of clips (or speakers) for validation where no folder name decides.
        test_share: share for testing.
        split_by: hash clip ids, or speakers so that none is in two splits.
        min_seconds: shorter files are left out.
        max_seconds: longer files are left out.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not (valid_share >= 0 and test_share >= 0 and valid_share + test_share < 1):
        raise ValueError(
            f"valid_share={valid_share} and test_share={test_share} must be positive and leave clips to train on"
        )
    target = Path(output) if output else root / "manifest.jsonl"
    clips: dict[str, Clip] = {}
    transcripts = _Transcripts()
    files, problems = find_files(root, AUDIO_ENDINGS)
    skipped = {str(path.relative_to(root)): f"{path}: {reason}" for path, reason in problems if not path.is_symlink()}
    for path in files:
        relative = path.relative_to(root)
        try:
            header = audio.info(path)
        except ValueError as error:
            skipped[str(relative)] = str(error)
            continue
        if header.num_frames < 1 or not min_seconds <= header.seconds <= max_seconds:
            skipped[str(relative)] = f"{path}: {header.seconds:.3f} seconds"
            continue
        clip_id, speaker = _names(relative)
        if clip_id in clips:
            clip_id = relative.as_posix()
        clips[clip_id] = Clip(
            id=clip_id,
            audio=relative.as_posix(),
            duration=round(header.seconds, 4) or 0.0001,
            text=transcripts.of(path),
            speaker=speaker,
            language=language,
            source=source or root.resolve().name,
            license=license,
            split=_named_split(root.resolve().name, relative)
            or hashed_split(speaker if split_by == "speaker" and speaker else clip_id, valid_share, test_share),
            folder=str(root.resolve()),
        )
    if not clips:
        reason = next(iter(skipped.values()), f"no file ends in {', '.join(AUDIO_ENDINGS)}")
        raise ValueError(f"{folder}: no usable audio ({reason})")
    return save(target, list(clips.values()), skipped)


def save(target: Path, clips: list[Clip], skipped: dict[str, str]) -> ManifestSummary:
    """Write the clips and sum them up."""
    path = write_manifest(target.resolve(), clips)
    return ManifestSummary(
        path=path,
        num_clips=len(clips),
        seconds=total_seconds(clips),
        num_with_text=sum(bool(clip.text) for clip in clips),
        splits=dict(Counter(clip.split for clip in clips)),
        skipped=skipped,
    )


def hashed_split(key: str, valid_share: float, test_share: float) -> str:
    """`train`, `valid` or `test` by a hash of `key`."""
    value = int.from_bytes(hashlib.sha1(key.encode()).digest()[:8], "big") / 2.0**64
    if value < 1.0 - valid_share - test_share:
        return "train"
    return "valid" if value < 1.0 - test_share else "test"


def _names(relative: Path) -> tuple[str, str]:
    """Clip id and speaker: LibriSpeech's own, or the path without its ending and the folder that holds the file."""
    match = _LIBRISPEECH.match(relative.stem)
    if match:
        return relative.stem, match[1]
    return relative.with_suffix("").as_posix(), relative.parent.name


def _named_split(root_name: str, relative: Path) -> str:
    for part in (*reversed(relative.parts[:-1]), root_name):
        word = re.split(r"[-_.]", part.lower())[0]
        if word in _SUBSETS:
            return _SUBSETS[word]
    return ""


class _Transcripts:
    """Finds the transcript of a file; `*.trans.txt` is read once per folder."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lines: dict[str, str] = {}

    def of(self, path: Path) -> str:
        for ending in TEXT_ENDINGS:
            beside = path.with_name(path.stem + ending)
            if beside.is_file():
                return " ".join(_text(beside).split())
        if path.parent != self._folder:
            self._folder, self._lines = path.parent, {}
            for listing in sorted(path.parent.glob("*.trans.txt")):
                for line in _text(listing).splitlines():
                    name, _, words = line.strip().partition(" ")
                    self._lines[name] = " ".join(words.split())
        return self._lines.get(path.stem, "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the transcript is not UTF-8 ({error})") from error
