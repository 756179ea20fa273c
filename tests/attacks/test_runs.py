"""Attacks on runs: recipes and options that cannot be meant. README.md lists what they found, resuming included."""

from __future__ import annotations

import pytest

from .attack import refuses

TRAIN = ("train", "--config", "base_tiny", "--manifest", "bundled")
LM = ("lm", "train", "--config", "lm_small")


@pytest.mark.parametrize(
    "text", ["steps: 7\nsteps: 9\n", "data:\n  crop_seconds: 1\n  crop_seconds: 2\n", "seed: 1\nsteps: 2\n'seed': 3\n"]
)
@pytest.mark.parametrize("command", [TRAIN, LM], ids=["train", "lm"])
def test_a_recipe_with_a_key_twice(tmp_path, command, text):
    """Right: refused, with the line; the last one counted."""
    (tmp_path / "twice.yaml").write_text(text)
    said = refuses(*command, "--config", tmp_path / "twice.yaml", "--print_config")
    assert f"twice.yaml, line {text.count(chr(10))}: the key" in said and "stands twice" in said


@pytest.mark.parametrize(
    "option",
    [
        "--steps=0", "--steps=-3", "--steps=1e3", "--steps=2.5", "--window_seconds=nan", "--optimizer.codec.lr=nan",
        "--optimizer.codec.lr=-1", "--weights.mel=nan", "--weights.mel=-1", "--weights.generator={value: 1, end: -1}",
        "--log_every=0", "--ema_decay=1.5", "--accumulate=0", "--data.max_bad=nan%", "--run=",
    ],
)  # fmt: skip
def test_a_number_that_cannot_be(tmp_path, monkeypatch, option):
    """Right: refused before anything is written. A weight of -1 trained the opposite, an empty run scattered files."""
    monkeypatch.chdir(tmp_path)
    refuses(*TRAIN, "--run", tmp_path / "r", option)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    [
        "--epochs=-1",
        "--epochs=0",
        "--epochs=nan",
        "--lr=-1",
        "--clip_norm=-1",
        "--seed=-1",
        f"--seed={2**64}",
        "--run=",
    ],
)
def test_a_number_of_an_lm_that_cannot_be(tmp_path, monkeypatch, option):
    """Right: refused before anything is written. -1 epochs took -2 steps and saved an untrained model, exit code 0."""
    monkeypatch.chdir(tmp_path)
    assert "recipe: " in (said := refuses(*LM, "--run", tmp_path / "r", option)) or "epochs" in said
    assert list(tmp_path.iterdir()) == []
