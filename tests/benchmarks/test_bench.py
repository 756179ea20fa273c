"""benchmarks/bench.py: options by their defaults, times, turns, tables, processes of their own."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench


def test_options_are_read_as_their_defaults_say(monkeypatch):
    known = dict(clips=3, limit=2.0, parts=(["a", "b"], "which", ("a", "b", "c")), sizes=[1, 2], bf16=False, json=None)
    for line, expected in (
        ("", dict(clips=3, limit=2.0, parts=["a", "b"], sizes=[1, 2], bf16=False, json=None)),
        (
            "--clips 5 --limit 1 --parts c a --sizes 7 --bf16 --json out",
            dict(clips=5, limit=1.0, parts=["c", "a"], sizes=[7], bf16=True, json="out"),
        ),
    ):
        monkeypatch.setattr(sys, "argv", ["script", "place", *line.split()])
        assert vars(bench.options("What it does.", "what", **known)) == expected | {"what": "place"}
    for wrong in ("--clips many", "--parts d", "--skip-above 3"):
        monkeypatch.setattr(sys, "argv", ["script", "place", *wrong.split()])
        with pytest.raises(SystemExit):
            bench.options("", "what", **known)


def test_the_fastest_of_some_runs_counts():
    waits = [0.0, 0.05, 0.03]
    spent = bench.fastest(lambda: time.sleep(waits.pop()) or len(waits), 3)
    assert spent.wall < 0.03 and spent.process < 0.03 and spent.result == 0


def test_ways_take_turns():
    order: list[str] = []
    found = bench.take_turns({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, 2)
    assert order == ["a", "b", "a", "b"] and found == {"a": [1, 3], "b": [2, 4]}


def test_what_a_process_of_its_own_reports(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text("import sys; print('words\\nRESULT {\"said\": \"' + sys.argv[1] + '\"}')")
    (tmp_path / "broken.py").write_text("raise ValueError('no')")
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    assert bench.in_process("script.py", 7) == {"said": "7"}
    with pytest.raises(SystemExit, match="(?s)broken.py failed.*ValueError: no"):
        bench.in_process("broken.py")


def test_tables_ratios_and_speech():
    assert bench.markdown(["codec", "MB"], [["tiny", "8"]]) == "| codec | MB |\n|---|---:|\n| tiny | 8 |"
    assert bench.snr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
    assert bench.snr_db(np.ones(2), np.ones(2)) == float("inf")
    blocks = list(bench.speech(700.0, 8000))
    assert sum(map(len, blocks)) == 5_600_000 and all(block.dtype == np.float32 for block in blocks)
    assert np.array_equal(blocks[0], blocks[191]), "again from the start"
