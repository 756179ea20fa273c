"""Where a small LM over audio tokens starts from: what stands beside what in the training tokens.

A language model from scratch spends most of a small budget finding out which tokens are alike, and when it finds out is
luck of the seed. The factorised co-occurrence matrix tells it at once, deterministically and in the same way for every
codec. Shapes: V vocabulary, H width. Test: tests/lm/test_cooccurrence.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLING = 16  # columns of the randomised SVD beyond those kept


def neighbour_ppmi(clips: Sequence[Tensor], vocabulary: int, window: int) -> Tensor:
    """Positive pointwise mutual information of tokens at most `window` apart, sparse (V, V), symmetric, in nats.

    A pair at distance d counts 1/d (as in GloVe). Pairs never seen, and pairs rarer than chance, are 0.
    """
    rows, columns, weights = [], [], []
    for distance in range(1, window + 1):
        pairs = [(clip[:-distance], clip[distance:]) for clip in clips if clip.numel() > distance]
        for left, right in ((0, 1), (1, 0)):
            rows += [pair[left] for pair in pairs]
            columns += [pair[right] for pair in pairs]
        weights += [torch.full((2 * sum(pair[0].numel() for pair in pairs),), 1.0 / distance)]
    shape = (vocabulary, vocabulary)
    if not rows:
        nothing = torch.zeros(2, 0, dtype=torch.int64)
        return torch.sparse_coo_tensor(nothing, torch.zeros(0), shape, check_invariants=False).coalesce()
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    counts = torch.sparse_coo_tensor(index, torch.cat(weights), shape, check_invariants=False).coalesce()
    row, column = counts.indices()
    sums_V = torch.zeros(vocabulary, dtype=torch.float64).index_add_(0, row, counts.values().double())
    lift = counts.values().double() * sums_V.sum() / (sums_V[row] * sums_V[column])
    return torch.sparse_coo_tensor(counts.indices(), lift.log().clamp(min=0).float(), shape, check_invariants=False)


def cooccurrence_embedding(
    clips: Sequence[Tensor], vocabulary: int, width: int, *, window: int = 2, rms: float = 0.2
) -> Tensor:
    """Initial embedding rows (V, H) from training clips (1-D int64 each): U sqrt(S) of the truncated SVD of the PPMI.

    Source: Levy, Goldberg & Dagan, TACL 2015. Deterministic on one machine. Scaled to root mean square `rms` over the
    rows of tokens that occur beside another; rows of the others are 0. Columns beyond the vocabulary's size are 0.
    """
    ppmi = neighbour_ppmi(clips, vocabulary, window).coalesce()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the range finder of the randomised SVD (Halko et al. 2011)
        u_VH, s_H, _ = torch.svd_lowrank(ppmi, q=min(width + OVERSAMPLING, vocabulary), niter=4)
    u_VH, s_H = u_VH[:, :width], s_H[:width]
    table_VH = F.pad(u_VH * s_H.clamp(min=0).sqrt(), (0, width - s_H.numel()))
    occurs_V = torch.zeros(vocabulary, dtype=torch.bool)
    occurs_V[ppmi.indices()[0][ppmi.values() > 0]] = True
    table_VH[~occurs_V] = 0.0
    size = table_VH[occurs_V].square().mean().sqrt() if bool(occurs_V.any()) else torch.ones(())
    return table_VH * (rms / size.clamp(min=1e-12))
