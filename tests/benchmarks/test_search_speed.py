"""benchmarks/search_speed.py: rows of all efforts, an earlier version beside them, figures of the table."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import search_speed

from llmcodec.codec import search


def test_an_earlier_version_stands_beside_the_efforts(tmp_path, capsys):
    options = ["--clips", "2", "--turns", "1", "-o", str(tmp_path / "values.json"), "--before", search.__file__]
    values = search_speed.main(options)
    assert list(values) == ["nearest", "before", "thorough", "balanced", "fast", "path"]
    assert values["before"]["codes"] == values["thorough"]["codes"] != values["nearest"]["codes"]
    shown = capsys.readouterr().out
    frames = sum(map(len, values["nearest"]["codes"]))
    assert f"thorough: {frames} of {frames} codes as before" in shown and (tmp_path / "values.json").is_file()
    judge, row = (
        search_speed.load_scorer(search_speed.audio_lm_path("bundled"), 4000),
        torch.tensor(values["nearest"]["codes"][0]),
    )
    bits = -float(judge.token_log_likelihoods([row])[0].sum()) / torch.tensor(2.0).log().item()
    assert abs(values["nearest"]["bits"][0] / bits - 1) < 1e-6 and 5 < bits / len(row) < 12, "it has learnt these codes"
