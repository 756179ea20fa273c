"""Audio that lies with others in one file: bytes of a tar, or a cell of a Parquet or Arrow table.

    place = Member(Path("shards/000.tar"), "1536+20480", "1034-121119-0000")
    place = Member(Path("train.parquet"), "3/17/audio", "row 317")     # row group 3, row 17, column audio
    samples, rate = llmcodec.io.audio.read(place)

A mark before the place (`0c4e91d7:3/17/audio`, as indices write it) tells whether the same audio still stands there: of
a tar the member's name, of a table the whole file, whose rows may have been sorted or filtered.
`io.audio` reads a `Member` as it reads a path. Row groups of Parquet that were read last stay in memory, Arrow files
are mapped. Imports no torch; tables need pyarrow. Test: tests/data/test_sources.py.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcodec.io.digests import digest, digest_all
from llmcodec.io.remote.paths import fetch, open_file, url_of

BLOCK = 512
"""Bytes of the header before every member of a tar."""
GROUPS_KEPT = 16
"""Row groups of Parquet in memory: training shuffles clips within half as many at a time."""
FILES_KEPT = 256
"""Arrow files that stay mapped."""
MARKED_PIECES = (4096, 4096, 4096, 65536)
"""Bytes of a table that its mark is made of, evenly spread; the last are its end, where Parquet lists its columns."""
MARKS_KEPT = 1 << 16
_MARK = re.compile("([0-9a-f]{8}):")
_BYTES = re.compile(rf"(?:{_MARK.pattern})?(\d{{1,18}})\+(\d{{1,18}})")
_CELL = re.compile(rf"(?:{_MARK.pattern})?(\d{{1,9}})/(\d{{1,9}})/([^\0]+)")


@dataclass(frozen=True)
class Member:
    """One recording inside a file of many; where code wants the state of its file, it has a path's methods."""

    file: Path
    """The tar, Parquet or Arrow file."""
    inside: str
    """`FIRST_BYTE+BYTES` of a tar, `GROUP/ROW/COLUMN` of a table; with or without a mark."""
    name: str
    """Of the recording, for messages."""

    def __str__(self) -> str:
        return f"{self.file}[{self.name}]"

    def __fspath__(self) -> str:
        """A name that no file has, for comparisons of paths."""
        return str(self)

    def content(self) -> bytes:
        """The recording as the bytes of an audio file.

        Raises:
            ValueError: the file is not there, damaged, or another than when `inside` was written.
        """
        try:
            return self._from_tar(found) if (found := _BYTES.fullmatch(self.inside)) else self._from_table()
        except OSError as error:
            raise ValueError(f"{self}: {error.strerror or in_a_line(error)}") from error

    def exists(self) -> bool:
        return self.file.exists()

    def is_file(self) -> bool:
        return self.file.is_file()

    def stat(self) -> os.stat_result:
        """State of the file around it."""
        return self.file.stat()

    def resolve(self) -> Member:
        return Member(self.file.resolve(), self.inside, self.name)

    def _from_tar(self, found: re.Match[str]) -> bytes:
        mark, start, size = found[1], int(found[2]), int(found[3])
        found_bytes = read_range(self.file, max(0, start - BLOCK), BLOCK + size)
        header, content = found_bytes[:BLOCK], found_bytes[BLOCK:]
        try:
            claimed = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except tarfile.TarError as error:
            raise ValueError(f"{self}: no member of the tar begins at byte {start} ({error}); {_REMAKE}") from error
        if claimed != size:
            raise ValueError(f"{self}: the tar has {claimed} bytes there, not {size}; {_REMAKE}")
        if mark and mark != header_mark(header):
            raise ValueError(f"{self}: another member of the tar is there; {_REMAKE}")
        if len(content) < size:
            raise ValueError(f"{self}: the tar ends after {len(content)} of its {size} bytes")
        return content

    def _from_table(self) -> bytes:
        found = _CELL.fullmatch(self.inside)
        if found is None:
            raise ValueError(f"{self}: {self.inside!r} is no place in a file")
        mark, group, row, column = found[1], int(found[2]), int(found[3]), found[4]
        if mark and mark != table_mark(self.file):
            raise ValueError(f"{self}: its rows may be others than when its manifest was made; {_REMAKE}")
        cells = read_group(self.file, group, (column,)).column(column)
        if row >= len(cells):
            raise ValueError(f"{self}: group {group} has {len(cells)} rows, not {row + 1}; {_REMAKE}")
        content = audio_bytes(cells[row].as_py())
        if content is None:
            raise ValueError(f"{self}: no audio in this row")
        return content


AudioPath = Path | Member
"""What a clip's audio may be."""
_REMAKE = "if the file has changed, make its manifest again"


def without_mark(inside: str) -> str:
    """The place alone."""
    return _MARK.sub("", inside, count=1) if _MARK.match(inside) else inside


