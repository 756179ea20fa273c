"""The one door for weights: every file of tensors that is read passes here first, whoever wrote it.

    load_file(check_tensors("folder/model.safetensors"))     # sound, finite, and what was saved
    for path in weight_files(folder): check_tensors(path)
    with renewed_digests(folder, "model*.safetensors"):       # digests.json beside the weights
        model.save_pretrained(folder)

`digests.json` holds a digest of every tensor of every weight file of its folder (safetensors and ONNX), so that a bit
that flipped on a disk or on the way is found, and the tensor named. Digests tell damage, not intent: who can change the
weights can change them too. A folder without them (an older one, or another program's) loads; for ours a line says so
once. A file above 1 GB is read whole the first time, and again when its size, its time or its digests have changed;
the cache folder remembers. Test: tests/io/test_tensor_check.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import numpy as np

from llmcodec.io.atomic import AnyPath
from llmcodec.io.cache import cache_folder
from llmcodec.io.digests import digest
from llmcodec.io.onnx_file import read_initializers
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_file import ITEM_BYTES, read_header

DIGESTS, FORMAT = "digests.json", "llmcodec digests 1"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ENDINGS = (".safetensors", ".onnx")
SETTINGS = ("config.json", "llmcodec_onnx.json")
"""Files whose settings have digests as well: weights of a fitting shape compute something else under other settings."""
PICKLES = ("pytorch_model.bin", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.pkl")
LARGE_BYTES = 1 << 30
CHUNK_BYTES = 1 << 20
MAX_SETTINGS_BYTES = 1 << 26
DIGEST_BYTES = 16
_ALL_ONES = {"F8_E4M3": ("u1", 0x7F), "F8_E5M2": ("u1", 0x7C), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
_ALL_ONES |= {"F32": ("<u4", 0x7F800000), "F64": ("<u8", 0x7FF0000000000000)}
"""Bits that are all set in NaN and infinity, and in nothing else."""
_logger = logging.getLogger(__name__)
_told: set[Path] = set()


@dataclass(frozen=True)
class TensorReport:
    """A file that passed."""

    num_tensors: int
    has_digests: bool
    """Whether there were digests to compare with; they agreed."""


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes | memoryview]
    other: bytes = b""


def check_tensors(path: AnyPath, *, ours: bool = True, finite: bool = True, partial: bool = False) -> Path:
    """`path`, once its header is sound, its numbers are finite and its digests agree.

    Args:
        path: a safetensors or ONNX file.
        ours: llmcodec wrote it, so it is worth a line if there are no digests.
        finite: NaN and infinity are damage; False where they mean something.
        partial: tensors that are only in the file or only in its digests are the caller's to report.

    Raises:
        ValueError: missing, a pickle, cut short, NaN or infinite values, or a tensor that is not the one that was
            saved. One line that names file and tensor.
    """
    place = Path(path)
    memory = _remembered(place)
    if memory is not None and memory.is_there():
        return place
    report = inspect_tensors(place, finite, partial)
    folder = place.resolve().parent
    if ours and not report.has_digests and folder not in _told:
        _told.add(folder)
        _logger.warning(
            "%s: no digests for %s, so damage to the weights could not be seen; `llmcodec verify %s --write-digests` "
            "adds them",
            place.parent,
            place.name,
            place.parent,
        )
    return place


def inspect_tensors(path: AnyPath, finite: bool = True, partial: bool = False) -> TensorReport:
    """Read a whole file and compare it with its digests, whatever is remembered; raises as `check_tensors`."""
    place = Path(path)
    memory = _remembered(place)
    expected = _stored(place.parent).get(place.name)
    found = _digests_of(place, finite)
    for name in [] if expected is None else [*found, *expected]:
        if partial and (name not in found or expected is None or name not in expected):
            continue
        if expected is not None and found.get(name) != expected.get(name):
            state = "differs from" if name in found and name in expected else "is not in both the file and"
            raise ValueError(
                f"{place}: {name[:80]} {state} what was saved, by {DIGESTS}: the file is damaged, copy it again; or "
                f"another program wrote it, then `llmcodec verify {place.parent} --write-digests` notes it as it is"
            )
    if memory is not None and not partial:
        memory.write()
    return TensorReport(len(found), expected is not None)


def check_settings(path: AnyPath, defaults: Mapping[str, Any]) -> None:
    """Compare settings with those that the weights beside them were saved with, where these are noted.

    Args:
        path: one of `SETTINGS`.
        defaults: of the settings that decide what the weights compute; others may change.

    Raises:
        ValueError: a setting that is not as it was saved. One line that names it.
    """
    place = Path(path)
    expected = _stored(place.parent).get(place.name)
    if expected is None:
        return
    found = _digests_of(place)
    for name, default in defaults.items():
        if found.get(name, _value_digest(default)) != expected.get(name, _value_digest(default)):
            raise ValueError(
                f"{place}: {name} is not as it was saved, by {DIGESTS}: copy the file again; if it was changed on "
                f"purpose, `llmcodec verify {place.parent} --write-digests` notes it as it is"
            )


@contextmanager
def renewed_digests(folder: AnyPath, *patterns: str) -> Iterator[None]:
    """Around the saving of weights: their old digests go before it, the new ones are noted after it.

    Killed in between, the folder has no digests for these files, rather than wrong ones.

    Args:
        folder: where the files are written; may be made inside the `with` block.
        patterns: of the names of the files, as in `fnmatch`.

    Raises:
        ValueError: a file that is not what its ending says.
    """
    place = Path(folder)

    def renewed(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    kept = {name: entry for name, entry in _stored(place).items() if not renewed(name)}
    if (place / DIGESTS).is_file():
        _write(place, kept)
    yield
    written = [path for path in place.iterdir() if path.is_file() and renewed(path.name)]
    kept = {name: entry for name, entry in kept.items() if (place / name).is_file()}
    _write(place, kept | {path.name: _digests_of(path, finite=False) for path in written})


def write_digests(folder: AnyPath) -> list[str]:
    """Note the digests of all weights of a folder (.safetensors, .onnx) and of `SETTINGS`; returns the files' names.

    Raises:
        ValueError: a file that is not what its ending says.
    """
    place = Path(folder)
    files = {
        path.name: _digests_of(path, finite=False)
        for path in place.iterdir()
        if (path.suffix in ENDINGS or path.name in SETTINGS) and path.is_file()
    }
    _write(place, files)
    return sorted(files)


def find_missing_files(folder: AnyPath) -> list[str]:
    """Weight files that `digests.json` knows and the folder does not have. ValueError for damaged digests."""
    return [name for name in _stored(Path(folder)) if not (Path(folder) / name).is_file()]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or those that an index lists.

    Raises:
        ValueError: there are none, pickles in their place, or an index that names what it must not.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = next((path.name for pattern in PICKLES for path in folder.glob(pattern)), None)
        if pickled is not None:
            raise ValueError(
                f"{folder / pickled}: pickled weights could run code and are not read; convert them where you trust "
                "them (`llmcodec convert`), and give the folder with model.safetensors"
            )
        raise ValueError(f"{folder}: no {WEIGHTS} in it")
    try:
        names = set(read_object(folder / INDEX)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX}: not an index of weight files ({type(error).__name__})") from error
    for name in sorted(names, key=str):
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: {str(name)[:80]!r} is not a safetensors file of this folder")
    return [folder / name for name in sorted(names)]


def _digests_of(path: Path, finite: bool = True) -> dict[str, str]:
    """Tensor (or setting) -> digest of all that its file says of it. `finite`: ValueError for a tensor that is not."""
    if path.suffix == ".json":
        settings = read_object(path, max_bytes=MAX_SETTINGS_BYTES).items()
        return {name: _value_digest(value) for name, value in settings}
    found = {}
    for tensor in _onnx_tensors(path) if path.suffix == ".onnx" else _safetensors(path):
        head = f"{tensor.dtype}{list(tensor.shape)}".encode() + tensor.other
        running = hashlib.blake2b(head, digest_size=DIGEST_BYTES)
        for chunk in tensor.chunks:
            running.update(chunk)
            if finite and not _is_finite(tensor.dtype, chunk):
                raise ValueError(f"{path}: {tensor.name[:80]} holds NaN or infinite values: the weights are broken")
        found[tensor.name] = running.hexdigest()
    return found


def _value_digest(value: Any) -> str:
    return digest(json.dumps(value, sort_keys=True))


def _is_finite(dtype: str, chunk: bytes | memoryview) -> bool:
    if dtype not in _ALL_ONES:
        return True
    code, mask = _ALL_ONES[dtype]
    bits = np.frombuffer(chunk, code)
    return not bool(((bits & bits.dtype.type(mask)) == mask).any())


def _safetensors(path: Path) -> Iterator[_Tensor]:
    header = read_header(path)

    def chunks(file: IO[bytes], start: int, stop: int) -> Iterator[bytes]:
        file.seek(header.data_start + start)
        while start < stop:
            data = file.read(min(CHUNK_BYTES, stop - start))
            if not data:
                raise ValueError(f"{path}: changed while it was read")
            start += len(data)
            yield data

    with open(path, "rb", buffering=0) as file:
        for name, entry in header.tensors.items():
            yield _Tensor(name, entry.dtype, entry.shape, chunks(file, entry.start, entry.stop))


def _onnx_tensors(path: Path) -> Iterator[_Tensor]:
    for one in read_initializers(path):
        plain = len(one.data) == math.prod(one.shape) * ITEM_BYTES.get(one.dtype, 0)  # else packed in its own way
        yield _Tensor(one.name, one.dtype if plain else "", one.shape, [one.data], one.other)


def _stored(folder: Path) -> dict[str, dict[str, str]]:
    """File -> tensor -> digest, as noted in the folder; empty where nothing is. ValueError for a damaged one."""
    path = folder / DIGESTS
    if not path.is_file():
        return {}
    values = read_object(path)
    if values.get("format") != FORMAT:
        raise ValueError(f"{path}: of another format ({str(values.get('format'))[:40]!r}); made by a newer llmcodec?")
    files: Any = values.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise ValueError(f"{path}: damaged; `llmcodec verify {folder} --write-digests` makes it again")
    return files


def _write(folder: Path, files: dict[str, dict[str, str]]) -> None:
    write_json(folder / DIGESTS, {"format": FORMAT, "files": dict(sorted(files.items()))})


@dataclass(frozen=True)
class _Memory:
    """That a large file was read whole and found good, kept in the cache folder."""

    record: Path
    state: dict[str, Any]

    def is_there(self) -> bool:
        try:
            return read_object(self.record) == self.state
        except (OSError, ValueError):
            return False

    def write(self) -> None:
        write_json(self.record, self.state)


def _remembered(path: Path) -> _Memory | None:
    """What the cache would say about this file as it is now; None for a file that is read whole each time."""
    if not path.is_file() or (facts := os.stat(path)).st_size <= LARGE_BYTES:
        return None
    place = str(path.resolve())
    expected = digest(repr(_stored(path.parent).get(path.name)))
    state = {"path": place, "size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "digests": expected}
    return _Memory(cache_folder("verified") / f"{digest(place)}.json", state)
