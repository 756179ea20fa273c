"""Token shards: the tokens of a corpus in few files, a row per clip, as Arrow or as Parquet.

    with TokenShardWriter("tokens/", provenance, format="parquet") as shards:
        shards.add(TokenRow(codes_CQT, 16000, id="a"))
    provenance, rows = open_token_shards("tokens/")      # rows is an iterator
    for row in read_token_shards("tokens/"): row.id, row.codes, row.text

Columns: id, text, speaker, language, codes (list of C * Q lists of T codes), channels (C), num_samples, duration
(seconds), original_sample_rate, original_num_samples, original_channels; the schema's metadata is that of token files.
Readers take either format. Shapes: C coded channels, Q codebooks, T frames. Needs pyarrow (the `datasets` extra), no
torch, no transformers. Test: tests/io/test_token_shards.py.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from llmcodec.io.atomic import AnyPath, atomic_path, find_left_overs
from llmcodec.io.known_rows import KnownRows, said_number
from llmcodec.io.remote.paths import as_path, bring, fetch, publish, url_of
from llmcodec.io.token_file import (
    CLIP_FACTS,
    MAX_SAMPLES,
    TokenClip,
    TokenProvenance,
    checked_facts,
    code_dtype,
    difference_of_search,
    number_in,
)

try:
    import fcntl
except ImportError:  # Windows: nobody guards the folder there
    fcntl = None  # type: ignore[assignment]

ShardFormat = Literal["arrow", "parquet"]
SHARD_ENDINGS = (".arrow", ".parquet")
ADDED = (1 << 31) - 1  # in the place of a shard's number: a row of this run
ROWS_PER_BATCH = 64  # of Parquet that are unpacked at once
MOST_PER_BYTE = 4096  # bytes that a byte of a Parquet file may claim to unpack to; tokens and transcripts reach a few


@dataclass(frozen=True)
class TokenRow(TokenClip):
    """One clip of a corpus: a row of a shard."""

    id: str = ""
    """Unique in its corpus."""
    text: str = ""
    """Transcript, empty where unknown."""
    speaker: str = ""
    language: str = ""


class DamagedShard(ValueError):
    """A shard, or what is left of one, that cannot be read."""


@dataclass(frozen=True)
class Origin:
    """Where a row stands, and what it was made of."""

    shard: Path
    made_ns: int
    """When the shard was written."""
    sample_rate: int
    """Of the file that was encoded; 0: unknown."""
    num_samples: int
    """Frames of that file; 0: unknown."""


class TokenShardWriter:
    """Writes the rows of a corpus as `shard-00000.arrow`, ... in a folder; every shard is written whole or not at all.

    Leaving the `with` block writes what is pending, also for Ctrl-C or an error, but for an OSError (a full disk).

    Args:
        folder: made where it does not exist.
        provenance: of the codec; stands in every shard's schema metadata.
        resume: go on after the shards that are there, whose rows are in `done`; else they are an error.
        clips_per_shard: rows of a shard; what is not yet in a shard is lost when the process is killed.
        format: of the shards that are added; those that are there may be of either.

    Raises:
        ValueError: pyarrow is missing, another writer has the folder, shards are there and `resume` is not set, or
            they are of another codec. A damaged one is renamed and named in `damaged`.
    """

    def __init__(
        self,
        folder: AnyPath,
        provenance: TokenProvenance,
        *,
        resume: bool = False,
        clips_per_shard: int = 1000,
        format: ShardFormat = "arrow",
    ) -> None:
        import_pyarrow()
        self.folder, self.provenance = as_path(folder), provenance
        self.clips_per_shard, self.format, self.done = clips_per_shard, format, KnownRows()
        self._before: list[tuple[Path, int]] = []  # shards that were there, and when each was written
        self.damaged: list[str] = []
        """A line on every shard that could not be read: it was renamed, so that its rows are made again."""
        self.coded: dict[str, str] = {}  # how recordings of several channels were, `split` or `mix`: the id of one
        self._rows, self._made_folder = list[TokenRow](), not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undone:
            self._unlock = weakref.finalize(self, os.close, _locked(self.folder)) if fcntl else lambda: None
            undone.callback(self._close)
            existing = shards_in(self.folder)
            if existing and not resume:
                raise ValueError(f"{folder}: holds token shards already; resume, or choose another folder")
            for path in existing:
                self._take_over(path)
            undone.pop_all()
        numbers = (re.fullmatch(r"shard-([0-9]{1,18})", path.stem) for path in existing)  # not those of shard-old.arrow
        self._next = 1 + max((int(number[1]) for number in numbers if number), default=-1)

    def _take_over(self, path: Path) -> None:
        """Know the rows of a shard; one that is damaged is put aside."""
        try:
            ours, (theirs, rows) = self.provenance, open_token_shards(path)
            if theirs.weights_sha256 != ours.weights_sha256:
                raise ValueError(f"{path}: made by another codec ({theirs.codec!r}); choose another folder")
            if difference := ours.difference_of_sizes(theirs) or difference_of_search(ours.codec, theirs.codec):
                raise ValueError(f"{path}: {difference}; choose another folder")
            found = {}
            for row in rows:
                said = said_number(row.text, row.speaker, row.language)
                found[row.id] = (said, row.original_sample_rate, row.original_num_samples)
                if row.original_channels > 1:
                    self.coded["split" if len(row.codes) > 1 else "mix"] = row.id
        except DamagedShard as error:
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(fetch(path), aside)
            publish(self.folder)
            self.damaged.append(f"{error}; it is called {aside.name} now, and its clips are made again")
            return
        number = len(self._before)
        self._before.append((path, path.stat().st_mtime_ns))
        for name, (said, sample_rate, num_samples) in found.items():
            if other := self.origin(name):
                raise ValueError(f"{path}: the clip {name!r} is in {other.shard.name} too; delete one")
            self.done.add(name, said, number, sample_rate, num_samples)

    def origin(self, name: str) -> Origin | None:
        """Of a row that was there before; None for others."""
        facts = self.done.facts(name)
        if facts is None or facts.shard == ADDED:
            return None
        return Origin(*self._before[facts.shard], facts.sample_rate, facts.num_samples)

    def drop(self, ids: Collection[str]) -> None:
        """Take rows that were there before out of their shards, so that they can be added again."""
        for path in sorted({origin.shard for name in ids if (origin := self.origin(name))}):
            provenance, rows = open_token_shards(path)
            left = [row for row in rows if row.id not in ids]
            if left:
                self.write(path, left, provenance, path.stat().st_mtime_ns)
            else:
                path.unlink()
                publish(self.folder)
        self.done.drop(ids)

    def add(self, row: TokenRow) -> None:
        """Take one row; a full shard is written. Raises ValueError for an id twice, or what readers would refuse."""
        if row.id in self.done:
            raise ValueError(f"{self.folder}: two clips have the id {row.id!r}")
        if row.codes.ndim != 3:
            raise ValueError(f"{row.id}: codes are (channels, codebooks, frames), not {row.codes.shape}")
        self.provenance.check_codes(row.codes, row.id)
        facts = {name: str(getattr(row, name)) for name in CLIP_FACTS}
        checked_facts(row.id, self.provenance.metadata() | facts, {"codes": row.codes.shape})
        for name in _TEXTS:
            try:
                getattr(row, name).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{row.id!r}: its {name} is no text that can be written ({error.reason})") from error
        self.done.add(row.id, said_number(row.text, row.speaker, row.language), ADDED)
        self._rows.append(row)
        if len(self._rows) >= self.clips_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard of its own."""
        if not self._rows:
            return
        self.write(self.folder / f"shard-{self._next:05d}.{self.format}", self._rows, self.provenance)
        self._rows = []  # only now: what could not be written is still to be written
        self._next += 1

    @staticmethod
    def write(path: Path, rows: Sequence[TokenRow], provenance: TokenProvenance, made_ns: int | None = None) -> None:
        """One shard, whole or not at all; its ending says in which format, `made_ns` when its rows were made."""
        pa, dtype = import_pyarrow(), code_dtype(provenance.codebook_size)
        flat = [row.codes.astype(dtype).reshape(-1, row.codes.shape[2]) for row in rows]
        lines = np.concatenate([np.full(len(codes), codes.shape[1]) for codes in flat])
        inner = pa.ListArray.from_arrays(_offsets(lines), pa.array(np.concatenate([codes.ravel() for codes in flat])))
        columns = {
            **{name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in _TEXTS},
            "codes": pa.ListArray.from_arrays(_offsets([len(codes) for codes in flat]), inner),
            "channels": pa.array([row.codes.shape[0] for row in rows], pa.int32()),
            "duration": pa.array([row.num_samples / provenance.sample_rate for row in rows], pa.float64()),
            **{name: pa.array([getattr(row, name) for row in rows], pa.int64()) for name in CLIP_FACTS},
        }
        table = pa.table(columns).replace_schema_metadata(provenance.metadata())
        with atomic_path(path, durable=True) as temporary:
            with open(temporary, "wb") as file:
                if path.suffix.lower() == ".parquet":
                    pa.parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
                else:
                    with pa.ipc.new_file(file, table.schema) as writer:
                        writer.write_table(table)
            if made_ns is not None and url_of(path) is None:  # by its time a store knows what is to be uploaded
                os.utime(temporary, ns=(made_ns, made_ns))

    def __enter__(self) -> TokenShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None or not issubclass(kind, OSError):  # a disk that was full would be full again
                self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        """Give the folder back; one that was made for nothing goes."""
        if self._made_folder:
            with suppress(OSError):
                self.folder.rmdir()
        self._unlock()