def check_inside(inside: str, where: str) -> None:
    """Raise ValueError, which begins with `where`, for what is no place in a file of many clips."""
    if not _BYTES.fullmatch(inside) and not _CELL.fullmatch(inside):
        raise ValueError(
            f"{where}: inside is FIRST_BYTE+BYTES of a tar or GROUP/ROW/COLUMN of a table, not {inside[:80]!r}"
        )


def audio_bytes(cell: Any) -> bytes | None:
    """The bytes of a cell: binary, or a struct with `bytes`; None where it holds none."""
    value = cell.get("bytes") if isinstance(cell, dict) else cell
    return bytes(value) if isinstance(value, bytes) and value else None


def read_range(path: Path, start: int, size: int) -> bytes:
    """Bytes of a file, in one request where it stands for a URL; less than asked for at its end.

    Raises:
        OSError: it cannot be opened.
    """
    with open_file(path) as file:
        raw: Any = getattr(file, "raw", file)  # without the buffer, which would read megabytes of an object
        raw.seek(start)
        buffer = bytearray(max(0, min(size, path.stat().st_size - start)))
        return bytes(buffer[: raw.readinto(buffer)])


def pyarrow() -> Any:
    """The package. Raises ValueError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("Parquet and Arrow files need pyarrow: pip install 'llmcodec[datasets]'") from error
    return pyarrow


def in_a_line(error: Exception) -> str:
    """The beginning of a message of pyarrow's, without line breaks."""
    return " ".join(str(error).split())[:160]


def open_table(path: Path) -> Any:
    """A Parquet file, or the mapped record batches of an Arrow file (a list for one that is a stream).

    Raises:
        ValueError: no pyarrow, or not such a file.
    """
    pa = pyarrow()
    try:
        if path.suffix.lower() == ".parquet":
            source = path if url_of(path) is None else open_file(path)
            return pa.parquet.ParquetFile(source, page_checksum_verification=True)
        is_file = read_range(path, 0, 6) == b"ARROW1"
        mapped = pa.memory_map(str(fetch(path)))
        return pa.ipc.open_file(mapped) if is_file else list(pa.ipc.open_stream(mapped))
    except (pa.ArrowException, OSError) as error:
        reason = in_a_line(error)
        raise ValueError(f"{path}: not a {path.suffix[1:].title()} file, or damaged ({reason})") from error


class _Kept:
    """The last few results of slow reads; one thread makes what the others wait for."""

    def __init__(self, most: int) -> None:
        self._most, self._lock, self._kept = most, threading.Lock(), OrderedDict[Hashable, Any]()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._kept:
                value = make()
                while len(self._kept) >= self._most:
                    self._kept.popitem(last=False)
                self._kept[key] = value
            self._kept.move_to_end(key)
            return self._kept[key]


_files, _groups, _marks = _Kept(FILES_KEPT), _Kept(GROUPS_KEPT), _Kept(MARKS_KEPT)


def header_mark(header: bytes) -> str:
    """8 hex digits of the name in the header of a tar's member."""
    return digest(header[:100], header[345:500], size=4)


def table_mark(path: Path) -> str:
    """8 hex digits of the size of a table and pieces of it: others where rows came, went or changed places.

    Raises:
        OSError: it cannot be opened.
    """
    state = path.stat()

    def pieces() -> Iterator[bytes | str]:
        yield str(state.st_size)
        with open_file(path) as file:
            raw: Any = getattr(file, "raw", file)
            for number, size in enumerate(MARKED_PIECES, start=1):
                raw.seek(max(0, state.st_size * number // len(MARKED_PIECES) - size))
                buffer = bytearray(min(size, state.st_size))
                yield bytes(buffer[: raw.readinto(buffer)])

    mark: str = _marks.get((path, state.st_size, state.st_mtime_ns), lambda: digest_all(pieces(), size=4))
    return mark


def read_group(path: Path, group: int, columns: tuple[str, ...]) -> Any:
    """Columns of a row group of Parquet, or of a record batch of Arrow.

    Raises:
        ValueError: damaged, or no such group or column.
        OSError: the file cannot be opened.
    """
    pa = pyarrow()
    state = path.stat()
    file_key = (path, state.st_size, state.st_mtime_ns)
    table = _files.get(file_key, lambda: open_table(path))
    try:
        if isinstance(table, pa.parquet.ParquetFile):
            return _groups.get((*file_key, group, columns), lambda: table.read_row_group(group, list(columns)))
        batch = (table[group] if isinstance(table, list) else table.get_batch(group)).select(list(columns))
        batch.validate(full=True)  # offsets of a damaged file would lead out of its memory
        return pa.Table.from_batches([batch])
    except (pa.ArrowException, KeyError, IndexError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk or the network; pyarrow's own errors have no number
        raise ValueError(f"{path}: group {group} cannot be read ({in_a_line(error)})") from error
