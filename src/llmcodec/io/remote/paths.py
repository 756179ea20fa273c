"""Paths that may be URLs: a URL stands for a file in a private folder, which is filled when it is read.

    place = as_path("s3://bucket/speech")        # a local Path; as_path("speech") is Path("speech")
    bring(place)                                 # what is there: audio and tokens as stand-ins, the rest as copies
    audio.load(place / "a.wav", 16000)           # readers of llmcodec.io `fetch` what they open
    with open_file("s3://bucket/x.tar") as file: ...      # a binary file, read by ranges; nothing is copied
    write_text(place / "note.txt", "...")        # what llmcodec.io.atomic writes is uploaded when it is whole
    publish(place)                               # whatever else has changed below it, what marks a folder whole last
    shown(place / "a.wav")                       # "s3://bucket/speech/a.wav", for people and for files that are kept

So every package goes on working with `pathlib.Path`, and a path without `://` costs one look at its text: nothing is
imported, no folder is made. A stand-in is a sparse file with the size and the time of its object and the sticky bit,
by which worker processes know it as well. Files that were fetched to be read turn into stand-ins again, the oldest
first, beyond `$LLMCODEC_STAGED_GB` (8). The folder ($TMPDIR) goes when the process ends, or at `forget`.

Readers that need a real file and are not in llmcodec.io (safetensors, transformers, ONNX) get one from `bring`, which
copies everything but audio, tars and token shards; `bring(place, lambda name: False)` copies those too.
Test: tests/io/remote/test_paths.py.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from llmcodec.io.remote import StoreError as StoreError

if TYPE_CHECKING:
    from llmcodec.io.remote.store import Entry

T = TypeVar("T")
AnyPath = str | os.PathLike[str]
STAGED = "LLMCODEC_STAGED"
"""Environment variable: the folder that stands for all URLs, for worker processes."""
MARKERS = ("manifest.jsonl", "index.json", "state.json", "trainer_state.json", "config.json", "run.json", "result.json")
"""Files by which others know that a folder is whole; they are uploaded behind the others, in this order."""
THREADS = 8
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.ASCII)
_COLLAPSED = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?=[^/])", re.ASCII)  # what pathlib makes of a URL
_PRIVATE = re.compile(r"\..*\.[0-9a-f]{8}\.(tmp|old)|\.lock", re.DOTALL)
_lock = threading.RLock()
_one_each: dict[str, threading.Lock] = {}
_seen: dict[str, Entry] = {}
"""Object that a staged path stands for, as it was last seen."""
_saved: dict[str, tuple[int, int]] = {}
"""Size and time (ns) of staged files whose content the store has."""
_fetched: OrderedDict[str, int] = OrderedDict()
"""Files that can become stand-ins again, the oldest first, with their bytes."""


def is_url(path: AnyPath) -> bool:
    """Whether a path is a URL, `file://` too; also where pathlib has made `s3:/bucket` of `s3://bucket`."""
    text = os.fspath(path)
    return ":/" in text and bool(_URL.match(text) or _COLLAPSED.match(text))


def as_path(path: AnyPath) -> Path:
    """The path as it is, or the file or folder that stands for a URL; nothing is looked up.

    Raises:
        ValueError: a URL that nobody reads, or whose driver is missing (names the package), or with `..` or `//` in it.
    """
    text = os.fspath(path)
    found = (_URL.match(text) or _COLLAPSED.match(text)) if ":/" in text else None
    if found is None:
        return Path(path)
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme in ("file", "local"):
        rest = rest if "://" in found[0] else f"/{rest}"
        if not rest.startswith("/"):
            raise ValueError(f"{text}: write the whole path behind file://, such as file:///data/speech")
        return Path(rest)
    url = f"{scheme}://{rest}"
    _check_scheme(url)
    parts = rest.rstrip("/").lstrip("/" if scheme == "memory" else "").split("/")
    if any(part in ("", ".", "..") for part in parts) or "::" in rest or "\0" in rest:
        raise ValueError(f"{text}: cannot be the name of a file or a folder in a store")
    return _root() / scheme / Path(*parts)


def url_of(path: AnyPath) -> str | None:
    """The URL that a staged path stands for; None for other paths."""
    root, text = os.environ.get(STAGED), os.fspath(path)
    if root is None or not text.startswith(f"{root}{os.sep}"):
        return None
    scheme, _, rest = text[len(root) + 1 :].partition(os.sep)
    return f"{scheme}://{rest}"


def shown(text: object) -> str:
    """A text in which staged paths are URLs again: for messages, and for what is written down."""
    root, told = os.environ.get(STAGED), str(text)
    return told if root is None or root not in told else re.sub(rf"{re.escape(root)}/([a-z0-9+.-]+)/", r"\1://", told)


def open_file(path: AnyPath) -> BinaryIO:
    """A binary file to read and seek in; that of a URL is read by ranges, and nothing is kept on disk.

    Raises:
        OSError: it is not there. StoreError: the store fails, or the object was replaced while it was read.
    """
    place = as_path(path)
    url = url_of(place)
    if url is None or _is_content(place):
        return open(place, "rb")
    from llmcodec.io.remote.store import open_url

    return open_url(url)


def fetch(path: AnyPath) -> Path:
    """The path, its content on this disk. Readers call it before they open a file; local paths pass.

    Where there is no such object there is no such file either.

    Raises:
        StoreError: the store fails, or the object is another than the one that was listed.
    """
    place = as_path(path)
    url = url_of(place)
    if url is None:
        return place
    with _lock:
        one = _one_each.setdefault(str(place), threading.Lock())
    with one:
        if not _is_content(place) and not place.is_dir():
            from llmcodec.io.remote.store import FOLDER, download, look

            expected = _seen.get(str(place))
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                _note(place, download(url, place, expected))
            except (FileNotFoundError, IsADirectoryError):
                place.unlink(missing_ok=True)
                if look(url) is FOLDER:
                    place.mkdir(exist_ok=True)
                return place
        _used(place)
    return place


def bring(
    path: AnyPath, lazy: Callable[[str], bool] | None = None, wanted: Callable[[str], bool] = lambda name: True
) -> Path:
    """`as_path`, and for a URL what is there now: a file, or a folder with everything below it; other paths pass.

    Args:
        lazy: takes a path below `path` (its name, if it is a file): whether its content comes when it is read
            (`fetch`); others are copied now. None: by `lazy_endings()`. Whoever takes more must `fetch` them.
        wanted: likewise; files for which it is false are left out.

    Raises:
        ValueError: as `as_path`, or what is to be copied does not fit on the disk.
        StoreError: the store fails.
    """
    place = as_path(path)
    url = url_of(place)
    if url is not None and is_url(path):
        _bring(place, url, lazy or (lambda name: name.lower().endswith(lazy_endings())), wanted)
    return place


def _bring(place: Path, url: str, lazy: Callable[[str], bool], wanted: Callable[[str], bool]) -> None:
    from llmcodec.io.remote.store import FOLDER, list_files, look

    found = look(url)
    if found is None:
        return _drop(place)
    if found is not FOLDER:
        files = {place: (place.name, found)}
    else:
        rows = [(name[len(url) + 1 :], entry) for name, entry in list_files(url)]
        files = {as_path(f"{url}/{name}"): (name, entry) for name, entry in rows if wanted(name)}
    if found is FOLDER:
        place.mkdir(parents=True, exist_ok=True)
    _drop(place, keep={str(one) for one in files})
    now = []
    for staged, (name, entry) in files.items():
        if _seen.get(str(staged)) == entry and (_is_content(staged) or lazy(name)):
            continue
        _stand_in(staged, entry)
        if not lazy(name):
            now.append(staged)
    needed = sum(files[one][1].size for one in now)
    if now and needed > (free := shutil.disk_usage(_root()).free):
        raise ValueError(f"{url}: {needed:,} bytes are to be copied to {_root()}, where {free:,} are free; set TMPDIR")
    _each(_copy, now)


def lazy_endings() -> tuple[str, ...]:
    """Endings of files that only readers open which fetch them: audio, token shards, tars."""
    from llmcodec.io.audio_formats import PYAV_ENDINGS, SNDFILE_ENDINGS

    return (*SNDFILE_ENDINGS, *PYAV_ENDINGS, ".arrow", ".parquet", ".tar")


def look_for(paths: Iterable[Path]) -> None:
    """Bring the names of these files, so that `stat` knows whether they are there, their sizes and times."""
    missing = [path for path in dict.fromkeys(paths) if url_of(path) is not None and not path.exists()]
    _each(lambda path: _bring(path, url_of(path) or "", lambda name: True, lambda name: True), missing)


def publish(path: AnyPath) -> None:
    """Upload a staged file, or what has changed below a staged folder, markers last; local paths pass.

    What was brought or uploaded and is gone here is deleted there. Of several processes of one run, the first does it.

    Raises:
        StoreError: the store fails; what has been uploaded stays, and the next call goes on.
    """
    place = Path(path)
    url = url_of(place)
    if url is None or os.environ.get("RANK", "0") != "0":
        return
    inside = [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]
    changed = [one for one in inside if _has_changed(one) and not any(map(_PRIVATE.fullmatch, _below(one)))]
    marking = sorted((one for one in changed if one.name in MARKERS), key=lambda one: MARKERS.index(one.name))
    gone = [name for name in list(_saved) if _is_below(name, place) and not os.path.lexists(name)]
    _each(_save, [one for one in changed if one.name not in MARKERS])
    for one in marking:
        _save(one)
    _each(_delete, gone)


def forget() -> None:
    """Delete the folder that stands for URLs; what was not published is lost."""
    root = os.environ.pop(STAGED, None)
    with _lock:
        for known in (_seen, _saved, _fetched, _one_each):
            known.clear()
    if root is not None:
        shutil.rmtree(root, ignore_errors=True)


def _check_scheme(url: str) -> None:
    from llmcodec.io.remote.store import check_scheme

    check_scheme(url)


def _root() -> Path:
    with _lock:
        if STAGED not in os.environ:
            os.environ[STAGED] = os.path.realpath(tempfile.mkdtemp(prefix="llmcodec-urls-"))
            owner = os.getpid()
            atexit.register(lambda: forget() if os.getpid() == owner else None)
        return Path(os.environ[STAGED])


def _is_content(path: Path) -> bool:
    """A file, and no stand-in."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and not mode & stat.S_ISVTX


