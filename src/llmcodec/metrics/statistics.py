"""Uncertainty of a number: bootstrap intervals, paired comparisons, intervals over seeds and clips, Wilson intervals.

Everything works on one value per clip ("row"), because clips are what an evaluation draws at random: frames inside a
clip are not independent. All randomness comes from an explicit seed. Test: tests/metrics/test_statistics.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
_CHUNK_VALUES = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low <= value <= high` except for degenerate bootstraps."""

    value: float
    low: float
    high: float
    num: int
    """Number of clips (or trials) behind the estimate."""

    @property
    def has_bounds(self) -> bool:
        """Whether the bounds are known (not NaN)."""
        return math.isfinite(self.low)

    def excludes(self, point: float) -> bool:
        """True if `point` lies outside the interval."""
        return not self.low <= point <= self.high

    def format(self, digits: int = 3, with_bounds: bool = True) -> str:
        """Text such as `1.234 [1.200, 1.270]`, without brackets if there are no bounds; `-` for no value."""
        if not math.isfinite(self.value):
            return "-"
        bounds = f" [{self.low:,.{digits}f}, {self.high:,.{digits}f}]" if with_bounds and self.has_bounds else ""
        return f"{self.value:,.{digits}f}{bounds}"


@dataclass(frozen=True)
class PairedComparison:
    """System B against system A on the same clips; report a difference only if `real` is True."""

    mean_a: float
    mean_b: float
    difference: Interval
    """mean(B) - mean(A) with its 95 % paired bootstrap interval."""
    ratio: Interval
    """mean(B) / mean(A) with its 95 % paired bootstrap interval; NaN where mean(A) is not positive."""
    t: float
    """Student's t of the clip differences (mean / standard error)."""
    num: int
    margin: float = 0.0
    """Relative difference that chance other than the choice of clips may explain, e.g. the training seed."""

    @property
    def real(self) -> bool:
        """Bootstrap interval excludes 0, |t| exceeds the two-sided 5 % point, and the ratio exceeds the margin."""
        if self.margin and not abs(self.ratio.value - 1.0) > self.margin:
            return False
        return self.num >= 2 and self.difference.excludes(0.0) and abs(self.t) > student_t_95(self.num - 1)

    def format(self, digits: int = 3) -> str:
        """`+0.012 (paired 95 % interval +0.003 to +0.021, 40 clips)`."""
        value, low, high = (
            f"{x:+.{digits}f}" for x in (self.difference.value, self.difference.low, self.difference.high)
        )
        return f"{value} (paired 95 % interval {low} to {high}, {self.num} clips)"


