"""Measurements kept as JSON, so that the same codec on the same clips with the same protocol is measured once.

    row = kept(folder, key, lambda: measure_system(...))

Results are nested dataclasses of this room; they are written with their class names and read back as they were. Only
dataclasses of `llmcodec.evaluation` are ever made from a file. What an older version wrote is measured again.
Test: tests/evaluation/test_cache.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
HOME = "llmcodec."


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/llmcodec/measurements`, in `~/.cache` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmcodec" / "measurements"


def key_of(*parts: Any) -> str:
    """24 hex digits of everything that decides a measurement; dataclasses, tensors and plain values."""
    return hashlib.blake2b(json.dumps([pack(part) for part in parts]).encode(), digest_size=12).hexdigest()


def kept(folder: Path | None, key: str | None, measure: Callable[[], T]) -> T:
    """The result under `key`, from its file if there is one that can be read, else measured and written."""
    if folder is None or key is None:
        return measure()
    path = folder / f"{key}.json"
    if path.is_file():
        try:
            return unpack(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError, KeyError, ImportError):
            pass  # damaged, or of another version: measured again and overwritten
    result = measure()
    text = json.dumps(pack(result))
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{secrets.token_hex(4)}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
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
