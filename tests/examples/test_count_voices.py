"""examples/count_voices.py on made-up embeddings of which the number of voices is known."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

count_voices = importlib.import_module("count_voices")


def embeddings(centres: dict[str, np.ndarray], spread: float, clips: int = 6) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    made = {}
    for name, centre in centres.items():
        noisy = centre + spread * generator.standard_normal((clips, len(centre)))
        made[name] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    return made


def axes(*names: str) -> dict[str, np.ndarray]:
    return {name: np.eye(16)[index] for index, name in enumerate(names)}


def test_far_voices_count_and_a_copy_does_not():
    people = embeddings(axes("p", "q", "r", "s"), 0.02)
    centres = axes("kok_a", "kok_b")
    centres["kok_mix:a+b"] = (centres["kok_a"] + centres["kok_b"]) / np.sqrt(2)
    centres["kok_mix:a+copy"] = centres["kok_a"] + 0.001
    figures = count_voices.report(embeddings(centres, 0.02), people)
    threshold, error = figures["thresholds"]["people"]
    assert error == 0 and 0.3 < threshold < 0.99
    assert figures["pure"]["counted"] == {"people": 2, "pure": 2} and figures["pure"]["identified"] > 0.5
    for counted in figures["counted"].values():
        assert "kok_mix:a+copy" not in counted, "the encoder cannot tell it from its parent"
    assert figures["people"] == 4 and figures["mixtures"]["voices"] == 2


def test_the_threshold_is_where_errors_are_equal():
    names = 20
    generator = np.random.default_rng(1)
    similarities = generator.uniform(0.3, 0.8, (names, names))
    similarities = (similarities + similarities.T) / 2
    np.fill_diagonal(similarities, np.linspace(0.6, 1.0, names))
    threshold, error = count_voices.find_threshold(similarities)
    off = similarities[~np.eye(names, dtype=bool)]
    assert (np.diag(similarities) < threshold).mean() == pytest.approx((off >= threshold).mean(), abs=0.05)
    assert error == pytest.approx((off >= threshold).mean(), abs=0.05) and 0 < error < 0.5


def test_counting_is_greedy_in_order():
    similarities = np.array([[0.9, 0.8, 0.2], [0.8, 0.9, 0.2], [0.2, 0.2, 0.9]])
    assert count_voices.count_distinct(similarities, 0.7) == [0, 2]
    assert count_voices.count_distinct(similarities, 0.85) == [0, 1, 2]


def test_a_clip_is_not_compared_with_itself():
    same = np.tile(np.eye(8)[:1], (3, 1))
    shares = count_voices.identify({"first": same, "second": same.copy()})
    assert shares["first"] == 1.0 and shares["second"] == 0.0, "a tie goes to the first"


def test_voices_without_enough_long_clips_are_named(capsys):
    lengths = {"one": [3.0], "short": [1.0, 1.5], "long": [3.0, 1.0, 3.0]}
    clips = [SimpleNamespace(speaker=name, duration=one) for name, all_of in lengths.items() for one in all_of]
    assert list(count_voices.choose_clips(clips, 4, 2.0)) == ["long"]
    assert capsys.readouterr().err == "left out, fewer than two clips of 2.0 s: one, short\n"
