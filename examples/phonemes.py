"""A manifest whose texts are phonemes, for text-to-speech LMs that are trained on hours of speech instead of days.

    apt-get install espeak-ng
    python examples/phonemes.py corpus/manifest.jsonl -o corpus/phonemes.jsonl
    python examples/phonemes.py corpus/manifest.jsonl -o corpus/units.jsonl --apart     # for tts_aligned: _ p l i: z _

espeak-ng writes the phonemes in its ASCII notation, here without stress marks. Texts that it cannot read keep their
spelling, and are counted by language: those without a language or of one that it does not know, those without letters
and digits (it would name the signs), and those with letters that are neither Latin nor of the script that is the
commonest in the language's texts, or that it hands to another language (it would spell them). Latin loanwords are read.
With --apart there is a space between any two phonemes and `_` for every pause: at the start, at the end, and at
punctuation. Everything else of a row stays, paths included, so write the new manifest beside the old one.
Test: tests/examples/test_align.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import unicodedata
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corpus.listing import Row, read_rows, write_rows

VOICES = {"en": "en-us", "fr": "fr-fr"}
"""Manifest language -> espeak-ng voice where they are called differently."""
PAUSE = "_"
MARKS = str.maketrans("", "", "',%=#|")
"""Stress and the like, which are no sounds."""
SWITCH = re.compile(r"\([a-z]")
"""Where espeak-ng goes on in another language: (en)."""
NOT_SPOKEN, NOT_READ = "espeak-ng does not speak it", "letters of another script, or none"
LATIN = "LATIN"
LETTERS = {"Lu", "Ll", "Lt", "Lo"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--apart", action="store_true", help="phonemes apart, pauses as _")
    options = parser.parse_args()
    rows = read_rows(options.manifest)
    spoken = speak_all(rows)
    kept: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if clauses := spoken.get(key_of(row)):
            row["text"] = apart(clauses) if options.apart else together(clauses)
        elif row.get("text"):
            kept[key_of(row)[0], NOT_SPOKEN if clauses is None else NOT_READ] += 1
    write_rows(options.output, rows)
    print(f"{options.output}: {len(rows)} clips, {sum(map(bool, spoken.values()))} texts as phonemes")
    for (language, why), count in kept.items():
        name = f"language {language!r}" if language else "no language"
        print(f"{name}: {why}; {count} clips keep their spelling")


Clauses = list[list[list[str]]]
"""Clauses (what stands between two pauses) of words of phonemes."""


def key_of(row: Row) -> tuple[str, str]:
    """Language and text of a manifest's row."""
    return row.get("language") or "", row.get("text") or ""


def speak_all(rows: list[Row]) -> dict[tuple[str, str], Clauses | None]:
    """Phonemes of every text by `key_of`: none where a text cannot be read, None where the language cannot."""
    wanted = sorted({key_of(row) for row in rows if row.get("text")})
    letters: dict[str, Counter[str]] = defaultdict(Counter)
    for language, text in wanted:
        letters[language].update(scripts(text))
    own = {language: {LATIN, *(name for name, _ in found.most_common(1))} for language, found in letters.items()}

    def speak(key: tuple[str, str]) -> Clauses | None:
        clauses = phonemes(*key)
        return [] if clauses and not own[key[0]].issuperset(scripts(key[1])) else clauses

    with ThreadPoolExecutor() as pool:
        return dict(zip(wanted, pool.map(speak, wanted), strict=True))


def scripts(text: str) -> list[str]:
    """Script of each letter, as the Unicode names begin: LATIN, CYRILLIC, CJK."""
    letters = (letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) in LETTERS)
    return [unicodedata.name(letter, "").partition(" ")[0] for letter in letters]


def phonemes(language: str, text: str) -> Clauses | None:
    """espeak-ng's phonemes of a text: none where it cannot read the text, None where it cannot speak the language.

    Raises:
        SystemExit: espeak-ng is not installed.
    """
    if (output := espeak(language, text)) is None:
        return None
    others = "".join(" " if scripts(letter) == [LATIN] else letter for letter in text)
    if not any(map(str.isalnum, text)) or (scripts(others) and SWITCH.search(espeak(language, others) or "")):
        return []
    clauses = []
    for line in output.splitlines():
        words = [[sound for part in word.split() if (sound := sound_of(part))] for word in line.split("  ")]
        if any(words):
            clauses.append([word for word in words if word])
    return clauses


def espeak(language: str, text: str) -> str | None:
    """What espeak-ng writes, a clause a line; None where there is no language, or one that it does not speak."""
    if not language:  # for which it would take English
        return None
    command = ["espeak-ng", "-q", "-x", "--sep= ", "-v", VOICES.get(language, language), "--", text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("phonemes: espeak-ng is not installed (apt-get install espeak-ng)") from None
    return None if done.returncode else done.stdout


def sound_of(part: str) -> str:
    """A phoneme without stress; nothing where it was only a mark, such as espeak-ng's own pauses (_:, _!)."""
    bare = part.translate(MARKS)
    return "" if bare.strip("_:;!") == "" or bare.startswith("(") else bare


def together(clauses: Clauses) -> str:
    """Words of phonemes in one line: pli:z hoUld."""
    return " ".join("".join(word) for clause in clauses for word in clause)


def apart(clauses: Clauses) -> str:
    """Phonemes with pauses in one line: _ p l i: z h oU l d _."""
    spoken = [" ".join(sound for word in clause for sound in word) for clause in clauses]
    return f" {PAUSE} ".join(["", *spoken, ""]).strip()


if __name__ == "__main__":
    main()
