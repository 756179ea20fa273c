"""Measurements kept as JSON, so that the same codec on the same clips with the same protocol is measured once.

    row = kept(folder, key, lambda: measure_system(...))

Results are nested dataclasses of this room; they are written with their class names and read back as they were. Only
dataclasses of `llmcodec.evaluation` are ever made from a file. What an older version wrote is measured again.
Test: tests/evaluation/test_cache.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from llmcodec.io.digests import digest
from llmcodec.io.structured import read_json, write_json

T = TypeVar("T")
HOME = "llmcodec."


def key_of(*parts: Any) -> str:
    """24 hex digits of everything that decides a measurement; dataclasses, tensors and plain values."""
    return digest(json.dumps([pack(part) for part in parts]), size=12)


def kept(folder: Path | None, key: str | None, measure: Callable[[], T]) -> T:
    """The result under `key`, from its file if there is one that can be read, else measured and written."""
    if folder is None or key is None:
        return measure()
    path = folder / f"{key}.json"
    if path.is_file():
        try:
            return unpack(read_json(path))
        except (ValueError, TypeError, AttributeError, KeyError, ImportError):
            pass  # damaged, or of another version: measured again and overwritten
    result = measure()
    write_json(path, pack(result), indent=None)
    return result


def pack(value: Any) -> Any:
    """A result as plain JSON types. Errors: TypeError for what is neither a dataclass of this room nor plain."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return {"!tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list):
        return [pack(entry) for entry in value]
    if isinstance(value, tuple):
        return {"!tuple": [pack(entry) for entry in value]}
    if isinstance(value, dict):
        return {"!dict": [[pack(key), pack(entry)] for key, entry in value.items()]}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith(HOME):
        name = f"{type(value).__module__.removeprefix(HOME)}:{type(value).__qualname__}"
        return {"!class": name, "fields": {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def unpack(value: Any) -> Any:
    """What `pack` made, back. Errors: ValueError, TypeError, AttributeError, KeyError or ImportError for
    anything else."""
    if isinstance(value, list):
        return [unpack(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "!tensor" in value:
        return torch.tensor(value["!tensor"], dtype=getattr(torch, value["dtype"]))
    if "!tuple" in value:
        return tuple(unpack(entry) for entry in value["!tuple"])
    if "!dict" in value:
        return {unpack(key): unpack(entry) for key, entry in value["!dict"]}
    module, _, name = value["!class"].partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{value['!class']} is no class of results")
    kind = getattr(importlib.import_module(HOME + module), name)
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise ValueError(f"{value['!class']} is no class of results")
    return kind(**{field: unpack(entry) for field, entry in value["fields"].items()})
