"""Tars of audio, one file for many clips: WebDataset, and the shards of lhotse (shar).

WebDataset: members of one key (the name up to its first dot) that follow each other are one sample: `a.flac`, `a.txt`
or `a.json`. A shar's `recording.000000.tar` has its texts in `cuts.000000.jsonl.gz` beside it.
An index reads a tar once from end to end; nothing is ever unpacked. Test: tests/data/test_sources.py.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from llmcodec.data.clip import Clip
from llmcodec.data.layouts.base import first
from llmcodec.data.layouts.lhotse import spoken_in
from llmcodec.data.member import BLOCK, header_mark, read_range
from llmcodec.data.sources.base import NAMES, SourceFile, check_said, seconds_of
from llmcodec.io.audio import AUDIO_ENDINGS
from llmcodec.io.remote.paths import open_file
from llmcodec.io.structured import parse_json

ENDINGS = (".tar",)
MOST_TEXT = 1 << 22
"""Bytes of a `.txt` or `.json` member."""
_FIELDS_OF_CUT = {name: (name,) for name in ("text", "speaker", "language")}


@dataclass
class _Sample:
    """Members of one key."""

    key: str
    members: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Ending -> place in the tar and content."""
    problem: str = ""


def read_webdataset(file: SourceFile) -> Iterator[Clip]:
    """Clips of a tar in its order; what cannot be read has a `problem`, a tar that is cut short as well.

    Raises:
        ValueError: no tar.
    """
    for sample in _samples(file.path, first_dot=True):
        yield _clip(file, sample)


def _clip(file: SourceFile, sample: _Sample) -> Clip:
    where = f"{file.path}[{sample.key}]"
    name, problem = sample.key, sample.problem
    row: dict[str, Any] | None = None
    fields: dict[str, tuple[str, ...]] | None = None
    try:
        row = _facts(sample, where)
        fields = {field: _names(file, field, row, where) for field in NAMES}
        name = first(row, fields["id"]) or name
        if not problem:
            inside, content = _audio_member(file, sample, where)
            return file.clip(name, row, fields, seconds_of(content, where), inside=inside)
    except ValueError as error:
        problem = problem or str(error)
    return file.bad(name, problem, row=row, fields=fields)


def _names(file: SourceFile, field: str, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """What gives a field: keys of the `.json` member, or `txt`. The id is the sample's key where no option names it."""
    named = file.options.columns.get(field)
    if named == "txt" or field == "id" and named is None:
        return (named,) if named else ()
    return file.options.names(field, row, where) or (("txt",) if field == "text" and named is None else ())


def _audio_member(file: SourceFile, sample: _Sample, where: str) -> tuple[str, bytes]:
    """The member with the audio: that of `?audio=ENDING`, or the only one with an ending of audio."""
    if (named := file.options.columns.get("audio")) is not None:
        if named not in sample.members:
            raise ValueError(f"{where}: no member .{named}; there is {_listed(sample)}")
        return sample.members[named]
    found = [ending for ending in sample.members if f".{ending.rpartition('.')[2]}" in AUDIO_ENDINGS]
    if len(found) != 1:
        what = "no member with audio" if not found else "several members with audio"
        raise ValueError(f"{where}: {what}; there is {_listed(sample)} (name one: {file.path.name}?audio=ENDING)")
    return sample.members[found[0]]


def _facts(sample: _Sample, where: str) -> dict[str, Any]:
    """What the `.json` member says, and the transcript of `.txt` as `txt`."""
    row: dict[str, Any] = {}
    if "json" in sample.members:
        found = parse_json(sample.members["json"][1], f"{where}.json")
        row = found if isinstance(found, dict) else {}
    if "txt" in sample.members:
        try:
            row["txt"] = sample.members["txt"][1].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}.txt: not a text in UTF-8 ({error})") from error
    return row


def _listed(sample: _Sample) -> str:
    return ", ".join(f".{ending}" for ending in sample.members) or "nothing"


def cuts_of(recording: Path) -> Path:
    """The file beside `recording.N.tar` that says what is spoken in it."""
    return recording.with_name(recording.name.replace("recording.", "cuts.", 1)).with_suffix(".jsonl.gz")


def read_shar(file: SourceFile) -> Iterator[Clip]:
    """Clips of `recording.N.tar`, with the facts of `cuts.N.jsonl.gz`, whose lines are in the order of the tar.

    Raises:
        ValueError: no tar, no cuts, or cuts that are damaged or of another tar.
    """
    path = cuts_of(file.path)
    cuts = _cuts(path)
    cut, seen = next(cuts, None), False
    for sample in _samples(file.path, first_dot=False):
        where = f"{file.path}[{sample.key}]"
        if cut is None or cut.get("id") != sample.key:
            if sample.problem:
                yield file.bad(sample.key, sample.problem)
                continue
            named = "no more cuts" if cut is None else f"the cut {cut.get('id')!r}"
            raise ValueError(f"{where}: {path.name} has {named} in its place: it is not of this tar")
        row: dict[str, str] | None = None
        try:
            row = spoken_in(cut)
            if sample.problem:
                raise ValueError(sample.problem)
            clip = _clip_of_cut(file, sample, cut, row, where, known=seen)
        except (ValueError, KeyError, TypeError) as error:
            reason = error if isinstance(error, ValueError) else "not a cut"
            clip = file.bad(sample.key, reason, row=row, fields=_FIELDS_OF_CUT)
        seen = seen or not clip.problem
        yield clip
        cut = next(cuts, None)
    if left := (cut is not None) + sum(1 for _ in cuts):
        yield file.bad(f"{file.stem}-rest", f"{file.path}: {left} cuts of {path.name} have no audio in it: cut short?")


