"""Checkpoints without a pickle: complete, compared with what was saved, refused where they are damaged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from llmcodec.lm.loop.checkpoint import (
    CONTENTS,
    holds_state,
    load_optimizer,
    load_random_states,
    load_weights,
    save_state,
)


def module(seed: int = 0, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
    layers[0].bias.requires_grad_(False)
    return layers


def trained(steps: int = 2) -> tuple[nn.Sequential, torch.optim.AdamW]:
    one = module()
    optimizer = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], lr=0.1, fused=True)
    for _ in range(steps):
        one(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return one, optimizer


def test_the_next_step_is_that_of_an_uninterrupted_run(tmp_path):
    one, optimizer = trained()
    save_state(tmp_path, one, optimizer)
    expected = torch.rand(3)
    assert holds_state(tmp_path) and {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    other = module(seed=1)
    frozen = other[0].bias.clone()
    again = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], lr=0.1, fused=True)
    load_weights(tmp_path, other)
    load_optimizer(tmp_path, other, again)
    load_random_states(tmp_path)
    assert torch.equal(torch.rand(3), expected) and torch.equal(other[0].bias, frozen)
    other[0].bias.data.copy_(one[0].bias)
    for model, adamw in ((one, optimizer), (other, again)):
        model(torch.ones(3, 4)).square().sum().backward()
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    state = [adamw.state[model[1].weight]["step"] for model, adamw in ((one, optimizer), (other, again))]
    assert torch.equal(*state) and state[0].shape == state[1].shape and state[0].dtype == state[1].dtype


def test_before_the_first_step_the_moments_are_zero(tmp_path):
    save_state(tmp_path, *trained(steps=0))
    other, optimizer = trained()
    load_optimizer(tmp_path, other, optimizer)
    assert not optimizer.state[other[0].weight]["exp_avg"].any() and optimizer.state[other[0].weight]["step"] == 0


def test_damage_is_named(tmp_path):
    one, optimizer = trained()
    folder = tmp_path / "checkpoint-2"
    save_state(folder, one, optimizer)
    (shard,) = folder.glob("shard-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=f"{shard.name}: has .* bytes instead of"):
        load_weights(folder, one)
    shard.write_bytes(whole[:-4] + b"\0\0\0\0" if whole[-4:] != b"\0\0\0\0" else whole[:-4] + b"\1\0\0\0")
    with pytest.raises(ValueError, match="differs from what was saved"):
        load_weights(folder, one)
    shard.write_bytes(whole)
    shutil.copy(shard, folder / "shard-00002-model-00001-of-00001.safetensors")
    with pytest.raises(ValueError, match="shard-00002-.*: a shard of another checkpoint"):
        load_weights(folder, one)
    (folder / "shard-00002-model-00001-of-00001.safetensors").unlink()
    shard.rename(tmp_path / "away")
    with pytest.raises(ValueError, match=f"{shard.name}: is missing; delete .*checkpoint-2"):
        load_weights(folder, one)
    (tmp_path / "away").rename(shard)
    with pytest.raises(ValueError, match="checkpoint-2: the checkpoint is of another model, or damaged"):
        load_weights(folder, module(width=6))
    with pytest.raises(ValueError, match="of another model, or damaged .*Missing key"):
        load_weights(folder, nn.Sequential(*module(), nn.Linear(2, 2)))
    (folder / CONTENTS).write_text(json.dumps({"files": 3}))
    with pytest.raises(ValueError, match="shards.json: damaged"):
        load_weights(folder, one)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    import pickle

    one, optimizer = trained()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pickle")

    with monkeypatch.context() as patch:
        for name in ("load", "loads", "Unpickler", "_Unpickler"):
            patch.setattr(pickle, name, refuse)
        patch.setattr(torch, "load", refuse)
        save_state(tmp_path, one, optimizer)
        load_weights(tmp_path, one)
        load_optimizer(tmp_path, one, optimizer)
        load_random_states(tmp_path)
