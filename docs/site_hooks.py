"""Hooks of mkdocs.yml: links to sounds become players, links to files beside docs/ their names, and no page loads a
script of another host.

Test: tests/test_site.py.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.utils import get_relative_url

SOUND = re.compile(r'<a href="([^"]+\.(?:ogg|mp3|wav))">(.*?)</a>', re.DOTALL)
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the plugin `offline` has pages load; docs/search_shim.js is a copy."""


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The source of a page: what lies in the repository and not on the site is named, where it exists."""
    docs, folder = Path(config.docs_dir), Path(page.file.abs_src_path).parent

    def name(found: re.Match[str]) -> str:
        place = (folder / found[2]).resolve()
        if place.is_relative_to(docs) or not place.exists():
            return found[0]
        return f'<span title="{escape(place.relative_to(docs.parent).as_posix())}">{found[1]}</span>'

    return re.sub(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)", name, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """The body of a page, with players behind the links to sounds."""
    return SOUND.sub(r'\g<0> <audio controls preload="none" src="\1" aria-label="\2"></audio>', html)


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """404.html, which is served for any address: without the script."""
    return output_content.replace(f'<script src="{SHIM}"></script>', "")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The whole page."""
    return output.replace(SHIM, get_relative_url("search_shim.js", page.url))
