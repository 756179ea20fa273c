"""TIMIT: `TRAIN/DR1/FCJF0/SA1.WAV` with `SA1.TXT` (two sample numbers and the sentence) and `SA1.PHN` beside it.

Names are upper or lower case; copies with a second ending (`SA1.WAV.wav`) stand for the file without it. The speaker is
the folder that holds the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmcodec.data.layouts.base import Folder, Report, Utterance, beside, plain_text, read_text

NAME = "TIMIT"
WHOLE_TREE = False
_COPY = re.compile(r"\.wav\.wav$", re.IGNORECASE)


def recognises(folder: Folder) -> bool:
    return any(name.lower().endswith(".phn") for name in folder.files) and bool(folder.audio)


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of one speaker's folder, a copy with two endings only where it stands alone."""
    names = {name.lower() for name in folder.audio}
    for name in folder.audio:
        if _COPY.search(name) and name.lower()[: -len(".wav")] in names:
            report.notes["copies with a second ending (.WAV.wav) are left out"] += 1
            continue
        stem = name.split(".")[0]
        file = beside(folder, stem, (".txt",))
        words = plain_text(read_text(file, report)).split() if file is not None else []
        text = " ".join(words[2:] if len(words) > 2 and words[0].isdigit() and words[1].isdigit() else words)
        speaker = folder.path.name
        yield Utterance(
            folder.path / name, text, speaker, "en", id=f"{speaker}_{stem}", text_from="*.txt" if text else ""
        )
