"""Results come whole, under one name; commands and versions are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcodec.data.manifest import Clip
from llmcodec.report.files import command_line, provenance, versions, write_results
from llmcodec.report.tables import TextTable

from .made_up import made_up_row

TABLE = TextTable(["", "a"], [["b", "1"]])


def test_results_come_whole(tmp_path: Path) -> None:
    paths = write_results(str(tmp_path / "new" / "table.md"), [TABLE], ["Said."], {"a": [1]})
    assert [path.name for path in paths] == ["table.md", "table.json"]
    assert paths[0].read_text() == "| | a |\n|---|---:|\n| b | 1 |\n\n- Said.\n"
    assert json.loads(paths[1].read_text()) == {"a": [1], "statements": ["Said."]}
    with pytest.raises(ValueError):  # NaN is no JSON
        write_results(str(tmp_path / "nan"), [], [], {"a": float("nan")})


def test_a_name_of_a_page_gives_the_page_too(tmp_path: Path) -> None:
    values = {"settings": {"command": "llmcodec evaluate x", "versions": {"torch": "2"}, "clips": 12}}
    paths = write_results(str(tmp_path / "same.html"), [TABLE], ["Said <this>."], values)
    assert [path.name for path in paths] == ["same.md", "same.json", "same.html"]
    page = paths[2].read_text("utf-8")
    assert "<title>same</title>" in page and "<th scope=row>b</th><td>1</td>" in page and "Said &lt;this&gt;." in page
    assert "llmcodec evaluate x" in page and 'id="measurements"' not in page and 'href="#tables"' in page
    rows = [made_up_row("a"), made_up_row("b", bits=250)]
    page = write_results(str(tmp_path / "rows.html"), [TABLE], [], {}, rows)[2].read_text("utf-8")
    assert 'id="measurements"' in page and "Against a: b is better in LM bits" in page and 'id="tables"' not in page
    assert "<dt>torch</dt>" in page, "versions, where the values have none"


def test_command_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/llmcodec", "compare", "a b", "-o", "x.html"])
    assert command_line(["ignored"]) == "llmcodec compare 'a b' -o x.html"
    told = provenance([Clip("a", "a.wav", 1.0)])
    assert told["clips"] == 1 and "a b" in told["command"] and told["versions"]["llmcodec"]
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert command_line(["compare", "bundled"]) == "llmcodec compare bundled"
    assert {"llmcodec", "python", "torch", "transformers"} <= set(versions())
