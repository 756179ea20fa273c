"""Discriminators: published sizes, shapes by hand, equality with the published formulation, odd lengths."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from llmcodec.objectives.discriminators import (
    MPDConfig,
    MSDConfig,
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleDiscriminator,
    STFTDiscriminatorConfig,
    scaled,
)

SMALL_MPD = MPDConfig(width=1 / 8)
SMALL_MSD = MSDConfig(2, (16, 64, 128, 128, 128), (15, 41, 41, 41, 5), (4, 4, 4, 1, 1), (1, 4, 16, 16, 1))
SMALL_STFT = STFTDiscriminatorConfig(n_ffts=(512,), width=1 / 4)


def num_parameters(net: torch.nn.Module) -> int:
    """Weights and biases; the length of a weight-normed row is not a parameter of the published count."""
    return sum(p.numel() for name, p in net.named_parameters() if not name.endswith("original0"))


def test_mpd_has_the_published_size():
    with torch.device("meta"):
        net = MultiPeriodDiscriminator(MPDConfig())
    layers = [(1, 32, 5), (32, 128, 5), (128, 512, 5), (512, 1024, 5), (1024, 1024, 5), (1024, 1, 3)]
    assert num_parameters(net) == 5 * sum(i * o * k + o for i, o, k in layers)
    assert num_parameters(net) / 1e6 == pytest.approx(41.1, abs=0.05)


def test_msd_has_the_published_size_with_groups():
    with torch.device("meta"):
        net = MultiScaleDiscriminator(MSDConfig())
    assert num_parameters(net) / 1e6 == pytest.approx(29.6, abs=0.05)
    assert [conv.groups for conv in net.stacks[0].convs] == [1, 4, 16, 16, 16, 16, 1]


def test_stft_discriminator_has_the_size_of_its_layers():
    net = MultiResolutionSTFTDiscriminator(STFTDiscriminatorConfig())
    layers = [(2, 32, 27)] + 3 * [(32, 32, 27)] + [(32, 32, 9), (32, 1, 9)]
    assert num_parameters(net) == 5 * sum(i * o * k + o for i, o, k in layers)


def halves(length: int, strides: list[int]) -> list[int]:
    """Output lengths of 'same'-padded odd convolutions."""
    out = []
    for stride in strides:
        length = math.ceil(length / stride)
        out.append(length)
    return out


@pytest.mark.parametrize("num_samples", [11, 12, 100, 641])
def test_shapes_of_mpd(num_samples):
    net = MultiPeriodDiscriminator(MPDConfig(width=1 / 16))
    logits, features = net(torch.randn(3, num_samples))
    for period, logit, maps in zip((2, 3, 5, 7, 11), logits, features, strict=True):
        lengths = halves(math.ceil(num_samples / period), [3, 3, 3, 3, 1])
        channels = [2, 8, 32, 64, 64]
        assert [m.shape for m in maps] == [(3, c, t, period) for c, t in zip(channels, lengths, strict=True)]
        assert logit.shape == (3, lengths[-1] * period)


@pytest.mark.parametrize("num_samples", [1, 2, 100, 641])
def test_shapes_of_msd(num_samples):
    net = MultiScaleDiscriminator(MSDConfig(width=1 / 16))
    logits, features = net(torch.randn(2, num_samples))
    length = num_samples
    for logit, maps in zip(logits, features, strict=True):
        lengths = halves(length, [1, 2, 2, 4, 4, 1, 1])
        channels = [8, 16, 16, 32, 64, 64, 64]
        assert [m.shape for m in maps] == [(2, c, t) for c, t in zip(channels, lengths, strict=True)]
        assert logit.shape == (2, lengths[-1])
        length = length // 2 + 1


@pytest.mark.parametrize("num_samples", [1, 100, 641])
def test_shapes_of_the_stft_discriminator(num_samples):
    net = MultiResolutionSTFTDiscriminator(STFTDiscriminatorConfig(n_ffts=(64, 32), width=1 / 8))
    logits, features = net(torch.randn(2, num_samples))
    for n_fft, logit, maps in zip((64, 32), logits, features, strict=True):
        frames, bins = num_samples // (n_fft // 4) + 1, [n_fft // 2 + 1]
        bins += halves(bins[0], [2, 2, 2])
        assert [m.shape for m in maps] == [(2, 4, frames, f) for f in [*bins, bins[-1]]]
        assert logit.shape == (2, frames * bins[-1])


def test_folding_the_period_into_the_batch_equals_the_published_plane():
    """HiFi-GAN views (S) as a plane (S / p, p), end padded by reflection, under (k, 1) convolutions."""
    torch.manual_seed(0)
    net = MultiPeriodDiscriminator(MPDConfig(periods=(3,), width=1 / 16)).double()
    wav_BS = torch.randn(2, 100).double()
    plane = F.pad(wav_BS[:, None], (0, 2), mode="reflect").view(2, 1, 34, 3)
    (stack,) = net.stacks
    (logits,), (features,) = net(wav_BS)
    for conv, feature, stride in zip(stack.convs, features, [3, 3, 3, 3, 1], strict=True):
        plane = F.leaky_relu(F.conv2d(plane, conv.weight[..., None], conv.bias, (stride, 1), (2, 0)), 0.1)
        torch.testing.assert_close(feature, plane, rtol=1e-12, atol=1e-12)
    plane = F.conv2d(plane, stack.head.weight[..., None], stack.head.bias, padding=(1, 0))
    torch.testing.assert_close(logits.sort().values, plane.flatten(1).sort().values, rtol=1e-12, atol=1e-12)


def test_clips_are_judged_alone():
    torch.manual_seed(0)
    wav_BS = torch.randn(3, 300).double()
    for net in (
        MultiPeriodDiscriminator(SMALL_MPD),
        MultiScaleDiscriminator(SMALL_MSD),
        MultiResolutionSTFTDiscriminator(SMALL_STFT),
    ):
        net.double()
        together, _ = net(wav_BS)
        alone, _ = net(wav_BS[1:2])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-10, atol=1e-10)


def test_small_ones_are_small():
    sizes = [
        num_parameters(MultiPeriodDiscriminator(SMALL_MPD)),
        num_parameters(MultiScaleDiscriminator(SMALL_MSD)),
        num_parameters(MultiResolutionSTFTDiscriminator(SMALL_STFT)),
    ]
    assert max(sizes) < 1e6


def test_width_keeps_channels_divisible_by_the_groups_on_both_sides():
    for width in (0.03, 1 / 16, 0.3, 0.7, 1.0, 1.5):
        config = MSDConfig(width=width)
        channels = scaled(config.channels, width, config.groups)
        for count, group, following in zip(channels, config.groups, [*config.groups[1:], 1], strict=True):
            assert count % group == 0 and count % following == 0
    assert scaled(MSDConfig().channels, 1.0, MSDConfig().groups) == list(MSDConfig().channels)


def test_short_windows_and_contradictions_are_refused():
    net = MultiPeriodDiscriminator(SMALL_MPD)
    with pytest.raises(ValueError, match="needs 11"):
        net(torch.randn(1, 10))
    with pytest.raises(ValueError, match=r"\(B, S\)"):
        net(torch.randn(1, 1, 100))
    for make in (
        lambda: MPDConfig(width=0),
        lambda: MPDConfig(periods=()),
        lambda: MSDConfig(strides=(1, 2)),
        lambda: MSDConfig(num_scales=0),
        lambda: STFTDiscriminatorConfig(n_ffts=(30,)),
    ):
        with pytest.raises(ValueError):
            make()
