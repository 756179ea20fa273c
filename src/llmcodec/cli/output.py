"""What commands of this room do alike: a status line while they work, files that appear whole.

Test: tests/cli/test_output.py.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Show = Callable[[str, float], None]


@contextmanager
def progress(console: Any) -> Iterator[Show]:
    """A status line on a terminal, silence elsewhere."""
    with console.status("") as status:

        def show(stage: str, share: float) -> None:
            status.update(f"{stage} {share:.0%}")

        yield show


def write_text(path: Path, text: str) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
