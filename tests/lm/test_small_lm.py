"""The small language model: starts at the unigram, leaks nothing, scores like a float64 loop over prefixes, and gives
the numbers that it gave when measuring, rate term and `lm train` had one each (small_lm_golden.json, made
at commit f9f99d7)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.lm.embeddings import load_module
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig, pad_batch
from llmcodec.lm.small_lm_scorer import score_clips
from llmcodec.lm.small_lm_training import (
    MINI_LIKELIHOOD,
    LikelihoodConfig,
    for_bundled_speech,
    plan_batches,
    train_small_lm,
)
from llmcodec.objectives.rate import RateConfig, small_lm_rate
from llmcodec.protocol import CodecEncoding
from llmcodec.training.language import audio_lm_path

SMALL = SmallLMConfig(num_layers=2, hidden_size=32, num_heads=2, intermediate_size=48)
TINY = dict(num_layers=1, hidden_size=16, intermediate_size=24)
GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("small_lm_golden.json").read_text(encoding="utf-8"))
VOCABULARY = 12


def make_model(vocabulary: int = 7, *, trained: bool = True, dtype: torch.dtype = torch.float64) -> SmallLM:
    prior = torch.log_softmax(torch.arange(vocabulary).double() / 3, dim=0)
    model = SmallLM(SMALL, vocabulary, seed=0, start_in_table=True).to(dtype)
    model.start_from([], prior, gain=3.0 if trained else 0.0)
    if trained:  # away from the unigram start
        with torch.no_grad():
            model.embedding_VH *= 10
    return model.eval()


def make_clips(vocabulary: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, vocabulary, (n,), generator=generator) for n in (9, 1, 5, 23, 2)]


def test_before_training_it_is_the_unigram_model() -> None:
    model = make_model(trained=False)
    logits_NV, targets_N = model(*pad_batch(make_clips(), model.vocabulary))
    assert logits_NV.shape == (40, 7) and targets_N.shape == (40,)
    torch.testing.assert_close(logits_NV, model.bias_V.expand(40, 7))


def test_scores_equal_a_loop_over_prefixes_in_float64() -> None:
    model, clips = make_model(), make_clips()
    nats, correct = score_clips(model, clips, max_tokens=64, batch_tokens=12)
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
    whole, _ = score_clips(model, [clip], max_tokens=10)
    pieces, _ = score_clips(model, [clip[:10], clip[10:20], clip[20:]], max_tokens=10)
    assert float(whole[0]) == pytest.approx(float(pieces.sum()), abs=1e-9)


def test_no_position_sees_its_own_target_or_the_future() -> None:
    model = make_model()
    inputs_BT, targets_BT = pad_batch([torch.tensor([1, 2, 3, 4, 5])], model.vocabulary)
    assert inputs_BT.tolist() == [[7, 1, 2, 3, 4]] and targets_BT.tolist() == [[1, 2, 3, 4, 5]]
    changed_BT = inputs_BT.clone()
    changed_BT[0, 3] = 0
    before, after = model.hidden(inputs_BT), model.hidden(changed_BT)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_layers_start_alike_for_every_vocabulary() -> None:
    small, large = make_model(5, trained=False), make_model(500, trained=False)
    for a, b in zip(small.model.parameters(), large.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    make_model()
    assert torch.equal(torch.rand(1), expected)


def test_batches_cover_every_clip_once_and_respect_the_limit() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(600)]
    batches = plan_batches(lengths, 100, torch.Generator().manual_seed(0))
    assert sorted(i for batch in batches for i in batch) == list(range(600))
    assert all(sum(lengths[i] for i in batch) <= 100 for batch in batches)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches == plan_batches(lengths, 100, torch.Generator().manual_seed(0))
    assert batches != plan_batches(lengths, 100, torch.Generator().manual_seed(1))
    assert plan_batches([500], 100, torch.Generator()) == [[0]]


def test_token_dropout_acts_in_training_only() -> None:
    config = SmallLMConfig(1, 16, 1, 16, dropout=0.0, token_dropout=0.5)
    model = SmallLM(config, 4, seed=0, start_in_table=True)
    inputs_BT = torch.tensor([[4, 1, 2, 3]])
    assert torch.equal(model.eval().hidden(inputs_BT), model.hidden(inputs_BT))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model.hidden(inputs_BT), model.hidden(inputs_BT))


def golden_codes(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for number in range(count):
        clip = [number % VOCABULARY]
        for step in torch.randint(1, 4, (19 + number,), generator=generator).tolist():
            clip.append((3 * clip[-1] + step) % VOCABULARY)
        clips.append(torch.tensor(clip))
    return clips


def golden_encoding(vocabulary: int) -> tuple[CodecEncoding, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    query_BTC = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    query_BTC = torch.nn.functional.normalize(query_BTC, dim=-1)
    codebook_VC = torch.randn(vocabulary, 4, generator=generator, dtype=torch.float64)
    codebook_VC = torch.nn.functional.normalize(codebook_VC, dim=-1)
    mask_BT = torch.arange(9) < torch.tensor([[9], [5]])
    codes_BT = (query_BTC @ codebook_VC.T).argmax(-1)
    return CodecEncoding(codes_BT, mask_BT, query_BTC, query_BTC, query_BTC), codebook_VC


def sums(module: torch.nn.Module) -> dict[str, float]:
    return {name: float(value.double().abs().sum()) for name, value in module.state_dict().items()}


def test_measuring_gives_the_nats_it_gave() -> None:
    default = torch.get_default_dtype()
    config = LikelihoodConfig(
        model=SmallLMConfig(num_heads=2, **TINY),
        audio_seconds=40.0,
        batch_seconds=4.0,
        context_seconds=1.0,
        bf16=False,
        num_evaluations=1,
    )
    torch.set_default_dtype(torch.float64)
    try:
        *_, (_, model) = train_small_lm(golden_codes(8, 0), VOCABULARY, 25.0, config, 3)
    finally:
        torch.set_default_dtype(default)
    nats, _ = score_clips(model, golden_codes(3, 1), 25)
    assert nats.tolist() == pytest.approx(GOLDEN["measure"], rel=1e-6)


def test_the_rate_term_gives_the_losses_it_gave() -> None:
    lm = SmallLM(replace(RateConfig().small_lm, head_dim=8, **TINY), VOCABULARY, seed=4)
    assert sums(lm) == pytest.approx(GOLDEN["rate_init"], rel=1e-6)
    lm.start_from(golden_codes(8, 0))
    lm = lm.double()
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2)
    losses = []
    for _ in GOLDEN["rate"]:
        optimizer.zero_grad()
        loss = small_lm_rate(lm, *golden_encoding(VOCABULARY), 0.1)["lm/rate"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN["rate"], rel=1e-6)


def test_the_shipped_small_lm_loads_and_rates_as_it_did() -> None:
    old = dict(hidden_size=96, num_layers=2, head_dim=32, ffn_size=288)  # as recipes spelled it
    lm = SmallLM(replace(RateConfig().small_lm, **old), 8192)
    load_module(lm, audio_lm_path("bundled"), "shipped")
    rate = small_lm_rate(lm.double(), *golden_encoding(8192), 0.05)["lm/rate"]
    assert rate.item() == pytest.approx(GOLDEN["shipped"], rel=1e-9)


def test_a_model_from_scratch_trains_as_it_did() -> None:
    clips = golden_codes(8, 0)
    config = LMModelConfig(small=replace(LMModelConfig().small, num_heads=2, **TINY))
    prepared = prepare_model(config, VOCABULARY, True, 2, clips=clips)
    assert sums(prepared.module.causal) == pytest.approx(GOLDEN["train_init"], rel=1e-6)
    module = prepared.module.double()
    ids = torch.stack([prepared.tokens.ids(clip[:20]) for clip in clips])
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for _ in GOLDEN["train"]:
        optimizer.zero_grad()
        loss = module(ids, torch.arange(20).expand_as(ids), ids) / (19 * len(ids))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(GOLDEN["train"], rel=1e-6)


def test_old_spellings_are_read_and_new_ones_are_written() -> None:
    new = SmallLMConfig(intermediate_size=5, max_positions=6, start_window=0)
    assert SmallLMConfig(ffn_size=5, max_frames=6, cooccurrence=False) == new
    assert SmallLMConfig(cooccurrence=True) == SmallLMConfig() and "ffn_size" not in asdict(new)
    assert SmallLMConfig(**asdict(new)) == new


def test_heads_by_number_and_by_width() -> None:
    by_width = SmallLMConfig(hidden_size=64, num_heads=None, head_dim=16).transformer(1)
    by_number = SmallLMConfig(hidden_size=64, num_heads=4).transformer(1)
    assert by_width.num_attention_heads == by_number.num_attention_heads == 4
    assert by_width.head_dim == by_number.head_dim == 16
    for wrong in (
        dict(num_heads=None),
        dict(num_heads=0),
        dict(num_heads=4, head_dim=0),
        dict(num_heads=3),
        dict(num_heads=None, head_dim=7),
        dict(head_dim=5),
    ):
        with pytest.raises(ValueError, match="small language model: .*num_heads"):
            SmallLMConfig(hidden_size=64, **wrong)


def test_the_initial_rows_come_from_so_many_clips_evenly_spread() -> None:
    clips = golden_codes(8, 0)
    some = replace(SMALL, start_clips=4).start_rows(clips, VOCABULARY)
    assert torch.equal(some, SMALL.start_rows(clips[::2], VOCABULARY))
    assert not torch.equal(some, SMALL.start_rows(clips, VOCABULARY))
    assert torch.equal(
        replace(SMALL, start_clips=99).start_rows(clips, VOCABULARY), SMALL.start_rows(clips, VOCABULARY)
    )
    for none in (replace(SMALL, start_clips=0), replace(SMALL, start_window=0)):
        assert none.start_rows(clips, VOCABULARY) is None


def test_one_named_field_does_not_turn_the_small_budget_into_the_large_one() -> None:
    assert for_bundled_speech(LikelihoodConfig()) == MINI_LIKELIHOOD
    named = for_bundled_speech(LikelihoodConfig(seeds=(0, 1), audio_seconds=50.0))
    assert named == replace(MINI_LIKELIHOOD, seeds=(0, 1), audio_seconds=50.0)
