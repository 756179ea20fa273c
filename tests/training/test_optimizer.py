"""Group optimizers: schedules, a learning rate of 0 that touches nothing, Muon's choice of matrices, saved state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from llmcodec.schedule import Schedule
from llmcodec.training import optimizer
from llmcodec.training.optimizer import GroupOptimizer, Muon, is_hidden_matrix, orthogonalised
from llmcodec.training.recipe import GroupConfig

from ..miniature import miniature_codec, same

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {"kind": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "sgd": {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
    "muon": {"kind": "muon", "lr": 0.01, "weight_decay": 0.1},
}


def net() -> nn.Module:
    """A matrix between hidden layers, one outside, biases, a frozen parameter."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"stack": nn.ModuleDict({"layers": nn.Linear(4, 4)}), "out": nn.Linear(4, 2)})
    module.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    return module


def group_of(module: nn.Module, **config: Any) -> GroupOptimizer:
    return GroupOptimizer("net", dict(module.named_parameters()), GroupConfig(**config))


def give_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def values(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_of_0_leaves_weights_and_momentum_untouched(kind):
    module = net()
    group = group_of(module, **KINDS[kind] | {"lr": Schedule(0.01, delay=2)})
    before = values(module)
    for step in range(2):
        give_gradients(module, step)
        assert group.step(step) == 0.0
    assert same(values(module), before) == [] and all(state == {} for state in group.state_dict())
    give_gradients(module, 2)
    assert group.step(2) == 0.01
    moved, momentum = values(module), copy.deepcopy(group.state_dict())
    assert all(not torch.equal(a, b) for a, b in zip(moved[1:], before[1:], strict=True)), "all but the frozen one"
    assert torch.equal(moved[0], before[0]) and any(momentum)
    group.lr = Schedule(0.0)
    give_gradients(module, 3)
    group.step(3)
    assert same(values(module), moved) == [] and same(group.state_dict(), momentum) == []


def test_muon_takes_the_conformers_matrices_and_nothing_else():
    codec = miniature_codec()
    chosen = {name for name, p in codec.named_parameters() if is_hidden_matrix(name, p)}
    inside = {n for n, p in codec.named_parameters() if ".conformer.layers." in n and p.ndim == 2}
    assert chosen == inside and len(chosen) == 2 * 8  # per layer: 2 x 2 feed-forward, 2 attention, 2 pointwise
    assert not any(part in name for name in chosen for part in ("codebook", "proj.direction", "head", "frontend"))
    group = GroupOptimizer("codec", dict(codec.named_parameters()), GroupConfig(kind="muon"))
    muon, adamw = group.optimizers
    names = {id(p): n for n, p in codec.named_parameters()}
    assert {names[id(p)] for g in muon.param_groups for p in g["params"]} == chosen
    rest = {names[id(p)] for g in adamw.param_groups for p in g["params"]}
    assert rest | chosen == set(names.values()) and not rest & chosen


def test_beside_muon_adamw_has_its_share_of_the_learning_rate():
    module = net()
    group = group_of(module, kind="muon", lr=0.3, adamw_ratio=0.1)
    give_gradients(module, 0)
    assert group.step(0) == 0.3
    muon, adamw = group.optimizers
    assert muon.param_groups[0]["lr"] == 0.3 and adamw.param_groups[0]["lr"] == pytest.approx(0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_state_continues_bit_for_bit(kind):
    first, second = net(), net()
    one, two = group_of(first, **KINDS[kind]), group_of(second, **KINDS[kind])
    for step in range(3):
        give_gradients(first, step)
        one.step(step)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    fresh_module = net()
    fresh_module.load_state_dict(first.state_dict())
    fresh = group_of(fresh_module, **KINDS[kind])
    for module, group in ((first, one), (second, two), (fresh_module, fresh)):
        give_gradients(module, 9)
        group.step(3)
    assert same(values(first), values(second)) == []
    assert same(one.state_dict(), two.state_dict()) == []
    assert same(values(first), values(fresh_module)), "without the saved state it goes elsewhere"


def test_state_of_other_optimizers_is_refused():
    muon, sgd = group_of(net(), **KINDS["muon"]), group_of(net(), **KINDS["sgd"])
    with pytest.raises(ValueError, match="optimizer net: saved by other optimizers"):
        sgd.load_state_dict(muon.state_dict())
    module = net()
    group = group_of(module, **KINDS["adamw"])
    give_gradients(module, 0)
    group.step(0)
    state = copy.deepcopy(group.state_dict())
    del state[0][0]["exp_avg"]
    with pytest.raises(ValueError, match="incomplete"):
        group.load_state_dict(state)


def test_clip_limits_the_group_and_returns_the_norm_before():
    module = net()
    group = group_of(module, clip=0.5)
    give_gradients(module, 0)
    norm = torch.stack([p.grad.norm() for p in group.parameters]).norm()
    assert norm > 0.5 and torch.isclose(group.clip(), norm)
    assert torch.stack([p.grad.norm() for p in group.parameters]).norm() == pytest.approx(0.5, rel=1e-4)
    group.zero_grad()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("elements", [1, 1 << 20], ids=["one by one", "all of a shape at once"])
def test_muon_is_pytorchs_bit_for_bit(elements, monkeypatch):
    """Tall, wide and square matrices, one without a gradient in the first step."""
    monkeypatch.setattr("llmcodec.training.optimizer.MUON_ELEMENTS", elements)
    runs = []
    for kind in (torch.optim.Muon, Muon):
        generator = torch.Generator().manual_seed(0)
        shapes = [
            (32, 8),
            (8, 32),
            (128, 96),
            (96, 128),
            (32, 8),
            (128, 96),
            (16, 16),
            (96, 128),
            (128, 128),
            (128, 128),
        ]
        matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimizer = kind(matrices, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for step in range(3):
            for place, matrix in enumerate(matrices):
                gradient = torch.randn(matrix.shape, generator=generator)
                matrix.grad = None if (step, place) == (0, 2) else gradient
            optimizer.step()
        runs.append((matrices, [optimizer.state[matrix]["momentum_buffer"] for matrix in matrices]))
    (theirs, momentum), (ours, our_momentum) = runs
    assert all(torch.equal(a, b) for a, b in zip([*theirs, *momentum], [*ours, *our_momentum], strict=True))


def muon_steps(rank: int | None = None) -> dict[str, torch.Tensor]:
    """Weights, momenta and the number of matrices that this process made updates for."""
    made: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "MUON_ELEMENTS", 1 << 14)
        patch.setattr(optimizer, "orthogonalised", lambda *given: made.append(len(given[0])) or orthogonalised(*given))
        generator = torch.Generator().manual_seed(0)
        shapes = [(8, 32), (128, 96), (96, 128), (32, 8)] * 2
        matrices = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        muon = Muon(matrices, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(2):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=generator)
            muon.step()
    found = [m.detach() for m in matrices] + [muon.state[m]["momentum_buffer"] for m in matrices]
    return {"made": torch.tensor(sum(made))} | {str(i): tensor for i, tensor in enumerate(found)}


def test_two_processes_share_muons_work_and_end_with_the_same_weights(two_ranks):
    alone, ranks = muon_steps(), two_ranks(muon_steps)
    shares = [part.pop("made").item() for part in ranks]
    assert sum(shares) == alone.pop("made").item() == 16 and min(shares) >= 6
    assert all(torch.equal(alone[name], part[name]) for part in ranks for name in alone)