def _stand_in(path: Path, entry: Entry) -> None:
    """An empty file with the size and time of its object, which nobody takes for the content."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with open(path, "xb") as file:
            file.truncate(entry.size)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise StoreError(f"{url_of(path)}: is an object, and so is something below it; rename one") from error
    path.chmod(stat.S_ISVTX)
    os.utime(path, (entry.moment, entry.moment))
    with _lock:
        _seen[str(path)] = entry
        _saved[str(path)] = _state(path)
        _fetched.pop(str(path), None)


def _copy(path: Path) -> None:
    from llmcodec.io.remote.store import download

    _note(path, download(url_of(path) or "", path, _seen.get(str(path))))


def _note(path: Path, entry: Entry) -> None:
    """The store has what this file holds."""
    with _lock:
        _seen[str(path)], _saved[str(path)] = entry, _state(path)


def _used(path: Path) -> None:
    """Count a file that was fetched; the oldest make room."""
    if path.suffix.lower() not in lazy_endings() or not path.is_file():
        return
    with _lock:
        _fetched[str(path)] = path.stat().st_size
        _fetched.move_to_end(str(path))
        limit = float(os.environ.get("LLMCODEC_STAGED_GB", "8")) * 1e9
        total = sum(_fetched.values()) if len(_fetched) % 64 == 0 or _fetched[str(path)] > limit / 64 else 0
        while total > limit and len(_fetched) > 1:
            oldest, size = next(iter(_fetched.items()))
            total -= size
            if oldest in _seen and not _has_changed(Path(oldest)):
                _stand_in(Path(oldest), _seen[oldest])
            _fetched.pop(oldest, None)


def _drop(path: Path, keep: Collection[str] = ()) -> None:
    """Forget what the store no longer has; what was changed here and is not uploaded yet stays."""
    with _lock:
        for name in [name for name in _saved if _is_below(name, path) and name not in keep]:
            if not _has_changed(Path(name)):
                Path(name).unlink(missing_ok=True)
            _saved.pop(name, None)
            _seen.pop(name, None)
            _fetched.pop(name, None)


def _save(path: Path) -> None:
    from llmcodec.io.remote.store import upload

    state = _state(path)
    entry = upload(path, url_of(path) or "")
    with _lock:
        _seen[str(path)], _saved[str(path)] = entry, state


def _delete(name: str) -> None:
    from llmcodec.io.remote.store import delete

    delete(url_of(name) or "")
    with _lock:
        _saved.pop(name, None)
        _seen.pop(name, None)


def _has_changed(path: Path) -> bool:
    return path.exists() and _saved.get(str(path)) != _state(path)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _is_below(name: str, place: Path) -> bool:
    return name == str(place) or name.startswith(f"{place}{os.sep}")


def _below(path: Path) -> tuple[str, ...]:
    """Parts of a staged path below the staging folder."""
    return path.relative_to(_root()).parts


def _each(call: Callable[[T], object], items: Sequence[T]) -> None:
    """`call` on every item, in threads where there are several."""
    if len(items) == 1:
        call(items[0])
    elif items:
        with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
            list(pool.map(call, items))
