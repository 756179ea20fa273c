"""Noise that belongs to a clip, not to a batch."""

from __future__ import annotations

import math

import pytest
import torch

from llmcodec.objectives.gumbel import FrameNoise, block_seed, condition_on_token


def _frames(lengths: list[int]) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_noise_does_not_depend_on_chunks_padding_or_neighbours():
    mask = _frames([40, 17, 33])
    noise = FrameNoise([5, 6, 7], mask, 9)
    whole = noise.rows(0, 90, torch.float32)
    for size in (1, 7, 16, 31):
        pieces = [noise.rows(start, min(start + size, 90), torch.float32) for start in range(0, 90, size)]
        assert torch.equal(torch.cat(pieces), whole)
    alone = FrameNoise([6], torch.ones(1, 17, dtype=torch.bool), 9).rows(0, 17, torch.float32)
    assert torch.equal(alone, whole[40:57])
    longer = FrameNoise([6], torch.ones(1, 30, dtype=torch.bool), 9).rows(0, 17, torch.float32)
    assert torch.equal(longer, alone)
    assert not torch.equal(whole[:17], alone), "two clips share their noise"


def test_a_hole_in_the_mask_takes_its_noise_along():
    mask = torch.ones(1, 20, dtype=torch.bool)
    whole = FrameNoise([3], mask, 5).rows(0, 20, torch.float32)
    mask[0, 4] = mask[0, 17] = False
    assert torch.equal(FrameNoise([3], mask, 5).rows(0, 18, torch.float32), whole[mask[0]])


def test_noise_is_standard_gumbel():
    noise = FrameNoise(range(8), torch.ones(8, 16, dtype=torch.bool), 4096).rows(0, 128, torch.float32).double()
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, rel=0.01)
    # The distribution function exp(-exp(-x)) at a few places.
    for x in (-1.0, 0.0, 2.0):
        assert (noise < x).double().mean().item() == pytest.approx(math.exp(-math.exp(-x)), abs=3e-3)


def test_noise_is_what_one_generator_a_block_gives():
    """The numbers of earlier versions, bit for bit: 16 frames from a generator with the block's seed."""
    expected = []
    for clip, frames in ((5, 40), (6, 16)):
        for block in range(0, frames, 16):
            generator = torch.Generator().manual_seed(block_seed(clip, block // 16))
            uniform = torch.rand(16, 9, generator=generator).clamp(2.0**-25, 1.0 - 2.0**-24)
            expected.append(-torch.log(-torch.log(uniform))[: frames - block])
    noise = FrameNoise([5, 6], _frames([40, 16]), 9)
    assert torch.equal(noise.rows(0, 56, torch.float32), torch.cat(expected))
    assert torch.equal(noise.rows(0, 56, torch.float64), torch.cat(expected).double())


def test_block_seeds_differ_and_fit_a_generator():
    seeds = {block_seed(clip, block) for clip in (0, 1, 2**62, 2**63 - 1) for block in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_must_match_the_clips():
    with pytest.raises(ValueError, match="2 seeds for 3 clips"):
        FrameNoise([1, 2], _frames([2, 2, 2]), 4)


def test_conditional_noise_makes_the_token_win_and_has_the_right_law():
    # Drawing the token from softmax(logits) and then conditional noise must give unconditional Gumbel-perturbed logits.
    logits = torch.tensor([0.3, -1.0, 1.2, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = 40_000
    tokens = torch.multinomial(logits.softmax(-1), draws, replacement=True, generator=generator)
    noise = -torch.log(-torch.log(torch.rand(draws, 4, generator=generator, dtype=torch.float64)))
    perturbed = condition_on_token(logits.expand(draws, 4), noise, tokens)
    assert torch.equal(perturbed.argmax(-1), tokens)
    freed = perturbed - logits
    assert torch.allclose(freed.mean(0), torch.full((4,), 0.57722, dtype=torch.float64), atol=0.03)
    assert torch.allclose(freed.var(0), torch.full((4,), torch.pi**2 / 6, dtype=torch.float64), rtol=0.05)
