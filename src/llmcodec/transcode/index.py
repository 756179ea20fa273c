"""`index.json`: what a folder of tokens holds, and how it was made; written when everything is there.

    write_index(Path("tokens"), plan, {".": describe_shards(Path("tokens"))}, left_out={})
    for path, said, is_damaged in check_index(Path("tokens")): print(path, said)

The digest of the rows depends neither on their order nor on the files in which they lie, so tokens that were merged of
parts have the digest of those that were made at once. Test: tests/transcode/test_merge.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcodec.io.digests import digest_all
from llmcodec.io.remote.paths import fetch
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.token_file import SIZES, TokenProvenance, difference_of_search, load_token_file
from llmcodec.io.token_shards import TokenRow, open_token_shards, shards_in

INDEX = "index.json"
BEGUN = ".begun.json"
"""The plan of shards that are being made, until the index has it."""
FORMAT = "llmcodec-index-1"
MAX_BYTES = 1 << 32
"""Of an index; it names every token file where there is one for each clip."""
HERE = "."
"""Key of shards in the folder itself; others are the names of folders in it."""
SHAPE = {"views", "format", "clips_per_shard"}
Checked = tuple[Path, str, bool]
"""A file or folder, what was found, and whether that is damage."""


@dataclass(frozen=True)
class Plan:
    """What is to be made. Equal plans give equal tokens, whoever carries them out."""

    settings: dict[str, Any]
    """Of the command: format, views, ..."""
    codec: dict[str, Any]
    """Fields of its `TokenProvenance`."""
    corpus: dict[str, Any]
    """Number of clips, and a digest of everything that decides what is read, and in which order."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], codec: TokenProvenance, num_clips: int, digest: str) -> Plan:
        """The plan for the clips of a corpus."""
        fields = {name: value for name, value in dataclasses.asdict(codec).items() if name != "manifest_hash"}
        return cls(dict(settings), fields, {"clips": num_clips, "digest": digest})

    @classmethod
    def read(cls, found: Mapping[str, Any], where: object) -> Plan:
        """The plan in an index, or in the record of a part. Raises ValueError if there is none."""
        parts = [found.get(one.name) for one in dataclasses.fields(cls)]
        if not all(isinstance(part, dict) for part in parts):
            raise ValueError(f"{where}: does not say what it was made of; a damaged file?")
        return cls(*parts)  # type: ignore[arg-type]

    def difference(self, other: Plan) -> str:
        """In what `other` differs from this, in words; empty if it gives the same tokens, under whatever name."""
        for name in ("weights_sha256", *SIZES):
            mine, theirs = self.codec.get(name), other.codec.get(name)
            if mine != theirs:
                return f"codec {other.codec.get('codec')!r}, {name} {theirs!s:.16}, not {mine!s:.16}"
        if searched := difference_of_search(*(str(one.codec.get("codec")) for one in (self, other))):
            return searched
        for what, ours, its in (("corpus", self.corpus, other.corpus), ("setting", self.settings, other.settings)):
            for name in sorted({*ours, *its}):
                if ours.get(name) != its.get(name):
                    return f"{what} {name}: {its.get(name)!r}, not {ours.get(name)!r}"
        return ""


@dataclass
class Content:
    """Sums over rows of tokens."""

    clips: int = 0
    samples: int = 0
    """At the codec's rate."""
    tokens: int = 0
    """Codes, all channels and codebooks."""
    sum: int = 0
    """Of the rows' digests, modulo 2**128: the same in any order."""

    def add(self, row: TokenRow) -> str:
        """Count a row; returns its digest."""
        digest = row_digest(row)
        self.clips += 1
        self.samples += row.num_samples
        self.tokens += row.codes.size
        self.sum = (self.sum + int(digest, 16)) % (1 << 128)
        return digest

    def counted(self) -> dict[str, Any]:
        """As it stands in an index."""
        sums = {"clips": self.clips, "samples": self.samples, "tokens": self.tokens}
        return {**sums, "digest": f"{self.sum:032x}"}


def row_digest(row: TokenRow) -> str:
    """32 hex digits of everything in a row."""
    facts = (row.id, row.text, row.speaker, row.language, row.num_samples, row.original_sample_rate)
    more = (row.original_num_samples, row.original_channels, *row.codes.shape)
    running = hashlib.blake2b(repr((*facts, *more)).encode("utf-8", "surrogatepass"), digest_size=16)
    running.update(row.codes.astype("<u4").tobytes())
    return running.hexdigest()


def describe_shards(folder: Path) -> dict[str, Any]:
    """Sums over the shards of a folder, and every file in it; all rows are read.

    Raises:
        ValueError: a damaged shard, shards of two codecs.
    """
    content, files = Content(), []
    for path in shards_in(folder):
        before = content.clips
        for row in open_token_shards(path)[1]:
            content.add(row)
        files.append({"file": path.name, "clips": content.clips - before, **_state(path)})
    return {**content.counted(), "shards": files}


def row_of_file(path: Path, name: str) -> tuple[TokenRow, TokenProvenance]:
    """A token file as a row that is called `name`."""
    clip, provenance = load_token_file(path)
    return TokenRow(**vars(clip), id=name), provenance


def write_index(place: Path, plan: Plan, folders: Mapping[str, Any], left_out: Mapping[str, str], **more: Any) -> Path:
    """Write the index of a folder.

    Args:
        place: the folder.
        plan: what was to be made.
        folders: by name, as `describe_shards` gives them.
        left_out: ids of clips that could not be read, with reasons; written in the order of the ids.
        more: `files`, the digest of every token file by name.
    """
    told = {"format": FORMAT, **dataclasses.asdict(plan), "folders": dict(folders)}
    told |= {"left_out": dict(sorted(left_out.items())), **more}
    path = write_json(place / INDEX, told, durable=True)
    (place / BEGUN).unlink(missing_ok=True)
    return path


