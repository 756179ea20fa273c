"""Token statistics against hand-made sequences and loops written out in float64."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from llmcodec.metrics.token_statistics import UnigramModel, code_statistics, flatten_codes

from .unigram import unigram_cross_entropy


def tensor(*values: int) -> Tensor:
    return torch.tensor(values)


def test_flatten_interleaves_codebooks_by_frame() -> None:
    codes_QT = torch.tensor([[1, 2, 3], [0, 4, 0]])
    assert flatten_codes(codes_QT, 10).tolist() == [1, 10, 2, 14, 3, 10]
    assert flatten_codes(torch.tensor([5, 6]), 10).tolist() == [5, 6]
    with pytest.raises(ValueError, match="shape"):
        flatten_codes(torch.zeros(1, 1, 1), 10)


def test_statistics_by_hand() -> None:
    statistics = code_statistics([tensor(0, 0, 1, 1), tensor(2, 2)], 8)
    assert statistics.used_codes == 3 and statistics.num_tokens == 6
    assert statistics.unigram_entropy_bits == pytest.approx(math.log2(3))
    assert statistics.perplexity == pytest.approx(3.0)
    assert statistics.within_utterance_bits == [1.0, 0.0]
    assert statistics.within_utterance_entropy == 0.5
    assert statistics.repeat_rate == pytest.approx(3 / 4)


def test_speaker_tokens_have_entropy_but_none_inside_utterances() -> None:
    statistics = code_statistics([torch.full((50,), v) for v in range(16)], 16)
    assert statistics.unigram_entropy_bits == pytest.approx(4.0)
    assert statistics.within_utterance_entropy == 0.0
    assert statistics.repeat_rate == 1.0


def test_repeats_of_flattened_codebooks_compare_frames() -> None:
    flat = flatten_codes(torch.tensor([[1, 1, 2], [3, 3, 3]]), 8)
    assert code_statistics([flat], 8, num_codebooks=2).repeat_rate == pytest.approx(3 / 4)


def test_which_codebook_a_token_is_of_is_no_information() -> None:
    codes_QT = torch.randint(0, 16, (4, 5000), generator=torch.Generator().manual_seed(0))
    found = code_statistics([flatten_codes(codes_QT, 16)], 16, num_codebooks=4)
    alone = [code_statistics([row], 16) for row in codes_QT]
    mean = sum(one.unigram_entropy_bits for one in alone) / 4
    assert abs(found.unigram_entropy_bits - mean) < 1e-9 and found.unigram_entropy_bits <= 4.0
    assert abs(found.within_utterance_bits[0] - mean) < 1e-9 and 15 < found.perplexity <= 16


def test_single_token_clip_has_no_pairs() -> None:
    assert math.isnan(code_statistics([tensor(3)], 8).repeat_rate)


def test_zipf_exponent_of_a_zipf_law() -> None:
    counts = [round(100_000 / rank) for rank in range(1, 51)]
    clip = torch.repeat_interleave(torch.arange(50), torch.tensor(counts))
    assert code_statistics([clip], 64).zipf_exponent == pytest.approx(1.0, abs=0.01)
    assert math.isnan(code_statistics([tensor(0, 1)], 4).zipf_exponent)


def test_unigram_equals_a_loop_and_sums_to_one() -> None:
    train, test, vocabulary = [tensor(0, 0, 0, 1, 2, 2), tensor(0, 1, 1)], [tensor(0, 3, 2)], 5
    model = UnigramModel.fit(train, vocabulary)
    assert float(model.log_prob_V.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    counts, total = Counter(torch.cat(train).tolist()), 9
    bits = sum(-math.log2((counts[v] + model.alpha) / (total + model.alpha * vocabulary)) for v in (0, 3, 2))
    assert unigram_cross_entropy(train, test, vocabulary) == pytest.approx(bits / 3, abs=1e-12)


def test_smoothing_is_chosen_by_leave_one_out() -> None:
    train = [torch.from_numpy(np.random.default_rng(0).integers(0, 100, 300))]
    chosen = UnigramModel.fit(train, 200).alpha
    counts = torch.bincount(train[0], minlength=200).double()

    def left_out(alpha: float) -> float:
        total = 0.0
        for token in train[0].tolist():
            total += math.log((float(counts[token]) - 1 + alpha) / (300 - 1 + alpha * 200))
        return total

    assert left_out(chosen) > left_out(chosen * 2) and left_out(chosen) > left_out(chosen / 2)


def test_uniform_tokens_cost_log2_v_and_constant_tokens_nothing() -> None:
    rng = np.random.default_rng(1)
    uniform = [torch.from_numpy(rng.integers(0, 64, 500)) for _ in range(100)]
    assert unigram_cross_entropy(uniform[:80], uniform[80:], 64) == pytest.approx(6.0, abs=0.02)
    constant = [torch.zeros(100, dtype=torch.int64)] * 20
    assert unigram_cross_entropy(constant, constant, 4096) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("codes", [[], [torch.zeros(0, dtype=torch.int64)], [tensor(9)], [tensor(-1)]])
def test_bad_codes_are_named(codes: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="codes"):
        code_statistics(codes, 8)
