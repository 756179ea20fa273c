"""Digests of what decides a result, and the versions that made it.

    digest(text)                              # 16 hex digits
    digest(*arrays, size=12)                  # 24, of the arrays' bytes, one after the other
    digest(*parts, algorithm="sha256")        # 64
    digest_number(3, clip.id, "noise")        # a seed for one clip, whatever the order of the clips
    package_versions("python", "torch")       # {"python": "3.11.7", "torch": "2.9.1"}

Digests stand in token files, journals and run folders: what a call returns must not change.
Test: tests/io/test_digests.py.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from llmcodec import __version__


def digest(*parts: Any, size: int = 8, algorithm: str = "blake2b") -> str:
    """Hexadecimal digest of `parts`, one after the other without a separator; see `digest_all`."""
    return digest_all(parts, size, algorithm)


def digest_all(parts: Iterable[Any], size: int = 8, algorithm: str = "blake2b") -> str:
    """Hexadecimal digest of `parts`, taken one after the other.

    Args:
        parts: texts (their UTF-8), and buffers: bytes, contiguous numpy arrays.
        size: bytes of a blake2b digest; two digits each.
        algorithm: "blake2b" or "sha256".
    """
    running = hashlib.blake2b(digest_size=size) if algorithm == "blake2b" else hashlib.new(algorithm)
    for part in parts:
        running.update(part.encode() if isinstance(part, str) else part)
    return running.hexdigest()


def digest_number(*parts: object) -> int:
    """A number of 64 bits that is a function of a text alone, or of the texts of several parts, `|` between them."""
    return int(digest("|".join(map(str, parts))), 16)


def package_versions(*names: str) -> dict[str, str]:
    """Versions of installed packages, of "python" and of "llmcodec"; what is not installed is left out."""
    known = {"python": platform.python_version(), "llmcodec": __version__}
    found = {}
    for name in names:
        try:
            found[name] = known.get(name) or metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """Commit of the source tree that this package runs from; None for an installed one."""
    git = ["git", "rev-parse", "HEAD"]
    try:
        shown = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip()
