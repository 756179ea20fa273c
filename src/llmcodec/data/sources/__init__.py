"""What `--manifest` may name: a JSONL manifest, tables with audio bytes, WebDataset tars, lhotse shar.

    clips = open_source("corpus/")                      # whatever lies there
    clips = open_source("data/?audio=wav&text=words")   # columns by name

Every source is a sequence of clips: a position in it is a number, so that what reads it can stop and go on exactly.
All but small JSONL manifests are read once into an index, an Arrow file in the cache that is mapped from then on; it is
made again when a file of the source (of a shar, its cuts too) has another size or time.
Test: tests/data/test_sources.py.
"""

from __future__ import annotations

import glob
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcodec.data.clip import Clip
from llmcodec.data.clip_table import ClipTable, is_of_clips, write_clips
from llmcodec.data.files import find_files, walk
from llmcodec.data.member import open_table
from llmcodec.data.sources import tables, tars
from llmcodec.data.sources.base import OPTIONS, Options, SourceFile
from llmcodec.data.sources.jsonl import read_all_jsonl, read_jsonl
from llmcodec.io.audio_formats import AUDIO_ENDINGS, UNREAD_ENDINGS
from llmcodec.io.cache import cache_folder
from llmcodec.io.digests import digest
from llmcodec.io.remote.paths import as_path, bring, fetch, is_url, shown
from llmcodec.io.run_guard import lock_file

VERSION = "2"
"""Of indices: another version of the readers makes them again."""
LARGE_JSONL = 1 << 26
"""Bytes from which on a JSONL manifest is read into an index, too."""
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Kind:
    """A kind of source: files with these endings, and who reads one of them."""

    name: str
    endings: tuple[str, ...]
    read: Callable[[SourceFile], Iterator[Clip]]
    options: tuple[str, ...]
    """Options that it understands."""


SHAR = Kind("lhotse shar", tars.ENDINGS, tars.read_shar, ("ids",))
KINDS = (
    Kind("Parquet or Arrow", tables.ENDINGS, tables.read_table, OPTIONS),
    Kind("WebDataset", tars.ENDINGS, tars.read_webdataset, tuple(name for name in OPTIONS if name != "duration")),
)


def open_source(name: str | Path) -> Sequence[Clip]:
    """All clips of a source: a file, a folder, or a pattern such as `shards/train-*.tar`.

    Args:
        name: with options of `base.OPTIONS` behind a `?`.

    Raises:
        ValueError: nothing there that can be read, files of several kinds, columns that are not there, an option that
            this kind of source does not know, an id that stands twice. Clips that cannot be read are there, with a
            `problem`.
    """
    text, options = _name_and_options(str(name))
    place = _brought(text)
    if place.is_dir() and (place / MANIFEST).is_file():
        place = place / MANIFEST
    if place.is_file() and place.suffix == ".arrow" and _is_index(place):
        _check_options(options, "a table of clips", (), text)
        return ClipTable.open(fetch(place), str(place.parent))
    kind, files = _files(place)
    if kind is None:
        if not place.is_file():
            raise ValueError(f"{place}: no such manifest; `llmcodec data manifest FOLDER` makes one")
        _check_options(options, "a JSONL manifest", (), text)
        if place.stat().st_size < LARGE_JSONL or not _has_pyarrow():
            return read_all_jsonl(place)
        return _indexed([place], place.parent, options, None, str(name))
    _check_options(options, kind.name, kind.options, text)
    root = place if place.is_dir() else _common_folder(files)
    return _indexed(files, root, options, kind, str(name))


def is_source(name: str) -> bool:
    """Whether a name among audio files means clips: by its ending, its options, or a folder of tables or tars alone."""
    text, options = _name_and_options(name)
    endings = (".jsonl", *(ending for kind in KINDS for ending in kind.endings))
    if options != Options() or text.lower().endswith(endings) and not Path(text).is_dir():
        return True
    if is_url(text):
        return False
    found = False
    for _, _, names in walk(Path(text), lambda path, reason: None):
        if any(name.lower().endswith((*AUDIO_ENDINGS, *UNREAD_ENDINGS)) for name in names):
            return False
        found = found or any(name.lower().endswith(endings[1:]) for name in names)
    return found


def _name_and_options(name: str) -> tuple[str, Options]:
    if "?" not in name or "=" not in name.rpartition("?")[2] or not is_url(name) and Path(name).exists():
        return name, Options()
    text, _, options = name.rpartition("?")
    return text, Options.parse(options, text)


def _check_options(options: Options, kind: str, known: tuple[str, ...], where: str) -> None:
    """Raise ValueError for an option that would do nothing."""
    if without := [name for name in options.given if name not in known]:
        there = f"only {', '.join(known)}" if known else "none"
        raise ValueError(f"{where}: no option {without[0]!r} behind the ? for {kind}; there is {there}")


