"""The commands on a codec without weights, so that a test of files takes milliseconds."""

from __future__ import annotations

import pytest

from llmcodec.cli import options

from ..pcm import PCMRuntime
from ..transcode.conftest import clip  # noqa: F401


@pytest.fixture
def pcm(monkeypatch) -> PCMRuntime:
    """The codec that every command opens in this test."""
    runtime = PCMRuntime()
    monkeypatch.setattr(options, "open_runtime", lambda *arguments: runtime)
    return runtime
