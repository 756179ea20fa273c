"""Splits, manifests, credits and the printed summary of a corpus. Test: tests/examples/test_build_corpus.py."""

from __future__ import annotations

import collections
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmcodec.data.splits import hashed_split

Row = dict[str, Any]

CREDITS: dict[str, str] = json.loads((Path(__file__).parent / "credits.json").read_text(encoding="utf-8"))
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


def words(text: str) -> str:
    """Lower case, without punctuation."""
    return " ".join(re.sub(r"[^\w']+", " ", text.lower()).split())


def split_rows(rows: list[Row], by: str = "id") -> None:
    """Give the rows of one source their `split`.

    Args:
        rows: `id`, `language`, `text`, `speaker` of each; `split` is set.
        by: `id`: 90/5/5 by hash; a text that occurs twice in a language stays in train, so that no sentence is in two
            splits. `speaker`: 80/10/10, no speaker in two splits. `train`, `valid` or `test`: all of them.
    """
    seen = collections.Counter((row["language"], words(row["text"])) for row in rows if row["text"])
    for row in rows:
        if by == "id":
            repeated = row["text"] and seen[(row["language"], words(row["text"]))] > 1
            row["split"] = "train" if repeated else hashed_split(row["id"], 0.05, 0.05)
        else:
            row["split"] = hashed_split(row["speaker"], 0.1, 0.1) if by == "speaker" else by


def write_lists(rows: list[Row], out: Path) -> None:
    """manifest.jsonl, one manifest per split, and LICENSES.md."""
    out.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: row["id"])
    for name, split in (("manifest", None), ("train", "train"), ("valid", "valid"), ("test", "test")):
        write_rows(out / f"{name}.jsonl", [row for row in rows if split in (None, row["split"])])
    with open(out / "LICENSES.md", "w", encoding="utf-8") as file:
        file.write(_LICENSES_HEAD)
        for source, licence, language in sorted({(row["source"], row["license"], row["language"]) for row in rows}):
            credit = CREDITS.get(f"{source} ({language})", CREDITS.get(source, ""))
            file.write(f"- {source} ({language}): {licence}. {credit}\n")


def print_summary(name: str, rows: list[Row], dropped: Mapping[str, int]) -> None:
    """Clips, minutes and texts of a source, by language, speaker and split."""
    minutes = sum(row["duration"] for row in rows) / 60
    kind = "synthetic " if any(row.get("synthetic") for row in rows) else ""
    print(f"\n== {name}: {len(rows)} {kind}clips, {minutes:.1f} min; dropped {dict(dropped)}")
    for field in ("language", "speaker", "split"):
        for key in sorted({row[field] for row in rows}):
            own = [row for row in rows if row[field] == key]
            minutes, texts = sum(row["duration"] for row in own) / 60, sum(bool(row["text"]) for row in own)
            print(f"  {field:9s} {key:24s} {len(own):5d} clips {minutes:7.2f} min {texts:5d} with text")


def read_rows(manifest: Path) -> list[Row]:
    """Rows of a manifest as they stand there, with every key."""
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_rows(manifest: Path, rows: Iterable[Row]) -> None:
    """A manifest with these rows."""
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
