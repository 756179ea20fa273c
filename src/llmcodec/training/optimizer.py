"""Optimizers of a run: one per group of parameters, learning rates from schedules, saved as plain tensors.

Groups: codec, bridge, audio (embedding rows, start, heads), audio_lm. SGD and AdamW are fused: one pass over memory per
step instead of one per operation; Muon orthogonalises matrices of equal shape together.
Test: tests/training/test_optimizer.py.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.distributed import clip_gradients, in_turns, num_ranks
from llmcodec.training.recipe import GroupConfig, as_schedule

MUON_ELEMENTS = 1 << 20
"""Elements that Muon works on at once on a CPU, so that they stay in its cache; a GPU takes all."""
MUON_SMALL = 96 * 96
"""Elements below which a matrix is updated alone: products of small matrices together are rounded otherwise."""


class Muon(torch.optim.Muon):
    """PyTorch's Muon, bit for bit, with one product for all matrices of a shape instead of one for each.

    Several processes share the products: each makes some of the updates and receives the others.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            blocks: list[list[Tensor]] = []
            for shape, matrices in by_shape.items():
                on_cpu = matrices[0].device.type == "cpu"
                count = max(1, MUON_ELEMENTS // shape.numel()) if on_cpu else max(1, len(matrices) // num_ranks())
                count = 1 if shape.numel() < MUON_SMALL else count
                blocks += [matrices[first : first + count] for first in range(0, len(matrices), count)]
            averaged = [self.averaged(block, group) for block in blocks]
            found = in_turns([partial(orthogonalised, updates, group) for updates in averaged], averaged)
            for block, updates in zip(blocks, found, strict=True):
                rate = (
                    group["lr"] * 0.2 * math.sqrt(max(block[0].shape))
                )  # `match_rms_adamw`: the RMS of AdamW's update
                torch._foreach_mul_(block, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(block, list(updates.unbind()), alpha=-rate)

    def averaged(self, matrices: list[Tensor], group: dict[str, Any]) -> Tensor:
        """Matrices of one shape -> their (N, R, C) bf16 updates before they are orthogonalised; moves the momentum."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        return torch.stack([update.bfloat16() for update in updates])


def orthogonalised(updates_NRC: Tensor, group: dict[str, Any]) -> Tensor:
    """Newton-Schulz iterations of `torch.optim.Muon` on several matrices at once."""
    rows, columns = updates_NRC.shape[1:]
    halves = (updates_NRC.mT if rows > columns else updates_NRC).unbind()
    wide = [half / half.norm().clamp(min=group["eps"]) for half in halves]
    wide_NRC, multiply_add = (torch.stack(wide), torch.baddbmm) if len(wide) > 1 else (wide[0], torch.addmm)
    first, second, third = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        gram_NRR = wide_NRC @ wide_NRC.mT
        gram_NRR = multiply_add(gram_NRR, gram_NRR, gram_NRR, beta=second, alpha=third)
        wide_NRC = multiply_add(wide_NRC, gram_NRR, wide_NRC, beta=first)
    found_NRC = wide_NRC if len(wide) > 1 else wide_NRC[None]
    return found_NRC.mT if rows > columns else found_NRC


class GroupOptimizer:
    """The optimizer of one named group; a learning rate of 0 leaves parameters and momentum untouched."""

    def __init__(self, name: str, parameters: dict[str, nn.Parameter], config: GroupConfig):
        self.name, self.config, self.lr = name, config, as_schedule(config.lr)
        self.parameters = [p for p in parameters.values() if p.requires_grad]
        decay, betas = config.weight_decay, config.betas
        matrices = (
            [p for n, p in parameters.items() if p.requires_grad and is_hidden_matrix(n, p)]
            if config.kind == "muon"
            else []
        )
        hidden = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in hidden]
        self.optimizers: list[torch.optim.Optimizer] = []
        if config.kind == "sgd":
            self.optimizers.append(
                torch.optim.SGD(rest, lr=0.0, momentum=config.momentum, weight_decay=decay, fused=True)
            )
        else:
            if matrices:
                muon = Muon(
                    matrices, lr=0.0, momentum=config.momentum, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
                self.optimizers.append(muon)
            if rest:
                self.optimizers.append(torch.optim.AdamW(rest, lr=0.0, betas=betas, weight_decay=decay, fused=True))

    def clip(self) -> Tensor:
        """Clip the group's gradient norm; returns the norm before clipping."""
        return clip_gradients(self.parameters, self.config.clip)

    def step(self, step: int) -> float:
        """One update at the schedule's learning rate, which is returned."""
        lr = self.lr(step)
        for optimizer in self.optimizers if lr else ():
            beside_muon = self.config.kind == "muon" and isinstance(optimizer, torch.optim.AdamW)
            for group in optimizer.param_groups:
                group["lr"] = lr * self.config.adamw_ratio if beside_muon else lr
            optimizer.step()
        return lr

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        """Per-parameter state only: hyperparameters come from the recipe."""
        return [optimizer.state_dict()["state"] for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """The inverse of `state_dict`. Raises ValueError if the state is not that of this group's optimizers."""
        if len(states) != len(self.optimizers):
            raise ValueError(f"optimizer {self.name}: saved by other optimizers; resume with the same recipe")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            if len({frozenset(moments) for moments in state.values()}) > 1:
                raise ValueError(f"optimizer {self.name}: the saved state of some parameters is incomplete")
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Matrices between hidden layers: what Muon's orthogonalised update is meant for. Code vectors are none."""
    return parameter.ndim == 2 and ".layers." in name and ".codebook." not in name
