"""Safetensors files whose header is checked before any memory is taken, written atomically.

    header = read_header("model.safetensors")                 # names, dtypes, shapes, metadata; nothing is loaded
    arrays, metadata = read_arrays("clip.safetensors", max_bytes=1 << 30)
    write_arrays("clip.safetensors", {"codes": codes}, {"codec": "bundled"})

The format (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON object
{name: {dtype, shape, data_offsets}}, then the tensors without holes. Equal content gives equal bytes here, which the
library does not promise for metadata.
Test: tests/io/test_tensor_file.py.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from llmcodec.io.atomic import AnyPath, atomic_file
from llmcodec.io.remote.paths import fetch
from llmcodec.io.structured import parse_json

MAX_HEADER_BYTES = 100_000_000  # the library's own limit
MAX_DIMENSIONS = 16
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
NUMPY_DTYPES = {"U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8"}
NUMPY_DTYPES |= {"I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_NAMES = {np.dtype(code): name for name, code in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header: dtype as safetensors names it, and where its bytes lie after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorHeader:
    """Header of a safetensors file, checked against the file's size."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int
    """Bytes before the first tensor."""

    @property
    def num_elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(entry.num_elements for entry in self.tensors.values())


def read_header(path: AnyPath, max_header_bytes: int = MAX_HEADER_BYTES) -> TensorHeader:
    """Header of a safetensors file; what it claims is exactly what the file holds.

    Raises:
        ValueError: missing, empty, a pickle, cut short, or a header that lies about sizes.
    """
    with _open(path) as file:
        return _header(path, file, max_header_bytes)


def read_arrays(path: AnyPath, max_bytes: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors as numpy arrays, and the metadata. Nothing is read where the file is larger than `max_bytes`.

    Raises ValueError as `read_header`, and for a dtype that numpy does not have (bfloat16).
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"{path}: {size} bytes, more than the {max_bytes} that such a file may have")
        header = _header(path, file, MAX_HEADER_BYTES)
        arrays = {}
        for name, entry in header.tensors.items():
            if entry.dtype not in NUMPY_DTYPES:
                raise ValueError(f"{path}: tensor {name!r} is {entry.dtype}, which is not expected here")
            file.seek(header.data_start + entry.start)
            data = file.read(entry.stop - entry.start)
            if len(data) != entry.stop - entry.start:
                raise ValueError(f"{path}: changed while it was read")
            arrays[name] = np.frombuffer(data, NUMPY_DTYPES[entry.dtype]).reshape(entry.shape)
    return arrays, header.metadata


def write_arrays(
    path: AnyPath, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], durable: bool = True
) -> None:
    """Write a safetensors file atomically; equal content gives equal bytes. `durable`: see `atomic_file`."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks, offset = [], 0
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # ascontiguousarray would give a number a dimension
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if little.dtype not in _NAMES:
            raise ValueError(f"{path}: cannot store {array.dtype}")
        stop = offset + little.nbytes
        header[name] = {"dtype": _NAMES[little.dtype], "shape": list(array.shape), "data_offsets": [offset, stop]}
        chunks.append(little.tobytes())
        offset = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path, durable) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(chunks)


def _open(path: AnyPath) -> IO[bytes]:
    place = fetch(path)
    if place.is_dir():
        raise ValueError(f"{path}: is a folder, not a safetensors file")
    if not place.exists():
        raise ValueError(f"{path}: no such file")
    if not place.is_file():
        raise ValueError(f"{path}: is not a regular file")
    return open(place, "rb")


def _header(path: AnyPath, file: IO[bytes], max_header_bytes: int) -> TensorHeader:
    """Read and check the header of an open file."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"{path}: only {size} bytes, not a safetensors file")
    length = int.from_bytes(start, "little")
    too_long = length > size - 8
    # A sound header of 640 bytes starts as a pickle does.
    if start.startswith(b"PK\x03\x04") or (too_long and start[0] == 0x80 and start[1] in range(2, 6)):
        raise ValueError(f"{path}: is a pickled PyTorch file, which could run code; only safetensors are read")
    if start.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")):
        raise ValueError(f"{path}: is audio, not tokens or weights; `llmcodec encode` makes tokens of it")
    if too_long:
        raise ValueError(f"{path}: not a safetensors file, or cut short: a header of {length} bytes in {size}")
    if length > max_header_bytes:
        raise ValueError(f"{path}: a header of {length} bytes, more than the {max_header_bytes} that are plausible")
    header = parse_json(file.read(length), f"{path}: the safetensors header", strict=True)
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: the safetensors metadata is not a map of strings")
    tensors = {name: _entry(path, name, row) for name, row in header.items()}
    reached = 0
    for entry in sorted(tensors.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != reached:
            raise ValueError(f"{path}: the tensors overlap or leave a hole at byte {reached} of the data")
        reached = entry.stop
    if reached != size - 8 - length:
        raise ValueError(
            f"{path}: cut short or not what its header says: {reached} bytes of tensors claimed, "
            f"{size - 8 - length} are there"
        )
    return TensorHeader(tensors, metadata, 8 + length)


def _entry(path: AnyPath, name: str, row: Any) -> TensorEntry:
    """One row of the header, its sizes consistent with each other."""
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{path}: header entry {name[:80]!r} is not {{dtype, shape, data_offsets}}")
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"{path}: tensor {name[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name[:80]!r} has an impossible shape or place")
    if math.prod(shape) * ITEM_BYTES[dtype] != offsets[1] - offsets[0]:
        raise ValueError(f"{path}: tensor {name[:80]!r} of shape {shape} does not fit its {offsets} bytes")
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(value: Any) -> bool:
    """A list of sizes: whole numbers from 0 up to what 64 bits hold."""
    return isinstance(value, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 1 << 63 for one in value
    )
