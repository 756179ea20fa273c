"""The parts of a sharded run put together, and what is missing among them.

    merge_parts([Path("tokens")], Path("tokens"))       # tokens/part-00000-of-00008/, ... -> what one run would write
    for path, said, is_damaged in check_parts([Path("tokens")]): ...

Every row of every part is read, compared with the part's record and written in the corpus's order, so that the merged
shards have the bytes of an unsharded `llmcodec tokenize`. Test: tests/transcode/test_merge.py.
"""

from __future__ import annotations

import os
import re
import shutil
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.io.atomic import atomic_folder, find_left_overs
from llmcodec.io.digests import digest_number
from llmcodec.io.known_rows import row_number
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import (
    DamagedShard,
    TokenRow,
    TokenShardWriter,
    open_shard,
    open_token_shards,
    shards_in,
)
from llmcodec.transcode.index import (
    HERE,
    INDEX,
    Checked,
    Content,
    Plan,
    describe_shards,
    read_index,
    row_digest,
    row_of_file,
    write_index,
)
from llmcodec.transcode.mapped_rows import sound
from llmcodec.transcode.sharding import RECORD, Part, is_merged, parts_in

MOST_NAMED = 10
_ASIDE = re.compile(r"shard-.*\.damaged", re.DOTALL)


def find_parts(places: Sequence[Path]) -> list[Part]:
    """All parts of one run, each once, in order.

    Args:
        places: parts, or folders that hold parts.

    Raises:
        ValueError: none are there, parts of several runs, a part twice, one missing or unfinished; they are named.
    """
    parts = [Part.load(folder) for place in places for folder in _parts_of(place)]
    _refuse_foreign(parts)
    by_number: dict[int, Part] = {}
    for part in parts:
        other = by_number.setdefault(part.shard.number, part)
        if other is not part:
            raise ValueError(f"{part.folder}: shard {part.shard} is in {other.folder} too; name one of them")
    missing = [f"{number}/{parts[0].shard.count}" for number in range(parts[0].shard.count) if number not in by_number]
    if missing:
        raise ValueError(f"{_named(missing)} missing in {', '.join(map(str, places))}; run with --shard {missing[0]}")
    ordered = [by_number[number] for number in sorted(by_number)]
    if unfinished := [str(part.shard) for part in ordered if part.folders is None and part.files is None]:
        raise ValueError(f"{_named(unfinished)} unfinished; run again with --shard {unfinished[0]}")
    ends = [0, *(part.span.stop for part in ordered)]
    for part, start in zip(ordered, ends, strict=False):
        if part.span.start != start:
            raise ValueError(f"{part.folder}: begins at clip {part.span.start}, not {start}; make it again")
    if ends[-1] != ordered[0].plan.corpus["clips"]:
        raise ValueError(f"{ordered[-1].folder}: ends at clip {ends[-1]} of {ordered[0].plan.corpus['clips']}")
    return ordered


def _parts_of(place: Path) -> list[Path]:
    found = parts_in(place)
    if not found:
        why = "no such folder" if not place.is_dir() else "no parts of a sharded run in this folder"
        raise ValueError(f"{place}: {why} (part-00000-of-00008, ...)")
    return found


