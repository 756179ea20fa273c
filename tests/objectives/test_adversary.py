"""The adversary: losses by hand, who gets gradients, micro-batches, two ranks, R1, resume, non-finite steps."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from llmcodec.objectives.adversary import Adversary, AdversaryConfig, discriminator_loss, feature_loss, generator_loss
from llmcodec.objectives.discriminators import MPDConfig, MSDConfig, STFTDiscriminatorConfig
from llmcodec.schedule import Schedule

SMALL = AdversaryConfig(
    mpd=MPDConfig(periods=(2, 3), channels=(4, 6), width=1.0),
    msd=MSDConfig(2, (4, 8), (15, 5), (2, 1), (1, 2)),
    stft=STFTDiscriminatorConfig(n_ffts=(32,), width=1 / 16),
    r1_every=2,
    learning_rate=Schedule(1e-3),
)


def small(seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> Adversary:
    torch.manual_seed(seed)
    return Adversary(replace(SMALL, **changes)).to(dtype)


def windows(num_clips: int, seed: int = 1, num_samples: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fake, real = torch.randn(2, num_clips, num_samples, generator=generator, dtype=torch.float64)
    return 0.3 * fake, real


def weights(adversary: Adversary) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in adversary.named_parameters()}


def test_losses_by_hand():
    real, fake = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([[-3.0, 0.0], [1.0, -0.5]])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(
        (0 + 0.5 + 2 + 0) / 4 + (0 + 1 + 2 + 0.5) / 4
    )
    assert generator_loss(fake, "hinge").item() == pytest.approx(-(-3 + 0 + 1 - 0.5) / 4)
    assert discriminator_loss(real, fake, "least_squares").item() == pytest.approx(
        (1 + 0.25 + 4 + 0) / 4 + (9 + 0 + 1 + 0.25) / 4
    )
    assert generator_loss(fake, "least_squares").item() == pytest.approx((16 + 1 + 0 + 2.25) / 4)


def test_feature_loss_by_hand():
    real = [[torch.tensor([[1.0, -3.0], [2.0, 2.0]])], [torch.tensor([[10.0], [20.0]])]]
    fake = [[torch.tensor([[2.0, -3.0], [0.0, 2.0]])], [torch.tensor([[10.0], [10.0]])]]
    assert feature_loss(fake, real, "absolute").item() == pytest.approx(3 / 4 + 10 / 2)
    # Per clip: 0.5 / 2 and 1 / 2 in the first layer, 0 / 10 and 10 / 20 in the second.
    assert feature_loss(fake, real, "relative").item() == pytest.approx(((0.25 + 0.5) / 2 + (0 + 0.5) / 2) / 2)


@pytest.mark.parametrize("combine", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["hinge", "least_squares"])
def test_forward_against_its_definition(loss, combine):
    adversary = small(loss=loss, combine=combine)
    fake, real = windows(3)
    terms = adversary(fake, real)
    logits, fake_features = adversary.judge(fake)
    _, real_features = adversary.judge(real)
    per_net = [-x.mean() if loss == "hinge" else ((1 - x) ** 2).mean() for x in logits]
    expected = sum(per_net) / (1 if combine == "sum" else len(per_net))
    assert len(per_net) == 5
    torch.testing.assert_close(terms["adv/generator"], expected)
    distance = sum(
        (f - r).abs().mean()
        for fs, rs in zip(fake_features, real_features, strict=True)
        for f, r in zip(fs, rs, strict=True)
    )
    torch.testing.assert_close(terms["adv/feature"], distance)
    assert adversary(real, real)["adv/feature"].item() == 0


@pytest.mark.parametrize("term", ["adv/generator", "adv/feature"])
def test_the_codec_side_gives_gradients_to_the_fake_only(term):
    adversary = small()
    fake, real = (x.requires_grad_() for x in windows(2))
    adversary(fake, real)[term].backward()
    assert fake.grad is not None and torch.isfinite(fake.grad).all() and fake.grad.abs().max() > 0
    assert real.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in adversary.parameters())


def test_step_leaves_the_codec_graph_and_the_flags_alone():
    adversary = small()
    fake, real = windows(2)
    source = fake.clone().requires_grad_()
    before = weights(adversary)
    logged = adversary.step([(source * 1.0, real)], 0)
    assert source.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in adversary.parameters())
    assert all(not torch.equal(p, before[name]) for name, p in adversary.named_parameters())
    assert set(logged) == {"adv/discriminator", "adv/accuracy", "adv/r1", "grad_norm/adversary", "adv/skipped"}
    assert all(torch.isfinite(x) and not x.requires_grad for x in logged.values())
    assert "adv/r1" not in adversary.step([(fake, real)], 1)


def test_the_step_is_adamw_on_the_clipped_gradient_of_the_definition():
    adversary = small(clip=0.1, r1_gamma=3.0)
    fake, real = windows(3)
    oracle = copy.deepcopy(adversary).requires_grad_(True)
    real_logits, _ = oracle.judge(real)
    fake_logits, _ = oracle.judge(fake)
    loss = sum(
        (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean() for r, f in zip(real_logits, fake_logits, strict=True)
    )
    total = loss + 3.0 / 2 * 2 * oracle.r1_penalty(real)
    parameters = list(oracle.nets.parameters())
    gradients = torch.autograd.grad(total, parameters)
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    assert norm > 0.1
    for p, gradient in zip(parameters, gradients, strict=True):
        # The first step of AdamW moves by the sign of the gradient, after the decay.
        step = gradient * 0.1 / norm
        p.data = p.data * (1 - 1e-3 * 0.01) - 1e-3 * step / (step.abs() + 1e-8)
    logged = adversary.step([(fake, real)], 0)
    torch.testing.assert_close(logged["adv/discriminator"], loss.detach())
    torch.testing.assert_close(logged["grad_norm/adversary"], norm)
    for p, expected in zip(adversary.nets.parameters(), parameters, strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-7)


def test_the_learning_rate_follows_its_schedule():
    moved = []
    for step in (1, 3):
        adversary = small(learning_rate=Schedule(1e-3, end=0.0, steps=3, shape="linear"))
        before = weights(adversary)
        adversary.step([windows(1)], step)
        moved.append(max((p - before[n]).abs().max().item() for n, p in adversary.named_parameters()))
    assert moved[0] == pytest.approx(1e-3 * 2 / 3, rel=0.02) and moved[1] == 0


def test_r1_against_finite_differences():
    adversary = small()
    _, real = windows(2, num_samples=40)
    score = lambda wav: sum(x.mean(-1) for x in adversary.judge(wav)[0])  # noqa: E731
    expected = 0.0
    for clip in range(2):
        for sample in range(40):
            up, down = real.clone(), real.clone()
            up[clip, sample] += 1e-5
            down[clip, sample] -= 1e-5
            expected += ((score(up)[clip] - score(down)[clip]) / 2e-5).item() ** 2 / 2
    assert adversary.r1_penalty(real).item() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_r1_against_finite_differences():
    adversary = small().requires_grad_(True)
    _, real = windows(2, num_samples=40)
    penalty = adversary.r1_penalty(real)
    names = [name for name, _ in adversary.named_parameters()]
    gradients = torch.autograd.grad(penalty, list(adversary.parameters()), allow_unused=True)
    checked = 0
    for name, p, gradient in zip(names, adversary.parameters(), gradients, strict=True):
        if gradient is None or "bias" in name:
            continue
        flat, index = p.data.view(-1), int(gradient.abs().argmax())
        flat[index] += 1e-6
        up = adversary.r1_penalty(real).item()
        flat[index] -= 2e-6
        down = adversary.r1_penalty(real).item()
        flat[index] += 1e-6
        assert (up - down) / 2e-6 == pytest.approx(gradient.view(-1)[index].item(), rel=1e-3, abs=1e-9), name
        checked += 1
    assert checked > 15


def test_r1_of_summed_logits_grows_with_the_positions():
    _, real = windows(1)
    only = {"mpd": None, "stft": None, "msd": MSDConfig(1, (4,), (15,), (2,), (1,))}
    mean, total = (small(r1_score=kind, **only).r1_penalty(real).item() for kind in ("mean", "sum"))
    assert total == pytest.approx(mean * 48**2, rel=1e-9)


def test_micro_batches_of_any_size_equal_one_batch():
    fake, real = windows(5)
    one, many = small(), small()
    for step in range(3):
        logged_one = one.step([(fake, real)], step)
        logged_many = many.step([(fake[:3], real[:3]), (fake[3:4], real[3:4]), (fake[4:], real[4:])], step)
        for name, value in logged_one.items():
            torch.testing.assert_close(value, logged_many[name], rtol=1e-9, atol=1e-12)
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("ignored", [0, 1])
def test_every_micro_batch_is_learnt_from(ignored):
    pairs = [windows(2, seed=1), windows(2, seed=2)]
    both, one = small(), small()
    both.step(pairs, 1)
    one.step([pairs[1 - ignored]], 1)
    assert any(not torch.allclose(a, b) for a, b in zip(both.parameters(), one.parameters(), strict=True))


def _rank_steps(rank: int) -> dict[str, torch.Tensor]:
    """Six clips: rank 0 has two micro-batches of two, rank 1 two of one."""
    fake, real = windows(6)
    mine = [slice(0, 2), slice(2, 4)] if rank == 0 else [slice(4, 5), slice(5, 6)]
    adversary = small()
    losses = []
    for step in range(3):
        losses.append(adversary.step([(fake[part], real[part]) for part in mine], step)["adv/discriminator"])
    return {**weights(adversary), "losses": torch.stack(losses)}


def test_two_ranks_equal_one_process_with_the_double_batch(two_ranks):
    first, second = two_ranks(_rank_steps)
    fake, real = windows(6)
    adversary = small()
    losses = torch.stack([adversary.step([(fake, real)], step)["adv/discriminator"] for step in range(3)])
    torch.testing.assert_close((first.pop("losses") + second.pop("losses")) / 2, losses, rtol=1e-9, atol=0)
    for name, p in weights(adversary).items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], p, rtol=1e-7, atol=1e-9)


def through_files(state: dict) -> dict:
    """As a checkpoint stores it: tensors in safetensors under joined names, the rest in JSON."""
    tensors, plain = {}, {}

    def walk(node: dict, path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{path}{key}|")
            elif isinstance(value, torch.Tensor):
                tensors[f"{path}{key}"] = value.contiguous()
            else:
                plain[f"{path}{key}"] = value

    walk(state, "")
    restored: dict = {"optimizer": {}}
    for name, value in {**load(save(tensors)), **json.loads(json.dumps(plain))}.items():
        *parents, key = name.split("|")
        node = restored
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    return restored


def run(adversary: Adversary, steps: range) -> dict[str, torch.Tensor]:
    logged = {}
    for step in steps:
        fake, real = windows(2, seed=step)
        logged = adversary.step([(fake.float(), real.float())], step)
    return {**weights(adversary), **logged}


def test_resumed_equals_uninterrupted_bit_for_bit():
    whole = run(small(dtype=torch.float32), range(6))
    first = small(dtype=torch.float32)
    run(first, range(3))
    resumed = small(seed=9, dtype=torch.float32)
    resumed.load_training_state(through_files(first.training_state()))
    continued = run(resumed, range(3, 6))
    for name, value in whole.items():
        assert torch.equal(value, continued[name]), name


@pytest.mark.parametrize("missing", ["nets", "exp_avg", "exp_avg_sq", "step"])
def test_the_resume_test_notices_what_is_not_restored(missing):
    whole = run(small(dtype=torch.float32), range(6))
    first = small(dtype=torch.float32)
    run(first, range(3))
    state = through_files(first.training_state())
    if missing == "nets":
        state["nets"] = dict(small(seed=9, dtype=torch.float32).nets.state_dict())
    else:
        for moments in state["optimizer"].values():
            moments[missing] = torch.zeros_like(moments[missing])
    resumed = small(seed=9, dtype=torch.float32)
    resumed.load_training_state(state)
    continued = run(resumed, range(3, 6))
    assert any(not torch.equal(value, continued[name]) for name, value in whole.items())


def test_a_state_before_the_first_step_and_of_another_adversary():
    adversary = small()
    small(seed=1).load_training_state(through_files(adversary.training_state()))
    with pytest.raises(ValueError, match="other discriminators"):
        small(msd=None).load_training_state(adversary.training_state())


@pytest.mark.parametrize("step", [0, 1])
def test_a_non_finite_batch_changes_nothing_and_is_counted(step):
    adversary = small()
    run_before = windows(2)
    adversary.step([run_before], 1)
    before, moments = weights(adversary), copy.deepcopy(adversary.training_state()["optimizer"])
    fake, real = windows(2)
    fake[0, 5] = float("nan")
    logged = adversary.step([(fake, real)], step)
    assert logged["adv/skipped"] == 1 and adversary.training_state()["num_skipped"] == 1
    for name, p in weights(adversary).items():
        assert torch.equal(p, before[name])
    for name, state in adversary.training_state()["optimizer"].items():
        assert all(torch.equal(value, moments[name][key]) for key, value in state.items())
    assert adversary.step([run_before], step)["adv/skipped"] == 0


def test_silence_gives_finite_losses_and_gradients():
    adversary = small(feature_matching="relative")
    silent = torch.zeros(2, 96, dtype=torch.float64, requires_grad=True)
    for real in (torch.zeros(2, 96, dtype=torch.float64), windows(2)[1]):
        terms = adversary(silent, real)
        (gradient,) = torch.autograd.grad(sum(terms.values()), silent)
        assert torch.isfinite(gradient).all() and all(torch.isfinite(x) for x in terms.values())
        assert adversary.step([(silent, real)], 0)["adv/skipped"] == 0


def test_bf16_is_close_and_returns_float32():
    fake, real = (x.float() for x in windows(2, num_samples=400))
    exact = small(dtype=torch.float32)(fake, real)
    rough_adversary = small(dtype=torch.float32, bf16=True)
    source = fake.clone().requires_grad_()
    rough = rough_adversary(source, real)
    for name, value in exact.items():
        assert rough[name].dtype is torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.02) and not torch.equal(
            rough[name], value
        )
    sum(rough.values()).backward()
    assert source.grad is not None and torch.isfinite(source.grad).all()
    logged = rough_adversary.step([(fake.bfloat16(), real.bfloat16())], 0)
    assert logged["adv/skipped"] == 0 and logged["adv/r1"].dtype is torch.float32
    # A surrounding autocast does not change what bf16=False means.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = small(dtype=torch.float32)(fake, real)
    for name, value in exact.items():
        assert torch.equal(inside[name], value)


def test_it_learns_to_tell_and_a_fake_can_learn_to_please_it():
    adversary = small(dtype=torch.float32, learning_rate=Schedule(3e-3))
    fake, real = (x.float() for x in windows(4))
    first = adversary.step([(fake, real)], 1)["adv/discriminator"]
    for step in range(2, 60):
        last = adversary.step([(fake, real)], step)
    assert last["adv/discriminator"] < 0.7 * first and last["adv/accuracy"] > 0.75
    source = fake.clone().requires_grad_()
    before = adversary(source, real)["adv/generator"]
    (gradient,) = torch.autograd.grad(before, source)
    assert adversary(source - 0.1 * gradient / gradient.abs().max(), real)["adv/generator"] < before


def test_mistakes_are_named():
    adversary = small()
    fake, real = windows(2)
    for make, message in (
        (lambda: AdversaryConfig(mpd=None, msd=None), "no discriminator"),
        (lambda: AdversaryConfig(r1_every=0), "r1_every"),
        (lambda: AdversaryConfig(clip=0), "clip"),
        (lambda: adversary(fake, real[:, :-1]), "same window"),
        (lambda: adversary.step([(fake[None], real[None])], 0), "same window"),
        (lambda: adversary.step([], 0), "no windows"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