def _brought(text: str) -> Path:
    """The path of a source; of a URL what stands for it, with the names of its files."""
    if not is_url(text):
        return Path(text)
    names = (MANIFEST, ".jsonl", ".jsonl.gz", *(ending for kind in KINDS for ending in kind.endings))
    top = text.partition("*")[0].rpartition("/")[0] if glob.has_magic(text) else text
    bring(top, wanted=lambda name: name.endswith(names) or not name)
    return as_path(text)


def _files(place: Path) -> tuple[Kind | None, list[Path]]:
    """The files of a source and their kind; None for a manifest, or for what is not there."""
    endings = tuple(ending for kind in KINDS for ending in kind.endings)
    if place.is_dir():
        found, problems = find_files(place, endings)
        if problems:
            raise ValueError(f"{problems[0][0]}: {problems[0][1]}")
        found = [path for path in found if not _is_cache_of_datasets(path)]
    elif glob.has_magic(str(place)) and not place.exists():
        found = sorted(map(Path, glob.glob(str(place), recursive=True)))
        if not found:
            raise ValueError(f"{place}: no file has such a name")
    else:
        found = [place] if place.is_file() else []
    kinds = {kind.name: kind for path in found for kind in KINDS if path.suffix.lower() in kind.endings}
    if len(kinds) > 1:
        raise ValueError(f"{place}: holds {' and '.join(kinds)} files; name one kind, such as {place}/*{endings[0]}")
    if not kinds:
        return None, found
    kind = next(iter(kinds.values()))
    if wrong := [path for path in found if path.suffix.lower() not in kind.endings]:
        raise ValueError(f"{wrong[0]}: not a {kind.name} file ({', '.join(kind.endings)})")
    recordings = [path for path in found if path.name.startswith("recording.")]
    if kind.endings == tars.ENDINGS and any(list(path.parent.glob("cuts.*.jsonl.gz")) for path in recordings[:1]):
        return SHAR, recordings
    return kind, found


def _is_cache_of_datasets(path: Path) -> bool:
    """What `datasets` keeps beside the tables of a data set when it maps a function over it."""
    return path.match("cache-*.arrow") and (path.parent / "dataset_info.json").is_file()


def _common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that all files are below."""
    folder = files[0].parent
    while not all(path.is_relative_to(folder) for path in files):
        folder = folder.parent
    return folder


def _indexed(files: Sequence[Path], root: Path, options: Options, kind: Kind | None, named: str) -> ClipTable:
    """The index of a source, from the cache or made now; one process makes it, others wait."""
    looked_at = [*files, *(cuts for path in files if kind is SHAR and (cuts := tars.cuts_of(path)).is_file())]
    states = [(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in looked_at]
    reader = [VERSION, kind.name if kind else "jsonl", sorted(options.columns.items()), options.ids_by_file]
    key = digest(json.dumps([reader, shown(root.resolve()), states]), size=16)
    path = cache_folder("sources") / f"{key}.arrow"
    lock = None
    while not path.is_file() and lock is None:
        lock = lock_file(path.with_suffix(".lock"))
        if lock is None:
            time.sleep(0.2)
    try:
        lasting = path.is_file() or _write_index(path, files, root, options, kind, named)
        table = ClipTable.open(path, str(root))
        if not lasting:
            path.unlink()  # it stays mapped here
    finally:
        if lock is not None:
            lock.close()
    return table


def _write_index(
    path: Path, files: Sequence[Path], root: Path, options: Options, kind: Kind | None, named: str
) -> bool:
    """Write the index; whether it says nothing of files outside of the source that may be put right tomorrow."""
    outside: list[str] = []
    started = time.monotonic()
    if kind is None or len(files) > 1:
        print(f"{named}: reading it once, for an index of its clips", file=sys.stderr)

    def clips() -> Iterator[Clip]:
        for one in files:
            file = SourceFile(one, root, options)
            for clip in read_jsonl(one) if kind is None else kind.read(file):
                if clip.problem and clip.audio != file.relative:
                    outside.append(clip.id)
                yield clip

    try:
        number = write_clips(path, clips())
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(root)) else f"{named}: {error}") from error
    if not number:
        path.unlink()
        raise ValueError(f"{named}: no clips in {len(files)} {kind.name if kind else 'manifest'} files")
    if kind is None or len(files) > 1:
        print(f"{named}: {number} clips, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return not outside


def _is_index(path: Path) -> bool:
    table = open_table(path)
    return not isinstance(table, list) and is_of_clips(table.schema)


def _has_pyarrow() -> bool:
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None
