"""VCTK: `wav48*/p225/p225_001_mic1.flac`, texts in `txt/p225/p225_001.txt`.

The two microphones recorded one utterance: mic1 is taken, mic2 where mic1 is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, folder_at, plain_text, read_text

NAME = "VCTK"
WHOLE_TREE = True
_MICROPHONE = re.compile(r"_mic(\d)$")


def recognises(folder: Folder) -> bool:
    return folder.has("txt") and any(name.lower().startswith("wav48") for name in folder.folders)


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of every folder `wav48*`, one row an utterance."""
    for wavs in (name for name in folder.folders if name.lower().startswith("wav48")):
        for place in folder_at(folder.path / wavs, folder.root).below():
            yield from _speaker(place, folder.path / "txt", report)


def _speaker(place: Folder, texts: Path, report: Report) -> Iterator[Utterance]:
    taken: set[str] = set()
    for name in place.audio:  # sorted: mic1 before mic2
        stem = _MICROPHONE.sub("", Path(name).stem)
        if stem in taken:
            report.notes["second microphones of an utterance are left out"] += 1
            continue
        taken.add(stem)
        file = texts / place.path.name / f"{stem}.txt"
        text = plain_text(read_text(file, report)) if file.is_file() else ""
        yield Utterance(place.path / name, text, place.path.name, "en", id=stem, text_from="txt/" if text else "")