def open_token_shards(path: AnyPath) -> tuple[TokenProvenance, Iterator[TokenRow]]:
    """Provenance and rows of a shard or of a folder of shards, in order; shards of two codecs are an error.

    Raises:
        ValueError: no shards there, damaged, or not of one codec. Errors in later shards come while iterating.
    """
    place = bring(path)
    shards = shards_in(place, "*") if place.is_dir() else [place]
    if not shards:
        raise ValueError(f"{path}: no token shards (*{', *'.join(SHARD_ENDINGS)}) in this folder")
    provenance = open_shard(shards[0])[1]

    def rows() -> Iterator[TokenRow]:
        for shard in shards:
            batches, theirs = open_shard(shard)
            if dataclasses.replace(theirs, codec="", manifest_hash="") != dataclasses.replace(
                provenance, codec="", manifest_hash=""
            ):
                raise ValueError(f"{shard}: made by another codec than {shards[0].name}")
            yield from checked_rows(shard, batches, provenance)

    return provenance, rows()


def read_token_shards(path: AnyPath) -> Iterator[TokenRow]:
    """Rows of a shard or of a folder of shards, in order. Raises ValueError as `open_token_shards`."""
    yield from open_token_shards(path)[1]


def shards_in(folder: Path, pattern: str = "shard-*") -> list[Path]:
    """Shards of either format in a folder, in order."""
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in SHARD_ENDINGS)


