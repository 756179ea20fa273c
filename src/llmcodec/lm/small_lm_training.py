"""Training of the LM that evaluates codecs: one loop for everything that needs such a model.

`evaluation/predictability.py` scores its checkpoints, `small_lm_scorer.py` keeps the last one. Codes are 1-D int64
tensors, one per clip. Test: tests/lm/test_small_lm.py, tests/evaluation/test_predictability.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.data.sampler import clip_seed
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig, pad_batch
from llmcodec.metrics.token_statistics import UnigramModel

_POOL_CLIPS = 256
"""Clips are sorted by length inside random pools of this size, so batches have little padding but stay random."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """The protocol. Two results may be compared only if they were made with the same values."""

    model: SmallLMConfig = field(default_factory=SmallLMConfig)
    """Architecture and starting point of the small LM; the longest context is `context_seconds`."""
    audio_seconds: float = 32_000.0
    """Training budget in seconds of audio seen (about two passes over the 4.5 hours of the full corpus)."""
    batch_seconds: float = 20.0
    """Audio per optimizer step."""
    context_seconds: float = 10.0
    """Longer clips are cut into pieces of this length, in training and in scoring."""
    learning_rate: float = 6e-3
    """Peak learning rate of AdamW; linear warm-up, cosine decay to 0 at the end of the budget."""
    warmup_share: float = 0.1
    """Share of the budget used for warm-up."""
    weight_decay: float = 0.1
    """AdamW weight decay of the matrices (gains and biases: none)."""
    clip_norm: float = 1.0
    """Gradient norm limit."""
    num_evaluations: int = 6
    """How often valid and test clips are scored during training, besides once before it."""
    cross_select: bool = True
    """Also report the valid clips, at the checkpoint selected on the *test* clips: twice the clips from one
    training."""
    seeds: tuple[int, ...] = (0,)
    """One training per seed (initial weights, order, dropout); per-clip bits are averaged over them."""
    bf16: bool = True
    """Train under bf16 autocast; scores are always computed in float32."""

    def __post_init__(self) -> None:
        for name in ("audio_seconds", "batch_seconds", "context_seconds"):
            if not 0 < getattr(self, name) < math.inf:  # a budget below 0 would report a model that learnt nothing
                raise ValueError(f"likelihood: {name} must be above 0, got {getattr(self, name)}")
        if self.num_evaluations < 1 or not self.seeds:
            raise ValueError("likelihood: num_evaluations must be at least 1, and there must be a seed")

    def max_tokens(self, token_rate: float) -> int:
        """Longest context in tokens."""
        return max(1, round(self.context_seconds * token_rate))


MINI_LIKELIHOOD = LikelihoodConfig(
    model=SmallLMConfig(dropout=0.2), audio_seconds=3_200.0, batch_seconds=10.0, num_evaluations=8
)
"""For the ten bundled minutes: about seven passes over eight minutes, well under a minute on one core."""


def for_bundled_speech(config: LikelihoodConfig) -> LikelihoodConfig:
    """The protocol with the values of `MINI_LIKELIHOOD` where it has the general ones: naming one field must not turn a
    minute into an hour."""
    general = LikelihoodConfig()
    untouched = [one.name for one in fields(config) if getattr(config, one.name) == getattr(general, one.name)]
    return replace(config, **{name: getattr(MINI_LIKELIHOOD, name) for name in untouched})


def train_small_lm(
    train_codes: Sequence[Tensor],
    vocabulary: int,
    token_rate: float,
    config: LikelihoodConfig,
    seed: int,
    *,
    device: str = "cpu",
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[float, SmallLM]]:
    """Train one model and yield (seconds of audio seen, the model) before the first step, `num_evaluations` - 1 times
    on the way and after the last step. It is always the same object: score it before the next step.

    vocabulary: all codebooks counted. token_rate: tokens per second. The same seed gives the same model on a machine.
    """
    max_tokens = config.max_tokens(token_rate)
    batch_tokens = max(1, round(config.batch_seconds * token_rate))
    budget = config.audio_seconds * token_rate
    pieces, _ = split_long(train_codes, max_tokens)
    lengths = [piece.numel() for piece in pieces]
    sizes = replace(config.model, max_positions=max_tokens)
    model = SmallLM(sizes, vocabulary, seed, start_in_table=True)
    model.start_from(train_codes, UnigramModel.fit(train_codes, vocabulary).log_prob_V, gain=0.0)
    model.to(device)
    optimizer = _optimizer(model, config)
    order = torch.Generator().manual_seed(seed)
    seen = shown = 0
    dropout = torch.Generator().manual_seed(seed).get_state()
    gpu = [torch.device(device)] if torch.device(device).type == "cuda" else []
    while seen < budget:
        for batch in plan_batches(lengths, batch_tokens, order):
            if seen >= budget:
                break
            if seen >= shown * budget / config.num_evaluations:
                yield seen / token_rate, model
                shown += 1
            _set_rate(optimizer, config, seen / budget)
            with torch.random.fork_rng(devices=gpu):  # what happens between the yields cannot change the dropout
                torch.set_rng_state(dropout)
                if gpu:
                    with torch.cuda.device(gpu[0]):
                        torch.cuda.manual_seed(clip_seed(seed, seen, "", "dropout"))
                _step(model, optimizer, [pieces[i] for i in batch], config, device)
                dropout = torch.get_rng_state()
            seen += sum(lengths[i] for i in batch)
            if on_progress is not None:
                on_progress(min(1.0, seen / budget))
    yield seen / token_rate, model


def _optimizer(model: SmallLM, config: LikelihoodConfig) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, config: LikelihoodConfig, share: float) -> None:
    warm = min(1.0, share / config.warmup_share) if config.warmup_share > 0 else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))


def _step(
    model: SmallLM, optimizer: torch.optim.Optimizer, clips: list[Tensor], config: LikelihoodConfig, device: str
) -> None:
    inputs_BT, targets_BT = pad_batch(clips, model.vocabulary)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.bf16):
        logits_NV, targets_N = model(inputs_BT.to(device), targets_BT.to(device))
    loss = F.cross_entropy(logits_NV, targets_N)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()


def split_long(clips: Sequence[Tensor], max_tokens: int) -> tuple[list[Tensor], list[int]]:
    """Cut clips into pieces of at most max_tokens (each gets a start token) and name the clip of each piece."""
    pieces: list[Tensor] = []
    owners: list[int] = []
    for index, clip in enumerate(clips):
        for start in range(0, clip.numel(), max_tokens):
            pieces.append(clip[start : start + max_tokens])
            owners.append(index)
    return pieces, owners


def plan_batches(lengths: Sequence[int], max_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """One epoch of batches of clip indices: random pools, sorted by length, cut at max_tokens, order shuffled."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), _POOL_CLIPS):
        pool = sorted(order[start : start + _POOL_CLIPS], key=lambda index: -lengths[index])
        batches.extend(cut_batches(pool, lengths, max_tokens))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def cut_batches(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Batches of the indices in their order, of at most max_tokens real tokens (or of one clip)."""
    batch: list[int] = []
    tokens = 0
    for index in indices:
        if batch and tokens + lengths[index] > max_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