def _clip_of_cut(
    file: SourceFile, sample: _Sample, cut: dict[str, Any], row: dict[str, str], where: str, known: bool
) -> Clip:
    """known: what the cut says of its recording's length is taken, as it was true of another."""
    sounds = {ending: member for ending, member in sample.members.items() if f".{ending}" in AUDIO_ENDINGS}
    if len(sounds) != 1:
        raise ValueError(f"{where}: no audio; there is {_listed(sample)}")
    inside, content = next(iter(sounds.values()))
    recording = cut["recording"]
    whole, start, duration = float(recording["duration"]), float(cut.get("start") or 0), float(cut["duration"])
    if not known:
        check_said(whole, seconds_of(content, where), where, "are these the cuts of other audio?")
    stretch = {} if not start and abs(duration - whole) < 1e-3 else {"start": round(start, 4)}
    return file.clip(sample.key, row, _FIELDS_OF_CUT, duration, inside=inside, **stretch)


def _cuts(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: the cuts of a lhotse shar are missing")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                cut = parse_json(line, f"{path}:{number}")
                if not isinstance(cut, dict):
                    raise ValueError(f"{path}:{number}: not a cut")
                yield cut
    except (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged after line {number} ({error})") from error


def _samples(path: Path, first_dot: bool) -> Iterator[_Sample]:
    """Members that follow each other and have one key.

    Args:
        path: the tar.
        first_dot: a key ends at the first dot of a name, else at the last.
    """
    sample = _Sample("")
    for member, inside, content in _members(path):
        key, ending = _split(member.name, first_dot)
        if not isinstance(content, str) and (not ending or member.name.rpartition("/")[2].startswith(".")):
            continue  # as WebDataset does
        if key != sample.key or ending in sample.members or sample.problem:
            if sample.key:
                yield sample
            sample = _Sample(key)
        if isinstance(content, str):
            sample.problem = content
        elif ending in ("txt", "json") and len(content) > MOST_TEXT:
            sample.problem = f"{path}[{member.name}]: {len(content)} bytes of text"
        else:
            sample.members[ending] = inside, content
    if sample.key:
        yield sample


def _split(name: str, first_dot: bool) -> tuple[str, str]:
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".") if first_dot else base.rpartition(".")
    stem = stem or base
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, str, bytes | str]]:
    """Files of a tar with their place and content, or with what is wrong with them; folders are passed over.

    tarfile ends without a word where a header is damaged or the tar is cut off: here that is a last member.
    """
    with (
        _as_value_error(path),
        open_file(path) as opened,
        tarfile.open(fileobj=opened, mode="r:", encoding="utf-8", errors="surrogateescape") as tar,
    ):
        last, rest = tarfile.TarInfo(""), tarfile.TarInfo(f"{path.name.replace('.', '_')}-rest")
        while True:
            try:
                member = tar.next()
            except tarfile.ReadError as error:
                yield rest, "", f"{path}: cut short or damaged after {last.name!r} ({error}); what follows is lost"
                return
            if member is None:
                break
            tar.members = []  # type: ignore[attr-defined]  # a tar of millions would keep them all
            last = member
            if member.isdir():
                continue
            if problem := _refused(member):
                yield member, "", f"{path}[{member.name}]: {problem}"
                continue
            opened.seek(member.offset_data - BLOCK)
            mark = header_mark(opened.read(BLOCK))
            content = opened.read(member.size)
            if len(content) < member.size:
                yield member, "", f"{path}[{member.name}]: the tar ends after {len(content)} of its {member.size} bytes"
                return
            yield member, f"{mark}:{member.offset_data}+{member.size}", content
        end = path.stat().st_size
        block = read_range(path, tar.offset, BLOCK)
        if block != bytes(BLOCK):
            what = (
                f"damaged at byte {tar.offset} of {end}" if block else f"ends at byte {end} without a tar's last block"
            )
            yield rest, "", f"{path}: {what}; what may have followed {last.name!r} is lost"


def _refused(member: tarfile.TarInfo) -> str:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        return "its name leaves the folder"
    return "" if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else "a link or a special file, not audio"


@contextmanager
def _as_value_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path}: not a tar, or damaged ({error}); a compressed one has to be unpacked") from error
