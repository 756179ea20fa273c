"""ABX: how often is a rendition of another phone closer than one of the same phone?

    result = measure_abx(items)
    print(result.within.format())        # A, B and X by one speaker
    print(result.across)                 # X by another speaker; None where there is only one

For phones a and b, A and X are renditions of a and B one of b, A and B by one speaker and all three in one context; an
error is d(B, X) < d(A, X), half of one if they are equal. Errors are averaged over the renditions, then over contexts,
then over speakers, then over both orders of a pair, as ZeroSpeech does.
Shapes: M items, T frames, D width. Test: tests/evaluation/test_phones.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcodec.metrics.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class Item:
    """One rendition of a phone."""

    phone: str
    speaker: str
    context: str
    frames: np.ndarray
    """Codes (T,) or features (T, D), T at least 1."""


@dataclass(frozen=True)
class AbxResult:
    """Errors of every pair of phones that could be compared, 0.5 by chance."""

    within_pairs: dict[tuple[str, str], float]
    across_pairs: dict[tuple[str, str], float]
    num_items: int

    @property
    def within(self) -> Interval | None:
        """Mean error for one speaker, with a 95 % bootstrap interval over pairs of phones; None without a pair."""
        return _mean(self.within_pairs)

    @property
    def across(self) -> Interval | None:
        """Mean error where X is of another speaker."""
        return _mean(self.across_pairs)


def _mean(pairs: dict[tuple[str, str], float]) -> Interval | None:
    if len(pairs) == 1:
        return Interval(next(iter(pairs.values())), math.nan, math.nan, 1)
    return bootstrap_mean(list(pairs.values())) if pairs else None


def measure_abx(items: Sequence[Item]) -> AbxResult:
    """Both kinds of errors; contexts in which there is only one phone say nothing."""
    found: list[dict[tuple[str, str], dict[str, list[float]]]] = [{}, {}]
    for context in sorted({item.context for item in items}):
        group = [item for item in items if item.context == context]
        if len({item.phone for item in group}) < 2:
            continue
        distances_MM = item_distances([item.frames for item in group])
        of = {
            (phone, speaker): [i for i, item in enumerate(group) if (item.phone, item.speaker) == (phone, speaker)]
            for phone, speaker in {(item.phone, item.speaker) for item in group}
        }
        for a, speaker in sorted(of):
            others = [i for (phone, who), where in of.items() if phone == a and who != speaker for i in where]
            for b in sorted({phone for phone, who in of if who == speaker and phone != a}):
                for kind, x in enumerate((of[a, speaker], others)):
                    error = triple_error(distances_MM, of[a, speaker], of[b, speaker], x)
                    if error is not None:
                        found[kind].setdefault((a, b), {}).setdefault(speaker, []).append(error)
    within, across = (_both_orders(kind) for kind in found)
    return AbxResult(within, across, len(items))


def _both_orders(errors: dict[tuple[str, str], dict[str, list[float]]]) -> dict[tuple[str, str], float]:
    """Means over contexts, speakers, and the orders (a, b) and (b, a) of a pair."""
    one_way = {
        pair: float(np.mean([np.mean(of_contexts) for of_contexts in speakers.values()]))
        for pair, speakers in errors.items()
    }
    pairs = sorted({(min(pair), max(pair)) for pair in one_way})
    return {(a, b): float(np.mean([one_way[p] for p in ((a, b), (b, a)) if p in one_way])) for a, b in pairs}


def triple_error(distances_MM: np.ndarray, a: Sequence[int], b: Sequence[int], x: Sequence[int]) -> float | None:
    """Mean error over all triples in which A is not X; None if there are none."""
    total, count = 0.0, 0
    for one in x:
        same = distances_MM[[i for i in a if i != one], one]
        other = distances_MM[b, one]
        total += float((other < same[:, None]).sum() + 0.5 * (other == same[:, None]).sum())
        count += same.size * other.size
    return total / count if count else None


def item_distances(items: Sequence[np.ndarray]) -> np.ndarray:
    """(M, M) distances between items of codes (T,) or features (T, D)."""
    lengths = np.array([len(item) for item in items])
    starts, flat = np.cumsum(lengths) - lengths, np.concatenate(items)
    if flat.ndim == 2:
        norms = np.linalg.norm(flat.astype(np.float32), axis=1, keepdims=True)
        flat = flat.astype(np.float32) / np.maximum(norms, 1e-12)
    longest, num = int(lengths.max()), len(items)
    places = np.minimum(starts[:, None] + np.arange(longest), len(flat) - 1)  # what lies behind an item is not read
    distances = np.zeros((num, num))
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        own = flat[start : start + length]
        if flat.ndim == 2:
            frame_TN = np.arccos(np.clip(own @ flat.T, -1.0, 1.0)) / np.pi
        else:
            frame_TN = (own[:, None] != flat[None]).astype(np.float32)
        distances[i] = warped(frame_TN[:, places].transpose(1, 0, 2).astype(np.float64), lengths)
    return (distances + distances.T) / 2  # paths of equal cost may differ in length by the order of the two


def warped(frame_MTU: np.ndarray, lengths_M: np.ndarray) -> np.ndarray:
    """Mean distance along the cheapest warping path from the first frames to (T, lengths[m]) of M pairs at once.

    Among steps of equal cost the diagonal comes first, then the one in U.
    """
    num, rows, columns = frame_MTU.shape
    every = np.arange(num)
    above = np.full((2, columns + 1, num), np.inf)  # cost and steps of the frame before
    above[:, 0] = 0.0
    for t in range(rows):
        row = np.full((2, columns + 1, num), np.inf)
        for u in range(columns):
            before = np.stack([above[:, u], row[:, u], above[:, u + 1]])
            taken = before[:, 0].argmin(0)
            row[0, u + 1] = before[taken, 0, every] + frame_MTU[:, t, u]
            row[1, u + 1] = before[taken, 1, every] + 1
        above = row
    result: np.ndarray = above[0, lengths_M, every] / above[1, lengths_M, every]
    return result