_TEXTS = ("id", "text", "speaker", "language")


def _locked(folder: Path) -> int:
    """The folder as an open file that is this writer's alone until it is closed, by a kill as well.

    What a killed writer has left goes.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for killed in find_left_overs(folder):
            killed.unlink()
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(place)
            raise ValueError(f"{folder}: another run writes shards there; wait for it or name another folder") from None
        # A network file system that knows no locks: go on without.
    return place


def import_pyarrow() -> Any:
    """pyarrow, an optional package; commands that will write shards ask for it before they open a codec."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError("token shards need pyarrow: pip install 'llmcodec[datasets]'") from error
    return pyarrow


def in_a_line(error: Exception) -> str:
    """The beginning of a message of pyarrow's, without line breaks."""
    return " ".join(str(error).split())[:120]


def _offsets(counts: Any) -> Any:
    return import_pyarrow().array(np.concatenate([[0], np.cumsum(counts)]), import_pyarrow().int32())


def open_shard(path: Path) -> tuple[Iterator[Any], TokenProvenance]:
    """Record batches, read as they are asked for, and provenance."""
    pa, path = import_pyarrow(), fetch(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such token shard")
    try:
        if path.suffix.lower() == ".parquet":
            file = pa.parquet.ParquetFile(path, page_checksum_verification=True)
            _check_claims(path, file.metadata)
            schema, batches = file.schema_arrow, file.iter_batches(ROWS_PER_BATCH, use_threads=False)
        else:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            schema, batches = reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedShard(f"{path}: not a {path.suffix[1:].title()} file, or damaged ({in_a_line(error)})") from error
    provenance = TokenProvenance.from_metadata(metadata, path)
    missing = {*_TEXTS, "codes", "channels", *CLIP_FACTS} - set(schema.names)
    if missing:
        raise ValueError(f"{path}: not a token shard of llmcodec, no column {', '.join(sorted(missing))}")
    kind = schema.field("codes").type
    if not (
        pa.types.is_list(kind) and pa.types.is_list(kind.value_type) and pa.types.is_integer(kind.value_type.value_type)
    ):
        raise ValueError(f"{path}: not a token shard of llmcodec, codes are {kind} instead of lists of lists of codes")
    return batches, provenance


def _check_claims(path: Path, metadata: Any) -> None:
    """Refuse a Parquet file that claims to unpack to far more than any tokens do, before memory is taken."""
    size = path.stat().st_size
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        # Not its columns: pyarrow 26 aborts the process where one of their descriptions is damaged.
        claimed = max(group.num_rows, group.total_byte_size)
        if claimed > MOST_PER_BYTE * size:
            raise DamagedShard(f"{path}: {claimed} rows or bytes claimed by a file of {size} bytes")


def checked_rows(path: Path, batches: Iterator[Any], provenance: TokenProvenance) -> Iterator[TokenRow]:
    """Rows of a shard. Raises DamagedShard for what no codec writes."""
    try:
        yield from _rows_of(path, batches, provenance)
    except DamagedShard:
        raise
    except ValueError as error:
        raise DamagedShard(str(error)) from error


def _rows_of(path: Path, batches: Iterator[Any], provenance: TokenProvenance) -> Iterator[TokenRow]:
    pa, metadata = import_pyarrow(), provenance.metadata()
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            batch.validate(full=True)
            rows = batch.drop_columns("codes").to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DamagedShard(f"{path}: damaged ({in_a_line(error)})") from error
        for row, lines in zip(rows, batch["codes"], strict=True):
            where = f"{path}, clip {row['id']!r}"
            if not lines.is_valid or not all(isinstance(row[name], str) for name in _TEXTS):
                raise ValueError(f"{where}: a field is empty")
            facts = {name: number_in({name: str(row[name])}, name, where, 0, MAX_SAMPLES) for name in CLIP_FACTS}
            channels = number_in({"channels": str(row["channels"])}, "channels", where, 1, 1 << 16)
            lengths = set(lines.values.value_lengths().to_pylist())
            if len(lengths) != 1 or len(lines.values) % channels or None in lengths:
                raise ValueError(f"{where}: its lists of codes do not fit {channels} channels of equal length")
            codes = lines.values.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
            codes_CQT = codes.reshape(channels, -1, lengths.pop())
            provenance.check_codes(codes_CQT, where)
            checked_facts(
                where, {**metadata, **{name: str(value) for name, value in facts.items()}}, {"codes": codes_CQT.shape}
            )
            fields: dict[str, Any] = facts | {name: row[name] for name in _TEXTS}
            yield TokenRow(codes_CQT, **fields)
