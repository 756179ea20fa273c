"""k-means (Lloyd 1982) on rows of features, in bounded memory: the codes of units and of the matched probe.

Shapes: N rows, D width, K codes. Test: tests/adapters/test_units.py, tests/evaluation/test_probe.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_ROWS = 1024


def fit_codes(rows_ND: Tensor, num_codes: int, rounds: int, generator: torch.Generator) -> Tensor:
    """(K, D) codes, from the first K rows on; a code that loses all its rows moves to a random row.

    Args:
        rows_ND: in random order, at least K.
        generator: of the rows that empty codes move to.
    """
    codes_KD = rows_ND[:num_codes].clone()
    for _ in range(rounds):
        assigned_N, _ = nearest(rows_ND, codes_KD)
        counts_K = torch.bincount(assigned_N, minlength=num_codes)
        codes_KD = torch.zeros_like(codes_KD).index_add_(0, assigned_N, rows_ND) / counts_K.clamp(min=1)[:, None]
        empty = (counts_K == 0).nonzero()[:, 0]
        fresh = torch.randint(rows_ND.shape[0], (empty.numel(),), generator=generator)
        codes_KD[empty] = rows_ND[fresh]
    return codes_KD


def nearest(rows_ND: Tensor, codes_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest code of every row (N,) and its squared distance (N,), in bounded memory."""
    half_norms_K = 0.5 * codes_KD.square().sum(1)
    found, scores = [], []
    for part_ND in rows_ND.split(_CHUNK_ROWS):
        score, index = torch.addmm(half_norms_K, part_ND, codes_KD.T, beta=-1).max(1)
        found.append(index)
        scores.append(part_ND.square().sum(1) - 2 * score)
    if not found:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    return torch.cat(found), torch.cat(scores).clamp(min=0)
