"""lhotse cut sets: `*cuts*.jsonl` or `.jsonl.gz`, each line a MonoCut with its recording and supervisions.

Recordings are read from files, the one with the cut's channel; cuts of several supervisions join their texts. Mixed and
padded cuts are reported, and so are channels that share a file, and recordings that lhotse would change (speed, ...).
The split is that of the file's name (`cuts_dev.jsonl.gz`), else of a folder.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmcodec.data.layouts.base import Folder, Report, Utterance, plain_text
from llmcodec.data.splits import split_of_name
from llmcodec.io.structured import parse_json

NAME = "lhotse"
WHOLE_TREE = True
_ENDINGS = (".jsonl", ".jsonl.gz")


def recognises_file(path: Path) -> bool:
    return "cuts" in path.name and path.name.endswith(_ENDINGS)


def recognises(folder: Folder) -> bool:
    return any(recognises_file(folder.path / name) for name in folder.files)


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Cuts of every cut set in the folder."""
    for name in folder.files:
        if recognises_file(folder.path / name):
            yield from read_file(folder.path / name, report)


def read_file(path: Path, report: Report) -> Iterator[Utterance]:
    """Cuts of one file."""
    words = path.name.split(".")[0].replace("-", "_").split("_")
    split = next((found for word in words if (found := split_of_name(word))), "")
    open_text = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with open_text(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                try:
                    utterance = _utterance(parse_json(line, "not a cut"), path, split)
                except (KeyError, TypeError, IndexError, ValueError) as error:
                    report.skipped[where] = f"{where}: {error if isinstance(error, ValueError) else 'not a cut'}"
                    continue
                yield utterance
    except (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile) as error:
        report.skip(path, f"damaged after line {number} ({error}); the rest is left out")


def spoken_in(cut: dict[str, Any]) -> dict[str, str]:
    """Text, speaker and language of a cut: all its texts, and what its supervisions agree on.

    Raises:
        ValueError: not a MonoCut.
    """
    if cut.get("type", "MonoCut") != "MonoCut":
        raise ValueError(f"a {cut['type']} is not read, only a MonoCut")
    supervisions = cut.get("supervisions") or []
    said = {"text": " ".join(str(one.get("text") or "") for one in supervisions)}
    for name in ("speaker", "language"):
        values = {str(one[name]) for one in supervisions if one.get(name)}
        said[name] = values.pop() if len(values) == 1 else ""
    return said


def _source(channel: Any, recording: dict[str, Any]) -> dict[str, Any]:
    """The file of a recording that has the channel, and nothing else. Raises ValueError where there is none."""
    changes = [one["name"] for one in recording.get("transforms") or [] if one["name"] != "Resample"]
    if changes:
        raise ValueError(f"a recording that lhotse changes ({', '.join(changes)}) is not read; save its audio first")
    sources: list[dict[str, Any]] = recording["sources"]
    if channel is not None:
        sources = [one for one in sources if channel in one.get("channels", [channel])]
    if len(sources) != 1:
        raise ValueError(f"{len(sources) or 'no'} files of its recording have channel {channel}, not one")
    if len(channels := sources[0].get("channels", [])) > 1:
        raise ValueError(f"channel {channel} of a file with channels {channels} is not read; give it a file of its own")
    return sources[0]


def _utterance(cut: dict[str, Any], path: Path, split: str) -> Utterance:
    said = spoken_in(cut)
    recording = cut["recording"]
    source = _source(cut.get("channel"), recording)
    if source["type"] != "file":
        raise ValueError(f"audio of type {source['type']!r} is not read, only files")
    place = path.parent / source["source"]
    place = place if place.is_file() else Path(source["source"])
    if not place.is_file():
        raise ValueError(f"no file {source['source']!r}")
    text = plain_text(said["text"])
    whole = not cut.get("start") and abs(cut["duration"] - recording.get("duration", cut["duration"])) < 1e-3
    return Utterance(
        place,
        text,
        said["speaker"],
        said["language"],
        split,
        str(cut["id"]),
        path.name if text else "",
        float(cut.get("start") or 0.0),
        None if whole else float(cut["duration"]),
    )
