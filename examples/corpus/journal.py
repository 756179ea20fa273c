"""What a long run has done so far, one JSON line each, so that a stopped run goes on where it was.

Test: tests/examples/test_build_corpus.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcodec.io.atomic import write_text

Entry = dict[str, Any]


class Journal:
    """Entries by their `id`. The first line is the stamp: what the entries were made from.

    A journal with another stamp starts again. Of a line that a kill has cut, nothing is kept.
    """

    def __init__(self, path: Path, stamp: Entry) -> None:
        """Read `path` where it exists; `stamp` is anything that JSON can hold, such as the versions of packages."""
        self.path = path
        self.entries: dict[str, Entry] = {}
        head = json.dumps(stamp, ensure_ascii=False, sort_keys=True) + "\n"
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1].decode("utf-8")
        if not whole.startswith(head):
            whole = head
        self.entries = {entry["id"]: entry for entry in map(json.loads, whole.splitlines()[1:])}
        if whole.encode() != content:
            write_text(path, whole)

    def add(self, entry: Entry) -> Entry:
        """Keep an entry, in the file too before this returns."""
        self.entries[entry["id"]] = entry
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return entry
