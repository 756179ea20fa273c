"""People who read aloud in Debian packages: festvox-ru's sentences, Tux Paint's captions, KLettres' syllables.

Each source yields (row of the manifest without `audio` and `duration`, function that decodes it).
Test: tests/examples/test_corpus_sources.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from corpus.sources import Recording, clean
from corpus.speech import read_file

_SENTENCE = re.compile(r'\(\s*(\S+)\s+"((?:[^"\\]|\\.)*)"')
_CAPTION = re.compile(r"(.*)_desc(?:_([a-z]{2,3}(?:_[A-Z]{2})?))?\.(?:ogg|wav)")
_SYLLABLE = re.compile(r'<sound\s+name="([^"]*)"\s+file="([^"]*)"')


def festvox_ru(roots: Path) -> Iterator[Recording]:
    """Sentences of a novel, one reader, 16 kHz; `lab/ID.lab` beside them has the end times of the phones."""
    voice = roots / "festvox-ru/usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    for match in _SENTENCE.finditer((voice / "etc/txt.done.data").read_text(encoding="utf-8")):
        path = voice / f"wav/{match[1]}.wav"
        if path.exists():
            row = {
                "id": f"fvru/{match[1]}",
                "speaker": "fvru_nsh",
                "language": "ru",
                "text": clean(match[2].replace("+", "")),  # marks stress
                "source": "festvox-ru",
                "license": "BSD-like",
                "bandwidth_hz": 8000,
            }
            yield row, partial(read_file, path)


def tuxpaint(roots: Path) -> Iterator[Recording]:
    """Captions of pictures, one volunteer a language (a few in some), 44.1 kHz Vorbis; texts in NAME.txt."""
    stamps = roots / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for path in sorted(stamps.rglob("*_desc*.*"), key=str):
        match = _CAPTION.fullmatch(str(path))
        if not match or path.is_symlink():
            continue
        language = match[2] or "en"
        row = {
            "id": f"tux_{language}/" + re.sub(r"[^\w-]+", "_", Path(match[1]).relative_to(stamps).as_posix()),
            "speaker": f"tux_{language}",
            "language": language[:2],
            "text": clean(_caption(Path(match[1] + ".txt"), language)),
            "source": "tuxpaint-stamps",
            "license": "GPL-2.0-only",
            "bandwidth_hz": 8000,
        }
        yield row, partial(read_file, path)


def _caption(path: Path, language: str) -> str:
    """The first line is English, the others are `LANGUAGE.utf8=TEXT`."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    if language == "en":
        return lines[0] if lines else ""
    return next((line.split("=", 1)[1] for line in lines if line.startswith(f"{language}.utf8=")), "")


def klettres(roots: Path) -> Iterator[Recording]:
    """Letters and syllables in 20 languages, one volunteer each."""
    base = roots / "klettres-data/usr/share/klettres"
    for listing in sorted(base.glob("*/sounds.xml"), key=str):
        language = listing.parent.name
        seen = set()  # some files are listed twice
        for match in _SYLLABLE.finditer(listing.read_text(encoding="utf-8", errors="replace")):
            path = base / match[2]
            if path.exists() and path not in seen:
                seen.add(path)
                row = {
                    "id": f"klet_{language}/" + re.sub(r"[^\w-]+", "_", match[2].rsplit(".", 1)[0]),
                    "speaker": f"klet_{language}",
                    "language": language[:3].split("_")[0],
                    "text": clean(match[1].lower()),
                    "source": "klettres",
                    "license": "GPL-2.0-or-later",
                    "bandwidth_hz": 8000,
                }
                yield row, partial(read_file, path)