def _refuse_foreign(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        if part.shard.count != first.shard.count:
            raise ValueError(f"{part.folder}: shard {part.shard}, but {first.folder} is shard {first.shard}")
        if other := first.plan.difference(part.plan):
            raise ValueError(f"{part.folder}: not of the same run as {first.folder}: {other}")


def _named(shards: Sequence[str]) -> str:
    names = ", ".join(shards[:MOST_NAMED]) + (f" and {len(shards) - MOST_NAMED} more" if shards[MOST_NAMED:] else "")
    return f"shard {names} is" if len(shards) == 1 else f"shards {names} are"


def merge_parts(places: Sequence[Path], output: Path, remove_parts: bool = False) -> Path:
    """Merge the parts of a run into a folder; returns the path of its index. Merged before, it stays as it is.

    Args:
        places: parts, or folders that hold parts.
        output: folder for the result; may be the one that holds the parts.
        remove_parts: delete the parts when the result is complete.

    Raises:
        ValueError: as `find_parts`; a part that is not what its record says; tokens of something else in `output`, or
            files that are no tokens where tokens will be. Nothing is written or deleted then.
    """
    if not any(parts_in(place) for place in places) and (output / INDEX).is_file():
        for place in places:
            if not place.is_dir() and not place.name.startswith("part-"):  # a part may have been removed
                raise ValueError(f"{place}: no such folder")
        return output / INDEX
    if (output / INDEX).is_file():  # a kill may have left some of the parts
        index = Plan.read(read_index(output), output / INDEX)
        left = [Part.load(folder) for place in places for folder in parts_in(place)]
        if not any(index.difference(part.plan) for part in left):
            return _finished(output, left, remove_parts)
    parts = find_parts(places)
    if not is_merged(output, parts[0].plan):
        old = _replaced(output, parts)
        left_out = {name: reason for part in parts for name, reason in part.left_out.items()}
        if parts[0].files is not None:
            _index_files(parts, output, left_out)
        else:
            with atomic_folder(output, merge=True, durable=True) as temporary:
                folders = _write_folders(parts, temporary)
                _put_away(old)
            write_index(output, parts[0].plan, folders, left_out)
    return _finished(output, parts, remove_parts)


def _finished(output: Path, parts: Sequence[Part], remove_parts: bool) -> Path:
    """The index of what is merged; the parts go where that is asked for, their records last: a kill leaves parts."""
    for part in parts if remove_parts else ():
        for path in sorted(part.folder.rglob("*"), reverse=True):
            if path.name != RECORD or path.parent != part.folder:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(part.folder)
    return output / INDEX


def _replaced(output: Path, parts: Sequence[Part]) -> list[Path]:
    """The shards that a merge that was killed has left in `output`.

    Raises:
        ValueError: there is something else, which the result would replace or lie among.
    """
    names = sorted({name for part in parts for name in part.folders or ()})
    there = {name: shards_in(output / name) for name in names}
    first = next(chain(*there.values()), None)
    if first and not any(part.folder.parent.resolve() == output.resolve() for part in parts):
        raise ValueError(f"{output}: holds token shards already ({first.name}); name another folder")
    for name in names:
        if name != HERE and (output / name).exists():
            _refuse_no_tokens(output / name)
    for name, paths in there.items():
        if paths:
            _refuse_other_rows(paths, [part for part in parts if name in (part.folders or {})], name)
    return list(chain(*there.values()))


def _refuse_no_tokens(folder: Path) -> None:
    """Raise ValueError where anything but shards, and what their writers leave behind, is in a folder."""
    left = {*shards_in(folder), *find_left_overs(folder)} if folder.is_dir() else set()
    for path in sorted(folder.iterdir()) if folder.is_dir() else [folder]:
        if not path.is_file() or path not in left and not _ASIDE.fullmatch(path.name):
            raise ValueError(
                f"{path}: is no token shard, but {folder} is a folder that the merge writes; name another --output"
            )


def _refuse_other_rows(paths: Sequence[Path], parts: Sequence[Part], name: str) -> None:
    """Raise ValueError where shards have rows that the parts have not; nobody knows those of damaged ones."""
    theirs = [_numbers(path) for part in parts for path in shards_in(part.folder / name)]
    known, weights = np.concatenate([np.zeros(0, np.uint64), *theirs]), parts[0].plan.codec["weights_sha256"]
    for path in paths:
        with suppress(DamagedShard):
            if open_shard(path)[1].weights_sha256 != weights or not np.isin(_numbers(path), known).all():
                raise ValueError(
                    f"{path}: holds tokens that are in none of the parts; move it away, or name another --output"
                )


def _numbers(shard: Path) -> np.ndarray:
    """`row_number` of the ids of its rows (uint64)."""
    return np.array([row_number(name) for batch in sound(shard) for name in batch["id"].to_pylist()], np.uint64)


def _put_away(shards: Sequence[Path]) -> None:
    """Delete shards whose rows are merged again; what cannot be read keeps its bytes under another name."""
    for path in shards:
        try:
            _numbers(path)
        except DamagedShard:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        else:
            path.unlink()


def _write_folders(parts: Sequence[Part], target: Path) -> dict[str, Any]:
    """The shards of every folder, and what they hold."""
    plan = parts[0].plan
    folders = {}
    for name in sorted({name for part in parts for name in part.folders or ()}):
        of_folder = [part for part in parts if name in (part.folders or {})]
        place, numbers = target / name, array("Q")
        provenance, pending, made, written = None, list[TokenRow](), list[int](), 0
        for part in of_folder:
            provenance, rows = _rows(part, name, provenance)
            for row, made_ns in rows:
                numbers.append(digest_number(row.id))
                pending.append(row)
                made.append(made_ns)
                if provenance is not None and len(pending) == plan.settings["clips_per_shard"]:
                    written = _write(place, pending, made, written, provenance, plan.settings["format"])
        if pending and provenance is not None:
            _write(place, pending, made, written, provenance, plan.settings["format"])
        if provenance is None:
            raise ValueError(f"{of_folder[0].folder / name}: no clip of this or any other part could be read")
        _refuse_doubled(numbers, of_folder, name)
        folders[name] = describe_shards(place)
    return folders


def _write(
    place: Path, pending: list[TokenRow], made: list[int], written: int, provenance: TokenProvenance, format: str
) -> int:
    """Write a shard as old as its oldest row: audio that has changed since is newer, as it was for the part."""
    TokenShardWriter.write(place / f"shard-{written:05d}.{format}", pending, provenance, min(made))
    pending.clear()
    made.clear()
    return written + 1


def _rows(
    part: Part, name: str, known: TokenProvenance | None
) -> tuple[TokenProvenance | None, Iterator[tuple[TokenRow, int]]]:
    """Rows of a part in order, each with the time (ns) of its shard, and their codec.

    Where they end, it is certain that they are those of the part's record.
    """
    folder, record = part.folder / name, (part.folders or {})[name]
    if not shards_in(folder):
        if record.get("clips"):
            raise ValueError(f"{folder}: its shards are missing; run again with --shard {part.shard}")
        return known, iter(())  # none of its clips could be read
    provenance = open_token_shards(folder)[0]
    if provenance.weights_sha256 != part.plan.codec["weights_sha256"]:
        raise ValueError(f"{folder}: tokens of codec {provenance.codec!r}, not of the one in its record")
    if known is not None and provenance.manifest_hash != known.manifest_hash:
        raise ValueError(f"{folder}: tokens of another manifest than those of the parts before")

    def checked() -> Iterator[tuple[TokenRow, int]]:
        content = Content()
        for path in shards_in(folder, "*"):
            theirs, rows = open_token_shards(path)
            if replace(theirs, codec="", manifest_hash="") != replace(provenance, codec="", manifest_hash=""):
                raise ValueError(f"{path}: made by another codec than the other shards of its part")
            made_ns = path.stat().st_mtime_ns
            for row in rows:
                content.add(row)
                yield row, made_ns
        counted = content.counted()
        if counted != {key: record.get(key) for key in counted}:
            raise ValueError(
                f"{folder}: its {content.clips} clips are not those of its record ({record.get('clips')}): a shard is "
                f"missing, doubled or of another run; delete the part and run with --shard {part.shard}"
            )

    return provenance, checked()


def _refuse_doubled(numbers: array[int], parts: Sequence[Part], name: str) -> None:
    """Raise ValueError where an id occurs twice, in whichever parts."""
    ordered = np.sort(np.frombuffer(numbers, np.uint64)) if numbers else np.zeros(0, np.uint64)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not twice:
        return
    found = [
        (row.id, part.folder / name)
        for part in parts
        if shards_in(part.folder / name)
        for row in open_token_shards(part.folder / name)[1]
        if digest_number(row.id) in twice
    ]
    places = sorted({str(place) for _, place in found})
    raise ValueError(f"{' and '.join(places)}: the clip {found[0][0]!r} is there twice; rename one in the manifest")


def _index_files(parts: Sequence[Part], output: Path, left_out: dict[str, str]) -> None:
    """Check the token files of all parts, one for each clip, and write their index."""
    content, files = Content(), dict[str, str]()
    for part in parts:
        home = part.folder.parent
        if home.resolve() != output.resolve():
            raise ValueError(f"{part.folder}: its token files lie in {home}; merge there, without --output")
        for name, digest in (part.files or {}).items():
            if name in files:
                raise ValueError(f"{part.folder}: {name} is in another part too")
            row, theirs = row_of_file(home / f"{name}.safetensors", name)
            if theirs.weights_sha256 != part.plan.codec["weights_sha256"] or row_digest(row) != digest:
                raise ValueError(
                    f"{home / name}.safetensors: not what part {part.shard} wrote; run again with --shard {part.shard}"
                )
            content.add(row)
            files[name] = digest
    write_index(output, parts[0].plan, {".": {**content.counted(), "shards": []}}, left_out, files=files)


def check_parts(places: Sequence[Path]) -> Iterator[Checked]:
    """State of every part, then what is wrong with them together.

    Raises:
        ValueError: there are none.
    """
    for place in places:
        for folder in _parts_of(place):
            try:
                part = Part.load(folder)
                finished = part.folders is not None or part.files is not None
                for name, record in (part.folders or {}).items():
                    found = describe_shards(folder / name)
                    if found != record:
                        again = f"run again with --shard {part.shard}"
                        raise ValueError(f"{folder / name}: not what its record says; {again}")
                said = f"shard {part.shard}, clips {part.span.start} to {part.span.stop}"
                yield folder, said if finished else f"{folder}: {said}, unfinished", not finished
            except ValueError as error:
                yield folder, str(error), True
    try:
        find_parts(places)
    except ValueError as error:
        yield places[0], str(error), True


def totals(index: Path) -> list[str]:
    """An index in words, a line for each folder."""
    found = read_index(index.parent)
    rate = found["codec"]["sample_rate"]
    return [
        f"{index.parent / name}: {entry['clips']} clips, {entry['samples'] / rate:.0f} s, {entry['tokens']} tokens"
        for name, entry in found["folders"].items()
    ] + ([f"{len(found['left_out'])} clips were left out"] if found["left_out"] else [])
