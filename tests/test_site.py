"""The documentation as a site: it builds strictly, every link leads somewhere, and no page asks another host."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from .browser import open_browser, watched_page

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
LOADED = r'<(?:script|img|audio|video|iframe|source)\b[^>]*?\bsrc="([^"]+)"|<link\b[^>]*?\bhref="([^"]+)"'
"""What a browser fetches by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@cache
def anchors(page: Path) -> set[str]:
    return set(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text(encoding="utf-8")))


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        if page.name == "404.html":
            continue
        for link in re.findall(r'<a\b[^>]*?\bhref="([^"]+)"', page.read_text(encoding="utf-8")):
            target, _, anchor = unquote(link).partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            place = (page.parent / target).resolve() if target else page
            assert place.exists(), f"{page.name}: {link}"
            assert not anchor or place.suffix != ".html" or anchor in anchors(place), f"{page.name}: {link}"


def test_pages_fetch_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        for groups in re.findall(LOADED, page.read_text(encoding="utf-8")):
            assert not re.match(r"(?:https?:)?//", "".join(groups)), f"{page.name}: {''.join(groups)}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_from_a_disk(site: Path, width: int, scheme: str) -> None:
    with open_browser() as browser:
        page, requests, complaints = watched_page(browser, width, color_scheme=scheme)
        for name in ("index", "tutorials/first_hour", "reference/api", "reference/cli", "reference/recipe_train"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, f"{name}: wider than the window"
            dark = page.evaluate("document.body.getAttribute('data-md-color-scheme')")
            assert dark == ("slate" if scheme == "dark" else "default")
        assert "language.rate" in page.inner_text("article")
        page.goto((site / "results/token_lm_voice_and_reading.html").as_uri())
        players = page.locator("article audio")
        assert players.count() == 5
        seconds = "sound => new Promise(done => {sound.onloadedmetadata = () => done(sound.duration); sound.load()})"
        assert players.first.evaluate(seconds) > 1
        assert not complaints and all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def test_search_finds_an_option(site: Path) -> None:
    with open_browser() as browser:
        page, _, complaints = watched_page(browser)
        page.goto((site / "index.html").as_uri())
        page.keyboard.press("/")
        page.keyboard.type("smaller_codebook")
        page.wait_for_selector(".md-search-result__item", timeout=20_000)
        assert "Recipe" in page.inner_text(".md-search-result__list") and not complaints
