"""LibriSpeech, LibriTTS and Multilingual LibriSpeech: the file's name begins with speaker and chapter.

LibriSpeech  dev-clean/84/121123/84-121123-0000.flac     texts in 84-121123.trans.txt beside it
LibriTTS     dev-clean/84/121123/84_121123_000007_000001.wav     texts in *.normalized.txt beside it
MLS          train/audio/6892/10349/6892_10349_000000.flac       texts in train/transcripts.txt
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, beside, pairs_of, plain_text, read_text
from llmcodec.data.layouts.plain import TEXT_ENDINGS

NAME = "LibriSpeech"
WHOLE_TREE = True
_FILE = re.compile(r"(\d+)-(\d+)-\d{4}|(\d+)_(\d+)_\d{6}(?:_\d{6})?")
_MLS_TABLE = "transcripts.txt"


def recognises(folder: Folder) -> bool:
    """Files named by speaker and chapter; of MLS the folder with `transcripts.txt` and `audio`."""
    return folder.has(_MLS_TABLE, "audio") or any(_FILE.fullmatch(Path(name).stem) for name in folder.audio)


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of the folder and all below it."""
    spoken = _table(folder.path / _MLS_TABLE, report) if folder.has(_MLS_TABLE) else {}
    for place in folder.below():
        listed = {
            name: text
            for listing in place.files
            if listing.endswith(".trans.txt")
            for name, text in _table(place.path / listing, report).items()
        }
        for name in place.audio:
            stem = Path(name).stem
            match = _FILE.fullmatch(stem)
            text, source = listed.get(stem, ""), "*.trans.txt"
            if not text:
                text, source = spoken.get(stem, ""), _MLS_TABLE
            if not text and (file := beside(place, stem, TEXT_ENDINGS)) is not None:
                text, source = plain_text(read_text(file, report)), f"*{file.name[len(stem) :]}"
            speaker = match[1] or match[3] if match else place.path.name
            yield Utterance(
                place.path / name, text, speaker, id=stem if match else "", text_from=source if text else ""
            )


def _table(path: Path, report: Report) -> dict[str, str]:
    """Lines of `name text`, with spaces or a tab between them."""
    return {name: plain_text(text) for name, text in pairs_of(path, report).items()}
