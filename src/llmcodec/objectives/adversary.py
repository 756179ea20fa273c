"""The adversary: discriminators, their optimizer and all adversarial losses as one module.

    terms = adversary(fake_BS, real_BS)        # in the codec's step: "adv/generator", "adv/feature"
    logged = adversary.step(windows, step)     # after it: trains the discriminators on the same accumulated batch

The discriminators' parameters require gradients only inside `step`. So the codec's backward pass never fills them, and
a data-parallel wrapper or an optimizer that takes every trainable parameter of an enclosing module leaves them alone.

Shapes: B batch, S samples. Test: `pytest tests/objectives/test_adversary.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from llmcodec.distributed import at_least_float32, average_gradients, clip_gradients, mean_over_ranks
from llmcodec.io.structured import check_choices
from llmcodec.objectives.discriminators import (
    Features,
    MPDConfig,
    MSDConfig,
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleDiscriminator,
    STFTDiscriminatorConfig,
)
from llmcodec.schedule import Schedule, constant


@dataclass(frozen=True)
class AdversaryConfig:
    """Discriminators and how they are trained; the weights of adv/generator and adv/feature live in the recipe."""

    mpd: MPDConfig | None = field(default_factory=MPDConfig)
    """Multi-period discriminator; null leaves it out."""
    msd: MSDConfig | None = field(default_factory=MSDConfig)
    """Multi-scale discriminator; null leaves it out."""
    stft: STFTDiscriminatorConfig | None = None
    """Multi-resolution STFT discriminator; null leaves it out."""
    loss: Literal["hinge", "least_squares"] = "hinge"
    """Adversarial loss of codec and discriminators, averaged over positions."""
    combine: Literal["sum", "mean"] = "sum"
    """Over sub-networks: sum as in HiFi-GAN and LLM-Codec, or mean, which does not change with their number."""
    feature_matching: Literal["absolute", "relative"] = "absolute"
    """absolute: L1 per layer, summed over layers (HiFi-GAN); relative: each layer's L1 over the mean magnitude of the
    clip's real features, averaged over layers (as in EnCodec): it does not drift with the discriminator's scale."""
    learning_rate: Schedule = field(default_factory=lambda: constant(1e-4))
    """AdamW learning rate by step."""
    betas: tuple[float, float] = (0.8, 0.99)
    """AdamW betas."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    clip: float = 15.0
    """Largest norm of the gradient of all discriminators together."""
    r1_gamma: float = 2.0
    """Weight of the R1 penalty (arXiv 1801.04406), halved as in its definition; 0 turns it off."""
    r1_every: int = 16
    """R1 is computed once every so many steps and multiplied by this number (lazy regularisation, arXiv 1912.04958)."""
    r1_lazy: bool = True
    """Multiply by `r1_every`, so that the penalty's mean is that of every step; the released code does not."""
    r1_score: Literal["mean", "sum"] = "mean"
    """What R1 differentiates: the logits' mean over positions, which the losses use too, or their sum (the public
    reference), with which the penalty grows with the square of the number of positions."""
    bf16: bool = False
    """Run the discriminators under bf16 autocast (losses and R1 stay in float32)."""

    def __post_init__(self) -> None:
        check_choices(self, "AdversaryConfig")
        if self.mpd is None and self.msd is None and self.stft is None:
            raise ValueError("AdversaryConfig: no discriminator left; set mpd, msd or stft, or set adv/* weights to 0")
        if self.r1_every < 1:
            raise ValueError(f"AdversaryConfig: r1_every counts steps and must be at least 1, got {self.r1_every}")
        if self.clip <= 0:
            raise ValueError(f"AdversaryConfig: clip must be positive, got {self.clip}; use 1e9 for no clipping")


