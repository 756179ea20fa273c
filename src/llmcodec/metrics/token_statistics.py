"""Token statistics without a neural model: codebook use, entropies, repeats, unigram fit.

A clip is a 1-D int64 tensor of codes. Codecs with Q codebooks are flattened frame by frame (`flatten_codes`), so that
every token has its own range of ids. Shapes: Q codebooks, T frames, V vocabulary. Bits are base-2.
Test: tests/metrics/test_token_statistics.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def flatten_codes(codes_QT: Tensor, codebook_size: int) -> Tensor:
    """(Q, T) codes -> (T * Q) ids in time order, codebook q shifted by q * codebook_size; (T,) codes pass unchanged.

    Raises:
        ValueError: another shape.
    """
    if codes_QT.ndim == 1:
        return codes_QT.to(torch.int64)
    if codes_QT.ndim != 2:
        raise ValueError(f"codes: expected (T,) or (Q, T), got shape {tuple(codes_QT.shape)}")
    offsets_Q1: Tensor = torch.arange(codes_QT.shape[0]).unsqueeze(1) * codebook_size
    return (codes_QT.to(torch.int64) + offsets_Q1).T.reshape(-1)


def check_codes(codes: Sequence[Tensor], vocabulary: int, name: str) -> None:
    """Reject anything that is not a corpus of tokens.

    Args:
        codes: one row of codes per clip, int64 (T,).
        vocabulary: number of codes.
        name: of the corpus, for the message.

    Raises:
        ValueError: no clips, empty clips or codes outside [0, vocabulary).
    """
    if not codes:
        raise ValueError(f"{name}: no clips")
    for index, clip in enumerate(codes):
        if clip.ndim != 1 or clip.numel() == 0:
            raise ValueError(f"{name}: clip {index} has shape {tuple(clip.shape)}; expected one non-empty row of codes")
        if int(clip.min()) < 0 or int(clip.max()) >= vocabulary:
            raise ValueError(
                f"{name}: clip {index} has codes from {int(clip.min())} to {int(clip.max())}, outside [0, {vocabulary})"
            )


def entropy_bits(counts: Tensor) -> float:
    """Plug-in entropy of counts in bits: biased low by about (used codes - 1) / (2 N ln 2) (Miller 1955)."""
    p = counts[counts > 0].double() / counts.sum()
    return float(-(p * p.log2()).sum()) + 0.0


@dataclass(frozen=True)
class CodeStatistics:
    """Token statistics over a set of utterances; see docs/evaluation.md for the limits of each."""

    num_clips: int
    num_tokens: int
    codebook_size: int
    used_codes: int
    """Distinct codes that occur at least once; grows with the amount of audio."""
    unigram_entropy_bits: float
    """Plug-in entropy of all tokens pooled, bits per token; of several codebooks within each, as its place in the frame
    says which one a token is of."""
    perplexity: float
    """2 to the power of unigram_entropy_bits: the number of equally likely codes with the same entropy."""
    within_utterance_bits: list[float]
    """Per clip: plug-in entropy of the tokens inside it, at most log2(tokens). Compare only on the same clips."""
    repeat_rate: float
    """Share of tokens that equal the token one frame before them, inside utterances."""
    zipf_exponent: float
    """Minus the slope of log frequency over log rank, codes seen at least 5 times; NaN with fewer than 10 of them."""

    @property
    def within_utterance_entropy(self) -> float:
        """Mean of the per-clip entropies, bits per token. Speaker-ID tokens (constant inside a clip) drive it to 0."""
        return float(np.mean(self.within_utterance_bits))


def code_statistics(codes: Sequence[Tensor], codebook_size: int, num_codebooks: int = 1) -> CodeStatistics:
    """Statistics over utterances.

    Args:
        codes: one row of codes per utterance, int64 (T * Q,), flattened where there are several codebooks.
        codebook_size: codes of one codebook.
        num_codebooks: tokens of one frame.

    Raises:
        ValueError: no utterances, an empty one, or codes out of range.
    """
    vocabulary = codebook_size * num_codebooks
    check_codes(codes, vocabulary, "codes")
    counts = torch.bincount(torch.cat(list(codes)), minlength=vocabulary)
    place_bits = math.log2(num_codebooks)  # every codebook has the same number of tokens, so this is exact
    entropy = entropy_bits(counts) - place_bits
    repeats = sum(int((c[num_codebooks:] == c[:-num_codebooks]).sum()) for c in codes)
    pairs = sum(max(0, c.numel() - num_codebooks) for c in codes)
    return CodeStatistics(
        num_clips=len(codes),
        num_tokens=int(counts.sum()),
        codebook_size=vocabulary,
        used_codes=int((counts > 0).sum()),
        unigram_entropy_bits=entropy,
        perplexity=2.0**entropy,
        within_utterance_bits=[entropy_bits(torch.unique(c, return_counts=True)[1]) - place_bits for c in codes],
        repeat_rate=repeats / pairs if pairs else math.nan,
        zipf_exponent=_zipf_exponent(counts),
    )


def _zipf_exponent(counts: Tensor, min_count: int = 5, min_codes: int = 10) -> float:
    frequent = np.sort(counts[counts >= min_count].numpy().astype(np.float64))[::-1]
    if frequent.size < min_codes:
        return math.nan
    slope = np.polyfit(np.log(np.arange(1, frequent.size + 1)), np.log(frequent), 1)[0]
    return float(-slope)


@dataclass(frozen=True)
class UnigramModel:
    """Smoothed token frequencies: p(v) = (n_v + alpha) / (N + alpha V)."""

    log_prob_V: Tensor
    """Natural-log probabilities, float64."""
    alpha: float
    """Pseudo-count per code, chosen by leave-one-out likelihood on the training tokens only."""

    @staticmethod
    def fit(train_codes: Sequence[Tensor], vocabulary: int) -> UnigramModel:
        """Fit on training clips. Leave-one-out takes each token out of the counts before predicting it (Ney 1994).

        The grid of alpha is fixed (1e-4 .. 1e2), so equal data give equal models.
        """
        check_codes(train_codes, vocabulary, "train_codes")
        counts_V = torch.bincount(torch.cat(list(train_codes)), minlength=vocabulary).double()
        total, seen = counts_V.sum(), counts_V[counts_V > 0]

        def left_out(alpha: float) -> float:
            return float((seen * torch.log((seen - 1 + alpha) / (total - 1 + alpha * vocabulary))).sum())

        alpha = max(np.logspace(-4, 2, 49).tolist(), key=left_out)
        return UnigramModel(((counts_V + alpha) / (total + alpha * vocabulary)).log(), alpha)

    def clip_bits(self, codes_T: Tensor) -> float:
        """Total bits of one clip."""
        return float(-self.log_prob_V[codes_T].sum() / math.log(2))
