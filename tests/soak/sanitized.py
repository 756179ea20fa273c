"""A pytest plugin for runs under a sanitizer: the kernels must be there, and threads are POSIX's under ThreadSanitizer.

`sanitize.py` loads it (`-p sanitized`); pytest does not collect it.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Before the tests ask for the kernels, and before they decide whether to skip themselves."""
    from llmcodec.codec.fast import cpu_kernels

    cpu_kernels.COMPILE_SECONDS = 1800
    folder = Path(os.environ["XDG_CACHE_HOME"])
    if "thread" in os.environ["CC"]:
        library = folder / "threads.so"
        source = Path(__file__).with_name("threads.c")
        command = [*shlex.split(os.environ["CC"]), "-O2", "-shared", "-fPIC", "-pthread", str(source)]
        subprocess.run([*command, "-o", str(library)], check=True, env=os.environ | {"LD_PRELOAD": ""})
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        cpu_kernels.COpenMP.FUNCTIONS = {name: f"team_{name}" for name in cpu_kernels.COpenMP.FUNCTIONS}
    if cpu_kernels.library() is None:
        raise pytest.UsageError(f"nothing to sanitize: {cpu_kernels.why_not()}")
