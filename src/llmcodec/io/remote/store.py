"""Objects behind URLs, through fsspec: look, list, read, download, upload, delete; the one place that tries again.

    look("s3://bucket/a.wav")                     # Entry(size, time, version), FOLDER, or None
    for url, entry in list_files("s3://bucket/speech"): ...
    download("s3://bucket/a.wav", Path("a.wav"))  # one version of the object, whole, or not at all
    upload(Path("t.safetensors"), "s3://bucket/t.safetensors")      # and looks whether it has arrived

Every call is tried up to `TRIES` times with growing waits; what a second try cannot mend (no permission, no object) is
said at once. Imported by `paths` where there is a URL, never for local files; fsspec is imported when it is needed.
Test: tests/io/remote/test_store.py, tests/io/remote/test_s3.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from llmcodec.io.digests import digest_number
from llmcodec.io.remote import StoreError

__all__ = ["FOLDER", "Entry", "StoreError", "delete", "download", "list_files", "look", "open_url", "upload"]

T = TypeVar("T")
TRIES = 5
WAITS = (0.2, 1.0, 3.0, 10.0)
"""Seconds before the second try, the third, ...; each is drawn from half of it up to all of it."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""Scheme -> package that brings its driver."""
INSTALL = "pip install 'llmcodec[remote]'"
BLOCK_BYTES = 8 << 20
"""What an open file reads at a time."""
_DRIVER_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "httpx": ("HTTPError",),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}
"""Errors of drivers that are no OSError, by module; only of modules that are loaded."""
_MOMENTS = ("LastModified", "last_modified", "mtime", "updated", "modified", "uploaded_at", "commit", "created")
"""Names that drivers give to the time when an object was written."""
_MD5 = re.compile("[0-9a-f]{32}")
_NO_SECOND_TRY = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_REFUSED_NUMBERS = {errno.EINVAL, errno.EPERM, errno.ENAMETOOLONG, errno.ENOSYS}
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "GoogleAuthError")


@dataclass(frozen=True)
class Entry:
    """What a store says of an object."""

    size: int
    time: float = 0.0
    """Seconds since 1970 when it was written; 0 where the store does not say."""
    version: str = ""
    """Changes with the content: an ETag, a digest; empty where the store has none."""

    @property
    def moment(self) -> float:
        """Time of the file that stands for it here; without `time` one of 1970 to 2001 that changes with the version.

        So every run finds the same time, older than anything that was made of it, and another one for other content.
        """
        return self.time or float(1 + digest_number(self.version, self.size) % 10**9)


FOLDER = Entry(-1)
"""What `look` gives for a URL below which there are objects."""


def check_scheme(url: str) -> None:
    """Raise ValueError where nobody reads this kind of URL, or its driver is not installed; it names the package."""
    scheme = url.partition("://")[0].lower()
    try:
        from fsspec import get_filesystem_class
    except ImportError:
        raise ValueError(f"{url}: URLs need fsspec: {INSTALL}") from None
    try:
        get_filesystem_class(scheme)
    except ValueError:
        known = "s3://, gs://, hf://, memory://, file:// and what else fsspec knows"
        raise ValueError(f"{url}: no such kind of path as {scheme}://; known are {known}") from None
    except ImportError as error:
        package = PACKAGES.get(scheme)
        how = f"needs {package}: pip install {package}" if package else " ".join(str(error).split())[:150]
        raise ValueError(f"{url}: {scheme}:// {how}") from None


def look(url: str) -> Entry | None:
    """The object at `url`, FOLDER where there are objects below it, None where there is nothing."""
    try:
        found = _tried("look at", url, lambda fs, path: fs.info(path))
    except FileNotFoundError:
        return None
    return FOLDER if found["type"] == "directory" else _entry(found)


def list_files(url: str) -> list[tuple[str, Entry]]:
    """Objects below `url`, with their URLs, in the order of their names.

    Raises:
        StoreError: the listing ended before its end.
    """
    prefix = url.rstrip("/")

    def listed(fs: Any, path: str) -> list[tuple[str, Entry]]:
        try:
            found = fs.find(path, detail=True)
        except KeyError as error:  # the store says that there is more, and not where
            raise OSError(errno.EIO, f"the listing was cut off ({error})") from error
        start = path.rstrip("/") + "/"
        return [
            (f"{prefix}/{name[len(start) :]}", _entry(row))
            for name, row in sorted(found.items())
            if name.startswith(start) and not name.endswith("/") and row["type"] == "file"
        ]

    try:
        return _tried("list", url, listed)
    except FileNotFoundError:
        return []


def download(url: str, target: Path, expected: Entry | None = None) -> Entry:
    """Copy an object into the file `target`; its folder is there. What was there stays until the copy is whole.

    Args:
        expected: version that must be there; None takes what there is.

    Raises:
        FileNotFoundError: no such object.
        StoreError: it was replaced meanwhile at every try, or is another than `expected`.
    """
    temporary = target.with_name(f".{target.name[:48]}.{os.urandom(4).hex()}.tmp")

    def once(fs: Any, path: str) -> Entry:
        before = _entry(fs.info(path))
        if expected is not None and not _same(before, expected):
            raise StoreError(f"{url}: was replaced while this command ran; start it again")
        fs.get_file(path, str(temporary))
        after, size = _entry(fs.info(path)), temporary.stat().st_size
        if not _same(before, after) or size != after.size:
            raise OSError(errno.EIO, f"was replaced while it was read, or cut short ({size} of {after.size} bytes)")
        return after

    try:
        entry = _tried("read", url, once)
        if expected is not None and not entry.version and not entry.time:
            entry = expected  # some listings say more of an object than a look at it
        os.utime(temporary, (entry.moment, entry.moment))
        os.replace(temporary, target)
        return entry
    finally:
        temporary.unlink(missing_ok=True)


