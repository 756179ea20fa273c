"""Splits, manifests, credits and the printed summary of a corpus."""

from __future__ import annotations

import collections
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_ALLISON = "Recorded by Allison Smith (theivrvoice.com); funded by Digium, Inc. Copyright 2003-2010 Allison Smith."
_JUNE = (
    "Recorded by June Wallack (junewallack.com). Copyright 2006-2008 June Wallack. "
    "Translated by Clod Patry, Kristopher Lalletti, June Wallack."
)
_CARLO = "Recorded by Carlo Flora (carloflora.com). Copyright 2012 Carlo Flora. Translated by Silvia Petrin."
CREDITS = {
    ("asterisk-core-sounds", "en"): _ALLISON,
    ("asterisk-core-sounds", "es"): _ALLISON,
    ("asterisk-core-sounds", "fr"): _JUNE,
    ("asterisk-core-sounds", "it"): _CARLO,
    ("asterisk-core-sounds", "ru"): "Provided by Maxim Topal (ivrvoice.ru). Copyright 2010 Maxim.",
    "fillets-ng": "Fish Fillets NG, ALTAR interactive, Ivo and Pavel Danihelka and others; GNU GPL version 2.",
    "pocketsphinx-testdata": "Carnegie Mellon University test data; the reading is a LibriVox recording of "
    "Jane Austen, Sense and Sensibility.",
    "flight-of-the-amazon-queen": "Copyright 1995 John Passfield and Steven Stamatiadis. MODIFIED VERSION: "
    "voice files extracted from the game. Not to be sold.",
}
_LICENSES_HEAD = (
    "# Where the audio comes from\n\n"
    "CC-BY-SA-3.0: https://creativecommons.org/licenses/by-sa/3.0/  "
    "CC-BY-3.0: https://creativecommons.org/licenses/by/3.0/\n\n"
    "All clips were decoded, down-mixed to mono, resampled to 16 kHz, trimmed and re-encoded as FLAC: "
    "they are modified versions.\n\n"
)


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:8], "big") / 2.0**64


def _words(text: str) -> str:
    return " ".join(re.sub(r"[^\w']+", " ", text.lower()).split())


def split_rows(rows: list[Row]) -> None:
    """90/5/5 by hash of the id; a text that occurs twice in a language stays in train."""
    seen = collections.Counter((row["language"], _words(row["text"])) for row in rows if row["text"])
    for row in rows:
        value = unit_hash(row["id"])
        repeated = row["text"] and seen[(row["language"], _words(row["text"]))] > 1
        row["split"] = "train" if repeated or value < 0.90 else ("valid" if value < 0.95 else "test")


def write_lists(rows: list[Row], out: Path) -> None:
    """manifest.jsonl, one manifest per split, and LICENSES.md."""
    rows.sort(key=lambda row: row["id"])
    for name, split in (("manifest", None), ("train", "train"), ("valid", "valid"), ("test", "test")):
        with open(out / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                if split in (None, row["split"]):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    with open(out / "LICENSES.md", "w", encoding="utf-8") as file:
        file.write(_LICENSES_HEAD)
        for source, licence, language in sorted({(row["source"], row["license"], row["language"]) for row in rows}):
            credit = CREDITS.get((source, language), CREDITS.get(source, ""))
            file.write(f"- {source} ({language}): {licence}. {credit}\n")


def print_summary(name: str, rows: list[Row], dropped: Mapping[str, int], out: Path) -> None:
    size = sum(path.stat().st_size for path in out.rglob("*.flac"))
    minutes = sum(row["duration"] for row in rows) / 60
    print(f"\n== {name}: {len(rows)} clips, {minutes:.1f} min, {size / 1e6:.1f} MB FLAC; dropped {dict(dropped)}")
    for field in ("language", "speaker", "split"):
        totals: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0, 0])
        for row in rows:
            total = totals[row[field]]
            total[0] += 1
            total[1] += row["duration"]
            total[2] += bool(row["text"])
        for key, (count, seconds, texts) in sorted(totals.items(), key=lambda item: -item[1][1])[:40]:
            print(f"  {field:9s} {key:24s} {count:5.0f} clips {seconds / 60:7.2f} min {texts:5.0f} with text")
