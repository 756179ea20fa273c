"""Packed rows: full, complete, and blind to their neighbours."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcodec.lm.packing import IGNORE, RowDataset, check_packing, collate, plan_rows
from llmcodec.lm.prepare import TrainedLM
from llmcodec.lm.sequences import SequenceBuilder

from .small_token_lm import FAMILIES, rows, token_lm


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(0, 9))
def test_every_sequence_is_in_one_row_and_rows_are_filled(lengths, seed):
    plan = plan_rows(lengths, 50, seed, pool=20)
    assert sorted(place for row in plan for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= 50 for row in plan)
    assert plan == plan_rows(lengths, 50, seed, pool=20)


def test_rows_are_nearly_full():
    lengths = [3 + (37 * number) % 90 for number in range(2000)]
    plan = plan_rows(lengths, 256, 0)
    assert sum(lengths) / (256 * len(plan)) > 0.97
    with pytest.raises(ValueError, match="a sequence of 92 tokens does not fit"):
        plan_rows(lengths, 91, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("audio_only", [True, False])
def test_packed_and_unpacked_losses_and_gradients_are_equal(family, audio_only):
    lm = token_lm(family)
    lm.model.double()
    sequences = SequenceBuilder(lm.tokenizer, lm.tokens, 100).build(rows(9), ["audio", "tts"]).sequences
    module = TrainedLM(lm.model, lm.tokens, None, audio_only)
    results = []
    for plan in (plan_rows([len(one) for one in sequences], 100, 1), [[place] for place in range(len(sequences))]):
        data = RowDataset(sequences, plan)
        module.zero_grad()
        nats = module(**collate([data[place] for place in range(len(data))]))
        nats.backward()
        gradients = [value.grad.clone() for value in module.parameters() if value.grad is not None]
        results.append((float(nats.detach()), gradients, len(plan)))
    (packed, gradients, few), (single, expected, many) = results
    assert few < many / 2
    assert packed == pytest.approx(single, rel=1e-12)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(gradients, expected, strict=True))
    assert any(float(value.abs().max()) > 1e-3 for value in expected)


def test_the_loss_is_the_likelihood():
    """Loss of a sequence without its end token = what scoring says, where both run over the whole vocabulary."""
    lm = token_lm(normalise="full")
    clips = rows(3)
    sequences = SequenceBuilder(lm.tokenizer, lm.tokens, 100).build(clips, ["audio"]).sequences
    data = RowDataset(sequences, [[0, 1, 2]])
    batch = collate([data[0]])
    batch["labels"][batch["labels"] == lm.tokens.end] = IGNORE
    nats = float(TrainedLM(lm.model, lm.tokens, None, False)(**batch).detach())
    scored = -sum(float(row.sum()) for row in lm.token_log_likelihoods([clip.codes for clip in clips]))
    assert nats == pytest.approx(scored, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_heed_positions_pass(family):
    check_packing(token_lm(family).model, 200)


def test_a_model_whose_packed_sequences_see_each_other_is_refused():
    lm = token_lm()
    inner = lm.model.model.forward
    lm.model.model.forward = lambda *args, position_ids=None, **options: inner(*args, **options)
    with pytest.raises(ValueError, match="packed sequences see each other .* set packing to false"):
        check_packing(lm.model, 200)
