"""Anti-collapse terms against dense float64, code statistics by hand, floors."""

from __future__ import annotations

import math

import pytest
import torch

from llmcodec.objectives import chunked
from llmcodec.objectives.collapse import (
    CodeStatistics,
    CollapseFloors,
    entropy_bits,
    marginal_entropy_term,
    soft_usage,
)

from .toy_codec import gradients, toy_encoding


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "MIN_CHUNK_ROWS", 3)


def _dense(encoding, codebook, tau):
    usage = (encoding.query_BTC @ codebook.T / tau).softmax(-1)[encoding.mask_BT].mean(0)
    return math.log(len(codebook)) + (usage * usage.log()).sum()


def test_marginal_entropy_equals_the_dense_formula():
    encoding, codebook = toy_encoding()
    ours, expected = marginal_entropy_term(encoding, codebook, 0.3), _dense(encoding, codebook, 0.3)
    torch.testing.assert_close(ours, expected)
    learners = (encoding.query_BTC, codebook)
    torch.testing.assert_close(gradients(ours, *learners), gradients(expected, *learners))


def test_gradcheck():
    encoding, codebook = toy_encoding((3, 2), num_codes=5)

    def term(query, codes):
        encoding.query_BTC = query
        return marginal_entropy_term(encoding, codes, 0.5)

    assert torch.autograd.gradcheck(term, (encoding.query_BTC, codebook))


def test_extremes_and_direction():
    encoding, codebook = toy_encoding((8, 8, 8))
    encoding.query_BTC = codebook.detach()[:1].expand(3, 8, -1).clone().requires_grad_()
    collapsed = marginal_entropy_term(encoding, codebook, 0.01)
    assert collapsed.item() == pytest.approx(math.log(11), abs=0.05)
    encoding.query_BTC = codebook.detach()[torch.arange(33) % 11].reshape(3, 11, -1)[:, :8]
    encoding.query_BTC = torch.cat([encoding.query_BTC, codebook.detach()[8:11].expand(3, 3, -1)], 1)
    encoding.mask_BT = torch.ones(3, 11, dtype=torch.bool)
    assert marginal_entropy_term(encoding, codebook, 0.01).item() == pytest.approx(0.0, abs=0.05)
    # Following the gradient from a narrow start spreads the usage.
    torch.manual_seed(0)
    query = (codebook.detach()[0] + 0.1 * torch.randn(3, 11, 4, dtype=torch.float64)).requires_grad_()
    history = []
    for _ in range(50):
        encoding.query_BTC = torch.nn.functional.normalize(query, dim=-1)
        term = marginal_entropy_term(encoding, codebook.detach(), 0.2)
        history.append(term.item())
        (gradient,) = torch.autograd.grad(term, query)
        query = (query - 2.0 * gradient).detach().requires_grad_()
    assert history[-1] < 0.5 * history[0]


def test_a_partition_counts_its_own_codes():
    encoding, codebook = toy_encoding()
    assert soft_usage(encoding, codebook[:4], 0.3).shape == (4,)
    assert marginal_entropy_term(encoding, codebook[:4], 0.3).item() <= math.log(4)


CODES = torch.tensor([[1, 1, 2, 2], [3, 3, 0, 0]])
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


def code_statistics(codes, mask, codebook_size):
    """Of one batch alone."""
    statistics = CodeStatistics(codebook_size, decay=0.0)
    statistics.update(codes, mask)
    return statistics.summary()


def test_statistics_by_hand():
    found = {name: value.item() for name, value in code_statistics(CODES, MASK, 8).items()}
    assert found["codes/used"] == 3
    assert found["codes/perplexity"] == pytest.approx(3.0)  # 1, 2 and 3 twice each
    assert found["codes/utterance_entropy"] == pytest.approx((1.0 + 0.0) / 2)
    assert found["codes/repeat_rate"] == pytest.approx(3 / 4)  # 1-1, 2-2, 3-3 of the pairs 1-1, 1-2, 2-2, 3-3
    assert entropy_bits(torch.tensor([[1, 1, 1, 1], [5, 0, 0, 0], [0, 0, 0, 0]])).tolist() == pytest.approx([2, 0, 0])


def test_running_statistics_forget():
    statistics = CodeStatistics(8, decay=0.5)
    statistics.update(CODES, MASK)
    assert statistics.summary()["codes/used"].item() == 3
    for _ in range(3):
        statistics.update(torch.full((1, 4), 7), torch.ones(1, 4, dtype=torch.bool))
    summary = statistics.summary()
    assert summary["codes/used"].item() == 1 and 0.9 < summary["codes/repeat_rate"].item() < 1.0
    copy = CodeStatistics(8, decay=0.5)
    copy.load_state_dict(statistics.state_dict())
    assert {k: v.item() for k, v in copy.summary().items()} == {k: v.item() for k, v in summary.items()}


def test_floors_name_what_is_wrong():
    floors = CollapseFloors(min_used_share=0.5, min_perplexity=2.0, min_utterance_entropy=0.2, max_repeat_rate=0.8)
    assert floors.violated(code_statistics(CODES, MASK, 4), 4) == []
    lines = floors.violated(code_statistics(torch.full((2, 9), 5), torch.ones(2, 9, dtype=torch.bool), 8), 8)
    assert len(lines) == 4 and all("\n" not in line for line in lines)
    assert "1 of 8 codes in use, the floor is 4" in lines[0] and "100.0%" in lines[3]
    off = CollapseFloors(min_used_share=0, min_perplexity=0, min_utterance_entropy=0, max_repeat_rate=1)
    assert off.violated(code_statistics(torch.full((2, 9), 5), torch.ones(2, 9, dtype=torch.bool), 8), 8) == []


def _half(rank: int) -> dict[str, torch.Tensor]:
    encoding, codebook = toy_encoding()
    keep = slice(0, 1) if rank == 0 else slice(1, 3)
    query = encoding.query_BTC
    encoding.query_BTC, encoding.mask_BT = query[keep], encoding.mask_BT[keep]
    term = marginal_entropy_term(encoding, codebook, 0.3)
    d_query, d_codebook = gradients(term, query, codebook)
    statistics = CodeStatistics(11)
    statistics.update(encoding.codes_BT[keep], encoding.mask_BT)
    return {"term": term.detach(), "query": d_query, "codebook": d_codebook, "counts": statistics.counts_V}


def test_two_ranks_equal_one(two_ranks):
    first, second = two_ranks(_half)
    encoding, codebook = toy_encoding()
    term = marginal_entropy_term(encoding, codebook, 0.3)
    d_query, d_codebook = gradients(term, encoding.query_BTC, codebook)
    statistics = CodeStatistics(11)
    statistics.update(encoding.codes_BT, encoding.mask_BT)
    for rank in (first, second):
        torch.testing.assert_close(rank["term"], term.detach())
        torch.testing.assert_close(rank["counts"], statistics.counts_V)
    torch.testing.assert_close((first["query"] + second["query"]) / 2, d_query)
    torch.testing.assert_close((first["codebook"] + second["codebook"]) / 2, d_codebook)
