"""Results come whole, under one name; commands and versions are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcodec.data.manifest import Clip
from llmcodec.report.files import command_line, provenance, versions, write_results
from llmcodec.report.tables import TextTable

TABLE = TextTable(["", "a"], [["b", "1"]])


def test_results_come_whole(tmp_path: Path) -> None:
    paths = write_results(str(tmp_path / "new" / "table.md"), [TABLE], ["Said."], {"a": [1]})
    assert [path.name for path in paths] == ["table.md", "table.json"]
    assert paths[0].read_text() == "| | a |\n|---|---:|\n| b | 1 |\n\n- Said.\n"
    assert json.loads(paths[1].read_text()) == {"a": [1], "statements": ["Said."]}
    with pytest.raises(ValueError):  # NaN is no JSON
        write_results(str(tmp_path / "nan"), [], [], {"a": float("nan")})


def test_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/llmcodec", "compare", "a b", "-o", "x.html"])
    assert command_line(["ignored"]) == "llmcodec compare 'a b' -o x.html"
    told = provenance([Clip("a", "a.wav", 1.0)])
    assert told["clips"] == 1 and "a b" in told["command"] and told["versions"]["llmcodec"]
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert command_line(["compare", "bundled"]) == "llmcodec compare bundled"
    assert {"llmcodec", "python", "torch", "transformers"} <= set(versions())
