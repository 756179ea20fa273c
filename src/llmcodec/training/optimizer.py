"""Optimizers of a run: one per group of parameters, learning rates from schedules, saved as plain tensors.

Groups: codec, bridge, audio (embedding rows, start, heads), audio_lm. SGD and AdamW are fused: one pass over memory per
step instead of one per operation. Test: tests/training/test_optimizer.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.distributed import clip_gradients
from llmcodec.training.recipe import GroupConfig, as_schedule


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
                muon = torch.optim.Muon(
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
    """Matrices between hidden layers of a conformer: what Muon's orthogonalised update is meant for."""
    return parameter.ndim == 2 and ".layers." in name
