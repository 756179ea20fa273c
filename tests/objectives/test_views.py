"""View consistency: the perturbed copy, and the term against a plain cross-entropy."""

from __future__ import annotations

import pytest
import torch

from llmcodec.objectives.views import ViewConfig, perturb, view_term

from .toy_codec import gradients, toy_encoding

STILL = ViewConfig(max_shift_samples=0, max_gain_db=0.0, noise_db=200.0)


def speech(samples: int = 2000) -> torch.Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_nothing_perturbed_gives_the_same_audio():
    wav, lengths = speech(), torch.tensor([2000, 700])
    expected = wav * (torch.arange(2000) < lengths[:, None])
    torch.testing.assert_close(perturb(wav, lengths, [1, 2], STILL), expected, atol=1e-8, rtol=0)


def test_each_clip_is_shifted_scaled_and_noisy_by_its_own_seed():
    config = ViewConfig(max_shift_samples=60, max_gain_db=6.0, noise_db=30.0)
    wav, lengths = speech(), torch.tensor([2000, 700])
    shifts = set()
    for seed in range(12):
        view = perturb(wav, lengths, [seed, seed + 100], config)
        assert not view[1, 700:].any(), "silence beyond the clip stays"
        for clip, length in enumerate(lengths.tolist()):
            lags = range(-60, 61)
            dots = []
            for lag in lags:  # view[t] = gain * wav[t + lag] + noise
                a, b = view[clip, max(0, -lag) : length - max(0, lag)], wav[clip, max(0, lag) : length + min(0, lag)]
                dots.append(float(a @ b / (b @ b)))
            best = max(range(len(dots)), key=dots.__getitem__)
            assert 10 ** (-6.5 / 20) < dots[best] < 10 ** (6.5 / 20) and dots[best] > 5 * sorted(dots)[-2]
            shifts.add(lags[best])
        assert torch.equal(perturb(wav[1:], lengths[1:], [seed + 100], config)[0], view[1]), "whatever the batch"
    assert len(shifts) > 12 and min(shifts) < -20 and max(shifts) > 20


def test_one_sample_and_silence_are_no_problem():
    view = perturb(torch.zeros(2, 5), torch.tensor([1, 5]), [0, 1], ViewConfig())
    assert torch.equal(view, torch.zeros(2, 5))


def test_the_term_is_the_cross_entropy_of_the_views_similarities():
    original, codebook = toy_encoding()
    view, _ = toy_encoding(seed=9)
    loss = view_term(original, view, codebook, 0.2)
    total = torch.zeros((), dtype=torch.float64)
    for clip, frame in original.mask_BT.nonzero().tolist():
        similarity = codebook @ view.query_BTC[clip, frame] / 0.2
        total = total - similarity.log_softmax(0)[original.codes_BT[clip, frame]]
    expected = total / original.mask_BT.sum()
    torch.testing.assert_close(loss, expected)
    learners = (view.query_BTC, codebook, original.query_BTC)
    ours = gradients(loss, *learners)
    torch.testing.assert_close(ours, gradients(expected, *learners))
    assert ours[0].any() and not ours[2].any(), "the original is the target, without gradient"


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="max_shift_samples"):
        ViewConfig(max_shift_samples=-1)
