"""The rate term against float64 loops, and the small audio LM."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from llmcodec.lm.small_lm import SmallLM
from llmcodec.objectives.rate import RateConfig, rate_term, scale_gradient, small_lm_rate

from .toy_codec import LENGTHS, gradients, one_hot, straight_through, toy_encoding

NUM_CODES, WIDTH, TAU = 11, 5, 0.3
SMALL = replace(RateConfig().small_lm, hidden_size=16, num_layers=2, head_dim=8, intermediate_size=24, max_positions=64)


def _states():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 8, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    return hidden, torch.randn(NUM_CODES, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def test_value_and_gradients_equal_loops():
    encoding, codebook = toy_encoding()
    hidden, output = _states()
    terms = rate_term(hidden, output, encoding, codebook, TAU)
    total = torch.zeros((), dtype=torch.float64)
    for clip, length in enumerate(LENGTHS):
        for t in range(length):
            soft = torch.softmax(codebook @ encoding.query_BTC[clip, t] / TAU, 0)
            q = straight_through(one_hot(encoding.codes_BT[clip, t], NUM_CODES), soft)
            log_p = torch.log_softmax(output @ hidden[clip, t], 0)
            for v in range(NUM_CODES):
                total = total - q[v] * log_p[v]
    expected = total / sum(LENGTHS)
    torch.testing.assert_close(terms["lm/rate"], expected)
    torch.testing.assert_close(terms["lm/rate_bits"], expected.detach() / math.log(2))
    learners = (hidden, output, encoding.query_BTC, codebook)
    ours, theirs = gradients(terms["lm/rate"], *learners), gradients(expected, *learners)
    torch.testing.assert_close(ours, theirs)
    assert all(gradient.abs().max() > 1e-4 for gradient in ours)
    assert not ours[2][~encoding.mask_BT].any()


def _dense_small_lm(lm: SmallLM, encoding, codebook):
    """One-hots, matrix products and whole logits, through the same transformer."""
    mask = encoding.mask_BT[..., None]
    soft = torch.softmax(encoding.query_BTC @ codebook.T / TAU, -1)
    q = straight_through(one_hot(encoding.codes_BT, NUM_CODES), soft)
    hard = one_hot(encoding.codes_BT, NUM_CODES)
    embeds = (hard @ lm.embedding_VH + (q - q.detach()) @ lm.embedding_VH.detach()) * mask
    inputs = torch.cat([lm.start_H.expand(len(embeds), 1, -1), embeds[:, :-1]], 1)
    hidden = lm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    log_p = ((hidden * lm.gain_H) @ lm.embedding_VH.T + lm.bias_V).log_softmax(-1)
    return -((q * log_p).sum(-1) * encoding.mask_BT).sum() / encoding.mask_BT.sum()


def test_small_lm_equals_the_dense_computation_in_targets_and_contexts():
    encoding, codebook = toy_encoding()
    lm = SmallLM(SMALL, NUM_CODES).double()
    lm.start_from([torch.arange(NUM_CODES) % 7, torch.tensor([0, 1, 0, 1, 5])])
    loss, expected = small_lm_rate(lm, encoding, codebook, TAU)["lm/rate"], _dense_small_lm(lm, encoding, codebook)
    torch.testing.assert_close(loss, expected)
    learners = (encoding.query_BTC, codebook, *lm.parameters())
    # The rotary angles of the transformer are float32 even in a float64 model.
    torch.testing.assert_close(gradients(loss, *learners), gradients(expected, *learners), rtol=1e-6, atol=1e-9)


def test_the_small_lm_starts_near_the_unigram_model_and_knows_which_codes_stand_together():
    clips = [torch.tensor([0, 3, 6, 3] * 20), torch.tensor([1, 4] * 10)]
    lm = SmallLM(SMALL, NUM_CODES)
    lm.start_from(clips)
    states, rows = lm.output(lm.hidden_states(torch.zeros(1, 3, 16)))
    p = (states[0, -1] @ rows.T).softmax(-1)
    counts = torch.bincount(torch.cat(clips), minlength=NUM_CODES) + 0.5
    torch.testing.assert_close(p, counts / counts.sum(), atol=0.05, rtol=0)
    codes = torch.nn.functional.normalize(lm.embedding_VH.detach(), dim=-1)
    assert codes[0] @ codes[6] > codes[0] @ codes[1] + 0.1 and codes[1] @ codes[4] > codes[1] @ codes[3] + 0.1


def test_every_parameter_of_the_small_lm_learns():
    encoding, codebook = toy_encoding()
    lm = SmallLM(SMALL, NUM_CODES).double()
    small_lm_rate(lm, encoding, codebook, TAU)["lm/rate"].backward()
    idle = [name for name, p in lm.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_the_small_lm_learns_a_pattern_and_predicts_the_first_code_from_its_start():
    encoding, codebook = toy_encoding((12, 12, 12), dtype=torch.float32)
    encoding.codes_BT = (torch.arange(12) % 4).expand(3, 12).clone()
    lm = SmallLM(SMALL, NUM_CODES)
    optimizer = torch.optim.Adam(lm.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        terms = small_lm_rate(lm, encoding, codebook, TAU, codec_scale=0.0)
        terms["lm/rate"].backward()
        optimizer.step()
    assert terms["lm/rate_bits"].item() < 0.1 < math.log2(NUM_CODES)
    assert not encoding.query_BTC.grad.any(), "codec_scale 0 must leave the codec alone"


def test_the_small_lm_is_causal_and_ignores_padding():
    lm = SmallLM(SMALL, NUM_CODES).double()
    embeds = torch.randn(1, 6, 16, dtype=torch.float64)
    states = lm.hidden_states(embeds)
    changed = embeds.clone()
    changed[:, 3] += 1.0
    other = lm.hidden_states(changed)
    assert torch.equal(states[:, :4], other[:, :4]), "position t reads the codes before t only"
    assert not torch.allclose(states[:, 4:], other[:, 4:])
    torch.testing.assert_close(lm.hidden_states(embeds[:, :4]), states[:, :4])


def test_codec_scale_scales_the_codecs_gradient_alone():
    found = {}
    for scale in (1.0, 0.25):
        encoding, codebook = toy_encoding()
        lm = SmallLM(SMALL, NUM_CODES).double()
        loss = small_lm_rate(lm, encoding, codebook, TAU, codec_scale=scale)["lm/rate"]
        found[scale] = gradients(loss, encoding.query_BTC, codebook, *lm.parameters())
    torch.testing.assert_close(found[0.25][:2], [0.25 * g for g in found[1.0][:2]])
    torch.testing.assert_close(found[0.25][2:], found[1.0][2:])


def test_scale_gradient_keeps_the_value():
    x = torch.randn(5, requires_grad=True)
    y = scale_gradient(x, 0.3)
    y.sum().backward()
    assert torch.equal(y, x) and torch.allclose(x.grad, torch.full((5,), 0.3))


def test_initial_weights_depend_on_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (SmallLM(SMALL, NUM_CODES, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.start_H, third.start_H)


def _half(rank: int) -> dict[str, torch.Tensor]:
    encoding, codebook = toy_encoding()
    keep = slice(0, 1) if rank == 0 else slice(1, 3)
    for name in ("codes_BT", "mask_BT", "query_BTC"):
        setattr(encoding, name, getattr(encoding, name)[keep])
    lm = SmallLM(SMALL, NUM_CODES).double()
    loss = small_lm_rate(lm, encoding, codebook, TAU)["lm/rate"]
    return {
        "loss": loss.detach(),
        "grad": torch.cat([g.flatten() for g in gradients(loss, codebook, *lm.parameters())]),
    }


def test_two_ranks_equal_one(two_ranks):
    first, second = two_ranks(_half)
    encoding, codebook = toy_encoding()
    lm = SmallLM(SMALL, NUM_CODES).double()
    loss = small_lm_rate(lm, encoding, codebook, TAU)["lm/rate"]
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss.detach())
    whole = torch.cat([g.flatten() for g in gradients(loss, codebook, *lm.parameters())])
    torch.testing.assert_close((first["grad"] + second["grad"]) / 2, whole, rtol=1e-6, atol=1e-9)


def test_errors_say_what_is_wrong():
    encoding, codebook = toy_encoding()
    hidden, output = _states()
    with pytest.raises(ValueError, match="as many hidden states"):
        rate_term(hidden[:, :3], output, encoding, codebook, TAU)
    with pytest.raises(ValueError, match="head_dim"):
        replace(RateConfig().small_lm, hidden_size=10, head_dim=4)
    with pytest.raises(ValueError, match="backbone or small_lm"):
        RateConfig(model="none")  # type: ignore[arg-type]
