"""Flight of the Amazon Queen: acted English, about 30 characters, from a game's archive.

The voices are MP3 at 11,025 Hz in `queen.1c`, the words are in its `*.DOG` files. Local use only, see its licence.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from corpus.sources import Recording, clean
from corpus.speech import read_container

PACKAGE = "flight-of-the-amazon-queen"


def amazon_queen(roots: Path) -> Iterator[Recording]:
    archive = (roots / PACKAGE / "usr/share/scummvm" / PACKAGE / "queen.1c").read_bytes()
    table = _table(archive)
    seen = set()
    for script in sorted(name for name in table if name.endswith(".DOG")):
        offset, size = table[script]
        for talk, tag, speaker, sentence_id, sentence in _sentences(script, archive[offset + 20 : offset + size]):
            for segment, words in enumerate(re.split(r"\*(?:[A-Z]{2}[+-]?\d*|\d+|[A-Z]+)?", sentence)):
                words = re.sub(r"\^_|<[^>]*>", " ", words).replace(" .", ".")
                if segment > 14 or not re.search(r"[A-Za-z]", words):
                    continue
                name = f"{talk:2d}{sentence_id & 0xFFFF:4x}{tag}{segment + 1:1x}".replace(" ", "0").upper() + ".SB"
                if name not in table or name in seen:
                    continue
                seen.add(name)
                start, length = table[name]
                row = {
                    "id": "faq_en/" + name[:-3],
                    "speaker": "faq_en_" + speaker,
                    "language": "en",
                    "text": clean(words),
                    "source": PACKAGE,
                    "license": "Flight-of-the-Amazon-Queen-License",
                    "bandwidth_hz": 5500,
                }
                yield row, partial(read_container, archive[start : start + length], "mp3")


def _table(archive: bytes) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of everything in the archive."""
    if archive[:4] != b"QTBL" or archive[12] != 1:
        raise ValueError("queen.1c is not the data file of the talkie version")
    (count,) = struct.unpack(">H", archive[13:15])
    table = {}
    for start in range(15, 15 + 21 * count, 21):
        name = archive[start : start + 12].split(b"\0")[0].decode("latin-1")
        table[name] = struct.unpack(">II", archive[start + 13 : start + 21])
    return table


def _sentences(script: str, data: bytes) -> Iterator[tuple[int, str, str, int, str]]:
    """(talk, tag, speaker, id, sentence): what Joe may say, then what the person he talks to says."""
    levels, _, talk, num_joe, num_person = struct.unpack(">hhhhh", data[:10])
    (person_start,) = struct.unpack(">h", data[22:24])
    person = re.sub(r"\d+$", "", script[:-4]).lower()
    parts = (("J", 32 + abs(levels) * 96, num_joe, "joe"), ("P", person_start, num_person, person))
    for tag, start, count, speaker in parts:
        try:
            rows = list(_strings(data, start, count))
        except (struct.error, IndexError):
            continue
        for sentence_id, sentence in rows:
            yield talk, tag, speaker, sentence_id, sentence


def _strings(data: bytes, start: int, count: int) -> Iterator[tuple[int, str]]:
    for _ in range(count):
        (sentence_id,) = struct.unpack(">h", data[start + 2 : start + 4])
        start += 4
        length = data[start]
        start += 1
        yield sentence_id, data[start : start + length].decode("latin-1") if length else ""
        if length:
            start += length
            start += -start % 4
