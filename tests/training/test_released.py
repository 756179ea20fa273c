"""paper_as_released.yaml gives what the released code gives; paper.yaml what the paper and its review say.

Numbers are those of github.com/voidful/llm-codec at 02d6c2a (llm_codec/losses.py, gan.py, schedules.py, the options in
run_codec_train.sh), run on `made_up_wav(8000, 1)` and 0.6 of it + 0.3 `made_up_wav(8000, 2)`. torchaudio's mel filters,
which do not import here, were transformers' (HTK, no norm), which equal them.
"""

import math
from dataclasses import replace

import pytest
import torch

from llmcodec.objectives.adversary import Adversary
from llmcodec.objectives.bridge import Bridge, BridgeConfig
from llmcodec.objectives.discriminators import MultiPeriodDiscriminator, MultiScaleDiscriminator
from llmcodec.objectives.spectral import SpectralLosses
from llmcodec.protocol import CodecEncoding
from llmcodec.training.recipe import as_schedule

from ..golden.make_published import made_up_wav
from ..miniature import recipe_of
from .test_recipe import configs

LOSSES = {
    "recon/mel": 0.4601787030696869,
    "recon/multi_mel": 0.7475070357322693,
    "recon/mrstft": 1.1366686820983887,
    "recon/complex_stft": 1.1366686820983887,
}
OURS = {"recon/mel": 0.4658, "recon/multi_mel": 0.5788, "recon/mrstft": 1.0024, "recon/complex_stft": 0.5416}
WEIGHTS = {"mpd": 33_168_645, "msd": 101_397_123}


@pytest.fixture(scope="module")
def paper():
    return recipe_of(*configs(("paper",)))


@pytest.fixture(scope="module")
def released():
    return recipe_of(*configs(("paper", "paper_as_released")))


def signals():
    real = made_up_wav(8000, 1)[None]
    return 0.6 * real + 0.3 * made_up_wav(8000, 2)[None], real


def test_reconstruction_losses(released, paper):
    fake, real = signals()
    found = SpectralLosses(released.spectral, 16_000)(fake, real)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(LOSSES, rel=1e-5)
    found = SpectralLosses(paper.spectral, 16_000)(fake, real)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(OURS, abs=1e-4)


def test_the_weight_of_the_mel_loss_falls(released):
    weight = as_schedule(released.weights.mel)
    for step in (0, 10_000, 25_000):  # schedules.cosine_decay(step, 1.5, 0.75, 50_000)
        assert weight(step) == pytest.approx(0.75 + 0.75 * 0.5 * (1 + math.cos(math.pi * step / 50_000)))
    assert weight(25_000) == pytest.approx(1.125)


def test_sizes_of_the_discriminators(released):
    with torch.device("meta"):
        built = {"mpd": MultiPeriodDiscriminator(released.adversary.mpd)}
        built["msd"] = MultiScaleDiscriminator(released.adversary.msd)
    assert {name: sum(p.numel() for p in net.parameters()) for name, net in built.items()} == WEIGHTS


def test_layers_of_the_discriminators_start_without_norm_at_a_hundredth(released):
    config = replace(released.adversary.mpd, periods=(2,), width=0.125)
    stack = MultiPeriodDiscriminator(config).stacks[0]
    assert stack.slope == 0.2 and not any("parametrizations" in name for name, _ in stack.named_parameters())
    assert stack.convs[3].weight.std().item() == pytest.approx(0.01, rel=0.05) and not stack.convs[3].bias.any()


def test_optimizer_of_the_discriminators(released):
    adversary = released.adversary
    assert (adversary.weight_decay, adversary.clip, adversary.betas) == (0.0, 1e9, (0.8, 0.99))
    assert adversary.r1_gamma == 2.0 and adversary.r1_every == 16


def test_r1_is_not_multiplied_by_the_steps_between(released):
    """The same step with and without: the gradient of R1 is a sixteenth."""
    sizes = {"periods": (2,), "channels": (4, 4), "kernel_sizes": (5, 3), "strides": (1, 1)}
    small = replace(released.adversary, mpd=replace(released.adversary.mpd, **sizes), msd=None, loss="least_squares")
    real = made_up_wav(400, 1)[None]
    moved = {}
    for lazy, every in ((False, 16), (True, 16), (True, 1)):
        torch.manual_seed(0)
        adversary = Adversary(replace(small, r1_lazy=lazy, r1_every=every, r1_gamma=2e6))
        adversary.optimizer = torch.optim.SGD(adversary.nets.parameters(), lr=1e-3)
        adversary.step([(0.5 * real, real)], 0)
        moved[lazy, every] = torch.cat([p.detach().flatten() for p in adversary.nets.parameters()])
    torch.testing.assert_close(moved[False, 16], moved[True, 1])
    assert (moved[False, 16] - moved[True, 16]).abs().max() > 1e-6


def test_temperatures(paper, released):
    stated, code = paper.language.bridge, released.language.bridge
    assert (stated.mode, stated.normalize, stated.ce_to_codec) == ("gumbel", True, False)
    assert [stated.tau(step) for step in (0, 7_500, 15_000, 20_000)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert (code.mode, code.normalize, code.ce_to_codec) == ("gumbel", False, True)
    assert [code.tau(step) for step in (0, 10_000, 20_000, 25_000)] == pytest.approx([1.0, 0.65, 0.3, 0.3])


def test_the_bridge_stands_still_with_the_codec(released):
    rate = as_schedule(released.optimizer.bridge.lr)
    assert rate(9_999) == 0.0 and rate(10_000) == rate(24_999) == 5e-6


@pytest.mark.parametrize("ce_to_codec", [False, True])
def test_in_detach_mode_the_cross_entropy_reaches_the_codec_as_released_alone(ce_to_codec):
    torch.manual_seed(0)
    bridge = Bridge(BridgeConfig(kind="projected", mode="detach", ce_to_codec=ce_to_codec), 6, 4)
    quantized = torch.randn(1, 5, 4, requires_grad=True)
    codes, mask = torch.randint(0, 6, (1, 5)), torch.ones(1, 5, dtype=torch.bool)
    encoding = CodecEncoding(codes, mask, quantized, quantized, quantized)
    out = bridge(encoding, torch.randn(6, 4), torch.randn(6, 8), tau=0.5)
    (out.terms["bridge/ce"] + 3.0 * out.embeds_BTH.square().sum()).backward()
    if not ce_to_codec:
        assert quantized.grad is None
        return
    own = quantized.detach().requires_grad_()
    logits = bridge.projection(own)
    torch.nn.functional.cross_entropy(logits[0], codes[0]).backward()
    torch.testing.assert_close(quantized.grad, own.grad)
