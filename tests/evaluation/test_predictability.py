"""LM bits per second against token sources whose entropy rate is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from llmcodec.evaluation.predictability import (
    SEED_LUCK,
    ClipBits,
    LikelihoodConfig,
    PredictabilityResult,
    compare_predictability,
    measure_predictability,
)
from llmcodec.lm.small_lm import SmallLMConfig

from ..metrics.unigram import unigram_cross_entropy

SMALL = LikelihoodConfig(
    model=SmallLMConfig(num_layers=1, hidden_size=32, num_heads=2, intermediate_size=48, dropout=0.0),
    audio_seconds=1_200.0,
    batch_seconds=4.0,
    num_evaluations=3,
    learning_rate=1e-2,
    bf16=False,
)
RATE = 50.0


def split(clips: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    fifth = len(clips) // 5
    return clips[: 3 * fifth], clips[3 * fifth : 4 * fifth], clips[4 * fifth :]


def uniform_clips(vocabulary: int, num_clips: int = 60, tokens: int = 80) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, vocabulary, tokens)) for _ in range(num_clips)]


def markov_clips(num_clips: int = 150, tokens: int = 100) -> tuple[list[Tensor], float]:
    """Eight states; from each, the next is state + 1 with .75, state + 3 with .25: 0.811 bits per token, uniform
    unigram."""
    rng = np.random.default_rng(1)
    steps = rng.choice([1, 3], p=[0.75, 0.25], size=(num_clips, tokens))
    states = (rng.integers(0, 8, (num_clips, 1)) + np.cumsum(steps, axis=1)) % 8
    return [torch.from_numpy(row) for row in states], -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))


def test_constant_tokens_cost_nothing_and_gain_nothing() -> None:
    result = measure_predictability(
        *split([torch.full((60,), 5)] * 30), 256, RATE, dataclasses.replace(SMALL, audio_seconds=300.0)
    )
    assert result.bits_per_second == pytest.approx(0.0, abs=0.5)
    assert result.context_gain == pytest.approx(0.0, abs=0.01)
    assert result.accuracy == 1.0


def test_uniform_tokens_cost_log2_v() -> None:
    result = measure_predictability(*split(uniform_clips(16)), 16, RATE, SMALL)
    assert result.bits_per_token == pytest.approx(4.0, abs=0.02)
    assert result.bits_per_second == pytest.approx(200.0, abs=1.0)
    assert result.context_gain == pytest.approx(0.0, abs=0.02)


def test_markov_chain_approaches_its_entropy_rate() -> None:
    clips, entropy_rate = markov_clips()
    train, valid, test = split(clips)
    result = measure_predictability(train, valid, test, 8, RATE, SMALL)
    ideal = (99 * entropy_rate + 3.0) / 100  # the first token of a clip costs log2(8)
    assert ideal - 0.03 < result.bits_per_token < ideal + 0.06
    assert result.unigram_bits_per_token == pytest.approx(unigram_cross_entropy(train, [*valid, *test], 8))
    assert result.context_gain == pytest.approx(3.0 - ideal, abs=0.08)
    assert result.accuracy == pytest.approx(0.75, abs=0.03)
    assert result.interval().low < result.bits_per_second < result.interval().high
    assert result.curve[0].audio_seconds == 0.0
    assert result.curve[0].test_bits == pytest.approx(unigram_cross_entropy(train, test, 8), abs=1e-5)
    assert result.curve[-1].audio_seconds >= SMALL.audio_seconds and len(result.curve) == SMALL.num_evaluations + 1


def test_same_seed_same_numbers_and_the_global_generator_stays() -> None:
    config = dataclasses.replace(
        SMALL, audio_seconds=100.0, model=dataclasses.replace(SMALL.model, dropout=0.1), seeds=(3, 4), bf16=True
    )
    parts = split(markov_clips(30, 40)[0])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = measure_predictability(*parts, 8, RATE, config)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(99)
    assert measure_predictability(*parts, 8, RATE, config) == first
    assert first.seed_bits_per_second[3] != first.seed_bits_per_second[4]
    assert first.seed_spread > 0
    mean = sum(first.seed_bits_per_second.values()) / 2
    assert first.bits_per_second == pytest.approx(mean, rel=1e-9)


def test_overfitting_cannot_hurt_more_than_the_unigram() -> None:
    """Few, unpredictable clips and a long budget: the checkpoint chosen on the other split is (near) the first one."""
    clips = uniform_clips(64, num_clips=15, tokens=30)
    result = measure_predictability(*split(clips), 64, RATE, dataclasses.replace(SMALL, audio_seconds=600.0))
    worst = max(point.test_bits for point in result.curve)
    assert worst > result.bits_per_token + 0.3  # the last checkpoint has overfitted badly
    assert result.context_gain > -0.05


def test_cross_selection_scores_both_splits_and_can_be_switched_off() -> None:
    parts = split(markov_clips(30, 40)[0])
    config = dataclasses.replace(SMALL, audio_seconds=30.0)
    both = measure_predictability(*parts, 8, RATE, config)
    test_only = measure_predictability(*parts, 8, RATE, dataclasses.replace(config, cross_select=False))
    assert [c.id for c in both.clips] == [f"valid-{i}" for i in range(6)] + [f"test-{i}" for i in range(6)]
    assert both.clips[6:] == test_only.clips
    for result in (both, test_only):  # the surprisals are those that the figures are made of
        assert list(result.surprisal) == [clip.id for clip in result.clips]
        for clip in result.clips:
            assert len(result.surprisal[clip.id]) == clip.num_tokens == 40
            assert sum(result.surprisal[clip.id]) == pytest.approx(clip.bits, abs=0.005 * 40)


def test_surprisals_are_those_of_the_first_seed() -> None:
    parts = split(markov_clips(15, 40)[0])
    one, other = (dataclasses.replace(SMALL, audio_seconds=20.0, seeds=seeds) for seeds in ((0,), (0, 1)))
    long = dataclasses.replace(one, context_seconds=0.3)  # 15 tokens: clips are scored in pieces
    whole = measure_predictability(*parts, 8, RATE, one)
    assert measure_predictability(*parts, 8, RATE, other).surprisal == whole.surprisal
    pieces = measure_predictability(*parts, 8, RATE, long)
    for clip in pieces.clips:
        assert sum(pieces.surprisal[clip.id]) == pytest.approx(clip.bits, abs=0.005 * 40)


def test_paired_comparison_sees_the_more_predictable_source() -> None:
    clips, _ = markov_clips(60)
    config = dataclasses.replace(SMALL, audio_seconds=200.0)
    noisy = [
        torch.where(torch.from_numpy(np.random.default_rng(i).random(100) < 0.3), (c * 5 + 1) % 8, c)
        for i, c in enumerate(clips)
    ]
    clean_result = measure_predictability(*split(clips), 8, RATE, config)
    noisy_result = measure_predictability(*split(noisy), 8, RATE, config)
    comparison = compare_predictability(noisy_result, clean_result)
    assert comparison.real and comparison.difference.high < 0
    assert comparison.mean_b == pytest.approx(clean_result.bits_per_second)
    with pytest.raises(ValueError, match="same LikelihoodConfig"):
        compare_predictability(noisy_result, dataclasses.replace(clean_result, config=LikelihoodConfig()))
    with pytest.raises(ValueError, match="different clips"):
        compare_predictability(noisy_result, dataclasses.replace(clean_result, clips=clean_result.clips[1:]))


def test_bad_input_is_named() -> None:
    good = [torch.tensor([0, 1])]
    with pytest.raises(ValueError, match="valid_codes: no clips"):
        measure_predictability(good, [], good, 4, RATE, SMALL)
    with pytest.raises(ValueError, match=r"test_codes: clip 0 has codes from 9 to 9, outside \[0, 4\)"):
        measure_predictability(good, good, [torch.tensor([9])], 4, RATE, SMALL)
    with pytest.raises(ValueError, match="one id per clip"):
        measure_predictability(good, good, good, 4, RATE, dataclasses.replace(SMALL, audio_seconds=1.0), ids=["a"])


def test_progress_runs_from_zero_to_one() -> None:
    shares: list[float] = []
    config = dataclasses.replace(SMALL, audio_seconds=20.0, seeds=(0, 1))
    measure_predictability(*split(markov_clips(15, 40)[0]), 8, RATE, config, on_progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_difference_within_the_luck_of_an_lm_seed_is_not_called_real():
    """Every clip a little better, so pairing by clip is sure; one training cannot tell half the margin from luck."""
    clips = [ClipBits(str(i), 1.0, 50, 400.0 + i, 500.0, 1.0) for i in range(30)]
    config = LikelihoodConfig()

    def result(factor: float, seeds: tuple[int, ...]) -> PredictabilityResult:
        scaled = [dataclasses.replace(clip, bits=clip.bits * factor) for clip in clips]
        return PredictabilityResult(
            scaled, [], {s: 400.0 for s in seeds}, 50.0, 64, dataclasses.replace(config, seeds=seeds)
        )

    assert not compare_predictability(result(1.0, (0,)), result(1 - SEED_LUCK / 2, (0,))).real
    assert compare_predictability(result(1.0, (0,)), result(1 - 1.2 * SEED_LUCK, (0,))).real
    nine = tuple(range(9))
    assert compare_predictability(result(1.0, nine), result(1 - SEED_LUCK / 2, nine)).real
