"""Where new vocabulary rows start: the distribution of the text rows, as mean and covariance.

Shapes: V audio vocabulary, H LLM width. Test: `pytest tests/lm/test_vocabulary.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ROWS = 32_768
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class RowStatistics:
    """mean_H and a lower factor_HH with factor @ factor^T = covariance, both float32."""

    mean_H: Tensor
    factor_HH: Tensor


def row_statistics(rows: Tensor) -> RowStatistics:
    """Statistics of embedding rows of any float dtype; more than 32,768 rows are thinned evenly."""
    stride = -(-rows.shape[0] // MAX_ROWS)
    picked = rows.detach()[::stride].double()
    mean = picked.mean(0)
    picked = picked - mean
    covariance = picked.t() @ picked / max(1, picked.shape[0] - 1)
    # Fewer rows than dimensions leave it singular: the ridge is far below any direction that matters.
    ridge = 1e-6 * covariance.diagonal().mean() + 1e-12
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean), dtype=torch.float64, device=rows.device))
    return RowStatistics(mean.float(), factor.float())


def sample_rows(statistics: RowStatistics, num_rows: int, seed: int) -> Tensor:
    """Rows (num_rows, H) drawn from the statistics. Row i depends on `seed` and i alone, not on how many are drawn."""
    width = len(statistics.mean_H)
    blocks = []
    for block in range(-(-num_rows // BLOCK_ROWS)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % (1 << 63))
        blocks.append(torch.randn(BLOCK_ROWS, width, generator=generator))
    noise = torch.cat(blocks)[:num_rows].to(statistics.mean_H.device)
    return statistics.mean_H + noise @ statistics.factor_HH.t()
