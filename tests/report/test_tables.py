"""Tables show every measure that a system has, and nothing that it has not."""

from __future__ import annotations

import io
import json
import math

from rich.console import Console

from llmcodec.evaluation.results import MEASURES, SystemRow, table_cells
from llmcodec.report.tables import TextTable, system_table, to_json

from .made_up import NUM, made_up_row


def test_markdown_and_rich_show_every_measure() -> None:
    rows = [made_up_row("a|b"), made_up_row("ours")]
    table = system_table(rows).markdown()
    lines = table.strip().split("\n")
    measures = [measure for measure, _ in table_cells(rows)]
    assert len(lines) == 2 + len(measures) and lines[0] == "| | a\\|b | ours |"
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
    measured = {"mel", "pesq", "lm_bits_per_second", "used_codes"}  # some of what a made-up row has
    assert measured < {m.key for m in measures} == set(rows[1].cells())
    assert [m.key for m in measures] == [m.key for m in MEASURES if m in measures]  # in the order of the table
    assert system_table(rows, "title").rich().row_count == len(measures)
    assert "[" in table and "[" not in system_table(rows, with_interval=False).markdown()


def test_names_with_brackets_and_colons_stand_in_a_table_as_they_are() -> None:
    table = TextTable(["", "mine[/b]"], [["rec[en] :smile:", "[red]1"]], "of [bold]a[/b]")
    console = Console(file=io.StringIO(), width=80)
    console.print(table.rich())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(name in shown for name in ("mine[/b]", "rec[en] :smile:", "[red]1", "of [bold]a[/b]"))


def test_missing_parts_are_dashes_not_numbers() -> None:
    rows = [SystemRow("bare", 500.0), made_up_row("full")]
    assert "| LM bits per second ↓ (bit/s) | - |" in system_table(rows).markdown()


def test_json_is_strict_and_complete() -> None:
    out = to_json([made_up_row("a", fail=True)])
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    assert out["a"]["files"][0]["pesq"] is None and len(out["a"]["lm_clips"]) == NUM
    assert out["a"]["measures"]["used_codes"]["low"] is None
    assert not math.isnan(out["a"]["measures"]["mel"]["low"])
