"""Token files: what encoding writes and decoding, language models and other programs read.

One clip: a safetensors file with the tensor `codes` (C, Q, T) and everything needed to decode it in the metadata.
A corpus: a folder of Arrow files (shards), one row per clip, the same facts in the schema's metadata.

    save_token_file("a.safetensors", TokenClip(codes_CQT, num_samples=16000), provenance)
    clip, provenance = load_token_file("a.safetensors")
    with TokenShardWriter("tokens/", provenance) as shards: shards.add(TokenRow(codes_CQT, 16000, id="a"))
    provenance, rows = open_token_shards("tokens/")      # rows is an iterator
    for row in read_token_shards("tokens/"): row.id, row.codes, row.text

Shapes: C coded channels (1 after a down-mix), Q codebooks, T frames. Sizes are checked before memory is taken, codes
against the codebook. Imports neither torch nor transformers; pyarrow (the `datasets` extra) where shards are used.
Test: tests/unit/data/test_tokens.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from ..tensorfile import atomic_file, read_arrays, read_header, write_arrays

AnyPath = str | os.PathLike[str]

FORMAT = "llmcodec-tokens-1"
MAX_FILE_BYTES = 1 << 32  # a day of 200 tokens a second is 35 MB: more than 4 GiB is no token file
MAX_SAMPLES = 1 << 48


@dataclass(frozen=True)
class TokenProvenance:
    """Which codec made the tokens. Decoding needs the codec with the same `weights_sha256`."""

    codec: str
    """Name for people: `bundled`, a hub id, a folder's name."""
    weights_sha256: str
    """Hash of the codec's weights, 64 hex digits (`coding.runtime.CodecIdentity`)."""
    sample_rate: int
    """Samples per second that the codec reads and writes."""
    hop_samples: int
    """Samples per frame."""
    num_codebooks: int
    """Q, tokens per frame."""
    codebook_size: int
    """V, codes in each codebook."""
    manifest_hash: str = ""
    """`data.manifest.manifest_hash` of the corpus, where there was one."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    def metadata(self) -> dict[str, str]:
        """As strings, for the header of a token file or shard."""
        fields = {field.name: str(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"format": FORMAT, "frame_rate": repr(self.frame_rate), **fields}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], where: object) -> TokenProvenance:
        """Read what `metadata` wrote. Raises ValueError naming `where` for a file that is not ours or is damaged."""
        if metadata.get("format") != FORMAT:
            found = f"its format is {metadata['format'][:40]!r}" if "format" in metadata else "it names no format"
            raise ValueError(f"{where}: not a token file of llmcodec ({found}; {FORMAT} is known)")
        sizes = {
            name: _number(metadata, name, where, low=1, high=1 << 31)
            for name in ("sample_rate", "hop_samples", "num_codebooks", "codebook_size")
        }
        sha = metadata.get("weights_sha256", "")
        if not re.fullmatch(r"[0-9a-f]{64}", sha):
            raise ValueError(f"{where}: weights_sha256 is not 64 hex digits")
        return cls(metadata.get("codec", ""), sha, manifest_hash=metadata.get("manifest_hash", ""), **sizes)

    def check_codes(self, codes: np.ndarray, where: object) -> None:
        """Raise ValueError where `codes` (..., Q, T) have another number of codebooks or leave the codebook."""
        if codes.ndim < 2 or codes.shape[-2] != self.num_codebooks:
            raise ValueError(f"{where}: codes of shape {codes.shape}, but the codec has {self.num_codebooks} codebooks")
        if codes.size == 0:
            raise ValueError(f"{where}: no tokens")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.codebook_size:
            raise ValueError(
                f"{where}: code {low if low < 0 else high} is outside [0, {self.codebook_size}) of codec {self.codec!r}"
            )


@dataclass(frozen=True)
class TokenClip:
    """The tokens of one recording and what the recording was."""

    codes: np.ndarray
    """(C, Q, T) int64; C = 1 after a down-mix, else one per channel."""
    num_samples: int
    """Length at the codec's sample rate."""
    original_sample_rate: int = 0
    """Of the file that was encoded; 0: the codec's own."""
    original_num_samples: int = 0
    """Frames of the file that was encoded; 0: unknown."""
    original_channels: int = 1
    """Channels of the file that was encoded, also where they were mixed down."""


