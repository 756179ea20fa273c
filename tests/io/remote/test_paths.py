"""URLs as paths: what stands for them, when content comes, what is uploaded, in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from llmcodec.io import audio
from llmcodec.io.atomic import atomic_folder, remove_folder, write_bytes, write_text
from llmcodec.io.digests import digest
from llmcodec.io.remote import paths, store
from llmcodec.io.remote.paths import as_path, bring, fetch, look_for, open_file, publish, shown, url_of
from llmcodec.io.structured import read_json, read_lines, write_json


@pytest.fixture
def url() -> Iterator[str]:
    """A place of its own in memory://."""
    paths.forget()
    yield f"memory://{uuid4().hex}"
    paths.forget()


def put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(content)


def get(url: str) -> bytes:
    with fsspec.open(url, "rb") as file:
        content: bytes = file.read()
        return content


def names(url: str) -> list[str]:
    return [name[len(url) + 1 :] for name, _ in store.list_files(url)]


def test_local_paths_stay_what_they_are(tmp_path: Path):
    for path in ("a/b.wav", "/a", "search:bundled", "C:/x", "a:b/c", tmp_path):
        assert as_path(path) == bring(path) == fetch(path) == Path(path) and url_of(path) is None
    assert as_path("file:///data/a b") == as_path(Path("file:///data/a b")) == Path("/data/a b")
    with pytest.raises(ValueError, match="write the whole path behind file://"):
        as_path("file://data")


