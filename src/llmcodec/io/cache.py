"""The one folder for what can be made again: compiled kernels, measurements, converted language models.

    folder = cache_folder("measurements")
    folder = own_cache_folder("kernels")                # for files that will be run: nobody else gets in

`$LLMCODEC_CACHE`, else `$XDG_CACHE_HOME/llmcodec`, else `~/.cache/llmcodec`; where that cannot be written, a folder of
this process that goes when it ends. Test: tests/io/test_cache.py.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
import warnings
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


def own_cache_folder(name: str) -> Path:
    """A folder of the cache that belongs to this user and that nobody else may enter (mode 0700).

    Users who share a cache have one each. Where the folder turns out to be somebody else's, or a link, a warning says
    so and it is a folder of this process.

    Args:
        name: of the folder; the user's number is added.
    """
    folder = cache_folder() / f"{name}-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            folder.chmod(0o700)
            return folder
        why = "belongs to another user" if stat.S_ISDIR(found.st_mode) else "is a link"
    except OSError as error:
        why = f"cannot be used ({error.strerror})"
    warnings.warn(f"{folder}: {why}; a temporary folder of this process takes its place", stacklevel=2)
    folder = _private_folder() / name
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_own_file(path: Path) -> bool:
    """A regular file, not a link, that belongs to this user and that nobody else may write."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


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