def upload(source: Path, url: str) -> Entry:
    """Store a file under `url` and look whether it is there, whole. Stores make an object appear at once.

    Raises:
        StoreError: not allowed, or it never arrived.
    """
    size = source.stat().st_size

    def once(fs: Any, path: str) -> Entry:
        fs.put_file(str(source), path)
        entry = _entry(fs.info(path))
        if entry.size != size:
            raise OSError(errno.EIO, f"did not arrive whole ({entry.size} of {size} bytes)")
        if _MD5.fullmatch(entry.version):  # else a multipart upload, whose parts carry checksums of their own
            digest = _md5(source)
            if entry.version != digest and hashlib.md5(fs.cat_file(path), usedforsecurity=False).hexdigest() != digest:
                raise OSError(errno.EIO, "what is stored is not what was sent")  # ETags of encrypted objects: no MD5
        return entry

    try:
        return _tried("write", url, once)
    except FileNotFoundError as error:
        raise StoreError(f"{url}: there is no such bucket to write into; make it first") from error


def delete(url: str) -> None:
    """Delete an object; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        _tried("delete", url, lambda fs, path: fs.rm_file(path))


def open_url(url: str) -> io.BufferedReader:
    """An object as a binary file that reads and seeks, block by block; it must stay the same while it is open.

    Raises:
        FileNotFoundError: no such object.
    """
    return io.BufferedReader(_Object(url), BLOCK_BYTES)


class _Object(io.RawIOBase):
    """An object that is read by ranges, each tried again by itself."""

    def __init__(self, url: str) -> None:
        self.name, self._at = url, 0
        found = look(url)
        if found is None or found is FOLDER:
            raise FileNotFoundError(errno.ENOENT, "no such object", url)
        self._entry = found

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._entry.size)
        if stop <= self._at:
            return 0

        def once(fs: Any, path: str) -> bytes:
            content: bytes = fs.cat_file(path, start=self._at, end=stop)
            if not _same(_entry(fs.info(path)), self._entry):
                raise StoreError(f"{self.name}: was replaced while it was read; start again")
            if len(content) != stop - self._at:
                raise OSError(errno.EIO, f"{len(content)} of {stop - self._at} bytes came")
            return content

        content = _tried("read", self.name, once)
        view[: len(content)] = content
        self._at += len(content)
        return len(content)


def _tried(doing: str, url: str, call: Callable[[Any, str], T]) -> T:
    """`call(file system, path)`, again while a further try may help.

    Raises:
        FileNotFoundError: there is no such object.
        StoreError: anything else, in one line.
    """
    check_scheme(url)
    for attempt in range(TRIES):
        try:
            return call(*_file_system(url))
        except FileNotFoundError:
            raise
        except _driver_errors() as error:
            if attempt + 1 == TRIES or _is_final(error):
                raise StoreError(_in_a_line(doing, url, error, attempt + 1)) from error
            time.sleep(WAITS[min(attempt, len(WAITS) - 1)] * random.uniform(0.5, 1))
    raise AssertionError


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it. Asked for anew every time, so that a forked process gets its own."""
    from fsspec.core import url_to_fs

    more = {"expand_info": True} if url.lower().startswith("hf://") else {}  # or the Hub tells no times
    fs, path = url_to_fs(url, use_listings_cache=False, **more)
    return fs, path


def _driver_errors() -> tuple[type[BaseException], ...]:
    loaded = [(sys.modules[module], names) for module, names in _DRIVER_ERRORS.items() if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names if hasattr(module, name)))


def _is_final(error: BaseException) -> bool:
    """Whether another try would end the same way."""
    refused = isinstance(error, OSError) and error.errno in _REFUSED_NUMBERS
    return refused or isinstance(error, _NO_SECOND_TRY) or type(error).__name__ in _CREDENTIALS


def _in_a_line(doing: str, url: str, error: BaseException, tries: int) -> str:
    said = " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
    if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        return f"{url}: no permission to {doing} it ({said}); look at the credentials and the rights of the bucket"
    if said == "Bad Request":
        said += "; expired credentials look like that, too"
    many = f" {tries} times in a row" if tries > 1 else ""
    return f"{url}: the store failed to {doing} it{many} ({said}); what is finished is kept, go on later"


def _entry(row: dict[str, Any]) -> Entry:
    version = next(
        (str(row[name]) for name in ("ETag", "etag", "md5Hash", "blob_id", "generation") if row.get(name)), ""
    )
    commit = row.get("last_commit")  # of the Hub
    moments = {**row, "commit": commit.get("date") if isinstance(commit, dict) else None}
    moment = next((moments[name] for name in _MOMENTS if moments.get(name)), 0)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    return Entry(int(row["size"] or 0), seconds, version.strip('"'))


def _same(one: Entry, other: Entry) -> bool:
    """Whether two looks saw the same content: by version, or where the store has none by size and time."""
    if one.version and other.version:
        return one.version == other.version
    return (one.size, one.time) == (other.size, other.time)


def _md5(path: Path) -> str:
    running = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            running.update(block)
    return running.hexdigest()