def _as_rows(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1:
        raise ValueError(f"{name}: expected one value per clip, got an array of shape {rows.shape}")
    if rows.size and not np.isfinite(rows).all():
        raise ValueError(
            f"{name}: {int((~np.isfinite(rows)).sum())} values are not finite; drop failed clips by name first"
        )
    return rows


def _resampled_sums(columns_NM: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Column sums of `num_resamples` bootstrap samples of the rows, shape (num_resamples, M), in bounded memory."""
    num, width = columns_NM.shape
    rng = np.random.default_rng(seed)
    sums = np.empty((num_resamples, width))
    step = max(1, _CHUNK_VALUES // num)
    for start in range(0, num_resamples, step):
        count = min(step, num_resamples - start)
        picks = rng.integers(0, num, size=(count, num))
        for column in range(width):
            sums[start : start + count, column] = columns_NM[:, column][picks].sum(axis=1)
    return sums


def _central(samples: np.ndarray) -> tuple[float, float]:
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float] | np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Interval:
    """Mean of per-clip values with a 95 % percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    An empty list gives NaN with `num=0`; a single value has an interval of width 0, so check `num`.
    """
    rows = _as_rows(values, "bootstrap_mean")
    if rows.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    means = _resampled_sums(rows[:, None], num_resamples, seed)[:, 0] / rows.size
    return Interval(float(rows.mean()), *_central(means), rows.size)


def bootstrap_ratio(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """sum(numerators) / sum(denominators) over clips with a bootstrap interval; e.g. bits and seconds of each clip."""
    top, bottom = _as_rows(numerators, "numerators"), _as_rows(denominators, "denominators")
    if top.size != bottom.size:
        raise ValueError(f"bootstrap_ratio: {top.size} numerators but {bottom.size} denominators; one of each per clip")
    if top.size == 0 or bottom.sum() == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    sums = _resampled_sums(np.stack([top, bottom], axis=1), num_resamples, seed)
    return Interval(float(top.sum() / bottom.sum()), *_central(sums[:, 0] / sums[:, 1]), top.size)


def compare_shared(a: Mapping[str, float], b: Mapping[str, float]) -> PairedComparison:
    """B against A on the clips that both have; raises ValueError without any."""
    both = [name for name in a if name in b]
    return compare_paired([a[name] for name in both], [b[name] for name in both])


def compare_paired(
    values_a: Sequence[float] | np.ndarray,
    values_b: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare B with A on the same clips in the same order.

    weights: e.g. the seconds of each clip, when values are totals per clip (bits) and the means wanted are totals per
    weight (bits per second); None gives plain means. Clips are resampled as pairs, so what makes a clip hard cancels
    out.
    """
    a, b = _as_rows(values_a, "values_a"), _as_rows(values_b, "values_b")
    if a.size != b.size:
        raise ValueError(
            f"compare_paired: {a.size} rows for A but {b.size} for B; give the same clips in the same order"
        )
    if a.size == 0:
        raise ValueError("compare_paired: no clips in common")
    w = np.ones_like(a) if weights is None else _as_rows(weights, "weights")
    if w.size != a.size or (w <= 0).any():
        raise ValueError(f"compare_paired: needs {a.size} positive weights, got {w.size}")
    mean_a, mean_b = float(a.sum() / w.sum()), float(b.sum() / w.sum())
    sums = _resampled_sums(np.stack([a, b, w], axis=1), num_resamples, seed)
    difference = Interval(mean_b - mean_a, *_central((sums[:, 1] - sums[:, 0]) / sums[:, 2]), a.size)
    if mean_a > 0 and (sums[:, 0] > 0).all():
        ratio = Interval(mean_b / mean_a, *_central(sums[:, 1] / sums[:, 0]), a.size)
    else:
        ratio = Interval(math.nan, math.nan, math.nan, a.size)
    return PairedComparison(mean_a, mean_b, difference, ratio, _paired_t(a, b, w), a.size)


def _paired_t(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> float:
    """t of the (weighted) mean difference, with the linearised variance of a ratio estimator (Cochran 1977, 6.4)."""
    if a.size < 2:
        return 0.0
    delta = b - a
    mean = delta.sum() / w.sum()
    residual = delta - mean * w
    error = math.sqrt(float((residual**2).sum()) / (a.size - 1) / a.size) / float(w.mean())
    if error <= 1e-12 * max(abs(mean), 1e-300):
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return float(mean / error)


def two_level_interval(values_KNM: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A figure of K trainings on the same N clips, with a 95 % interval over both: other seeds, other clips.

    A bootstrap of three seeds cannot know how far a fourth would lie: it draws from three values only. Here the spread
    of the K figures counts with Student's t of K - 1 degrees, that of the clips (jackknife, seeds together) with t of
    N - 1, and the two half-widths are added as the sides of a right angle. What seeds and clips do to each other counts
    in both, so that the interval is rather too wide. With one seed it is over clips alone.

    Args:
        values_KNM: what is summed over clips, e.g. bits and seconds: (K seeds, N clips, M columns).
        statistic: sums over clips (..., M) -> figures (...); smooth, e.g. a ratio of columns.

    Raises:
        ValueError: no seed or no clip, or values that are not finite.
    """
    value, of_seeds, of_clips, (seeds, clips) = _two_levels(values_KNM, statistic)
    square = student_t_95(seeds - 1) ** 2 * of_seeds if seeds > 1 else 0.0
    square += student_t_95(clips - 1) ** 2 * of_clips if clips > 1 else 0.0
    half = math.sqrt(square) if clips > 1 else math.nan
    return Interval(value, value - half, value + half, clips)


def two_level_p(values_KNM: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> float:
    """Two-sided p that a figure is 0, over other seeds and other clips; arguments as `two_level_interval`.

    t is the figure over the root of both variances, its degrees are Satterthwaite's (1946). NaN with a single clip.
    Needs scipy.
    """
    from scipy.special import stdtr

    value, of_seeds, of_clips, (seeds, clips) = _two_levels(values_KNM, statistic)
    if clips < 2:
        return math.nan
    variance = of_seeds + of_clips
    if variance <= 1e-30 * value**2:
        return 1.0 if value == 0 else 0.0
    degrees = variance**2 / ((of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0) + of_clips**2 / (clips - 1))
    return float(2 * stdtr(degrees, -abs(value) / math.sqrt(variance)))


def _two_levels(
    values_KNM: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float, float, tuple[int, int]]:
    """A figure, its variance over seeds and over clips (jackknife), and how many there are of them."""
    values = np.asarray(values_KNM, dtype=np.float64)
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"two_level_interval: expected (seeds, clips, columns), got an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("two_level_interval: values that are not finite; drop failed clips by name first")
    seeds, clips = values.shape[:2]
    of_seeds = float(np.var(statistic(values.sum(1)), ddof=1)) / seeds if seeds > 1 else 0.0
    of_clips = 0.0
    if clips > 1:
        without_N = statistic(values.sum((0, 1)) - values.sum(0))
        of_clips = float(np.var(without_N)) * (clips - 1)
    return float(statistic(values.sum((0, 1)))), of_seeds, of_clips, (seeds, clips)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being several (Holm 1979), in their order: reject those below the level wanted."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def student_t_95(degrees: int) -> float:
    """Two-sided 95 % point of Student's t (expansion of Abramowitz & Stegun 26.7.5; a table below 5 degrees)."""
    if degrees < 1:
        return math.inf
    exact = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451}
    if degrees in exact:
        return exact[degrees]
    z, n = 1.959963984540054, float(degrees)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4


def wilson_interval(successes: float, trials: int, z: float = 1.959963984540054) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927); `successes` may be half-integer (ties count 0.5)."""
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"wilson_interval: {successes} successes of {trials} trials is impossible")
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    p = successes / trials
    scale = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), trials)
