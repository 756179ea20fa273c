"""examples/space/app.py opens what `llmcodec demo` opens, the bundled token LM included."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from llmcodec.demo import app
from llmcodec.demo.studio import Studio

APP = Path(__file__).parents[2] / "examples" / "space" / "app.py"


@pytest.mark.parametrize(("given", "lm"), [(None, "bundled"), ("runs/lm_small", "runs/lm_small"), ("", None)])
def test_the_space_continues_speech_as_the_demo_does(given, lm, monkeypatch):
    opened: list[object] = []
    monkeypatch.delenv("CODECS", raising=False)
    monkeypatch.delenv("LM", raising=False)
    if given is not None:
        monkeypatch.setenv("LM", given)
    monkeypatch.setattr(Studio, "open", staticmethod(lambda *words: opened.extend(words)))
    monkeypatch.setattr(app, "serve", lambda *_, **__: None)
    runpy.run_path(str(APP), run_name="__main__")
    assert opened == [[], lm]
