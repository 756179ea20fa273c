"""Kneser-Ney against a transcription of its formulas with dictionaries, and probabilities that sum to 1."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from llmcodec.lm.ngrams import MAX_DISCOUNT, MIN_DISCOUNT, NGramModel, ngram_bits

START = "<s>"


def made_up(num_clips: int, length: int, vocabulary: int, seed: int) -> list[torch.Tensor]:
    """Markov chains: each token is often the last one plus one, else random."""
    rng = np.random.default_rng(seed)
    clips = []
    for _ in range(num_clips):
        row = [int(rng.integers(vocabulary))]
        while len(row) < length:
            row.append(
                (row[-1] + 1) % vocabulary if rng.random() < 0.7 else int(rng.integers(vocabulary) ** 2 % vocabulary)
            )
        clips.append(torch.tensor(row))
    return clips


class ByTheBook:
    """p(w | h) = max(c(hw) - D, 0) / c(h.) + D N(h.) / c(h.) p(w | h'), with dictionaries."""

    def __init__(self, clips: list[list[int]], vocabulary: int, order: int) -> None:
        self.vocabulary, self.order = vocabulary, order
        raw: list[Counter] = [Counter() for _ in range(order + 1)]
        for clip in clips:
            padded = [START] * (order - 1) + clip
            for at in range(order - 1, len(padded)):
                for size in range(1, order + 1):
                    raw[size][tuple(padded[at - size + 1 : at + 1])] += 1
        self.counts: list[dict] = [{} for _ in range(order + 1)]
        self.counts[order] = dict(raw[order])
        for size in range(1, order):
            before = Counter(gram[1:] for gram in raw[size + 1])  # different tokens on the left
            self.counts[size] = {g: raw[size][g] if size > 1 and g[0] == START else before[g] for g in raw[size]}
        self.discounts = [0.0]
        for size in range(1, order + 1):
            ones, twos = (sum(c == k for c in self.counts[size].values()) for k in (1, 2))
            self.discounts.append(min(max(ones / max(1, ones + 2 * twos), MIN_DISCOUNT), MAX_DISCOUNT))

    def probability(self, word: int, history: tuple, size: int | None = None) -> float:
        size = self.order if size is None else size
        if size == 0:
            return 1 / self.vocabulary
        lower = self.probability(word, history[1:], size - 1)
        following = [c for gram, c in self.counts[size].items() if gram[:-1] == history]
        if not following:
            return lower
        kept = max(self.counts[size].get((*history, word), 0) - self.discounts[size], 0)
        return (kept + self.discounts[size] * len(following) * lower) / sum(following)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_formula(order: int) -> None:
    train, test = made_up(6, 20, 7, 0), made_up(3, 8, 9, 1)
    test = [clip.clamp(max=8) for clip in test]  # tokens 7 and 8 were never seen
    model = NGramModel(train, 9, order)
    book = ByTheBook([clip.tolist() for clip in train], 9, order)
    expected = []
    for clip in test:
        padded = [START] * (order - 1) + clip.tolist()
        for at in range(order - 1, len(padded)):
            expected.append(book.probability(padded[at], tuple(padded[at - order + 1 : at])))
    np.testing.assert_allclose(model.probabilities(test), expected, rtol=1e-12)
    assert model.bits_per_token(test) == pytest.approx(-np.mean(np.log2(expected)))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("history", [[], [3], [2, 3, 4], [8, 8, 8], [0, 1, 5, 6]])
def test_probabilities_sum_to_one(order: int, history: list[int]) -> None:
    model = NGramModel(made_up(6, 30, 8, 2), 9, order)
    clips = [torch.tensor([*history, word]) for word in range(9)]
    last = model.probabilities(clips).reshape(9, -1)[:, -1]
    assert last.sum() == pytest.approx(1.0, abs=1e-12) and last.min() > 0


def test_context_helps_where_there_is_some_and_not_where_there_is_none() -> None:
    chain = ngram_bits(made_up(60, 40, 12, 3), made_up(10, 40, 12, 4), 12)
    assert chain[2] < chain[1] - 0.5 and list(chain) == [1, 2, 3, 4]
    rng = np.random.default_rng(5)
    dice = [torch.tensor(rng.integers(0, 6, 200)) for _ in range(20)]
    bits = ngram_bits(dice[:15], dice[15:], 6)
    assert bits[1] == pytest.approx(math.log2(6), abs=0.02) and bits[4] > math.log2(6) - 0.01


def test_large_vocabularies_do_not_overflow() -> None:
    rng = np.random.default_rng(6)
    clips = [torch.tensor(rng.integers(0, 10**6, 50)) for _ in range(4)]
    assert math.isfinite(NGramModel(clips, 10**6, 4).bits_per_token(clips))


def test_bad_input_is_said() -> None:
    with pytest.raises(ValueError, match="order of at least 1"):
        NGramModel(made_up(1, 5, 4, 0), 4, 0)
    with pytest.raises(ValueError, match=r"outside \[0, 3\)"):
        NGramModel([torch.tensor([0, 3])], 3, 2)
