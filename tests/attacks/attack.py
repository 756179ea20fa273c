"""How the attacks of this folder look at the commands: exit code and what was said, in this process."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from llmcodec.cli.main import main

RATE = 16000


def run(*arguments: object) -> tuple[int, str]:
    """Exit code of `llmcodec ...`, and its standard output and error together."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main([str(one) for one in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, said.getvalue()


def refuses(*arguments: object) -> str:
    """What a command says that has to refuse: one line for the user, no internal error, an exit code that is not 0."""
    code, said = run(*arguments)
    assert code != 0, said
    assert "internal error" not in said and "Traceback" not in said, said
    return said


def accepts(*arguments: object) -> str:
    """What a command says that has to go well."""
    code, said = run(*arguments)
    assert code == 0, said
    return said


def tone(samples: int = 8000, hertz: float = 200.0, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def wav(path: Path, samples: int = 8000, hertz: float = 200.0, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(samples, hertz), RATE, **options)
    return path


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
