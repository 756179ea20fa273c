"""The bigram term against a loop over frames and codes in float64, with counts of its own."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from llmcodec.codec.token_prior import CountedClip, FoldedPrior
from llmcodec.objectives.bigram import BigramConfig, BigramTerm

from .toy_codec import gradients, toy_encoding

CODES = 11
IDS = ["heard", "unheard", "short"]
CONFIG = BigramConfig("counts.npz", candidates=4, tau=0.1)


def corpus() -> list[tuple[str, list[int]]]:
    """Ids and codes of nine clips; the second of them is in the batch too."""
    numbers = np.random.default_rng(5)
    names = ["a", "heard", "c", "d", "e", "f", "g", "h", "i"]
    return [(name, list(map(int, numbers.integers(0, CODES, 30) % 7))) for name in names]


@pytest.fixture
def prior() -> FoldedPrior:
    clips = [
        CountedClip(name, np.array([number]), torch.tensor(codes)) for number, (name, codes) in enumerate(corpus())
    ]
    return FoldedPrior.fit(clips, CODES, folds=3)


def nats_of(clips: list[list[int]]):
    """-ln p by definition: Witten-Bell over the add-one-half unigram (docs/search.md)."""
    unigram = Counter(code for clip in clips for code in clip)
    pairs = Counter(pair for clip in clips for pair in zip(clip, clip[1:], strict=False))
    total = sum(unigram.values()) + 0.5 * CODES

    def nats(before: int | None, code: int | None) -> float:
        if code is None:
            return 0.0
        share = (unigram[code] + 0.5) / total
        if before is None:
            return -math.log(share)
        counted = {after: count for (first, after), count in pairs.items() if first == before}
        kinds = max(1, len(counted))
        return -math.log((counted.get(code, 0) + kinds * share) / (sum(counted.values()) + kinds))

    return nats


def by_loop(encoding, codebook, folds: dict[str, int], codes_allowed=range(CODES)) -> torch.Tensor:
    total, frames = torch.zeros((), dtype=torch.float64), 0
    for row, clip_id in enumerate(IDS):
        kept = [codes for number, (_, codes) in enumerate(corpus()) if number % 3 != folds.get(clip_id)]
        nats = nats_of(kept)
        length = int(encoding.mask_BT[row].sum())
        codes = encoding.codes_BT[row, :length].tolist()
        for t in range(length):
            similarity = {k: encoding.query_BTC[row, t] @ codebook[k] for k in codes_allowed}
            nearest = sorted(similarity, key=lambda k: -float(similarity[k].detach()))[: CONFIG.candidates]
            share = torch.stack([similarity[k] / CONFIG.tau for k in nearest]).softmax(0)
            before, after = codes[t - 1] if t else None, codes[t + 1] if t + 1 < length else None
            cost = torch.tensor([nats(before, k) + nats(k, after) for k in nearest], dtype=torch.float64)
            total, frames = total + share @ cost, frames + 1
    return total / frames


def test_value_and_gradients_are_those_of_a_loop_which_leaves_counted_clips_out(prior):
    encoding, codebook = toy_encoding()
    found = BigramTerm(prior, CONFIG)(encoding, codebook, IDS)
    expected = by_loop(encoding, codebook, {"heard": 1})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    leaking = by_loop(encoding, codebook, {})
    assert abs(float(leaking - expected)) > 1e-3, "leaving the clip out must be visible here"
    learners = encoding.query_BTC, codebook
    for ours, wanted in zip(gradients(found, *learners), gradients(expected, *learners), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
        assert ours.abs().max() > 1e-4


def test_padding_and_other_clips_change_nothing(prior):
    term = BigramTerm(prior, CONFIG)
    encoding, codebook = toy_encoding()
    other = replace(
        encoding,
        codes_BT=encoding.codes_BT.masked_fill(~encoding.mask_BT, 9),
        query_BTC=torch.where(encoding.mask_BT[..., None], encoding.query_BTC, torch.nan),
    )
    assert torch.equal(term(encoding, codebook, IDS), term(other, codebook, IDS))


def test_candidates_stay_in_the_partition(prior):
    encoding, codebook = toy_encoding()
    span = range(3, 9)
    clipped = replace(encoding, codes_BT=encoding.codes_BT.clamp(3, 8))
    found = BigramTerm(prior, CONFIG)(clipped, codebook, IDS, (3, 9))
    torch.testing.assert_close(found, by_loop(clipped, codebook, {"heard": 1}, span), rtol=1e-6, atol=1e-6)


def test_a_step_down_the_gradient_makes_the_hard_codes_cheaper(prior):
    """The queries move towards codes that fit their neighbours: the cost of the nearest codes falls."""
    encoding, codebook = toy_encoding(lengths=(40, 30, 20), seed=2)
    term, nats = BigramTerm(prior, CONFIG), prior.pooled.nats
    query = encoding.query_BTC.detach().clone()

    def cost(codes: torch.Tensor) -> float:
        return sum(float(nats(row[:-1], row[1:]).sum()) for row in (codes[0], codes[1][:30], codes[2][:20]))

    first = codes = (query @ codebook.T).argmax(-1)
    for _ in range(30):
        moving = query.requires_grad_()
        loss = term(replace(encoding, query_BTC=moving, codes_BT=codes), codebook, IDS)
        (slope,) = gradients(loss, moving)
        query = torch.nn.functional.normalize(query.detach() - 0.3 * slope, dim=-1)
        codes = (query @ codebook.T).argmax(-1)
    assert cost(codes.detach()) < 0.9 * cost(first)


def test_a_checkpoint_made_with_other_counts_is_refused(prior):
    saved = BigramTerm(prior, CONFIG).state_dict()
    BigramTerm(prior, CONFIG).load_state_dict(saved)
    clips = [CountedClip(name, np.array([n]), torch.tensor(codes[1:])) for n, (name, codes) in enumerate(corpus())]
    other = BigramTerm(FoldedPrior.fit(clips, CODES, folds=3), CONFIG)
    with pytest.raises(RuntimeError, match=r"bigram\.prior: counts\.npz has other counts now than when the run began"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("wrong", [{"candidates": 1}, {"tau": 0.0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"bigram\.candidates must be at least 2 and bigram\.tau positive"):
        BigramConfig("counts.npz", **wrong)
