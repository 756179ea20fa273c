"""Which phone is spoken when: time-aligned transcripts of clips, as aligners and labelled corpora give them.

    spoken = read_alignments("lab", clips)         # a folder of ID.TextGrid or ID.lab, or one CTM file
    spoken = read_alignments(None, clips)          # the clips' own texts, as examples/align.py writes them

TextGrid (Praat, the Montreal Forced Aligner): the interval tier `phones`, or the only one. `.lab`: Festival's (end time
and phone behind a line `#`) or HTK's (start, end in 100 ns, phone). CTM: clip, channel, start, duration, phone.
Test: tests/data/test_alignments.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from llmcodec.data.clip import Clip
from llmcodec.data.timed_text import is_timed, timed_units

TOLERANCE = 0.1
"""Seconds by which a last phone may end behind its clip: aligners round to their frames."""
ENDINGS = (".TextGrid", ".lab")
HTK_UNITS = 1e7
QUOTED_OR_NUMBER = re.compile(r'"((?:[^"]|"")*)"|(?<![\[\w.])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])')


@dataclass(frozen=True)
class Phone:
    """One phone of a clip, from `start` to `stop` in seconds."""

    name: str
    start: float
    stop: float


def read_alignments(place: str | None, clips: Sequence[Clip]) -> dict[str, list[Phone]]:
    """Clip id -> its phones in order; clips without an alignment are left out.

    A file of a folder is called as the clip's id, or as its last part (`ru_0001.lab` for `fvru/ru_0001`).

    Raises:
        ValueError: no clip has an alignment; a file that is none; phones that run backwards, or behind the end of their
            clip, which is then another cut of the recording.
    """
    read = _texts if place is None else _folder if Path(place).is_dir() else _ctm
    found = dict(read(place or "", clips))
    for clip in clips:
        for phone in found.get(clip.id, []):
            if not 0 <= phone.start <= phone.stop < math.inf:
                raise ValueError(f"alignment of {clip.id}: {phone.name} is from {phone.start:g} to {phone.stop:g} s")
        for phone, later in pairwise(found.get(clip.id, [])):
            if later.start < phone.stop - 1e-6:
                raise ValueError(
                    f"alignment of {clip.id}: {later.name} at {later.start:g} s begins before {phone.name} ends"
                )
        if clip.id in found and found[clip.id] and found[clip.id][-1].stop > clip.duration + TOLERANCE:
            raise ValueError(
                f"alignment of {clip.id}: its last phone ends at {found[clip.id][-1].stop:g} s, but the clip lasts "
                f"{clip.duration:g} s: aligned was another cut of the recording"
            )
    if not found:
        given = "their texts have no times (examples/align.py makes them)" if place is None else f"see {place}"
        raise ValueError(f"alignments: none of {len(clips)} clips has one; {given}, or give --alignments PLACE")
    return found


def _texts(_: str, clips: Sequence[Clip]) -> Iterator[tuple[str, list[Phone]]]:
    for clip in clips:
        if is_timed(clip.text):
            units = timed_units(clip.text)
            ends = [start for _, start in units[1:]] + [max(clip.duration, units[-1][1])]
            yield clip.id, [Phone(name, start, stop) for (name, start), stop in zip(units, ends, strict=True) if name]


def _folder(place: str, clips: Sequence[Clip]) -> Iterator[tuple[str, list[Phone]]]:
    names: dict[str, list[Path]] = {}
    for path in (path for ending in ENDINGS[::-1] for path in sorted(Path(place).rglob(f"*{ending}"))):
        names.setdefault(path.stem, []).append(path)
    last = [Path(clip.id).name for clip in clips]
    for clip, name in zip(clips, last, strict=True):
        own = [Path(place) / f"{clip.id}{ending}" for ending in ENDINGS]
        found = [one for one in own if one.is_file()][:1] or names.get(name, [])
        if not found:
            continue
        path, *others = found[0], *(one for one in found if one.parent != found[0].parent)
        if path not in own and last.count(name) > 1:
            raise ValueError(f"alignments: {path} could be of {last.count(name)} clips called {name}")
        if others:
            raise ValueError(
                f"alignments: {clip.id} could have {path} or {others[0]}; call its file {clip.id}{ENDINGS[0]}"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
            yield clip.id, _text_grid(text) if path.suffix == ".TextGrid" else _labels(text)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}: not an alignment that can be read ({error})") from error


def _ctm(place: str, clips: Sequence[Clip]) -> Iterator[tuple[str, list[Phone]]]:
    if not Path(place).is_file():
        raise ValueError(f"alignments {place}: no such file or folder")
    lines: dict[str, list[Phone]] = {}
    for number, line in enumerate(Path(place).read_text(encoding="utf-8").splitlines(), 1):
        if not (cells := line.split()) or line.startswith(";;"):
            continue
        try:
            start, seconds, name = float(cells[2]), float(cells[3]), cells[4]
        except (ValueError, IndexError):
            raise ValueError(f"{place}, line {number}: a line of a CTM is CLIP CHANNEL START DURATION PHONE") from None
        lines.setdefault(cells[0], []).append(Phone(name, start, start + seconds))
    yield from ((clip.id, lines[clip.id]) for clip in clips if clip.id in lines)


def _labels(text: str) -> list[Phone]:
    """A `.lab` of Festival or HTK."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    mark = next((place for place, cells in enumerate(lines) if cells == ["#"]), None)
    if mark is None:
        return [Phone(cells[2], int(cells[0]) / HTK_UNITS, int(cells[1]) / HTK_UNITS) for cells in lines]
    ends = [(cells[2], float(cells[0])) for cells in lines[mark + 1 :]]
    starts = [0.0, *(stop for _, stop in ends[:-1])]
    return [Phone(name, start, stop) for (name, stop), start in zip(ends, starts, strict=True)]


def _text_grid(text: str) -> list[Phone]:
    """The phones of a TextGrid in its long or its short form. Raises ValueError without a tier of phones."""
    words = [(match[1], match[2]) for match in QUOTED_OR_NUMBER.finditer(text)]
    tiers: dict[str, list[Phone]] = {}
    place = next((i for i, (said, _) in enumerate(words) if said in ("IntervalTier", "TextTier")), len(words))
    while place < len(words):
        kind, name, count = words[place][0], words[place + 1][0], int(words[place + 4][1])
        cells = words[place + 5 :]
        if kind == "IntervalTier":
            rows: Mapping[int, Sequence[tuple[str, str]]] = {i: cells[3 * i : 3 * i + 3] for i in range(count)}
            spans = [Phone(row[2][0].replace('""', '"'), float(row[0][1]), float(row[1][1])) for row in rows.values()]
            tiers[name] = [span for span in spans if span.name.strip()]
        place += 5 + count * (3 if kind == "IntervalTier" else 2)
    wanted = [name for name in tiers if name.lower() in ("phones", "phone", "phonemes")] or list(tiers)
    if len(wanted) != 1 and "phones" not in wanted:
        raise ValueError(f"no tier `phones`; it has {', '.join(tiers) or 'no interval tier'}")
    return tiers["phones" if "phones" in wanted else wanted[0]]
