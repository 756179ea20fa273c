"""English sentences in the public domain, from two Debian packages: The Devil's Dictionary and the Jargon File.

`dict-devil`: Ambrose Bierce, 1911, copyright expired. `dict-jargon`: "The Jargon File is in the public domain".
Test: tests/examples/test_synthesize_speech.py.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from corpus.listing import unit_hash, words

DICTIONARIES = {"dict-devil": "devil", "dict-jargon": "jargon"}
FEWEST_WORDS, MOST_WORDS = 6, 28

_ENTRY = re.compile(r"^(?:[A-Z' -]+|[\w .'-]+), (?:n|adj|v\.[ti]|adv|pp|pro|x|vt|vi|prep)\.[ \w.]{0,12}?  +")
_END = re.compile(r"(?<=[a-z][.!?])['\")]*\s+(?=[A-Z])")
_PLAIN = re.compile(r"[A-Z][A-Za-z' ,;:?!-]*[a-z][.?!]")
_SHORTENED = re.compile(
    r"\b(?:esp|poss|prob|orig|abbrev|syn|pl|lit|var|cf|vs|ca|resp|approx|Mr|Mrs|Dr|St|No|Prof|Inc)\.$"
)
_DASH = re.compile(r"\s*(?:--|\N{EM DASH})\s*")
_PLAINER = str.maketrans(
    {
        **dict.fromkeys('{}_"\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}', None),
        **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"),
    }
)
_REFERENCE = re.compile(r"(?:See|Compare|Contrast|Also|Syn)\b")
_OFFENSIVE = re.compile(r"nigg|negro|\bjew|fuck|shit|cunt|\brape|\bslut|\bwhore|bitch|faggot|\bjap\b", re.IGNORECASE)


def read_sentences(roots: Path) -> list[str]:
    """Sentences of `DICTIONARIES`, unpacked below `roots`, each once, in an order that depends on them alone."""
    found = {}
    for package, name in DICTIONARIES.items():
        with gzip.open(roots / package / f"usr/share/dictd/{name}.dict.dz", "rt", encoding="utf-8") as file:
            found.update({words(sentence): sentence for sentence in split_sentences(file.read())})
    return sorted(found.values(), key=unit_hash)


def split_sentences(text: str) -> Iterator[str]:
    """Whole sentences of plain words; verses, tables, programs and whatever holds digits or symbols are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        prose = " ".join(line.strip() for line in lines)
        if len(lines) > 1 and max(map(len, lines[:-1])) - min(map(len, lines[:-1])) > 16:
            continue  # lines of uneven length: verses, tables
        prose = _DASH.sub(", ", _ENTRY.sub("", prose).translate(_PLAINER))
        for sentence in _END.split(" ".join(prose.split())):
            number = len(sentence.split())
            if not FEWEST_WORDS <= number <= MOST_WORDS or not _PLAIN.fullmatch(sentence):
                continue
            if not any(unwanted.search(sentence) for unwanted in (_SHORTENED, _OFFENSIVE)) and not _REFERENCE.match(
                sentence
            ):
                yield sentence
