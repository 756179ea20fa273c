"""A manifest whose texts are phonemes, for text-to-speech LMs that are trained on hours of speech instead of days.

    apt-get install espeak-ng
    python examples/phonemes.py corpus/manifest.jsonl -o corpus/phonemes.jsonl
    python examples/phonemes.py corpus/manifest.jsonl -o corpus/units.jsonl --apart     # for tts_aligned: _ p l i: z _

espeak-ng writes the phonemes in its ASCII notation, here without stress marks. Texts of a language that espeak-ng does
not know keep their spelling, and the language is named. With --apart there is a space between any two phonemes and `_`
for every pause: at the start, at the end, and at punctuation. Everything else of a row stays, paths included, so write
the new manifest beside the old one. Test: tests/examples/test_align.py.
"""

from __future__ import annotations

import argparse
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from corpus.listing import read_rows, write_rows

VOICES = {"en": "en-us", "fr": "fr-fr"}
"""Manifest language -> espeak-ng voice where they are called differently."""
PAUSE = "_"
MARKS = str.maketrans("", "", "',%=#|")
"""Stress and the like, which are no sounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--apart", action="store_true", help="phonemes apart, pauses as _")
    options = parser.parse_args()
    rows = read_rows(options.manifest)
    spoken = speak_all(rows)
    unknown = Counter(language for (language, _), clauses in spoken.items() if clauses is None)
    for row in rows:
        clauses = spoken.get(key_of(row))
        if clauses is not None:
            row["text"] = apart(clauses) if options.apart else together(clauses)
    write_rows(options.output, rows)
    print(f"{options.output}: {len(rows)} clips, {len(spoken) - unknown.total()} texts as phonemes")
    for language, count in unknown.items():
        print(f"language {language!r}: espeak-ng does not speak it; {count} texts keep their spelling")


Clauses = list[list[list[str]]]
"""Clauses (what stands between two pauses) of words of phonemes."""


def key_of(row: dict[str, str]) -> tuple[str, str]:
    """Language and text of a manifest's row."""
    return row.get("language", ""), row.get("text", "")


def speak_all(rows: list[dict[str, str]]) -> dict[tuple[str, str], Clauses | None]:
    """Phonemes of every text by `key_of`; None where espeak-ng does not speak the language."""
    wanted = sorted({key_of(row) for row in rows if row.get("text")})
    with ThreadPoolExecutor() as pool:
        return dict(zip(wanted, pool.map(lambda key: phonemes(*key), wanted), strict=True))


def phonemes(language: str, text: str) -> Clauses | None:
    """espeak-ng's phonemes of a text, None where it cannot speak the language.

    Raises:
        SystemExit: espeak-ng is not installed.
    """
    command = ["espeak-ng", "-q", "-x", "--sep= ", "-v", VOICES.get(language, language), "--", text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("phonemes: espeak-ng is not installed (apt-get install espeak-ng)") from None
    if done.returncode or not done.stdout.strip():
        return None
    clauses = []
    for line in done.stdout.splitlines():
        words = [[sound for part in word.split() if (sound := sound_of(part))] for word in line.split("  ")]
        if any(words):
            clauses.append([word for word in words if word])
    return clauses


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
