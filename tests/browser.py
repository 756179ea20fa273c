"""A headless Chromium for tests of pages: the machine's own, driven by playwright; tests skip where one is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def open_browser(*flags: str) -> Iterator[Any]:
    """A browser with nothing in it; `flags` are Chromium's."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *flags])
        try:
            yield browser
        finally:
            browser.close()


def watched_page(browser: Any, width: int = 1280, **options: Any) -> tuple[Any, list[str], list[str]]:
    """A page, the addresses that it asks for over a network, and what its console complains of."""
    page = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    return page, requests, complaints
