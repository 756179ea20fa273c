"""Scores of clips under the small language model: per clip for evaluation, per token for SALMon.

    scorer = train_scorer(codes, codec.codebook_size, codec.frame_rate)      # from scratch, audio tokens only
    scorer = SmallLMScorer(model, max_tokens)                                # an existing SmallLM
    scorer = load_scorer("runs/rate/audio_lm.safetensors", max_tokens=500)   # trained along with a codec

Scores are computed in the model's own precision: training may round, scoring does not. Codes are 1-D int64 tensors, one
per clip, flattened where a codec has several codebooks. Test: tests/lm/test_small_lm_scorer.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.io.tensor_check import check_tensors
from llmcodec.io.tensor_file import read_header
from llmcodec.lm.embeddings import load_module
from llmcodec.lm.logits import evaluating
from llmcodec.lm.packing import score_in_windows
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig, pad_batch
from llmcodec.lm.small_lm_training import LikelihoodConfig, cut_batches, split_long, train_small_lm
from llmcodec.metrics.token_statistics import check_codes

K_NORM = "model.layers.0.self_attn.k_norm.weight"


def token_nats(model: SmallLM, pieces: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood (float64) of the tokens of all pieces, joined, and whether each is the first guess."""
    inputs_BT, targets_BT = pad_batch(pieces, model.vocabulary)
    device = model.bias_V.device
    with evaluating(model):
        logits_NV, targets_N = model(inputs_BT.to(device), targets_BT.to(device))
    nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none").double().cpu()
    return nats_N, (logits_NV.argmax(-1) == targets_N).long().cpu()


def score_clips(
    model: SmallLM,
    clips: Sequence[Tensor],
    max_tokens: int,
    batch_tokens: int = 2048,
    tokens: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Nats (float64) and number of correct first guesses of every clip, (num_clips,); long clips are cut.

    Args:
        tokens: the nats of every token of every clip are appended, float32 1-D each.
    """
    pieces, owners = split_long(clips, max_tokens)
    lengths = torch.tensor([piece.numel() for piece in pieces])
    nats = torch.zeros(len(clips), dtype=torch.float64)
    correct = torch.zeros(len(clips), dtype=torch.int64)
    order = sorted(range(len(pieces)), key=lambda index: -pieces[index].numel())
    by_piece: dict[int, Tensor] = {}
    for batch in cut_batches(order, lengths.tolist(), batch_tokens):
        nats_N, hits_N = token_nats(model, [pieces[i] for i in batch])
        owner_N = torch.repeat_interleave(torch.tensor([owners[i] for i in batch]), lengths[batch])
        nats.index_add_(0, owner_N, nats_N)
        correct.index_add_(0, owner_N, hits_N)
        if tokens is not None:
            by_piece |= zip(batch, nats_N.float().split(lengths[batch].tolist()), strict=True)
    if tokens is not None:
        joined: list[list[Tensor]] = [[] for _ in clips]
        for piece, owner in enumerate(owners):
            joined[owner].append(by_piece[piece])
        tokens += map(torch.cat, joined)
    return nats, correct


@dataclass(frozen=True)
class SmallLMScorer:
    """The small LM as a `TokenScorer`. Clips longer than it was trained on are scored in windows that overlap by half:
    every token has read at least half a window, except at the clip's start."""

    model: SmallLM
    max_tokens: int
    """Longest context."""
    batch_tokens: int = 4096

    def token_log_likelihoods(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Clips -> natural log-likelihood of every token given those before it, float64 1-D.

        Raises:
            ValueError: an empty clip or codes outside the vocabulary.
        """
        check_codes(codes, self.model.vocabulary, "codes")
        return score_in_windows(codes, self.max_tokens, self.batch_tokens, self._score)

    def _score(self, pieces: list[Tensor], skips: list[int]) -> list[Tensor]:
        rows = token_nats(self.model, pieces)[0].split([len(piece) for piece in pieces])
        return [-row[skip:] for row, skip in zip(rows, skips, strict=True)]


def train_scorer(
    train_codes: Sequence[Tensor],
    codebook_size: int,
    frame_rate: float,
    config: LikelihoodConfig | None = None,
    *,
    num_codebooks: int = 1,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[float], None] | None = None,
) -> SmallLMScorer:
    """Train the small LM on a codec's tokens, with the budget of `config`, and return it as a scorer.

    The model of the last step is used: SALMon's pairs select nothing. Same seed, same model on the same machine.

    Raises:
        ValueError: no clips, or codes out of range.
    """
    config = config or LikelihoodConfig()
    vocabulary, token_rate = codebook_size * num_codebooks, frame_rate * num_codebooks
    check_codes(train_codes, vocabulary, "train_codes")
    config = replace(config, num_evaluations=1)
    *_, (_, model) = train_small_lm(
        train_codes, vocabulary, token_rate, config, seed, device=device, on_progress=on_progress
    )
    return SmallLMScorer(model.eval(), config.max_tokens(token_rate))


def run_tensors(model: SmallLM) -> dict[str, Tensor]:
    """The weights by the names of `audio_lm.safetensors`: what `load_scorer` reads, and `codec.neural_prior` takes."""
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    if "start_H" not in state:
        state["embedding_VH"], state["start_H"] = state["embedding_VH"][:-1], state["embedding_VH"][-1]
    return state


def load_scorer(path: str | os.PathLike[str], max_tokens: int) -> SmallLMScorer:
    """The small LM that a run trained along with its codec (`audio_lm.safetensors`); its sizes follow from the file.

    Args:
        max_tokens: longest context; longer clips are scored in windows.

    Raises:
        ValueError: the file is damaged, or not that of a small LM with normalised keys, as runs write it.
    """
    shapes = {name: entry.shape for name, entry in read_header(check_tensors(path)).tensors.items()}
    try:
        vocabulary, hidden_size = shapes["embedding_VH"]
        layers = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
        config = SmallLMConfig(
            family="qwen3",
            num_layers=len(layers),
            hidden_size=hidden_size,
            num_heads=shapes["model.layers.0.self_attn.q_proj.weight"][0] // shapes[K_NORM][0],
            head_dim=shapes[K_NORM][0],
            intermediate_size=shapes["model.layers.0.mlp.gate_proj.weight"][0],
            dropout=0.0,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a small language model of a run (no {error}, or of another shape)") from error
    trained = SmallLM(config, vocabulary)
    load_module(trained, path, "small language model")
    model = SmallLM(config, vocabulary, start_in_table=True)
    assert trained.start_H is not None
    state = {name: value for name, value in trained.state_dict().items() if name != "start_H"}
    state["embedding_VH"] = torch.cat([trained.embedding_VH.data, trained.start_H.data[None]])
    model.load_state_dict(state)
    return SmallLMScorer(model.eval(), max_tokens)
