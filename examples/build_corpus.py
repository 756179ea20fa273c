#!/usr/bin/env python3
"""Build a small multi-speaker 16 kHz speech corpus from Debian packages.

Everything comes from Debian `main` through `apt-get download` (nothing is installed), is unpacked with `dpkg -x`,
decoded, trimmed, and written as 16 kHz mono 16-bit FLAC with JSONL manifests. Running it twice gives the same bytes.
Test: tests/examples/test_build_corpus.py.

    python examples/build_corpus.py                        # corpus/: 5,857 clips, 296 minutes, 345 MB
    python examples/build_corpus.py --mini mini            # and the part that llmcodec bundles: 191 clips, 9.5 minutes
    python examples/build_corpus.py --narrowband corpus_nb # and 165 minutes of English at 11 kHz

Needs apt-get and dpkg (any Debian or Ubuntu) and from PyPI: numpy scipy soundfile av. About three minutes.

Sources (see LICENSES.md, written beside the manifest):
  asterisk-core-sounds-{en,es,fr,it,ru}-g722   wideband prompts and transcripts       CC-BY-SA-3.0, CC-BY-3.0
  fillets-ng-data-{cs,nl}, fillets-ng-data     acted game dialogue and scripts        GPL-2.0-only
  pocketsphinx-testdata                        5 LibriVox sentences                   BSD-2-Clause
  flight-of-the-amazon-queen (--narrowband)    acted English, 11 kHz MP3, and scripts own licence, local use only
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf

from corpus.amazon_queen import PACKAGE as AMAZON_QUEEN
from corpus.amazon_queen import amazon_queen
from corpus.debian import fetch
from corpus.listing import Row, print_summary, read_rows, split_rows, unit_hash, write_lists
from corpus.sources import ASTERISK, PACKAGES, Recording, everything
from corpus.speech import SAMPLE_RATE, trim

MIN_SECONDS = 0.5
MINI_BYTES = 11.5e6


def build(recordings: Iterable[Recording], out: Path) -> tuple[list[Row], collections.Counter[str]]:
    """Decode, trim and write every recording once; returns the manifest's rows and why others were dropped."""
    if (out / "audio").exists():
        shutil.rmtree(out / "audio")
    rows: list[Row] = []
    hashes: set[bytes] = set()
    dropped: collections.Counter[str] = collections.Counter()
    for row, decode in recordings:
        try:
            wav_S = trim(decode())
        except (sf.SoundFileError, OSError, EOFError, ValueError):  # FFmpeg's errors are among the latter three
            dropped["undecodable"] += 1
            continue
        if len(wav_S) < MIN_SECONDS * SAMPLE_RATE:
            dropped["short or silent"] += 1
            continue
        peak = np.abs(wav_S).max()
        if peak < 0.01:
            dropped["too quiet"] += 1
            continue
        if peak > 0.999:  # resampling overshoot
            wav_S = wav_S * (0.999 / peak)
        pcm_S = np.round(wav_S * 32767).astype(np.int16)
        content = hashlib.sha1(pcm_S.tobytes()).digest()
        if content in hashes:
            dropped["identical audio"] += 1
            continue
        hashes.add(content)
        relative = f"audio/{row['id']}.flac"
        (out / relative).parent.mkdir(parents=True, exist_ok=True)
        sf.write(out / relative, pcm_S, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        first = {"id": row["id"], "audio": relative, "duration": round(len(pcm_S) / SAMPLE_RATE, 3)}
        rows.append(first | row)
    split_rows(rows)
    write_lists(rows, out)
    return rows, dropped


def build_mini(corpus: Path, out: Path) -> list[Row]:
    """The bundled part: English prompts with text, and a few clips of every other speaker that may be bundled."""
    rows = [row for row in read_rows(corpus / "manifest.jsonl") if row["text"] and 1.0 <= row["duration"] <= 12.0]
    rows = [row for row in rows if row["source"] != "fillets-ng"]
    if (out / "audio").exists():
        shutil.rmtree(out / "audio")
    english = ASTERISK["en"][0]
    others = sorted({row["speaker"] for row in rows if row["speaker"] != english})
    picked: list[Row] = []
    used = 0
    for speaker, wanted in [(name, 14 if name.startswith("ast") else 5) for name in others] + [(english, len(rows))]:

        def preference(row: Row, first: bool = speaker == english) -> tuple[bool, bool, float]:
            """English: all held-out clips first, then the longer ones; otherwise by chance."""
            return first and row["split"] == "train", first and row["duration"] < 1.5, unit_hash("mini" + row["id"])

        for row in sorted((row for row in rows if row["speaker"] == speaker), key=preference):
            size = (corpus / row["audio"]).stat().st_size
            if wanted > 0 and used + size <= MINI_BYTES:
                used += size
                wanted -= 1
                picked.append(row)
    for row in picked:
        (out / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(corpus / row["audio"], out / row["audio"])
    write_lists(picked, out)
    return picked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("corpus"), help="folder of the corpus")
    parser.add_argument("--work", type=Path, default=Path("corpus_work"), help="downloaded and unpacked packages")
    parser.add_argument("--mini", type=Path, help="also pick the bundled part and put it here")
    parser.add_argument("--narrowband", type=Path, help="also build the 11 kHz English game corpus here")
    parser.add_argument("--skip-main", action="store_true", help="build only --narrowband")
    arguments = parser.parse_args()
    roots = arguments.work / "x"
    packages = ([] if arguments.skip_main else PACKAGES) + ([AMAZON_QUEEN] if arguments.narrowband else [])
    fetch(packages, arguments.work / "debs", roots)
    if not arguments.skip_main:
        rows, dropped = build(everything(roots), arguments.output)
        print_summary("corpus", rows, dropped, arguments.output)
        if arguments.mini:
            print_summary("mini", build_mini(arguments.output, arguments.mini), {}, arguments.mini)
    if arguments.narrowband:
        rows, dropped = build(amazon_queen(roots), arguments.narrowband)
        print_summary("narrowband", rows, dropped, arguments.narrowband)


if __name__ == "__main__":
    main()
