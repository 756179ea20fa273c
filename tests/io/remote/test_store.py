"""Objects behind URLs: the policy of second tries, verification, errors in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llmcodec.io.remote import store
from llmcodec.io.remote.store import FOLDER, StoreError, check_scheme, delete, download, list_files, look, open_url


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """A store in memory that fails as `errors` says, call by call."""

    protocol = "flaky"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    errors: list[Exception | None] = []
    calls: list[str] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))

    def _fail(self, name: str) -> None:
        Flaky.calls.append(name)
        if Flaky.errors and (error := Flaky.errors.pop(0)) is not None:
            raise error

    def info(self, path: str, **more: Any) -> Any:
        self._fail("info")
        return super().info(path, **more)

    def put_file(self, source: str, path: str, **more: Any) -> None:
        self._fail("put")
        super().put_file(source, path, **more)


@pytest.fixture(autouse=True)
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Flaky]]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(store, "WAITS", (0.0,))
    Flaky.store.clear(), Flaky.errors.clear(), Flaky.calls.clear()
    yield Flaky


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    return path


def test_what_is_stored_is_found_listed_and_read(file: Path, tmp_path: Path):
    assert look("flaky://b/x/a") is None and list_files("flaky://b/x") == []
    entry = store.upload(file, "flaky://b/x/a")
    store.upload(file, "flaky://b/xy")
    assert look("flaky://b/x/a") == entry and entry.size == 10 and look("flaky://b/x") is FOLDER
    assert list_files("flaky://b/x/") == list_files("flaky://b/x") == [("flaky://b/x/a", entry)]
    assert download("flaky://b/x/a", tmp_path / "copy") == entry
    assert (tmp_path / "copy").read_bytes() == b"0123456789" and (tmp_path / "copy").stat().st_mtime == entry.time
    with open_url("flaky://b/x/a") as opened:
        assert opened.read(2) == b"01" and opened.seek(-3, 2) == 7 and opened.read() == b"789"
    delete("flaky://b/x/a")
    delete("flaky://b/x/a")
    assert look("flaky://b/x/a") is None


def test_times_and_versions_of_many_stores() -> None:
    moment = datetime(2025, 3, 4, tzinfo=timezone.utc)
    for row in (
        {"LastModified": moment, "ETag": '"v"'},
        {"last_modified": moment, "etag": "v"},
        {"updated": "2025-03-04T00:00:00Z", "md5Hash": "v"},
        {"last_commit": {"oid": "x", "title": "y", "date": moment}, "blob_id": "v"},
        {"last_commit": None, "mtime": moment.timestamp(), "ETag": "v"},
        {"uploaded_at": moment, "etag": "v"},
    ):
        assert store._entry({"size": 3, **row}) == store.Entry(3, moment.timestamp(), "v")
    assert store._entry({"size": 3, "last_commit": None}) == store.Entry(3)
    without = [store.Entry(3), store.Entry(4), store.Entry(3, version="v"), store.Entry(3, version="w")]
    assert len({one.moment for one in without}) == 4 and all(0 < one.moment < 1.1e9 for one in without)
    assert store.Entry(3, 5.0, "v").moment == 5.0


def test_the_hub_is_asked_for_times(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **options: asked.append(options) or (None, url))
    store._file_system("hf://datasets/a/b")
    store._file_system("s3://a/b")
    assert asked == [{"use_listings_cache": False, "expand_info": True}, {"use_listings_cache": False}]


def test_failures_that_pass_are_tried_again(file: Path, flaky: type[Flaky]):
    flaky.errors[:] = [OSError(errno.EIO, "busy"), TimeoutError("late"), None]
    store.upload(file, "flaky://b/a")
    assert flaky.calls == ["put", "put", "put", "info"]


def test_tries_end_in_one_line_after_growing_waits(file: Path, flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(store, "WAITS", (1.0, 2.0, 4.0))
    monkeypatch.setattr(store.time, "sleep", waits.append)
    flaky.errors[:] = [OSError(errno.EIO, "busy\nand more")] * 9
    with pytest.raises(
        StoreError, match=r"^flaky://b/a: the store failed to write it 5 times in a row \(busy and more"
    ):
        store.upload(file, "flaky://b/a")
    assert flaky.calls == ["put"] * 5 and len(waits) == 4
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, (1, 2, 4, 4), strict=True))
    assert "flaky://b/a" not in [name for name, _ in list_files("flaky://b")]


@pytest.mark.parametrize("error", [PermissionError("ExpiredToken"), OSError(errno.EINVAL, "no such way")])
def test_what_a_second_try_cannot_mend_is_said_at_once(file: Path, flaky: type[Flaky], error: OSError):
    flaky.errors[:] = [error]
    with pytest.raises(StoreError, match=r"^flaky://b/a: [^\n]*$"):
        store.upload(file, "flaky://b/a")
    assert flaky.calls == ["put"]


def test_an_upload_that_arrives_cut_short_is_repeated(file: Path, flaky: type[Flaky], monkeypatch: pytest.MonkeyPatch):
    sizes = iter((4, 10))
    monkeypatch.setattr(Flaky, "info", lambda self, path: {"type": "file", "size": next(sizes), "name": path})
    assert store.upload(file, "flaky://b/a").size == 10
    assert flaky.calls == ["put", "put"]


def test_a_download_is_one_version(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store.upload(file, "flaky://b/a")
    versions = iter("abccdd")
    row = {"type": "file", "size": 10}
    monkeypatch.setattr(Flaky, "info", lambda self, path: {**row, "ETag": next(versions), "name": path})
    monkeypatch.setattr(Flaky, "get_file", lambda self, path, target: Path(target).write_bytes(bytes(10)))
    assert download("flaky://b/a", tmp_path / "copy").version == "c"  # a -> b: read again
    (tmp_path / "copy").unlink()
    with pytest.raises(StoreError, match="was replaced while this command ran"):
        download("flaky://b/a", tmp_path / "copy", store.Entry(10, 0, "z"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]


def test_a_file_that_changes_while_it_is_open_is_an_error(file: Path):
    store.upload(file, "flaky://b/a")
    opened = store._Object("flaky://b/a")
    assert opened.read(3) == b"012"
    store.upload(file, "flaky://b/a")  # its time is another
    with pytest.raises(StoreError, match="was replaced while it was read"):
        opened.read(3)


def test_unknown_schemes_and_missing_drivers_name_what_to_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"^nope://x: no such kind of path as nope://; known are s3://[^\n]*$"):
        check_scheme("nope://x")

    def missing(scheme: str) -> None:
        raise ImportError("Install something")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")):
        with pytest.raises(ValueError, match=rf"^{scheme}://b: {scheme}:// needs {package}: pip install {package}$"):
            check_scheme(f"{scheme}://b")
