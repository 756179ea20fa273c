"""Run the console script on the PCM codec: in this process, or in one of its own that can be limited and killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from llmcodec.cli.main import main

HERE = Path(__file__).parents[1]
OPEN_PCM = f"""
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("pcm", {str(HERE / "pcm.py")!r})
pcm = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pcm)
from llmcodec.cli import options
options.open_runtime = lambda *arguments: pcm.PCMRuntime()
from llmcodec.cli.main import main
"""


def run(*arguments: object) -> int:
    """Exit code of `llmcodec ...` in this process."""
    return main([str(one) for one in arguments])


def start(*arguments: object, before: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """`llmcodec ...` in a process of its own; `before` is Python code that runs first. It loads no torch."""
    code = f"{OPEN_PCM}\n{before}\nsys.exit(main({[str(one) for one in arguments]!r}))"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], **pipes | options)


def finish(process: subprocess.Popen[bytes], given: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit code, standard output, standard error."""
    out, error = process.communicate(given, timeout=120)
    return process.returncode, out, error.decode()
