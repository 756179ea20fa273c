"""The numbers inside an ONNX file, read without onnx or ONNX Runtime: what an exported folder is checked by.

    for tensor in read_initializers("encoder.onnx"): tensor.name, tensor.shape

An ONNX file is one protobuf message (https://onnx.ai/onnx/repo-docs/IR.html). Only the fields that hold weights are
understood here; everything else in the file comes last, as bytes under the name `GRAPH`, so that a digest of it covers
nodes and attributes too. Test: tests/io/test_onnx_file.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmcodec.io.atomic import AnyPath
from llmcodec.io.tensor_file import ITEM_BYTES

GRAPH = "(graph)"
"""Name of what is not a weight. No tensor of ours has brackets in its name."""
MODEL_GRAPH, GRAPH_INITIALIZER, GRAPH_SPARSE = 7, 5, 15
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
TENSOR_ELSEWHERE, TENSOR_PLACE = 14, 13
SHARED = "model.safetensors"
"""The other file that graphs of ours may read weights from."""
TENSOR_LISTS = (4, 5, 6, 7, 10, 11)
"""Fields that hold the numbers where there are no raw bytes: floats, strings, integers of several kinds, doubles."""
DTYPES = {1: "F32", 2: "U8", 3: "I8", 4: "U16", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64"}
DTYPES |= {12: "U32", 13: "U64", 16: "BF16"}
"""ONNX's numbers of types, by the names that safetensors have for them."""
MAX_BYTES = 1 << 31
"""A protobuf message is never larger."""
Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class Initializer:
    """One tensor of weights."""

    name: str
    dtype: str
    """As safetensors names it; empty for a type that is not known there."""
    shape: tuple[int, ...]
    data: memoryview
    """Its numbers, little-endian."""
    other: bytes = b""
    """Every other field of the message, and which field holds the numbers."""


def read_initializers(path: AnyPath) -> Iterator[Initializer]:
    """Weights of an ONNX file in their order, and the rest of the file under the name `GRAPH`.

    Raises:
        ValueError: no such file, not ONNX, cut short, or weights in another file than `SHARED` beside it.
    """
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"{path}: no such file")
    if place.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {place.stat().st_size} bytes, more than an ONNX file can have")
    rest: list[bytes] = []
    try:
        for number, value in _fields(memoryview(place.read_bytes())):
            if number != MODEL_GRAPH or isinstance(value, int):
                rest.append(_spelled(number, value))
                continue
            for inner, part in _fields(value):
                if inner == GRAPH_INITIALIZER and not isinstance(part, int):
                    yield _initializer(path, part)
                elif inner == GRAPH_SPARSE:
                    raise ValueError(f"{path}: sparse weights cannot be checked; export again")
                else:
                    rest.append(b"graph:" + _spelled(inner, part))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not an ONNX file, or cut short; export again") from error
    yield Initializer(GRAPH, "", (), memoryview(b"".join(rest)))


def find_zero_matrices(path: AnyPath) -> list[str]:
    """Names of the weights with two axes or more that are 0 throughout; raises as `read_initializers`."""
    return [
        tensor.name
        for tensor in read_initializers(path)
        if len(tensor.shape) > 1 and len(tensor.data) and not np.frombuffer(tensor.data, np.uint8).any()
    ]


def _initializer(path: AnyPath, message: memoryview) -> Initializer:
    name, code, shape, data = "", 0, [], memoryview(b"")
    elsewhere, place = False, {}
    other: list[bytes] = []
    for number, value in _fields(message):
        is_data = number == TENSOR_RAW or number in TENSOR_LISTS
        other.append(_spelled(number, 0 if is_data else value))
        if number == TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == TENSOR_TYPE and isinstance(value, int):
            code = value
        elif number == TENSOR_NAME and not isinstance(value, int):
            name = bytes(value).decode()
        elif number == TENSOR_ELSEWHERE:
            elsewhere = value == 1
        elif number == TENSOR_PLACE and not isinstance(value, int):
            entry = {field: bytes(text).decode() for field, text in _fields(value) if not isinstance(text, int)}
            place[entry.get(1, "")] = entry.get(2, "")
        elif is_data:
            own = value if isinstance(value, memoryview) else memoryview(str(value).encode())
            data = own if not data else memoryview(bytes(data) + bytes(own))
    if elsewhere:
        data = _shared(path, place, math.prod(shape) * ITEM_BYTES.get(DTYPES.get(code, ""), 0))
    return Initializer(name, DTYPES.get(code, ""), tuple(shape), data, b"".join(other))


def _shared(path: AnyPath, place: Mapping[str, str], num_bytes: int) -> memoryview:
    """Numbers that lie in the safetensors file of the codec, in the same folder."""
    file = Path(path).parent / SHARED
    offset, length = (int(text) if (text := place.get(key, "")).isdecimal() else -1 for key in ("offset", "length"))
    if place.get("location") != SHARED or length != num_bytes:
        raise ValueError(f"{path}: keeps weights in other files, which cannot be checked; export again")
    if not file.is_file() or offset < 0 or file.stat().st_size < offset + length:
        raise ValueError(f"{path}: its weights are not in {file.name} beside it: missing or cut short, copy it again")
    return np.memmap(file, np.uint8, "r", offset, length).data


def _fields(message: memoryview) -> Iterator[Field]:
    """(number, value) of every field; IndexError where the message ends too early."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise IndexError(f"wire type {kind}")
        if at + size > len(message) or number == 0:
            raise IndexError("cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number without an end")


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _spelled(number: int, value: int | memoryview) -> bytes:
    """Bytes that stand for a field, of one reading only."""
    content = str(value).encode() if isinstance(value, int) else bytes(value)
    return f"{number}:{len(content)}:".encode() + content
