"""Any folder: transcripts beside the audio (`x.normalized.txt`, `x.txt`, `x.lab` for `x.flac`), speakers by folder.

The speaker is the folder that holds the file, unless that folder names a split or a kind of file (`wav`, `clips`, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, beside, plain_text, read_text
from llmcodec.data.splits import split_of_name

NAME = "folder"
TEXT_ENDINGS = (".normalized.txt", ".txt", ".lab")
RESULTS = (".reconstructed", ".decoded")
"""How `reconstruct` and `decode` name a result beside its source: a codec must not train on its own sound."""
_KINDS = {"audio", "clips", "data", "flac", "mp3", "other", "recordings", "speech", "validated", "wav", "wavs"}


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of this folder alone; folders below it are asked for their own layouts."""
    for name in folder.audio:
        if Path(name).stem.endswith(RESULTS):
            report.skip(folder.path / name, "a result of llmcodec, not a recording; rename it to take it")
            continue
        place = beside(folder, Path(name).stem, TEXT_ENDINGS)
        text = plain_text(read_text(place, report)) if place is not None else ""
        ending = place.name[len(Path(name).stem) :] if place is not None else ""
        yield Utterance(
            folder.path / name,
            text=text,
            speaker=speaker_of(folder),
            text_from=f"*{ending}" if text else "",
        )


def speaker_of(folder: Folder) -> str:
    """The name of the folder, where it can be a speaker's."""
    name = "" if folder.path == folder.root else folder.path.name
    return "" if name.lower() in _KINDS or split_of_name(name) else name