def read_index(place: Path) -> dict[str, Any]:
    """The index of a folder. Raises ValueError where there is none, or none of ours."""
    path = place / INDEX
    if not path.is_file():
        raise ValueError(f"{path}: no such index; a run of `llmcodec tokenize` or `tokens merge` ends with writing it")
    found = read_object(path, MAX_BYTES)
    folders = found.get("folders")
    if found.get("format") != FORMAT or not isinstance(folders, dict):
        raise ValueError(f"{path}: not an index of llmcodec ({FORMAT} is known)")
    for name, entry in folders.items():
        shards = entry.get("shards") if isinstance(entry, dict) else None
        if not is_plain(name) or not isinstance(shards, list) or not all(map(_is_entry, shards)):
            raise ValueError(f"{path}: its entry {name[:80]!r} is damaged")
    Plan.read(found, path)
    return found


def refuse_other_settings(place: Path, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where a folder has tokens, or unfinished shards, that were made with other settings.

    `SHAPE` may differ: it decides how many tokens there are and where they stand, not what they are.
    """
    if (place / INDEX).is_file():
        before = Plan.read(read_index(place), place / INDEX).settings
    elif (place / BEGUN).is_file() and _has_shards(place):
        before = Plan.read(read_object(place / BEGUN), place / BEGUN).settings
    else:
        return
    for name in sorted((before.keys() & settings.keys()) - SHAPE):
        if before[name] != (now := settings[name]):
            raise ValueError(
                f"{place}: its tokens were made with {name} {before[name]}, not {now}; name another folder"
            )


def begin_shards(place: Path, plan: Plan) -> None:
    """Note how the shards of a folder are made, which they do not say themselves: a run may end before its index.

    Those of earlier versions, without such a note, are taken as made alike; that is warned of.
    """
    if (place / INDEX).is_file():
        return
    if not (place / BEGUN).is_file() and "precision" in plan.settings and _has_shards(place):
        taken = ", ".join(f"{name} {plan.settings[name]}" for name in ("precision", "runtime"))
        warnings.warn(f"{place}: nobody noted how the shards there were made; taken as {taken}", stacklevel=2)
    write_json(place / BEGUN, dataclasses.asdict(plan), durable=True)


def _has_shards(place: Path) -> bool:
    folders = [place, *(path for path in place.iterdir() if path.is_dir())] if place.is_dir() else []
    return any(shards_in(folder) for folder in folders)


def is_plain(name: object) -> bool:
    """Whether a name stays in its folder."""
    return isinstance(name, str) and name not in ("", "..") and not set(name) & {"/", "\\", "\0"}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and is_plain(entry.get("file")) and {"bytes", "blake2b"} <= set(entry)


def check_index(place: Path) -> Iterator[Checked]:
    """Compare a folder with its index: every file that it names, and those that it does not.

    Raises:
        ValueError: there is no index.
    """
    found = read_index(place)
    codec = found["codec"].get("weights_sha256")
    for name, entry in found["folders"].items():
        folder = place / name
        known = {one["file"]: one for one in entry["shards"]}
        for path in sorted({*shards_in(folder, "*"), *(folder / file for file in known)}):
            yield path, *_compare(path, known.get(path.name), codec)
        yield folder, f"{entry.get('clips')} clips, {entry.get('tokens')} tokens in the index", False
    yield from _check_files(place, found)
    inside = {path for path in place.iterdir() if path.is_dir() and shards_in(path)} if place.is_dir() else set()
    for path in sorted(inside - {place / name for name in found["folders"]}):
        if not path.name.startswith("part-"):
            yield path, f"{path}: its shards are not in the index", True


def _compare(path: Path, entry: Mapping[str, Any] | None, codec: object) -> tuple[str, bool]:
    if entry is None:
        return f"{path}: a shard that is not in the index", True
    if not path.is_file():
        return f"{path}: is missing", True
    if _state(path) != {name: entry[name] for name in ("bytes", "blake2b")}:
        return f"{path}: is not the file of the index ({path.stat().st_size} bytes, {entry['bytes']} there)", True
    try:
        theirs = open_token_shards(path)[0].weights_sha256
    except ValueError as error:
        return str(error), True
    if theirs != codec:
        return f"{path}: of codec {theirs[:12]}, the index is of {codec!s:.12}", True
    return f"{entry.get('clips')} clips, as in the index", False


def _check_files(place: Path, found: Mapping[str, Any]) -> Iterator[Checked]:
    """Token files, one for each clip."""
    files = found.get("files") or {}
    for name, digest in files.items():
        path = place / f"{name}.safetensors"
        try:
            if row_digest(row_of_file(path, name)[0]) != digest:
                yield path, f"{path}: other tokens than those of the index", True
        except (ValueError, OSError) as error:
            yield path, " ".join(str(error).split()), True
    if files:
        there = {path.relative_to(place).with_suffix("").as_posix() for path in place.rglob("*.safetensors")}
        for name in sorted(there - set(files)):
            yield place / name, f"{place / name}.safetensors: is not in the index", True
        yield place, f"{len(files)} token files in the index", False


def _state(path: Path) -> dict[str, Any]:
    with open(fetch(path), "rb") as file:
        digest = digest_all(iter(lambda: file.read(1 << 20), b""), size=16)
    return {"bytes": path.stat().st_size, "blake2b": digest}
