"""The one folder for what can be made again: compiled kernels, measurements, converted language models.

    folder = cache_folder("measurements")

`$LLMCODEC_CACHE`, else `$XDG_CACHE_HOME/llmcodec`, else `~/.cache/llmcodec`; where that cannot be written, a folder of
this process that goes when it ends. Test: tests/io/test_cache.py.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """A folder of the cache, made where it is missing.

    Args:
        parts: names below the cache's own folder; none gives that folder.
    """
    try:
        folder = _user_folder().joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        folder = _private_folder().joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _user_folder() -> Path:
    own = os.environ.get("LLMCODEC_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmcodec"


@functools.cache
def _private_folder() -> Path:
    private = Path(tempfile.mkdtemp(prefix="llmcodec-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private
