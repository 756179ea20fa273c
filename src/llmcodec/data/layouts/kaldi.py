"""Kaldi data folders: `wav.scp` (and `segments`), `text`, `utt2spk`, `spk2gender`.

Commands in `wav.scp` (lines that end in `|`) are never run: `flac -c -d -s FILE |` and the like, which give their file
as it is or at another rate, are read as that file; others (`sph2pipe -c 2`, `sox ... trim`, two files) are reported.
The split is that of the folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmcodec.data.layouts.base import Folder, Report, Utterance, pairs_of, plain_text

NAME = "Kaldi"
WHOLE_TREE = True
_FILE = r""" (?P<file>(?!-)[^\s|;&<>`$'"\\*?]+)"""
_PLAIN_COMMANDS = [
    re.compile(pattern.replace(" FILE", _FILE))
    for pattern in (
        r"cat FILE",
        r"flac(?: -[cdsf]+| --(?:stdout|decode|silent|totally-silent))* FILE",
        r"sph2pipe(?: -p| -f (?:wav|rif|sph))* FILE",
        r"sox(?: -q| -D| -V\d?| -t [a-z0-9]+)* FILE(?: -[tbre] [\w.-]+| -c 1)* -(?: rate(?: -[qlmhv])? \d+k?)?",
        r"ffmpeg(?: -(?:nostdin|hide_banner|y)| -(?:v|loglevel) \w+)* -i FILE"
        r"(?: -(?:nostdin|hide_banner|y|vn)| -(?:v|loglevel|f|ar|ab|acodec|c:a|sample_fmt) \w+| -ac 1)* (?:-|pipe:1?)",
    )
]
"""Commands whose output is the sound of their file, at most at another rate or in another format."""


def recognises(folder: Folder) -> bool:
    return folder.has("wav.scp")


def read(folder: Folder, report: Report) -> Iterator[Utterance]:
    """Utterances of `segments` where there is one, else of `wav.scp`."""
    recordings = {
        name: place
        for name, line in _table(folder, "wav.scp", report).items()
        if (place := _file(name, line, folder, report))
    }
    texts, speakers = _table(folder, "text", report), _table(folder, "utt2spk", report)
    if folder.has("segments"):
        stretches = {name: line.split() or [""] for name, line in _table(folder, "segments", report).items()}
    else:
        stretches = {name: [name] for name in recordings}
    for name, (recording, *times) in stretches.items():
        if recording not in recordings:
            report.skipped[name] = f"{folder.path / 'segments'}: {name} is a stretch of {recording}, which has no audio"
            continue
        try:
            start, stop = map(float, times) if folder.has("segments") else (0.0, None)
        except ValueError:  # no numbers, or other than two: a fifth column names a channel, which is not read alone
            report.skipped[name] = f"{folder.path / 'segments'}: {name}: not UTTERANCE RECORDING START STOP"
            continue
        text = plain_text(texts.get(name, ""))
        yield Utterance(
            recordings[recording],
            text,
            speakers.get(name, ""),
            id=name,
            text_from="text" if text else "",
            start=start,
            duration=None if stop is None else stop - start,
        )


def _table(folder: Folder, name: str, report: Report) -> dict[str, str]:
    return pairs_of(folder.path / name, report) if folder.has(name) else {}


def _file(name: str, line: str, folder: Folder, report: Report) -> Path | None:
    """The audio file behind a line of wav.scp; relative paths are tried from the folder and from here."""
    place = line
    if line.endswith("|"):
        command = " ".join(line[:-1].split())
        place = next((found["file"] for one in _PLAIN_COMMANDS if (found := one.fullmatch(command))), "")
    for path in (folder.path / place, Path(place)):
        if place and path.is_file():
            return path
    why = f"no file {place!r}" if place else f"its command is not run: {line!r}"
    report.skipped[name] = f"{folder.path / 'wav.scp'}: {name}: {why}"
    return None
