"""A manifest whose texts are phonemes, meant for text-to-speech LMs that have hours of speech and not days.

    apt-get install espeak-ng
    python scripts/phonemes.py corpus/manifest.jsonl -o corpus/phonemes.jsonl

Texts go through espeak-ng in its ASCII notation, without stress marks; a language that espeak-ng does not know keeps
its spelling and is named. Everything else of a row stays, paths included, so write the new manifest beside the old one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VOICES = {"en": "en-us", "fr": "fr-fr"}
"""Manifest language -> espeak-ng voice where they are called differently."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    wanted = sorted({(row.get("language", ""), row["text"]) for row in rows if row.get("text")})
    with ThreadPoolExecutor() as pool:
        spoken = dict(zip(wanted, pool.map(lambda key: phonemes(*key), wanted), strict=True))
    unknown = Counter(language for (language, _), text in spoken.items() if text is None)
    for row in rows:
        row["text"] = spoken.get((row.get("language", ""), row.get("text", ""))) or row.get("text", "")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    options.output.write_text("".join(lines), encoding="utf-8")
    print(f"{options.output}: {len(rows)} clips, {len(wanted) - unknown.total()} texts as phonemes")
    for language, count in unknown.items():
        print(f"language {language!r}: espeak-ng does not speak it; {count} texts keep their spelling")


def phonemes(language: str, text: str) -> str | None:
    """espeak-ng's phonemes of a text in one line, None where it cannot speak the language.

    Raises:
        SystemExit: espeak-ng is not installed.
    """
    command = ["espeak-ng", "-q", "-x", "-v", VOICES.get(language, language), "--", text]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("phonemes: espeak-ng is not installed (apt-get install espeak-ng)") from None
    if done.returncode or not done.stdout.strip():
        return None
    return " ".join(done.stdout.replace("'", "").replace(",", "").split())


if __name__ == "__main__":
    main()
