"""Tensors from a PyTorch checkpoint (.pt) or a safetensors file of unknown origin, without executing anything in it.

Before PyTorch reads a .pt file (with `weights_only`, memory-mapped), its pickle is walked without being run: every name
that it would look up must belong to tensors and plain containers, and the archive must not be larger unpacked than
packed. Nested values are flattened to dotted names. Test: tests/codec/interop/test_convert.py.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcodec.io.tensor_check import check_tensors

MAX_PICKLE_BYTES = 1 << 28
ALLOWED_NAMES = {
    "collections OrderedDict",
    "torch.nn.parameter Parameter",
    "torch Size",
    "torch device",
    "torch Tensor",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.serialization _get_layout",
} | {
    f"torch {name}"
    for name in (
        *("FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage"),
        *("ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"),
        *("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    )
}
# What reading a damaged or hostile archive may raise inside zipfile, pickletools and torch.load.
DAMAGED = (
    *(OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError),
    *(TypeError, AttributeError, OverflowError, AssertionError, MemoryError, NotImplementedError),
)


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by dotted name; numbers and texts are left out.

    Raises:
        ValueError: missing, damaged, of another kind, or a pickle with more than tensors. One line.
    """
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"{path}: no such file")
    with open(place, "rb"):  # raises a clear error if it may not be read
        pass
    if place.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(check_tensors(place, ours=False))
    check_archive(place)
    try:
        loaded = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    except DAMAGED as error:
        raise ValueError(f"{path}: damaged or cut short ({first_line(error)})") from None
    tensors = dict(flattened(loaded))
    if not tensors:
        raise ValueError(f"{path}: no tensors inside")
    return tensors


def check_archive(path: Path) -> None:
    """Raise ValueError unless the file is a zip archive of stored tensors and a pickle that only builds tensors."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError(
                f"{path}: not a checkpoint that can be read safely; give a .pt of PyTorch 1.6 or newer, or .safetensors"
            )
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > path.stat().st_size or any(
                entry.compress_type != zipfile.ZIP_STORED for entry in entries
            ):
                raise ValueError(f"{path}: its archive claims more than the file contains; refused")
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
                raise ValueError(f"{path}: not a checkpoint made by torch.save; refused")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise ValueError(f"{path}: a pickle of {pickles[0].file_size:,} bytes is not a state dict; refused")
            name = foreign_name(archive.read(pickles[0]))
    except DAMAGED as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}:"):
            raise
        raise ValueError(f"{path}: damaged or cut short ({first_line(error)})") from None
    if name:
        raise ValueError(
            f"{path}: a pickle that calls {name}, not plain tensors; refused, nothing of it was executed. If you trust "
            "it, save its state dict alone: torch.save(model.state_dict(), 'plain.pt')"
        )


def foreign_name(data: bytes) -> str | None:
    """The first name that a pickle would look up and that no state dict needs; the pickle is walked, not run."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL" and argument not in ALLOWED_NAMES:
            return str(argument).replace(" ", ".")
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            return f"objects by {opcode.name}"
    return None


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of nested dictionaries and lists, in order."""
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, (Mapping, list, tuple)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from flattened(inner, f"{name}.{key}" if name else str(key))


def first_line(error: BaseException) -> str:
    """The message of an error in at most 100 characters."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:100]
