"""The clips on which codecs are compared: fixed lists of ids in `held_out/`, one group a file, people only.

The lists were chosen before the trainings that they judge, by `choose_groups` (`--choose-lists`), and stay as they
are. Nothing in them is ever trained on. Test: tests/examples/test_held_out.py.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path

from corpus.listing import Row, unit_hash, words, write_rows

FOLDER = Path(__file__).parent / "held_out"
STRANGERS = {
    "tuxpaint": ("tuxpaint-stamps", 24),
    "fillets": ("fillets-ng", 12),
    "amazon_queen": ("flight-of-the-amazon-queen", 12),
}
"""Group -> source, most clips of one speaker. No training sees these speakers."""
OWN = {"own_readers": "asterisk-core-sounds", "own_reader_ru": "festvox-ru"}
"""Group -> source whose readers are trained on: all clips of the splits `valid` and `test`."""
ENGLISH = {"asterisk-core-sounds": 200, "tuxpaint-stamps": 60, "flight-of-the-amazon-queen": 150}
"""Source -> most clips of the group `english_words`, on which word errors are counted."""
MIN_SECONDS, MAX_SECONDS = 1.0, 15.0
MIN_WORDS = 3


def read_groups(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Group -> ids, as committed."""
    return {path.stem: path.read_text(encoding="utf-8").split() for path in sorted(folder.glob("*.txt"))}


def choose_groups(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Group -> ids out of the rows of a corpus with every human source, by a hash of the ids."""
    held_out = [row for row in rows if row["split"] in ("valid", "test") and not row["synthetic"]]
    held_out.sort(key=lambda row: unit_hash("held out" + row["id"]))
    fitting = [row for row in held_out if MIN_SECONDS <= row["duration"] <= MAX_SECONDS]
    groups = {name: [row for row in held_out if row["source"] == source] for name, source in OWN.items()}
    for name, (source, most) in STRANGERS.items():
        own = [row for row in fitting if row["source"] == source]
        groups[name] = _at_most(own, "speaker", dict.fromkeys((row["speaker"] for row in own), most))
    spoken = [row for row in fitting if row["language"] == "en" and len(words(row["text"]).split()) >= MIN_WORDS]
    groups["english_words"] = _at_most(spoken, "source", ENGLISH)
    return {name: sorted(row["id"] for row in chosen) for name, chosen in groups.items()}


def _at_most(rows: Iterable[Row], field: str, most: Mapping[str, int]) -> list[Row]:
    """The first `most[value]` rows of each value of `field`."""
    taken: collections.Counter[str] = collections.Counter()
    kept = []
    for row in rows:
        taken[row[field]] += 1
        if taken[row[field]] <= most.get(row[field], 0):
            kept.append(row)
    return kept


def write_groups(groups: Mapping[str, list[str]], folder: Path = FOLDER) -> None:
    """One file of ids a group."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in groups.items():
        (folder / f"{name}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")


def write_group_manifests(rows: Iterable[Row], out: Path, groups: Mapping[str, list[str]]) -> list[str]:
    """`held_out_GROUP.jsonl` beside the manifest, for every group of which the corpus has clips.

    Returns:
        One line for each group: how many of its clips are there.

    Raises:
        ValueError: a clip of a list is in `train` or synthetic.
    """
    by_id = {row["id"]: row for row in rows}
    report = []
    for name, ids in groups.items():
        found = [by_id[clip] for clip in ids if clip in by_id]
        wrong = [row["id"] for row in found if row["split"] not in ("valid", "test") or row["synthetic"]]
        if wrong:
            raise ValueError(f"{name}: {len(wrong)} held-out clips are in train or synthetic, first {wrong[0]}")
        if found:
            write_rows(out / f"held_out_{name}.jsonl", found)
            report.append(f"held out, {name}: {len(found)} of {len(ids)} clips")
        else:
            (out / f"held_out_{name}.jsonl").unlink(missing_ok=True)
    return report
