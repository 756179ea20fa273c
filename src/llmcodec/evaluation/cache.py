"""Measurements kept as JSON, so that the same codec on the same clips with the same protocol is measured once.

    row = kept(folder, measurement_key(codec, hashes, config), lambda: measure_system(...))
    journal = Journal(Path("quality.rows.jsonl"))                   # one outcome a line, as they come

Results are nested dataclasses; they are written with their class names and read back as they were. Only dataclasses of
the packages in `PACKAGES` are created from a file. Damaged results and those of an older version are measured again.
Test: tests/evaluation/test_cache.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from torch import Tensor

from llmcodec import __version__
from llmcodec.io.digests import digest, digest_all
from llmcodec.io.structured import parse_json, read_json, write_json
from llmcodec.protocol import Codec
from llmcodec.runtime.torch_runtime import fingerprint

T = TypeVar("T")
PACKAGES = ("evaluation", "lm", "metrics", "salmon")
"""Packages whose dataclasses may be created from a file: results and the protocols that they name."""
MEASURING = (
    *("protocol.py", "precision.py", "io", "data", "codec", "adapters", "runtime", "transcode"),
    *("metrics", "lm", "salmon", "evaluation"),
)
"""Code that a measurement runs through."""


def measurement_key(codec: Codec, *settings: Any) -> str | None:
    """Key of a measurement of a codec; None if its weights cannot be fingerprinted."""
    weights = fingerprint(codec)
    return None if weights is None else key_of(__version__, code_digest(), weights, *settings)


def key_of(*parts: Any) -> str:
    """24 hex digits of everything that decides a measurement; dataclasses, tensors and plain values."""
    return digest(json.dumps([pack(part) for part in parts]), size=12)


def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """Digest of the code that a measurement runs through: results of older code are measured again."""
    places = [root / place for place in MEASURING]
    files = [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return digest_all((path.relative_to(root).as_posix().encode() + path.read_bytes() for path in files), size=12)


def model_state(name: str | None) -> str | None:
    """A model's name; for a folder, or KIND:FOLDER, with its files' sizes and times: another model gets another key."""
    for text in () if name is None else (name, name.partition(":")[2]):
        if text and Path(text).is_dir():
            states = [
                (path.relative_to(text).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
                for path in sorted(Path(text).rglob("*"))
                if path.is_file()
            ]
            return f"{name} {digest(repr(states))}"
    return name


def kept(folder: Path | None, key: str | None, measure: Callable[[], T], fresh: bool = False) -> T:
    """The result under `key`, read from its file if possible, else measured and written.

    Args:
        folder: None turns caching off, as does a key that is None.
        key: names everything that decides the result.
        measure: called if there is no result.
        fresh: measure in any case.
    """
    if folder is None or key is None:
        return measure()
    path = folder / f"{key}.json"
    if path.is_file() and not fresh:
        try:
            known: T = unseal(key, read_json(path))
            return known
        except (ValueError, TypeError, AttributeError, KeyError, ImportError, AssertionError):
            pass  # damaged, or of another version: measured again and overwritten
    result = measure()
    write_json(path, seal(key, result), indent=None)
    return result


@dataclass
class Journal:
    """Results by key, appended to a JSONL file as they come; `path=None` keeps them in memory only."""

    path: Path | None = None
    known: dict[str, Any] = field(default_factory=dict)
    older: set[str] = field(default_factory=set)
    """Keys of results of other code, which are measured again."""

    def __post_init__(self) -> None:
        if self.path is None:
            return
        self._code = code_digest()
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = parse_json(line, self.path)
                if row.get("code") != self._code:  # before 0.2 it was not said
                    self.older.add(row["key"])
                    continue
                self.known[row["key"]] = unseal(row["key"], row)
            except (ValueError, TypeError, AttributeError, KeyError, ImportError, AssertionError):
                continue  # cut short by a kill, or of another version

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Places of the keys that are not known; a line says so once where other code has measured some of them."""
        places = [place for place, key in enumerate(keys) if key not in self.known]
        if any(keys[place] in self.older for place in places):
            warnings.warn(f"{self.path}: results of another version of llmcodec are measured again", stacklevel=2)
            self.older.clear()
        return places

    def add(self, key: str, result: Any) -> None:
        """Remember a result; it is on disk when this returns (a crash of the machine may lose the last ones)."""
        self.known[key] = result
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")  # end a line cut short by a kill
            file.write(
                json.dumps({"key": key, "code": self._code, **seal(key, result)}, ensure_ascii=False).encode() + b"\n"
            )


def _ends_with_newline(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def seal(key: str, result: Any) -> dict[str, Any]:
    """A result as JSON with the digest that `unseal` asks for: a flipped bit is not taken for a figure."""
    packed = pack(result)
    return {"result": packed, "digest": digest(key, json.dumps(packed))}


def unseal(key: str, row: dict[str, Any]) -> Any:
    """What `seal` made, back. Raises what `unpack` raises, also where the digest is another."""
    if row["digest"] != digest(key, json.dumps(row["result"])):
        raise ValueError(f"{key}: the digest is that of something else")
    return unpack(row["result"])


def pack(value: Any) -> Any:
    """A result as plain JSON types. Raises TypeError for anything but plain types and dataclasses of `PACKAGES`."""
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
    home, _, module = type(value).__module__.partition(".")
    if dataclasses.is_dataclass(value) and home == "llmcodec" and module.split(".")[0] in PACKAGES:
        fields = {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"!class": f"{module}:{type(value).__qualname__}", "fields": fields}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def unpack(value: Any) -> Any:
    """The inverse of `pack`.

    Raises:
        ValueError, TypeError, AttributeError, KeyError, ImportError, AssertionError: it was made by something else.
    """
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
    if module.split(".")[0] not in PACKAGES or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{value['!class']} is not a class of results")
    kind = getattr(importlib.import_module(f"llmcodec.{module}"), name)
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        raise ValueError(f"{value['!class']} is not a class of results")
    return kind(**{field: unpack(entry) for field, entry in value["fields"].items()})