@dataclass(frozen=True)
class TokenRow(TokenClip):
    """One clip of a corpus: a row of a shard."""

    id: str = ""
    """Unique in its corpus."""
    text: str = ""
    """Transcript, empty where unknown."""
    speaker: str = ""
    language: str = ""


def code_dtype(codebook_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and int32 that holds every code."""
    return np.dtype(np.uint16 if codebook_size <= 1 << 16 else np.int32)


def save_token_file(path: AnyPath, clip: TokenClip, provenance: TokenProvenance, durable: bool = True) -> None:
    """Write one clip as safetensors, atomically; `durable` waits for the disk (`tensorfile.atomic_file`).

    Raises:
        ValueError: codes that do not fit the provenance.
    """
    if clip.codes.ndim != 3:
        raise ValueError(f"{path}: codes are (channels, codebooks, frames), not {clip.codes.shape}")
    provenance.check_codes(clip.codes, path)
    facts = {name: str(getattr(clip, name)) for name in _CLIP_FACTS}
    codes = clip.codes.astype(code_dtype(provenance.codebook_size))
    write_arrays(path, {"codes": codes}, provenance.metadata() | facts, durable)


def load_token_file(path: AnyPath) -> tuple[TokenClip, TokenProvenance]:
    """Read what `save_token_file` wrote.

    Raises:
        ValueError: not a token file, sizes that do not add up, a code outside the codebook. One line, naming the file.
    """
    arrays, metadata = read_arrays(path, MAX_FILE_BYTES)
    shapes = {name: array.shape for name, array in arrays.items()}
    facts, provenance = _facts(path, metadata, shapes)
    codes = arrays["codes"]
    if codes.dtype.kind not in "ui" or codes.dtype == np.uint64:
        raise ValueError(f"{path}: codes are {codes.dtype}, which no codec writes")
    provenance.check_codes(codes, path)
    return TokenClip(codes.astype(np.int64), **facts), provenance


def read_token_facts(path: AnyPath) -> tuple[dict[str, int], TokenProvenance]:
    """What the header of a token file says, no codes read: the fields of `TokenClip` and `channels`, the provenance.

    Raises ValueError as `load_token_file`, but for the codes themselves.
    """
    header = read_header(path, max_header_bytes=1 << 20)
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    facts, provenance = _facts(path, header.metadata, shapes)
    return {**facts, "channels": shapes["codes"][0]}, provenance


def _facts(
    path: AnyPath, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, int], TokenProvenance]:
    """Checked facts of a token file: what they claim fits the number of frames."""
    provenance = TokenProvenance.from_metadata(metadata, path)
    facts = {name: _number(metadata, name, path, low=low, high=MAX_SAMPLES) for name, low in _CLIP_FACTS.items()}
    shape = shapes.get("codes", ())
    if len(shapes) != 1 or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{path}: not a token file of llmcodec (one tensor `codes` of shape (C, Q, T) is expected)")
    most = (shape[2] + 1) * provenance.hop_samples
    if facts["num_samples"] > most:
        raise ValueError(f"{path}: {facts['num_samples']} samples claimed, {shape[2]} frames cover at most {most}")
    rate, original = facts["original_sample_rate"], facts["original_num_samples"]
    if rate and not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"{path}: an original sample rate of {rate} Hz cannot be right")
    drift = original * provenance.sample_rate - facts["num_samples"] * rate
    if rate and original and abs(drift) > 2 * max(rate, provenance.sample_rate):
        raise ValueError(f"{path}: {original} original samples at {rate} Hz are not its {facts['num_samples']} samples")
    return facts, provenance


_CLIP_FACTS = {"num_samples": 1, "original_sample_rate": 0, "original_num_samples": 0, "original_channels": 1}


def _number(metadata: dict[str, str], name: str, where: object, low: int, high: int) -> int:
    text = metadata.get(name, "")
    if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
        raise ValueError(f"{where}: {name} in its metadata is {text[:40]!r}, not a number from {low} to {high}")
    return int(text)


# -- shards ------------------------------------------------------------------------------------------------------------
class TokenShardWriter:
    """Writes the rows of a corpus as `shard-00000.arrow`, ... in a folder; every shard is written whole or not at all.

    Columns: id, text, speaker, language, codes (list of C * Q lists of T codes), channels (C), num_samples, duration
    (seconds), original_sample_rate, original_num_samples, original_channels.

    Args:
        folder: made where it does not exist.
        provenance: of the codec; stands in every shard's schema metadata.
        resume: go on behind the shards that are there, whose ids are in `done`; else they are an error.
        clips_per_shard: rows of a shard; what is not yet in a shard is lost when the process is killed.

    Raises:
        ValueError: pyarrow is missing, shards are there and `resume` is not set, or they are of another codec.
    """

    def __init__(
        self, folder: AnyPath, provenance: TokenProvenance, *, resume: bool = False, clips_per_shard: int = 1000
    ) -> None:
        _pyarrow()
        self.folder, self.provenance, self.clips_per_shard = Path(folder), provenance, clips_per_shard
        self.done: set[str] = set()
        self._rows: list[TokenRow] = []
        existing = sorted(self.folder.glob("shard-*.arrow"))
        if existing and not resume:
            raise ValueError(f"{folder}: holds token shards already; resume, or choose another folder")
        for path in existing:
            theirs, rows = open_token_shards(path)
            if theirs.weights_sha256 != provenance.weights_sha256:
                raise ValueError(f"{path}: made by another codec ({theirs.codec!r}); choose another folder")
            self.done.update(row.id for row in rows)
        self._next = 1 + max((int(path.stem.rpartition("-")[2]) for path in existing), default=-1)

    def add(self, row: TokenRow) -> None:
        """Take one row; a full shard is written. Raises ValueError for a second row of the same id, or bad codes."""
        if row.id in self.done:
            raise ValueError(f"{self.folder}: two clips have the id {row.id!r}")
        if row.codes.ndim != 3:
            raise ValueError(f"{row.id}: codes are (channels, codebooks, frames), not {row.codes.shape}")
        self.provenance.check_codes(row.codes, row.id)
        self.done.add(row.id)
        self._rows.append(row)
        if len(self._rows) >= self.clips_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard of its own."""
        if not self._rows:
            return
        pa = _pyarrow()
        rows, self._rows = self._rows, []
        dtype = code_dtype(self.provenance.codebook_size)
        flat = [row.codes.astype(dtype).reshape(-1, row.codes.shape[2]) for row in rows]
        lines = np.concatenate([np.full(len(codes), codes.shape[1]) for codes in flat])
        inner = pa.ListArray.from_arrays(_offsets(lines), pa.array(np.concatenate([codes.ravel() for codes in flat])))
        columns = {
            **{name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in _TEXTS},
            "codes": pa.ListArray.from_arrays(_offsets([len(codes) for codes in flat]), inner),
            "channels": pa.array([row.codes.shape[0] for row in rows], pa.int32()),
            "duration": pa.array([row.num_samples / self.provenance.sample_rate for row in rows], pa.float64()),
            **{name: pa.array([getattr(row, name) for row in rows], pa.int64()) for name in _CLIP_FACTS},
        }
        table = pa.table(columns).replace_schema_metadata(self.provenance.metadata())
        path = self.folder / f"shard-{self._next:05d}.arrow"
        with atomic_file(path) as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        self._next += 1

    def __enter__(self) -> TokenShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.flush()


def open_token_shards(path: AnyPath) -> tuple[TokenProvenance, Iterator[TokenRow]]:
    """Provenance and rows of a shard or of a folder of shards, in order; shards of two codecs are an error.

    Raises:
        ValueError: no shards there, damaged, or not of one codec. Errors in later shards come while iterating.
    """
    place = Path(path)
    shards = sorted(place.glob("*.arrow")) if place.is_dir() else [place]
    if not shards:
        raise ValueError(f"{path}: no token shards (*.arrow) in this folder")
    provenance = _open_shard(shards[0])[1]

    def rows() -> Iterator[TokenRow]:
        for shard in shards:
            reader, theirs = _open_shard(shard)
            if dataclasses.replace(theirs, codec="", manifest_hash="") != dataclasses.replace(
                provenance, codec="", manifest_hash=""
            ):
                raise ValueError(f"{shard}: made by another codec than {shards[0].name}")
            yield from _shard_rows(shard, reader, provenance)

    return provenance, rows()


def read_token_shards(path: AnyPath) -> Iterator[TokenRow]:
    """Rows of a shard or of a folder of shards, in order. Raises ValueError as `open_token_shards`."""
    yield from open_token_shards(path)[1]


_TEXTS = ("id", "text", "speaker", "language")


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise ValueError("Arrow shards need pyarrow: pip install 'llmcodec[datasets]'") from error
    return pyarrow


def _offsets(counts: Any) -> Any:
    return _pyarrow().array(np.concatenate([[0], np.cumsum(counts)]), _pyarrow().int32())


def _open_shard(path: Path) -> tuple[Any, TokenProvenance]:
    pa = _pyarrow()
    if not path.is_file():
        raise ValueError(f"{path}: no such token shard")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not an Arrow file, or damaged ({str(error)[:120]})") from error
    provenance = TokenProvenance.from_metadata(metadata, path)
    missing = {*_TEXTS, "codes", "channels", *_CLIP_FACTS} - set(reader.schema.names)
    if missing:
        raise ValueError(f"{path}: not a token shard of llmcodec, no column {', '.join(sorted(missing))}")
    kind = reader.schema.field("codes").type
    if not (
        pa.types.is_list(kind) and pa.types.is_list(kind.value_type) and pa.types.is_integer(kind.value_type.value_type)
    ):
        raise ValueError(f"{path}: not a token shard of llmcodec, codes are {kind} instead of lists of lists of codes")
    return reader, provenance


def _shard_rows(path: Path, reader: Any, provenance: TokenProvenance) -> Iterator[TokenRow]:
    pa, metadata = _pyarrow(), provenance.metadata()
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number)
            batch.validate(full=True)
            rows = batch.drop_columns("codes").to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: damaged ({str(error)[:120]})") from error
        for row, lines in zip(rows, batch["codes"], strict=True):
            where = f"{path}, clip {row['id']!r}"
            if not lines.is_valid or not all(isinstance(row[name], str) for name in _TEXTS):
                raise ValueError(f"{where}: a field is empty")
            facts = {name: _number({name: str(row[name])}, name, where, 0, MAX_SAMPLES) for name in _CLIP_FACTS}
            channels = _number({"channels": str(row["channels"])}, "channels", where, 1, 1 << 16)
            lengths = set(lines.values.value_lengths().to_pylist())
            if len(lengths) != 1 or len(lines.values) % channels or None in lengths:
                raise ValueError(f"{where}: its lists of codes do not fit {channels} channels of equal length")
            codes = lines.values.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
            codes_CQT = codes.reshape(channels, -1, lengths.pop())
            provenance.check_codes(codes_CQT, where)
            _facts(
                where, {**metadata, **{name: str(value) for name, value in facts.items()}}, {"codes": codes_CQT.shape}
            )
            fields: dict[str, Any] = facts | {name: row[name] for name in _TEXTS}
            yield TokenRow(codes_CQT, **fields)
