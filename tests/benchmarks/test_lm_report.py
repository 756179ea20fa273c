"""benchmarks/lm_report.py: which sounds a prompt is compared with, and how far heard texts are from their own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from llmcodec.data.manifest import Clip

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import lm_report  # noqa: E402


def clip(name: str, speaker: str, language: str = "en") -> Clip:
    return Clip(id=name, audio="x.flac", duration=3.0, speaker=speaker, language=language, source="studio")


def test_voices_are_compared_with_other_speakers_of_the_same_language_and_source():
    clips = [clip("a", "ann"), clip("b", "bob"), clip("c", "ann"), clip("d", "eve", "fr")]
    asked = [np.eye(4)[n] for n in range(4)]
    draws = [[np.eye(4)[0], np.full(4, 0.25), None, np.eye(4)[0]], [np.eye(4)[1], np.eye(4)[0], None, np.eye(4)[0]]]
    pairs = lm_report.voice_pairs(clips, asked, draws)
    assert pairs["a"] == (0.5, pytest.approx((0.25 + 1.0) / 2)), "own: 1 and 0; bob's: 0.25 and 1; eve's do not count"
    assert pairs["b"] == (pytest.approx(0.125), 0.5), "ann's second clip has no voice, her first has 0 and 1"
    assert set(pairs) == {"a", "b"}, "nothing of c is voiced, and d has no rival"
    assert set(lm_report.voice_pairs(clips, [None, *asked[1:]], draws)) == {"b"}


def test_texts_are_compared_with_their_own_and_the_others():
    facts = lm_report.own_text([("press one", "press one"), ("please hold", "please cold"), ("goodbye", "abcdefg")])
    assert facts["own"] == pytest.approx((0 + 1 / 11 + edit_distance("goodbye", "abcdefg")) / 3)
    assert facts["own is nearer"] >= 2 and facts["others"] > 0.5


def edit_distance(text: str, heard: str) -> float:
    """Edit distance over the longer length, by the textbook."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(text, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1] / max(len(text), len(heard))
