"""The same against an S3-compatible server on loopback: pages, refusals, replaced and damaged objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcodec.io.remote import paths, store
from llmcodec.io.remote.paths import StoreError, as_path, bring, fetch, open_file, publish
from llmcodec.io.remote.store import FOLDER, delete, download, list_files, look, upload

from ...s3_server import S3, s3

__all__ = ["s3"]


def test_what_is_stored_is_found_listed_and_read(s3: S3, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert look(f"{s3.url}/x/a b.wav") is None and list_files(f"{s3.url}/x") == []
    entry = upload(tmp_path / "a", f"{s3.url}/x/a b.wav")
    s3.put("x/", b"")  # what consoles leave for a folder
    assert look(f"{s3.url}/x/a b.wav") == entry and look(f"{s3.url}/x") is FOLDER
    assert [name for name, _ in list_files(f"{s3.url}/x")] == [f"{s3.url}/x/a b.wav"]
    assert download(f"{s3.url}/x/a b.wav", tmp_path / "copy").version == entry.version
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    with open_file(f"{s3.url}/x/a b.wav") as file:
        file.seek(3)
        assert file.read() == b"3456789"
    delete(f"{s3.url}/x/a b.wav")
    assert look(f"{s3.url}/x/a b.wav") is None


def test_more_files_than_a_page_holds_with_a_failing_second_page(s3: S3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")
    for number in range(10):
        s3.put(f"many/{number:04d}.wav", b"1")
    pages = []

    def second(method: str, path: str, count: int) -> bool:
        pages.append(path) if "list-type=2" in path else None
        return "continuation-token" in path and sum("continuation-token" in page for page in pages) == 1

    s3.fail = second
    assert [name[-8:-4] for name, _ in list_files(f"{s3.url}/many")] == [f"{number:04d}" for number in range(10)]
    assert len(pages) == 5  # two, and then all three


def test_a_listing_that_is_cut_off_is_no_short_listing(s3: S3, monkeypatch: pytest.MonkeyPatch):
    import s3fs

    if not hasattr(s3fs.S3FileSystem, "_list_pages"):
        pytest.skip("this version of s3fs leaves pages to botocore, which takes a page without a token for the last")
    call = s3fs.S3FileSystem._call_s3

    async def cut(self: object, method: str, *arguments: object, **options: object) -> object:
        found = await call(self, method, *arguments, **options)
        if method == "list_objects_v2":
            found["IsTruncated"] = True
            found.pop("NextContinuationToken", None)
        return found

    s3.put("x/a.wav", b"1")
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", cut)
    with pytest.raises(StoreError, match=r"^s3://corpus/x: the store failed to list it .*the listing was cut off"):
        list_files(f"{s3.url}/x")


def test_refusals_are_said_at_once(s3: S3, tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    for refusal in ((403, "AccessDenied"), (400, "ExpiredToken"), (403, "InvalidAccessKeyId")):
        s3.requests.clear()
        s3.fail = lambda method, path, count, refusal=refusal: refusal
        with pytest.raises(StoreError, match=r"^s3://corpus/a: no permission to write it \([^\n]*$"):
            upload(tmp_path / "a", f"{s3.url}/a")
        assert len(s3.requests) == 1


def test_no_credentials_are_one_line(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(StoreError, match=r"^s3://corpus/a: no permission to [^\n]*$"):
        look(f"{s3.url}/a")
    assert not s3.requests or s3.requests[0][0] == "HEAD"


def test_no_server_is_one_line(s3: S3, monkeypatch: pytest.MonkeyPatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(store, "TRIES", 2)
    with pytest.raises(StoreError, match=r"^s3://corpus/a: the store failed to look at it 2 times in a row [^\n]*$"):
        look(f"{s3.url}/a")


def test_no_bucket_is_no_file(s3: S3, tmp_path: Path):
    assert look("s3://nowhere/a") is None
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(StoreError, match="^s3://nowhere/a: there is no such bucket to write into"):
        upload(tmp_path / "a", "s3://nowhere/a")


def test_an_object_that_is_replaced_while_it_is_read_comes_whole(s3: S3, tmp_path: Path):
    s3.put("a.wav", b"first")
    place, replaced = bring(f"{s3.url}/a.wav"), []

    def replace(method: str, path: str) -> None:
        if method == "GET" and path.startswith("/corpus/a.wav") and not replaced:
            replaced.append(path)
            s3.put("a.wav", b"second, longer")

    s3.before = replace
    with pytest.raises(StoreError, match="s3://corpus/a.wav: was replaced while this command ran"):
        fetch(place)
    assert replaced
    paths.forget()
    assert fetch(f"{s3.url}/a.wav").read_bytes() == b"second, longer"


def test_encrypted_objects_whose_etag_is_no_md5_are_read_back(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(b"1")
    monkeypatch.setattr(store, "_md5", lambda path: "c4ca4238a0b923820dcc509a6f75849b")  # of "1"
    row = {"type": "file", "size": 1, "ETag": '"00000000000000000000000000000000"', "name": "a"}
    monkeypatch.setattr("s3fs.S3FileSystem.info", lambda self, path, **more: row)
    upload(tmp_path / "a", f"{s3.url}/a")
    assert s3.requests[-1] == ("GET", "/corpus/a")
    s3.before = lambda method, path: s3.put("a", b"2") if method == "GET" else None
    with pytest.raises(StoreError, match="what is stored is not what was sent"):
        upload(tmp_path / "a", f"{s3.url}/a")


def test_a_folder_is_uploaded_once_and_its_marker_last(s3: S3):
    place = as_path(f"{s3.url}/codec")
    place.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (place / name).write_text(name)
    s3.fail = lambda method, path, count: (403, "AccessDenied") if method == "PUT" and "README" in path else False
    with pytest.raises(StoreError, match="README.md: no permission to write it"):
        publish(place)
    assert "codec/config.json" not in s3.names()
    s3.fail = lambda method, path, count: False
    publish(place)
    assert s3.written()[-1] == "codec/config.json"
    assert sorted(s3.written()) == ["codec/README.md", "codec/config.json", "codec/model.safetensors"]
