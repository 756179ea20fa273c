"""The log survives kills and resumes, the bar says what matters, curves become a picture."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from llmcodec.training.tracking import JSONLLog, TrainingBar, as_floats, headline, plot_curves, read_log


def rows(*steps: int) -> list[dict]:
    return [{"step": step, "recon/mel": 1.0 / step} for step in steps]


def test_a_new_run_starts_an_empty_log(tmp_path):
    path = tmp_path / "run" / "log.jsonl"
    for _ in range(2):
        log = JSONLLog(path)
        assert read_log(path) == []
        for row in rows(1, 2):
            log.write(row)
        assert read_log(path) == rows(1, 2)


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JSONLLog(path)
    for row in rows(1, 2, 3, 4, 5):
        log.write(row)
    resumed = JSONLLog(path, resume_step=3)
    assert read_log(path) == rows(1, 2, 3)
    for row in rows(4, 5):
        resumed.write(row)
    assert path.read_text() == "".join(json.dumps(row) + "\n" for row in rows(1, 2, 3, 4, 5))
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_torn_last_line_is_dropped_and_then_overwritten(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JSONLLog(path)
    for row in rows(1, 2):
        log.write(row)
    whole = path.read_text()
    for cut in range(1, len(json.dumps(rows(2)[0]))):
        path.write_text(whole[: -cut - 1])
        assert read_log(path) == rows(1)
    JSONLLog(path, resume_step=2).write(rows(2)[0])
    assert path.read_text() == whole


def test_a_torn_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 2: not JSON"):
        read_log(path)


@pytest.mark.parametrize("line", ["[]", "3", "null", "{}", '{"step": "1"}', '{"step": null}'])
def test_a_line_that_is_no_row_is_an_error_with_its_number(tmp_path, line):
    """Found by `make soak`: the log of a resumed run ended in a TypeError or KeyError."""
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 2: no row with a step; repair"):
        JSONLLog(path, resume_step=3)
    path.write_text(f'{{"step": 1}}\n{line}\n')
    assert read_log(path) == [{"step": 1}], "as a last line that is cut short"


def test_a_kill_while_the_log_is_cut_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    log = JSONLLog(path)
    for row in rows(1, 2, 3):
        log.write(row)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        JSONLLog(path, resume_step=1)
    assert read_log(path) == rows(1, 2, 3)


def test_curves_are_written_as_png(tmp_path):
    points = [{"step": s, "a": s / 2, "b/c": math.nan if s == 2 else 1.0, "text": "x"} for s in (1, 2, 3)]
    plot_curves([*points, {"step": 4, "late": 1.0}], tmp_path / "deep" / "curves.png", "run")
    data = (tmp_path / "deep" / "curves.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5_000
    plot_curves([], tmp_path / "none.png", "run")
    assert not (tmp_path / "none.png").exists()


def test_without_a_terminal_the_bar_prints_plain_lines():
    out = io.StringIO()
    with TrainingBar("run", 4, 2, console=Console(file=out, width=120)) as bar:
        bar.update(3, {"recon/mel": 0.25, "lr/codec": 1.0})
        bar.update(4, {"recon/mel": 0.125, "codes/used": 60.0})
    assert "run 3/4" in out.getvalue() and "mel 0.25" in out.getvalue() and "run 4/4" in out.getvalue()
    assert headline({"recon/mel": 0.125, "other": 1.0, "codes/used": 60.0}) == "mel 0.125  used 60"
    quiet = io.StringIO()
    with TrainingBar("run", 4, 2, enabled=False, console=Console(file=quiet)) as bar:
        bar.update(4, {"recon/mel": 1.0})
    assert quiet.getvalue() == ""


def test_figures_of_several_processes_are_means_over_them(two_ranks: Callable[..., Any]) -> None:
    def figures(rank: int) -> dict[str, torch.Tensor]:
        row: dict[str, torch.Tensor | float] = {
            "recon/mel": torch.tensor(1.0 + rank),
            "lr/codec": 0.5,
            "lm/rate": torch.tensor(4.0 * rank).double(),
        }
        found = {name: as_floats(row, over_ranks) for name, over_ranks in (("own", False), ("all", True))}
        return {f"{name} {key}": torch.tensor(value) for name, one in found.items() for key, value in one.items()}

    for rank, seen in enumerate(two_ranks(figures)):
        assert (seen["all recon/mel"], seen["all lm/rate"], seen["all lr/codec"]) == (1.5, 2.0, 0.5)
        assert (seen["own recon/mel"], seen["own lm/rate"]) == (1.0 + rank, 4.0 * rank)
