"""The probe codebook is k-means on standardised latents, blind to scale and offset; frame rates are pooled by time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llmcodec.adapters.features.kmeans import nearest
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.predictability import LikelihoodConfig
from llmcodec.evaluation.probe import ProbeConfig, fit_probe, measure_probe, pooled
from llmcodec.lm.small_lm import SmallLMConfig

from ..fake_codec import LoudnessCodec

TINY_LM = LikelihoodConfig(
    model=SmallLMConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=16),
    audio_seconds=30,
    batch_seconds=5,
    num_evaluations=2,
    bf16=False,
)


class ShownCodec(LoudnessCodec):
    """The loudness codec with two latents per frame: loudness, and a constant."""

    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        level_BT = self.encode(input_values, padding_mask).audio_codes[:, 0].float()
        return torch.stack([level_BT * 1000 + 5, torch.full_like(level_BT, 7.0)], dim=-1)


def test_nearest_is_the_brute_force_answer() -> None:
    rng = np.random.default_rng(0)
    rows, codes = rng.standard_normal((2500, 5)), rng.standard_normal((40, 5))
    distances = ((rows[:, None] - codes[None]) ** 2).sum(-1)
    found, squared = nearest(torch.tensor(rows), torch.tensor(codes))
    assert np.array_equal(found.numpy(), distances.argmin(1))
    np.testing.assert_allclose(squared.numpy(), distances.min(1), atol=1e-9)


def test_clusters_are_found_whatever_their_scale_and_offset() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [0.0, 6.0], [6.0, 0.0], [6.0, 6.0]])
    labels = rng.integers(0, 4, 2000)
    rows = torch.tensor(centres[labels] + 0.3 * rng.standard_normal((2000, 2)), dtype=torch.float32)
    config = ProbeConfig(num_codes=24, rounds=20, seed=3)
    plain = fit_probe(rows, config)
    moved = fit_probe(rows * torch.tensor([1000.0, 0.01]) + 50, config)
    tokens = plain(rows)
    assert torch.equal(tokens, moved(rows * torch.tensor([1000.0, 0.01]) + 50))
    assert plain.distortion < 0.01
    seen = [set(tokens[torch.tensor(labels == label)].tolist()) for label in range(4)]
    assert sum(len(codes) for codes in seen) == plain.used_codes  # no code spans two clusters


def test_rounds_lower_the_distortion_and_empty_codes_come_back() -> None:
    rows = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    first, last = (fit_probe(rows, ProbeConfig(num_codes=64, rounds=n)).distortion for n in (0, 12))
    assert last < 0.95 * first
    doubled = torch.cat([rows[:40].repeat(40, 1), rows])  # many equal rows: several first codes start on one point
    assert fit_probe(doubled, ProbeConfig(num_codes=256, rounds=12)).used_codes > 230


def test_a_constant_dimension_says_nothing() -> None:
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 3.0
    probe = fit_probe(rows, ProbeConfig(num_codes=16))
    assert probe.scale_D[1] == 0
    rows[:, 1] = -1e6
    assert torch.equal(probe(rows), probe(rows.clone()))


def test_pooling_is_the_mean_over_time() -> None:
    latent = torch.arange(12.0)[:, None] ** 2
    halved = pooled(latent, 100.0, 50.0)
    assert torch.allclose(halved[:, 0], latent.view(6, 2).mean(1))
    third = pooled(latent, 75.0, 50.0)  # 1.5 frames each: (x0 + x1 / 2) / 1.5, (x1 / 2 + x2) / 1.5, ...
    assert third.shape == (8, 1)
    assert third[0, 0] == pytest.approx((0 + 0.5) / 1.5) and third[1, 0] == pytest.approx((0.5 + 4) / 1.5)
    assert pooled(latent, 25.0, 50.0) is latent
    assert pooled(torch.ones(1, 2), 86.1, 50.0).tolist() == [[1.0, 1.0]]
    ragged = pooled(torch.randn(1001, 3, dtype=torch.float64).float(), 86.13, 50.0)
    assert bool(torch.isfinite(ragged).all()) and ragged.shape[0] == round(1001 * 50 / 86.13)


def test_probe_of_a_codec(clips: list[Clip]) -> None:
    with EncodedCorpus(ShownCodec()) as encoded:
        result = measure_probe(encoded, clips[:3], clips[2:], clips[:2], TINY_LM, ProbeConfig(num_codes=12))
    assert 0 <= result.accuracy <= 1 and 1 < result.perplexity <= 12 * 1.5
    assert result.bits_per_second == pytest.approx(50 * np.log2(result.perplexity))
    assert [clip.id for clip in result.predictability.clips] == ["clip-2", "clip-3", "clip-0", "clip-1"]


def test_what_cannot_be_probed_is_said(clips: list[Clip]) -> None:
    with EncodedCorpus(LoudnessCodec()) as encoded, pytest.raises(ValueError, match="Codec does not expose its"):
        measure_probe(encoded, clips[:3], clips[2:], clips[:2], TINY_LM)
    with pytest.raises(ValueError, match="10 train frames are too few for 12 codes"):
        fit_probe(torch.randn(10, 2), ProbeConfig(num_codes=12))
    with pytest.raises(ValueError, match="not finite"):
        fit_probe(torch.full((20, 2), torch.nan), ProbeConfig(num_codes=12))
