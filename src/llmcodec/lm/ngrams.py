"""n-gram models of codec tokens: how much of the predictability is short-range counting?

Interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1999, section 2.7, one discount per order): highest order by
counts, lower orders by the number of different tokens that come before, last of all the uniform distribution, so every
token has a probability and they sum to 1. Contexts are numbered from the right by sorted arrays, no dictionaries.
Codes are 1-D int64 tensors, one per clip; V vocabulary, N positions, G distinct n-grams.
Test: `pytest tests/lm/test_ngrams.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from llmcodec.metrics.token_statistics import check_codes

MIN_DISCOUNT, MAX_DISCOUNT = 0.05, 0.95


@dataclass(frozen=True)
class _Level:
    """n-grams with a context of one length: sorted keys `context id * (V + 1) + token`."""

    contexts_C: np.ndarray
    """Sorted keys `shorter context's id * (V + 1) + token on the left`; a context's id is its place. Length 1 for 0."""
    keys_G: np.ndarray
    counts_G: np.ndarray
    totals_C: np.ndarray
    types_C: np.ndarray
    discount: float


class NGramModel:
    """Kneser-Ney model of `order` tokens (order - 1 of context). Clips start with a start symbol, never predicted."""

    def __init__(self, train_codes: Sequence[Tensor], vocabulary: int, order: int) -> None:
        """Raises ValueError for no clips, codes outside the vocabulary, or an order below 1."""
        if order < 1:
            raise ValueError(f"n-grams need an order of at least 1, not {order}")
        check_codes(train_codes, vocabulary, "train_codes")
        self.vocabulary, self.order = vocabulary, order
        tokens_N, lefts_KN = self._positions(train_codes)
        contexts: list[np.ndarray] = [np.zeros(1, np.int64)]
        ids_KN = [np.zeros(tokens_N.size, np.int64)]
        for left_N in lefts_KN:
            table, ids_N = np.unique(ids_KN[-1] * (vocabulary + 1) + left_N, return_inverse=True)
            contexts.append(table)
            ids_KN.append(ids_N.astype(np.int64))
        self._levels: list[_Level] = []
        longer_keys_G: np.ndarray | None = None
        for length in reversed(range(order)):
            level, longer_keys_G = self._level(contexts, ids_KN[length], tokens_N, length, longer_keys_G)
            self._levels.insert(0, level)

    def _positions(self, codes: Sequence[Tensor]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Tokens of all clips, and for each distance 1 .. order-1 the token that far to the left."""
        start = np.full(self.order - 1, self.vocabulary, np.int64)
        padded = [np.concatenate([start, clip.numpy()]) for clip in codes]
        sizes = [clip.numel() for clip in codes]
        tokens_N = np.concatenate([row[self.order - 1 :] for row in padded])
        lefts = [
            np.concatenate(
                [row[self.order - 1 - k : self.order - 1 - k + n] for row, n in zip(padded, sizes, strict=True)]
            )
            for k in range(1, self.order)
        ]
        return tokens_N, lefts

    def _level(
        self,
        contexts: list[np.ndarray],
        ids_N: np.ndarray,
        tokens_N: np.ndarray,
        length: int,
        longer_keys_G: np.ndarray | None,
    ) -> tuple[_Level, np.ndarray]:
        """Counts of one order; lower orders count different left neighbours, except for n-grams at a clip's start."""
        base = self.vocabulary + 1
        keys_G, counts_G = np.unique(ids_N * base + tokens_N, return_counts=True)
        num_contexts = contexts[length].size
        if longer_keys_G is not None:
            parents = contexts[length + 1][longer_keys_G // base] // base  # each longer n-gram is one left neighbour
            continued_G = np.zeros_like(counts_G)
            np.add.at(continued_G, np.searchsorted(keys_G, parents * base + longer_keys_G % base), 1)
            at_start_C = contexts[length] % base == self.vocabulary if length else np.zeros(num_contexts, dtype=bool)
            counts_G = np.where(at_start_C[keys_G // base], counts_G, continued_G)
        ones, twos = (int((counts_G == k).sum()) for k in (1, 2))
        discount = min(max(ones / max(1, ones + 2 * twos), MIN_DISCOUNT), MAX_DISCOUNT)
        context_G = keys_G // base
        totals_C = np.bincount(context_G, counts_G, num_contexts)
        types_C = np.bincount(context_G, minlength=num_contexts)
        return _Level(contexts[length], keys_G, counts_G, totals_C, types_C, discount), keys_G

    def probabilities(self, codes: Sequence[Tensor]) -> np.ndarray:
        """Probability of every token of the clips given those before it in its clip, all clips joined, (N,)."""
        check_codes(codes, self.vocabulary, "codes")
        tokens_N, lefts_KN = self._positions(codes)
        probability_N = np.full(tokens_N.size, 1.0 / self.vocabulary)
        ids_N = np.zeros(tokens_N.size, np.int64)
        for length, level in enumerate(self._levels):
            if length:
                ids_N = _look_up(level.contexts_C, ids_N, lefts_KN[length - 1], self.vocabulary + 1)
            probability_N = self._interpolate(level, ids_N, tokens_N, probability_N)
        return probability_N

    def _interpolate(self, level: _Level, ids_N: np.ndarray, tokens_N: np.ndarray, lower_N: np.ndarray) -> np.ndarray:
        seen_N = ids_N >= 0
        ids = np.maximum(ids_N, 0)
        keys_N = ids * (self.vocabulary + 1) + tokens_N
        places = np.minimum(np.searchsorted(level.keys_G, keys_N), level.keys_G.size - 1)
        counts_N = np.where(level.keys_G[places] == keys_N, level.counts_G[places], 0)
        totals_N = level.totals_C[ids]
        higher_N = np.maximum(counts_N - level.discount, 0) + level.discount * level.types_C[ids] * lower_N
        return np.where(seen_N, higher_N / totals_N, lower_N)

    def bits_per_token(self, codes: Sequence[Tensor]) -> float:
        """Cross-entropy of the clips in bits per token."""
        return float(-np.log2(self.probabilities(codes)).mean())


def _look_up(contexts_C: np.ndarray, ids_N: np.ndarray, left_N: np.ndarray, base: int) -> np.ndarray:
    """Ids of contexts that are one token longer; -1 if not seen in training."""
    keys_N = ids_N * base + left_N
    places = np.minimum(np.searchsorted(contexts_C, keys_N), contexts_C.size - 1)
    return np.where((ids_N >= 0) & (contexts_C[places] == keys_N), places, -1)


def ngram_bits(
    train_codes: Sequence[Tensor], test_codes: Sequence[Tensor], vocabulary: int, max_order: int = 4
) -> dict[int, float]:
    """Bits per token of the test clips under models of order 1 .. max_order fitted on the train clips."""
    return {
        order: NGramModel(train_codes, vocabulary, order).bits_per_token(test_codes)
        for order in range(1, max_order + 1)
    }
