"""The small language model that measures tokens: a causal transformer over audio tokens only, from scratch.

Shapes: B clips, T tokens, H width, V audio vocabulary (all codebooks). Id V is the start token, which is read but never
predicted. Clips are right-padded and the attention is causal, so no real token ever sees padding or another clip.
Test: `pytest tests/lm/test_small_lm.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.lm.cooccurrence import cooccurrence_embedding

IGNORE = -100
_POOL_CLIPS = 256
"""Clips are sorted by length inside random pools of this size, so batches hold little padding but stay random."""


@dataclass(frozen=True)
class TokenModelConfig:
    """Architecture of the token language model; the same for every codec that is compared."""

    num_layers: int = 2
    """Transformer layers (Llama blocks: RMSNorm, rotary attention, SwiGLU)."""
    hidden_size: int = 128
    """Width of embeddings and layers."""
    num_heads: int = 4
    """Attention heads."""
    intermediate_size: int = 384
    """Width inside the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout on the token embeddings and on the last hidden state, in training only."""
    token_dropout: float = 0.0
    """Share of input tokens whose embedding is zeroed in training."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights, and of the noise on the initial embeddings."""
    start_window: int = 2
    """Initial embeddings factorise which tokens stand at most this far apart in the training clips
    (lm/cooccurrence.py); 0 draws them at random, and then the seed decides when the model learns to repeat."""
    start_rms: float = 0.2
    """Size of those embeddings, root mean square."""


class TokenModel(nn.Module):
    """Tied embeddings around a transformers `LlamaModel`; starts exactly at the given unigram distribution.

    The output is `hidden * gain @ embedding.T + bias` with gain 0 and bias log p_unigram at the start, so before
    training the model *is* the unigram model, whatever the vocabulary: all codecs start from context gain 0.

    Args:
        config: sizes. unigram_log_prob_V: natural log. max_tokens: longest clip. seed: of the initial weights.
        start_VH: initial embeddings beside the noise (`start_embedding`); None for noise alone.
    """

    def __init__(
        self,
        config: TokenModelConfig,
        unigram_log_prob_V: Tensor,
        max_tokens: int,
        seed: int,
        start_VH: Tensor | None = None,
    ) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        self.config = config
        self.vocabulary = unigram_log_prob_V.numel()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers first: their initial weights do not depend on the vocabulary
            self.body = LlamaModel(
                LlamaConfig(
                    vocab_size=1,
                    hidden_size=config.hidden_size,
                    num_hidden_layers=config.num_layers,
                    num_attention_heads=config.num_heads,
                    num_key_value_heads=config.num_heads,
                    intermediate_size=config.intermediate_size,
                    max_position_embeddings=max_tokens,
                    initializer_range=config.initializer_range,
                    use_cache=False,
                    pad_token_id=None,
                    bos_token_id=None,
                    eos_token_id=None,
                )
            )
            table_VH = torch.randn(self.vocabulary + 1, config.hidden_size) * config.initializer_range
        if start_VH is not None:
            table_VH[: self.vocabulary] += start_VH
        self.embedding_VH = nn.Parameter(table_VH)
        self.gain_H = nn.Parameter(torch.zeros(config.hidden_size))
        self.bias_V = nn.Parameter(unigram_log_prob_V.to(torch.get_default_dtype()).clone())

    def hidden(self, inputs_BT: Tensor) -> Tensor:
        """Last hidden states (B, T, H): state t has read the start token and the t tokens before position t."""
        embedded_BTH = F.embedding(inputs_BT, self.embedding_VH)
        if self.training and self.config.token_dropout > 0:
            kept_BT = torch.rand(inputs_BT.shape, device=inputs_BT.device) >= self.config.token_dropout
            embedded_BTH = embedded_BTH * kept_BT.unsqueeze(-1)
        embedded_BTH = F.dropout(embedded_BTH, self.config.dropout, self.training)
        hidden_BTH = self.body(inputs_embeds=embedded_BTH, use_cache=False).last_hidden_state
        return F.dropout(hidden_BTH, self.config.dropout, self.training)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """(N, H) hidden states -> (N, V) logits over audio tokens only."""
        scores_NV = F.linear(hidden_NH * self.gain_H, self.embedding_VH[: self.vocabulary])
        return scores_NV.to(self.bias_V.dtype) + self.bias_V  # the bias stays exact under autocast

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets of the real positions only: (N, V) and (N,)."""
        real_BT = targets_BT != IGNORE
        return self.logits(self.hidden(inputs_BT)[real_BT]), targets_BT[real_BT]


def start_embedding(config: TokenModelConfig, train_codes: Sequence[Tensor], vocabulary: int) -> Tensor | None:
    """Initial embeddings (V, H) of the protocol, the same for every seed; None where the config draws them."""
    if config.start_window == 0:
        return None
    return cooccurrence_embedding(
        train_codes, vocabulary, config.hidden_size, window=config.start_window, rms=config.start_rms
    )


def pad_batch(clips: Sequence[Tensor], start_token: int) -> tuple[Tensor, Tensor]:
    """Clips -> inputs (start token, then all but the last token) and targets (the clip), right-padded, both (B, T)."""
    length = max(clip.numel() for clip in clips)
    inputs_BT = torch.full((len(clips), length), start_token)
    targets_BT = torch.full((len(clips), length), IGNORE)
    for row, clip in enumerate(clips):
        inputs_BT[row, 1 : clip.numel()] = clip[:-1]
        targets_BT[row, : clip.numel()] = clip
    return inputs_BT, targets_BT


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
        batches.extend(_cut(pool, lengths, max_tokens))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _cut(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
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


def score_clips(
    model: TokenModel, clips: Sequence[Tensor], max_tokens: int, batch_tokens: int = 2048
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood in nats (float64) and number of correct first guesses of every clip, (num_clips,).

    Always in the model's own precision: training may round, scoring does not.
    """
    pieces, owners = split_long(clips, max_tokens)
    order = sorted(range(len(pieces)), key=lambda index: -pieces[index].numel())
    nats = torch.zeros(len(clips), dtype=torch.float64)
    correct = torch.zeros(len(clips), dtype=torch.int64)
    device = model.bias_V.device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in _cut(order, [piece.numel() for piece in pieces], batch_tokens):
            inputs_BT, targets_BT = pad_batch([pieces[i] for i in batch], model.vocabulary)
            logits_NV, targets_N = model(inputs_BT.to(device), targets_BT.to(device))
            nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none").double().cpu()
            hits_N = (logits_NV.argmax(-1) == targets_N).long().cpu()
            owner_N = torch.repeat_interleave(
                torch.tensor([owners[i] for i in batch]), torch.tensor([pieces[i].numel() for i in batch])
            )
            nats.index_add_(0, owner_N, nats_N)
            correct.index_add_(0, owner_N, hits_N)
    model.train(was_training)
    return nats, correct
