"""Token language models for SALMon: the measuring LM trained on the spot, or one that `llmcodec lm train` made.

    scorer = train_scorer(codes, codec.codebook_size, codec.frame_rate)      # small, from scratch, audio tokens only
    scorer = TokenModelScorer(model, max_tokens)                             # a TokenModel that exists

Codes are 1-D int64 tensors, one per clip, flattened where a codec has several codebooks.
Test: tests/lm/test_small_lm_scorer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.lm.small_lm import TokenModel, pad_batch
from llmcodec.lm.small_lm_training import LikelihoodConfig, train_token_model
from llmcodec.metrics.token_statistics import check_codes


@dataclass(frozen=True)
class TokenModelScorer:
    """The measuring LM as a `TokenScorer`. Clips longer than it was trained on are scored in windows that overlap by
    half: every token has read at least half a window, except at the clip's start."""

    model: TokenModel
    max_tokens: int
    """Longest context."""
    batch_tokens: int = 4096

    def token_log_likelihoods(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Clips -> natural log-likelihood of every token given those before it, float64 1-D.

        Raises:
            ValueError: an empty clip or codes outside the vocabulary.
        """
        check_codes(codes, self.model.vocabulary, "codes")
        windows = [window for index, clip in enumerate(codes) for window in self._windows(index, len(clip))]
        out = [torch.zeros(len(clip), dtype=torch.float64) for clip in codes]
        was_training = self.model.training
        self.model.eval()
        for batch in self._batches(windows):
            pieces = [codes[index][start:stop] for index, start, stop, _ in batch]
            for (index, start, stop, scored), row in zip(batch, self._score(pieces), strict=True):
                out[index][scored:stop] = row[scored - start :]
        self.model.train(was_training)
        return out

    def _windows(self, index: int, length: int) -> list[tuple[int, int, int, int]]:
        """(clip, start, stop, first token that counts): each token counts once, where it has read most."""
        windows, scored = [], 0
        for start in range(0, length, max(1, self.max_tokens // 2)):
            stop = min(start + self.max_tokens, length)
            if stop > scored:
                windows.append((index, start, stop, scored))
                scored = stop
        return windows

    def _batches(self, windows: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
        batches: list[list[tuple[int, int, int, int]]] = []
        for window in sorted(windows, key=lambda w: w[1] - w[2]):
            longest = batches[-1][0][2] - batches[-1][0][1] if batches else 0
            if batches and (len(batches[-1]) + 1) * longest <= self.batch_tokens:
                batches[-1].append(window)
            else:
                batches.append([window])
        return batches

    @torch.no_grad()
    def _score(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        inputs_BT, targets_BT = pad_batch(pieces, self.model.vocabulary)
        device = self.model.bias_V.device
        logits_NV, targets_N = self.model(inputs_BT.to(device), targets_BT.to(device))
        nats_N = F.cross_entropy(logits_NV, targets_N, reduction="none").double().cpu()
        return [-row for row in nats_N.split([len(piece) for piece in pieces])]


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
) -> TokenModelScorer:
    """Train the measuring LM of `likelihood.py` on a codec's tokens, with its budget, and give it as a scorer.

    The model of the last step is taken: SALMon's pairs choose nothing. Same seed, same model on the same machine.

    Raises:
        ValueError: no clips, or codes out of range.
    """
    config = config or LikelihoodConfig()
    vocabulary, token_rate = codebook_size * num_codebooks, frame_rate * num_codebooks
    check_codes(train_codes, vocabulary, "train_codes")
    config = replace(config, num_evaluations=1)
    *_, (_, model) = train_token_model(
        train_codes, vocabulary, token_rate, config, seed, device=device, on_progress=on_progress
    )
    return TokenModelScorer(model.eval(), config.max_tokens(token_rate))