def test_local_paths_import_neither_fsspec_nor_the_store(tmp_path: Path):
    code = f"""
import sys
from llmcodec.io import audio, atomic, structured, token_shards
from llmcodec.io.remote.paths import bring, fetch, publish
import numpy as np
audio.write({str(tmp_path / "a.wav")!r}, np.zeros(800, np.float32), 8000)
audio.load({str(tmp_path / "a.wav")!r}, 8000)
structured.write_json({str(tmp_path / "a.json")!r}, [1])
structured.read_json(bring({str(tmp_path / "a.json")!r}))
print([name for name in ("fsspec", "s3fs", "llmcodec.io.remote.store") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_url_is_never_a_folder_of_that_name(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for path in (f"{url}/a.txt", Path(f"{url}/b.txt"), Path(url) / "c.txt"):
        write_text(path, "x")
    assert names(url) == ["a.txt", "b.txt", "c.txt"] and list(tmp_path.iterdir()) == []
    for bad in ("memory://a/../b", "memory://a//b", "memory://", "s3:///b", "memory://a::zip://b", "nope://a"):
        with pytest.raises(ValueError, match=bad.split(":")[0]):
            as_path(bad)


class NoTimes(MemoryFileSystem):  # type: ignore[misc]
    """A store that gives no times, versions in its listings alone: the Hub without `expand_info`."""

    protocol = "notimes"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        plain: str = MemoryFileSystem._strip_protocol(path.replace("notimes://", "memory://"))
        return plain

    def info(self, path: str, **more: Any) -> Any:
        return {name: value for name, value in super().info(path, **more).items() if name in ("name", "size", "type")}

    def find(self, path: str, detail: bool = False, **more: Any) -> Any:
        names = super().find(path, **more)
        return {name: self.info(name) | {"blob_id": digest(self.cat_file(name))} for name in names}


def test_a_store_without_times_is_as_it_was_in_every_run(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("notimes", NoTimes, clobber=True)
    place = url.replace("memory", "notimes")
    put(f"{place}/a.wav", b"1" * 100)
    times = []
    for _ in range(2):
        file = bring(place) / "a.wav"
        times.append(file.stat().st_mtime_ns)
        assert fetch(file).read_bytes() == b"1" * 100
        times.append(file.stat().st_mtime_ns)
        paths._stand_in(file, paths._seen[str(file)])  # what makes room for others
        times.append(file.stat().st_mtime_ns)
        paths.forget()
    assert len(set(times)) == 1 and times[0] < 1.1e18  # older than whatever was made of it
    put(f"{place}/a.wav", b"2" * 100)
    assert (bring(place) / "a.wav").stat().st_mtime_ns != times[0]


def test_names_of_audio_come_first_and_content_when_it_is_read(url: str, tmp_path: Path):
    wav_S = np.linspace(-0.5, 0.5, 16_000, dtype=np.float32)
    audio.write(tmp_path / "a.wav", wav_S, 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    put(f"{url}/x/a.wav", content)
    put(f"{url}/x/a.txt", b"words")
    place = bring(url)
    assert [path.name for path in sorted(place.rglob("*.*"))] == ["a.txt", "a.wav"]
    assert (place / "x" / "a.txt").read_text() == "words"
    stand_in = place / "x" / "a.wav"
    assert stand_in.stat().st_size == len(content) and stand_in.stat().st_blocks == 0
    assert stand_in.stat().st_mtime == store.look(f"{url}/x/a.wav").time
    assert np.array_equal(audio.load(stand_in, 16_000), audio.load(tmp_path / "a.wav", 16_000))
    assert stand_in.read_bytes() == content
    assert np.array_equal(audio.load(f"{url}/x/a.wav", 16_000), audio.load(tmp_path / "a.wav", 16_000))
    with pytest.raises(ValueError, match="no such audio file"):
        audio.load(f"{url}/x/b.wav", 16_000)
    assert shown(f"{stand_in}: too loud, {place}/x") == f"{url}/x/a.wav: too loud, {url}/x"


def test_a_worker_process_fetches_as_well(url: str):
    put(f"{url}/a.wav", b"1234")
    place = bring(f"{url}/a.wav")
    child = os.fork()
    if not child:
        os._exit(0 if fetch(place).read_bytes() == b"1234" else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_was_replaced_since_it_was_listed_is_an_error(url: str):
    put(f"{url}/a.wav", b"1234")
    place = bring(url)
    put(f"{url}/a.wav", b"12345")
    with pytest.raises(store.StoreError, match=f"{url}/a.wav: was replaced while this command ran"):
        fetch(place / "a.wav")
    bring(url)
    assert fetch(place / "a.wav").read_bytes() == b"12345"


def test_bring_forgets_what_is_gone_and_keeps_what_is_not_saved(url: str):
    put(f"{url}/a.txt", b"1")
    put(f"{url}/b.txt", b"2")
    place = bring(url)
    (place / "new.txt").write_text("3")
    store.delete(f"{url}/a.txt")
    bring(url)
    assert sorted(path.name for path in place.iterdir()) == ["b.txt", "new.txt"]


def test_only_what_has_changed_is_uploaded_and_what_is_gone_is_deleted(url: str, monkeypatch: pytest.MonkeyPatch):
    put(f"{url}/a.wav", b"1")
    put(f"{url}/b.txt", b"2")
    place, sent = bring(url), []
    upload = store.upload
    monkeypatch.setattr(
        store, "upload", lambda path, to: (sent.append(to.removeprefix(f"{url}/")), upload(path, to))[1]
    )
    publish(place)
    assert sent == []
    for name in ("b.txt", "config.json", "run.json", "d/weights", ".c.txt.01234567.tmp", ".lock"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("new")
    (place / "a.wav").unlink()
    publish(place)
    assert sorted(sent[:2]) == ["b.txt", "d/weights"] and sent[2:] == ["config.json", "run.json"]
    assert names(url) == ["b.txt", "config.json", "d/weights", "run.json"]
    publish(place)
    assert len(sent) == 4


def test_folders_that_appear_whole_do_so_in_the_store(url: str):
    with pytest.raises(RuntimeError), atomic_folder(f"{url}/codec") as folder:
        (folder / "weights").write_text("1")
        raise RuntimeError
    assert names(url) == []
    with atomic_folder(f"{url}/codec") as folder:
        (folder / "weights").write_text("1")
        (folder / "config.json").write_text("2")
    with atomic_folder(f"{url}/codec", replace=True) as folder:
        (folder / "weights").write_text("3")
    assert names(url) == ["codec/weights"] and get(f"{url}/codec/weights") == b"3"
    remove_folder(as_path(f"{url}/codec"))
    assert names(url) == []


def test_other_processes_of_a_run_upload_nothing(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    write_bytes(f"{url}/a", b"1")
    assert names(url) == []


def test_texts_that_are_kept_name_urls(url: str):
    place = as_path(f"{url}/run")
    write_json(place / "run.json", {"run": str(place)})
    assert read_json(f"{url}/run/run.json") == {"run": f"{url}/run"}
    assert [row for _, row in read_lines(write_text(f"{url}/m.jsonl", "[1]\n[2]\n"))] == [[1], [2]]


def test_disk_space_of_what_was_read_is_bounded(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLMCODEC_STAGED_GB", "0.00001")  # ten thousand bytes
    for index in range(8):
        put(f"{url}/{index}.wav", bytes([index]) * 3000)
    place = bring(url)
    for index in range(8):
        assert fetch(place / f"{index}.wav").read_bytes() == bytes([index]) * 3000
    whole = [path.name for path in sorted(place.iterdir()) if path.stat().st_blocks]
    assert whole == ["5.wav", "6.wav", "7.wav"]
    assert fetch(place / "0.wav").read_bytes() == bytes(3000)


def test_names_are_brought_for_single_files(url: str):
    put(f"{url}/a.wav", b"123")
    wanted = [as_path(f"{url}/{name}.wav") for name in "ab"]
    look_for(wanted)
    assert wanted[0].stat().st_size == 3 and not wanted[1].exists()


def test_open_file_copies_nothing(url: str, tmp_path: Path):
    put(f"{url}/a.tar", b"123456")
    with open_file(f"{url}/a.tar") as file:
        file.seek(4)
        assert file.read() == b"56"
    assert not as_path(f"{url}/a.tar").exists()
    (tmp_path / "a").write_bytes(b"1")
    with open_file(tmp_path / "a") as file:
        assert file.read() == b"1"


def test_the_folder_goes(url: str):
    put(f"{url}/a.wav", b"1")
    root = bring(url).parent.parent
    assert root.is_dir() and root.stat().st_mode & 0o777 == 0o700
    paths.forget()
    assert not root.exists() and paths.STAGED not in os.environ
