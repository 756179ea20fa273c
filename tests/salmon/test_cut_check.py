"""salmon/cut_check.py: the classifier finds a click that is on one side only, and nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.metrics.statistics import wilson_interval
from llmcodec.salmon.build import SuiteSettings
from llmcodec.salmon.cut_check import WINDOW, CutCheck, check_cut, suite_cut_accuracy, window_features

RATE = 16_000
PART = "speaker_consistency"


def make_suite(folder: Path, click: float, pairs: int = 80, folds: int = 2) -> Path:
    """Noise on both sides; a step of height `click` at the joint of every negative."""
    rng = np.random.default_rng(0)
    (folder / PART).mkdir(parents=True)
    rows = []
    for index in range(pairs):
        for side in (0, 1):
            wav = 0.05 * rng.standard_normal(8000)
            wav[4000:4010] += click * side
            soundfile.write(folder / PART / f"sample_{index}_{side}.wav", wav, RATE)
        rows.append({"index": index, "fold": index % folds, "joint_seconds": 0.25})
    (folder / "suite.json").write_text(json.dumps({"parts": {PART: rows}}))
    return folder


def test_a_click_on_one_side_is_found_and_no_click_is_not(tmp_path):
    found = suite_cut_accuracy(make_suite(tmp_path / "click", 0.3), PART)
    nothing = suite_cut_accuracy(make_suite(tmp_path / "plain", 0.0), PART)
    assert found.value > 0.9 and found.num == 80
    assert not nothing.excludes(0.5)


def test_features_see_level_clicks_and_shape():
    quiet, loud = window_features(np.full(WINDOW, 0.01)), window_features(np.full(WINDOW, 0.1))
    assert quiet.shape == loud.shape and (quiet - loud).abs().max() > 1
    click = np.zeros(WINDOW)
    click[800] = 0.5
    assert (window_features(click) - window_features(np.zeros(WINDOW))).abs().max() > 5


def test_what_passes_and_what_does_not():
    chance, high, low = wilson_interval(205, 400), wilson_interval(390, 400), wilson_interval(260, 400)
    good = CutCheck(PART, {"both": chance, "negative": high, "negative_hard": low})
    assert good.passed and "gives nothing away" in str(good) and "0.512" in str(good)
    assert not CutCheck(PART, {"both": low, "negative": high}).passed
    weak = CutCheck(PART, {"both": chance, "negative": low})
    assert not weak.passed and "NOT passed" in str(weak)


def test_what_cannot_be_checked_is_said(tmp_path):
    with pytest.raises(ValueError, match="rir_consistency: the change itself lies at the joint"):
        check_cut(["m"], SuiteSettings(), part="rir_consistency")
    with pytest.raises(ValueError, match=r"no suite\.json with the joints"):
        suite_cut_accuracy(tmp_path, PART)
    with pytest.raises(ValueError, match="pairs of one fold only"):
        suite_cut_accuracy(make_suite(tmp_path / "one", 0.0, pairs=4, folds=1), PART)