class Adversary(nn.Module):
    """See the module's docstring. Initial weights come from the global generator: seed it before construction."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.config = config
        self.nets = nn.ModuleDict()
        if config.mpd is not None:
            self.nets["mpd"] = MultiPeriodDiscriminator(config.mpd)
        if config.msd is not None:
            self.nets["msd"] = MultiScaleDiscriminator(config.msd)
        if config.stft is not None:
            self.nets["stft"] = MultiResolutionSTFTDiscriminator(config.stft)
        self.optimizer = torch.optim.AdamW(
            self.nets.parameters(),
            lr=config.learning_rate(0),
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.num_skipped = 0
        self.nets.requires_grad_(False)

    def judge(self, wav_BS: Tensor) -> tuple[list[Tensor], Features]:
        """Logits (B, positions) and feature maps of every sub-network of every discriminator."""
        logits: list[Tensor] = []
        features: Features = []
        for net in self.nets.values():
            net_logits, net_features = net(wav_BS)
            logits += net_logits
            features += net_features
        return logits, features

    def _autocast(self, wav_BS: Tensor) -> torch.autocast:
        return torch.autocast(wav_BS.device.type, dtype=torch.bfloat16, enabled=self.config.bf16)

    def forward(self, fake_BS: Tensor, real_BS: Tensor) -> dict[str, Tensor]:
        """The codec's side: raw scalars adv/generator and adv/feature, whose gradient reaches `fake_BS` only."""
        fake_BS, real_BS = check_pair(fake_BS, real_BS)
        # Normalised weights are the same for both passes (the parameters require no gradient here).
        with self._autocast(fake_BS), parametrize.cached():
            with torch.no_grad():
                _, real_features = self.judge(real_BS)
            fake_logits, fake_features = self.judge(fake_BS)
        with torch.autocast(fake_BS.device.type, enabled=False):
            per_net = [generator_loss(at_least_float32(x), self.config.loss) for x in fake_logits]
            return {
                "adv/generator": self._combine(per_net),
                "adv/feature": feature_loss(fake_features, real_features, self.config.feature_matching),
            }

    def step(self, windows: Sequence[tuple[Tensor, Tensor]], step_index: int) -> dict[str, Tensor]:
        """Train the discriminators once on all `windows` of one optimizer step.

        Args:
            windows: (fake, real) pairs (B, S), one per micro-batch; fakes may carry a graph, which gets no gradient.
                Every clip has the same weight however clips are split into micro-batches and ranks.
            step_index: the optimizer step, which decides on R1 and the learning rate.

        Returns:
            Detached raw terms of this rank: adv/discriminator, adv/r1 (at R1 steps), adv/accuracy (share of sub-network
            scores on the right side), grad_norm/adversary, adv/skipped (1 where a non-finite gradient made all ranks
            skip the update).
        """
        if not windows:
            raise ValueError("Adversary.step: no windows to train on")
        pairs = [check_pair(fake.detach(), real.detach()) for fake, real in windows]
        num_clips = mean_over_ranks(sum(len(real) for _, real in pairs), pairs[0][1].device)
        take_r1 = self.config.r1_gamma > 0 and step_index % self.config.r1_every == 0
        logged: dict[str, Tensor] = {}
        with self._trainable():
            self.optimizer.zero_grad(set_to_none=True)
            for fake_BS, real_BS in pairs:
                share = len(real_BS) / num_clips
                loss, accuracy = self._discriminator_loss(fake_BS, real_BS)
                (share * loss).backward()
                accumulate(logged, {"adv/discriminator": share * loss, "adv/accuracy": share * accuracy})
                if take_r1:
                    penalty = self.r1_penalty(real_BS)
                    often = self.config.r1_every if self.config.r1_lazy else 1
                    (share * 0.5 * self.config.r1_gamma * often * penalty).backward()
                    accumulate(logged, {"adv/r1": share * penalty})
            parameters = list(self.nets.parameters())
            average_gradients(parameters)
            norm = clip_gradients(parameters, self.config.clip)
            finite = bool(torch.isfinite(norm))
            if finite:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.learning_rate(step_index)
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.num_skipped += not finite
        logged["grad_norm/adversary"] = norm
        logged["adv/skipped"] = norm.new_tensor(float(not finite))
        return logged

    @contextmanager
    def _trainable(self) -> Iterator[None]:
        self.nets.requires_grad_(True)
        try:
            yield
        finally:
            self.nets.requires_grad_(False)

    def _combine(self, per_net: Sequence[Tensor]) -> Tensor:
        total = torch.stack(list(per_net))
        return total.sum() if self.config.combine == "sum" else total.mean()

    def _discriminator_loss(self, fake_BS: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad(), self._autocast(real_BS):
            logits, _ = self.judge(torch.cat([real_BS, fake_BS]))
        with torch.autocast(real_BS.device.type, enabled=False):
            halves = [at_least_float32(x).chunk(2) for x in logits]
            losses = [discriminator_loss(real, fake, self.config.loss) for real, fake in halves]
            border = 0.0 if self.config.loss == "hinge" else 0.5
            right = [torch.cat([real > border, fake < border]).to(real.dtype).mean() for real, fake in halves]
            return self._combine(losses), torch.stack(right).mean()

    def r1_penalty(self, real_BS: Tensor) -> Tensor:
        """Mean over clips of the squared norm of d score / d real, differentiable in the parameters; never in bf16.

        The score of a clip is the sum over sub-networks of the mean of its logits (see `r1_score`).
        """
        with torch.enable_grad(), torch.autocast(real_BS.device.type, enabled=False):
            real_BS = at_least_float32(real_BS).detach().requires_grad_()
            logits, _ = self.judge(real_BS)
            per_clip = [x.mean(-1) if self.config.r1_score == "mean" else x.sum(-1) for x in logits]
            (slope_BS,) = torch.autograd.grad(torch.stack(per_clip).sum(), real_BS, create_graph=True)
            return slope_BS.square().sum(-1).mean()

    def training_state(self) -> dict[str, Any]:
        """Everything `step` changes: nested dicts of tensors and integers (references, so save before training on)."""
        states = self.optimizer.state
        moments = {name: dict(states[p]) for name, p in self.nets.named_parameters() if p in states}
        return {"nets": dict(self.nets.state_dict()), "optimizer": moments, "num_skipped": self.num_skipped}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue from `training_state()`: the next `step` is bit for bit that of the run which saved it."""
        parameters = dict(self.nets.named_parameters())
        mine, theirs = set(self.nets.state_dict()), set(state["nets"])
        if mine != theirs or set(state["optimizer"]) - set(parameters):
            raise ValueError(
                "Adversary: the saved state belongs to other discriminators "
                f"(missing {sorted(mine - theirs)[:3]}, unknown {sorted(theirs - mine)[:3]}); use the run's own recipe"
            )
        self.nets.load_state_dict(state["nets"])
        self.optimizer.state.clear()
        for name, moments in state["optimizer"].items():
            parameter = parameters[name]
            self.optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in moments.items()
            }
        self.num_skipped = int(state["num_skipped"])


def check_pair(fake_BS: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32; raises ValueError if their shapes differ."""
    if fake_BS.shape != real_BS.shape or fake_BS.ndim != 2:
        raise ValueError(
            f"Adversary: fake {tuple(fake_BS.shape)} and real {tuple(real_BS.shape)} must both be (B, S); "
            "cut both to the same window"
        )
    return at_least_float32(fake_BS), at_least_float32(real_BS)


def accumulate(totals: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    """Add detached terms into running totals."""
    for name, value in terms.items():
        totals[name] = totals[name] + value.detach() if name in totals else value.detach()


def generator_loss(fake_logits: Tensor, kind: str) -> Tensor:
    """Hinge: -mean D(fake). Least squares: mean (D(fake) - 1)^2."""
    return -fake_logits.mean() if kind == "hinge" else (fake_logits - 1).square().mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: str) -> Tensor:
    """Hinge: mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)). Least squares: targets 1 and 0."""
    if kind == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    return (real_logits - 1).square().mean() + fake_logits.square().mean()


def feature_loss(fake: Features, real: Features, kind: str) -> Tensor:
    """L1 between hidden layers, see `AdversaryConfig.feature_matching`. No gradient reaches `real`."""
    distances = []
    for fake_layers, real_layers in zip(fake, real, strict=True):
        for fake_map, real_map in zip(fake_layers, real_layers, strict=True):
            real_map = at_least_float32(real_map.detach())
            distance_B = (at_least_float32(fake_map) - real_map).abs().flatten(1).mean(-1)
            if kind == "relative":
                # Per clip, so that the loss of a batch is the mean over its clips wherever they are computed.
                distance_B = distance_B / real_map.abs().flatten(1).mean(-1).clamp(min=1e-6)
            distances.append(distance_B.mean())
    total = torch.stack(distances)
    return total.mean() if kind == "relative" else total.sum()
