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
    same_AX, other_BX = distances_MM[np.ix_(a, x)], distances_MM[np.ix_(b, x)]
    valid_AX = np.not_equal.outer(a, x)
    errors_AX = (other_BX < same_AX[:, None]).sum(1) + 0.5 * (other_BX == same_AX[:, None]).sum(1)
    count = int(valid_AX.sum()) * len(b)
    return float(errors_AX[valid_AX].sum()) / count if count else None


def item_distances(items: Sequence[np.ndarray]) -> np.ndarray:
    """(M, M) distances between items of codes (T,) or features (T, D)."""
    order = sorted(range(len(items)), key=lambda i: -len(items[i]))
    lengths = np.array([len(items[i]) for i in order])
    flat = np.concatenate([items[i] for i in order])
    if flat.ndim == 2:
        norms = np.linalg.norm(flat.astype(np.float32), axis=1, keepdims=True)
        flat = flat.astype(np.float32) / np.maximum(norms, 1e-12)
    distances = np.empty((len(items), len(items)))
    for i, end, length in zip(order, lengths.cumsum(), lengths, strict=True):
        own = flat[end - length : end]
        if flat.ndim == 2:
            frame_TN = np.arccos(np.clip(own @ flat.T, -1.0, 1.0)) / np.pi
        else:
            frame_TN = (own[:, None] != flat[None]).astype(np.float32)
        distances[i, order] = warped(frame_TN.astype(np.float64), lengths)
    return (distances + distances.T) / 2  # paths of equal cost may differ in length by the order of the two


def warped(frame_TN: np.ndarray, lengths_M: np.ndarray) -> np.ndarray:
    """Mean distance along the cheapest warping path between T frames and each of M items, whose frames are joined to N.

    Items come longest first, so that those which have a frame U are the first ones. Among steps of equal cost the
    diagonal comes first, then the one in U.
    """
    rows, starts = len(frame_TN), lengths_M.cumsum() - lengths_M
    result = np.empty(len(lengths_M))
    cost, steps = np.full((2, rows + 1, len(lengths_M)), np.inf)  # of all pairs of frames up to here
    cost[0] = steps[0] = 0.0
    for u in range(lengths_M[0]):
        num = int(np.searchsorted(-lengths_M, -u))  # items longer than u
        frames = frame_TN[:, starts[:num] + u]
        cost_now, steps_now = np.full((2, rows + 1, num), np.inf)
        for t in range(rows):
            diagonal, along, beside = cost[t, :num], cost[t + 1, :num], cost_now[t]
            best = np.minimum(np.minimum(diagonal, along), beside)
            cost_now[t + 1] = best + frames[t]
            before = np.where(along == best, steps[t + 1, :num], steps_now[t])
            steps_now[t + 1] = np.where(diagonal == best, steps[t, :num], before) + 1
        cost, steps = cost_now, steps_now
        done = int(np.searchsorted(-lengths_M, -u - 1))  # the others end here
        result[done:num] = cost[rows, done:] / steps[rows, done:]
    return result
