"""benchmarks/recipe_step.py: both checkouts take turns, each in its own process."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import recipe_step


def test_the_checkouts_take_turns_and_the_ratio_is_of_their_medians(monkeypatch, tmp_path, capsys):
    seconds = {str(recipe_step.ROOT / "src"): iter([1.0, 3.0, 2.0]), str(tmp_path / "src"): iter([4.0, 5.0, 9.0])}
    asked = []

    def in_process(script: str, *arguments: object, threads: int) -> dict[str, float]:
        source = recipe_step.os.environ["PYTHONPATH"]
        asked.append((Path(source).parent, *arguments[:2], threads))
        return {"seconds": next(seconds[source])}

    monkeypatch.setattr(recipe_step, "in_process", in_process)
    monkeypatch.setenv("PYTHONPATH", "")
    found = recipe_step.compare(Namespace(recipes=["rate"], before=tmp_path, at=1, steps=1, rounds=3))
    assert found == {"rate": {"before": 5.0, "now": 2.0, "times": 2.5}}
    assert asked == [(tmp_path, "--one", "rate", 1), (recipe_step.ROOT, "--one", "rate", 1)] * 3
    assert "2.5" in capsys.readouterr().out
