"""Intervals and paired tests against known values, scipy and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcodec.metrics import statistics as stats


def test_bootstrap_mean_matches_the_normal_interval_for_many_rows() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = stats.bootstrap_mean(rows)
    half = 1.96 * rows.std(ddof=1) / math.sqrt(400)
    assert interval.value == pytest.approx(rows.mean(), abs=1e-12)
    assert interval.low == pytest.approx(rows.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(rows.mean() + half, abs=0.03)
    assert interval.num == 400


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    trials = 300
    hits = sum(
        not stats.bootstrap_mean(rng.exponential(1.0, 60), num_resamples=500, seed=i).excludes(1.0)
        for i in range(trials)
    )
    assert 0.88 <= hits / trials <= 0.98


def test_empty_and_single_rows() -> None:
    empty = stats.bootstrap_mean([])
    assert math.isnan(empty.value) and empty.num == 0 and empty.format() == "-"
    single = stats.bootstrap_mean([2.5])
    assert (single.value, single.low, single.high, single.num) == (2.5, 2.5, 2.5, 1)


def test_non_finite_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        stats.bootstrap_mean([1.0, math.nan])


def test_chunked_resampling_equals_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(10.0)
    whole = stats.bootstrap_mean(rows, num_resamples=1000)
    monkeypatch.setattr(stats, "_CHUNK_VALUES", 100)
    assert stats.bootstrap_mean(rows, num_resamples=1000) == whole


def test_bootstrap_ratio_weighs_clips_by_their_denominator() -> None:
    assert stats.bootstrap_ratio([10.0, 90.0], [1.0, 9.0]).value == 10.0
    assert stats.bootstrap_ratio([0.0, 90.0], [1.0, 9.0]).value == 9.0
    with pytest.raises(ValueError, match="one of each"):
        stats.bootstrap_ratio([1.0], [1.0, 2.0])


def test_paired_t_equals_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(2)
    a = rng.normal(10, 3, 25)
    b = a + rng.normal(0.2, 0.5, 25)
    assert stats.compare_paired(a, b).t == pytest.approx(scipy_stats.ttest_rel(b, a).statistic, rel=1e-9)


@pytest.mark.parametrize(
    ("degrees", "published"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799)],
)
def test_student_t_table(degrees: int, published: float) -> None:
    assert stats.student_t_95(degrees) == pytest.approx(published, abs=3e-3)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(100, 30, 40)
    b = a * 0.97 + rng.normal(0, 0.5, 40)
    comparison = stats.compare_paired(a, b)
    assert comparison.real and comparison.difference.high < 0
    assert comparison.ratio.value == pytest.approx(b.sum() / a.sum(), abs=1e-12)
    assert comparison.ratio.low < 0.97 < comparison.ratio.high
    assert stats.bootstrap_mean(b).low < stats.bootstrap_mean(a).value  # unpaired: the intervals overlap


def test_no_difference_is_called_real_at_about_the_nominal_rate() -> None:
    rng = np.random.default_rng(4)
    false = 0
    for trial in range(200):
        a = rng.normal(5, 1, 30)
        b = a + rng.normal(0, 0.3, 30)
        false += stats.compare_paired(a, b, num_resamples=500, seed=trial).real
    assert false / 200 <= 0.09


def test_identical_systems_and_constant_shift() -> None:
    a = np.array([1.0, 2.0, 3.0])
    assert not stats.compare_paired(a, a).real
    shifted = stats.compare_paired(a, a + 1)
    assert shifted.real and shifted.difference.value == 1.0 and math.isinf(shifted.t)


def test_one_clip_is_never_enough() -> None:
    assert not stats.compare_paired([1.0], [2.0]).real


def test_weights_turn_totals_into_rates() -> None:
    seconds = np.array([1.0, 3.0])
    comparison = stats.compare_paired([100.0, 330.0], [90.0, 300.0], weights=seconds)
    assert comparison.mean_a == 107.5 and comparison.mean_b == 97.5
    with pytest.raises(ValueError, match="positive weights"):
        stats.compare_paired([1.0, 2.0], [1.0, 2.0], weights=[1.0, 0.0])
    with pytest.raises(ValueError, match="same clips"):
        stats.compare_paired([1.0], [1.0, 2.0])


def test_wilson_known_values() -> None:
    interval = stats.wilson_interval(8, 10)  # published example: .4902 .. .9433
    assert interval.low == pytest.approx(0.4902, abs=1e-4) and interval.high == pytest.approx(0.9433, abs=1e-4)
    assert stats.wilson_interval(0, 20).low == 0.0
    assert stats.wilson_interval(0, 20).high == pytest.approx(3.8415 / (20 + 3.8415), abs=1e-4)
    with pytest.raises(ValueError, match="impossible"):
        stats.wilson_interval(3, 2)


def relative(sums: np.ndarray) -> np.ndarray:
    return sums[..., 1] / sums[..., 0] - 1


@pytest.mark.parametrize("clip_spread", [0.03, 0.003])
@pytest.mark.parametrize("seed_spread", [0.001, 0.006])
def test_three_seeds_and_their_clips_cover_the_truth(seed_spread: float, clip_spread: float) -> None:
    """Bits of a row against its control: both trained anew with every seed, clips that gain differently."""
    rng = np.random.default_rng(5)
    trials, seeds, clips, truth, hits, widths = 1200, 3, 90, -0.08, 0, []
    for _ in range(trials):
        control = 500 * rng.lognormal(1.0, 0.6, clips) * (1 + seed_spread * rng.normal(size=(seeds, 1)))
        gain = 1 + truth + clip_spread * rng.normal(size=clips) + 0.01 * rng.normal(size=(seeds, clips))
        row = control * gain * (1 + seed_spread * rng.normal(size=(seeds, 1)))
        interval = stats.two_level_interval(np.stack([control, row], -1), relative)
        hits += not interval.excludes(truth)
        widths.append(interval.high - interval.low)
    assert 0.93 <= hits / trials <= 0.995
    assert np.median(widths) < 2 * 4.303 * 1.1 * math.hypot(
        2 * seed_spread, clip_spread / 5, 0.01 / 5
    )  # not by being boundless


def test_the_interval_of_one_seed_is_that_of_the_clips_and_of_equal_clips_that_of_the_seeds() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(6)
    values = rng.normal(10.0, 2.0, (1, 40, 1))
    shifts = stats.two_level_interval(np.stack([np.ones(40), values[0, :, 0]], -1)[None], relative)
    expected = scipy_stats.t.interval(0.95, 39, values.mean(), values.std(ddof=1) / math.sqrt(40))
    assert (1 + shifts.low, 1 + shifts.high) == pytest.approx(expected, rel=1e-4)
    assert shifts.num == 40
    seeds = np.asarray([9.0, 10.0, 12.0])
    alike = stats.two_level_interval(np.repeat([[[1.0, s]] for s in seeds], 7, axis=1), relative)
    expected = scipy_stats.t.interval(0.95, 2, seeds.mean(), seeds.std(ddof=1) / math.sqrt(3))
    assert (1 + alike.low, 1 + alike.high) == pytest.approx(expected, rel=1e-6)


def test_p_is_that_of_a_t_test_over_clips_or_over_seeds_where_only_they_differ() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(7)

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums[..., 0] / sums[..., 1]

    clips = rng.normal(0.4, 1.0, 25)
    found = stats.two_level_p(np.stack([clips, np.ones(25)], -1)[None], mean)
    assert found == pytest.approx(scipy_stats.ttest_1samp(clips, 0.0).pvalue, rel=1e-9)
    seeds = np.asarray([0.2, 0.5, 0.9])
    found = stats.two_level_p(np.stack([np.repeat(seeds[:, None], 6, 1), np.ones((3, 6))], -1), mean)
    assert found == pytest.approx(scipy_stats.ttest_1samp(seeds, 0.0).pvalue, rel=1e-9)
    assert stats.two_level_p(np.stack([np.zeros((2, 5)), np.ones((2, 5))], -1), mean) == 1.0
    assert math.isnan(stats.two_level_p(np.ones((3, 1, 2)), mean))


def test_holm_by_hand() -> None:
    assert stats.holm([0.04, 0.001, 0.02]) == pytest.approx([0.04, 0.003, 0.04])
    assert stats.holm([0.5, 0.6]) == [1.0, 1.0] and stats.holm([]) == []


def test_two_level_intervals_know_what_they_cannot_say() -> None:
    assert not stats.two_level_interval(np.ones((3, 1, 2)), relative).has_bounds
    for wrong in (np.ones((0, 3, 2)), np.ones((2, 3)), np.full((1, 2, 2), math.nan)):
        with pytest.raises(ValueError, match="two_level_interval"):
            stats.two_level_interval(wrong, relative)
