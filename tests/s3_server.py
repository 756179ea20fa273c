"""An S3-compatible server on loopback (moto's), whose next requests a test can make fail.

def test_it(s3): s3.client.put_object(...); s3.fail = lambda method, path, count: count % 10 == 0
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import pytest

Failing = Callable[[str, str, int], Any]
"""(method, path with query, number of the request) -> false, true (500), or (status, S3's name of the error)."""


class S3:
    """The server: `url` of its bucket, `requests` it got, `fail`, which says what goes wrong."""

    bucket = "corpus"

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.requests: list[tuple[str, str]] = []
        self.answered: list[tuple[str, str]] = []
        self.fail: Failing = lambda method, path, count: False
        self.before: Callable[[str, str], None] = lambda method, path: None
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        path += f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        with self._lock:
            self.requests.append((method, path))
            failed = self.fail(method, path, len(self.requests))
        if not failed:
            self.before(method, path)
            with self._lock:
                self.answered.append((method, path))
            return self._app(environ, start)  # type: ignore[no-any-return]
        status, code = (500, "InternalError") if failed is True else failed
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{code}</Code><Message>made to fail</Message></Error>".encode()
        start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if method == "HEAD" else [body]

    @cached_property
    def client(self) -> Any:
        import botocore.session

        return botocore.session.get_session().create_client("s3", endpoint_url=self.endpoint)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=content)

    def get(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return content

    def names(self) -> list[str]:
        """Keys of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sorted(row["Key"] for page in pages for row in page.get("Contents", []))

    def written(self) -> list[str]:
        """Keys of the objects that were stored, one for every time."""
        puts = [path for method, path in self.answered if method == "PUT" and "partNumber" not in path]
        return [found[1] for path in puts if (found := re.fullmatch(rf"/{self.bucket}/([^?]+)(\?.*)?", path))]

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server with one empty bucket, which s3:// means while the test runs."""
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'llmcodec[test]'")
    import s3fs
    from fsspec.asyn import sync
    from moto.s3.models import s3_backends

    from llmcodec.io.remote import paths, store

    s3_backends.reset()
    server = S3()
    settings = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "WAITS", (0.0,))
    s3fs.S3FileSystem.clear_instance_cache()
    paths.forget()
    server.client.create_bucket(Bucket=server.bucket)
    server.requests.clear(), server.answered.clear()
    yield server
    server.fail = lambda method, path, count: False
    paths.forget()
    for fs in list(s3fs.S3FileSystem._cache.values()):
        if getattr(fs, "_s3", None) is not None:
            sync(fs.loop, fs._s3.close)
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()
