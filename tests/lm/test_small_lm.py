"""The token language model: starts at the unigram, leaks nothing, scores like a float64 loop over prefixes."""

from __future__ import annotations

import math

import pytest
import torch

from llmcodec.lm import small_lm as tm

SMALL = tm.TokenModelConfig(num_layers=2, hidden_size=32, num_heads=2, intermediate_size=48)


def make_model(vocabulary: int = 7, *, trained: bool = True, dtype: torch.dtype = torch.float64) -> tm.TokenModel:
    prior = torch.log_softmax(torch.arange(vocabulary).double() / 3, dim=0)
    model = tm.TokenModel(SMALL, prior, max_tokens=64, seed=0).to(dtype)
    if trained:  # away from the unigram start
        with torch.no_grad():
            model.gain_H += 3.0
            model.embedding_VH *= 10
    return model.eval()


def make_clips(vocabulary: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, vocabulary, (n,), generator=generator) for n in (9, 1, 5, 23, 2)]


def test_before_training_it_is_the_unigram_model() -> None:
    model = make_model(trained=False)
    logits_NV, targets_N = model(*tm.pad_batch(make_clips(), model.vocabulary))
    assert logits_NV.shape == (40, 7) and targets_N.shape == (40,)
    torch.testing.assert_close(logits_NV, model.bias_V.expand(40, 7))


def test_scores_equal_a_loop_over_prefixes_in_float64() -> None:
    model, clips = make_model(), make_clips()
    nats, correct = tm.score_clips(model, clips, max_tokens=64, batch_tokens=12)
    for clip, clip_nats, clip_hits in zip(clips, nats, correct, strict=True):
        total, hits = 0.0, 0
        for t in range(len(clip)):
            prefix = torch.cat([torch.tensor([model.vocabulary]), clip[:t]]).unsqueeze(0)
            logits = model.logits(model.hidden(prefix)[0, -1:])[0].tolist()
            top = max(logits)
            total += top + math.log(sum(math.exp(x - top) for x in logits)) - logits[int(clip[t])]
            hits += logits.index(top) == int(clip[t])
        assert float(clip_nats) == pytest.approx(total, abs=1e-9)
        assert int(clip_hits) == hits


def test_long_clips_are_scored_piece_by_piece() -> None:
    model, clip = make_model(), make_clips()[3]
    whole, _ = tm.score_clips(model, [clip], max_tokens=10)
    pieces, _ = tm.score_clips(model, [clip[:10], clip[10:20], clip[20:]], max_tokens=10)
    assert float(whole[0]) == pytest.approx(float(pieces.sum()), abs=1e-9)


def test_no_position_sees_its_own_target_or_the_future() -> None:
    model = make_model()
    inputs_BT, targets_BT = tm.pad_batch([torch.tensor([1, 2, 3, 4, 5])], model.vocabulary)
    assert inputs_BT.tolist() == [[7, 1, 2, 3, 4]] and targets_BT.tolist() == [[1, 2, 3, 4, 5]]
    changed_BT = inputs_BT.clone()
    changed_BT[0, 3] = 0
    before, after = model.hidden(inputs_BT), model.hidden(changed_BT)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_layers_start_alike_for_every_vocabulary() -> None:
    small, large = make_model(5, trained=False), make_model(500, trained=False)
    for a, b in zip(small.body.parameters(), large.body.parameters(), strict=True):
        assert torch.equal(a, b)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    make_model()
    assert torch.equal(torch.rand(1), expected)


def test_batches_cover_every_clip_once_and_respect_the_limit() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(600)]
    batches = tm.plan_batches(lengths, 100, torch.Generator().manual_seed(0))
    assert sorted(i for batch in batches for i in batch) == list(range(600))
    assert all(sum(lengths[i] for i in batch) <= 100 for batch in batches)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches == tm.plan_batches(lengths, 100, torch.Generator().manual_seed(0))
    assert batches != tm.plan_batches(lengths, 100, torch.Generator().manual_seed(1))
    assert tm.plan_batches([500], 100, torch.Generator()) == [[0]]


def test_token_dropout_acts_in_training_only() -> None:
    config = tm.TokenModelConfig(1, 16, 1, 16, dropout=0.0, token_dropout=0.5)
    model = tm.TokenModel(config, torch.zeros(4), max_tokens=8, seed=0)
    inputs_BT = torch.tensor([[4, 1, 2, 3]])
    assert torch.equal(model.eval().hidden(inputs_BT), model.hidden(inputs_BT))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model.hidden(inputs_BT), model.hidden(inputs_BT))
