"""Initial embedding rows of audio tokens.

- In an LM with text rows: sampled from their mean and covariance, the same for every codec (`row_statistics`,
  `sample_rows`), or with co-occurrence in place of the noise (`cooccurrence_rows`).
- In a small LM from scratch: from co-occurrence in the training tokens (`cooccurrence_embedding`). Such a model spends
  most of a small budget learning which tokens are similar, and when it does depends on the seed; the factorised
  co-occurrence matrix provides this at once, deterministically and in the same way for every codec.
- From another run: `load_module`.

Shapes: V vocabulary, H width. Test: tests/lm/test_embeddings.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.io.atomic import atomic_path
from llmcodec.io.tensor_check import check_tensors, renewed_digests

MAX_ROWS = 32_768
BLOCK_ROWS = 1024
OVERSAMPLING = 16
"""Extra columns of the randomised SVD (oversampling)."""


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
    # With fewer rows than dimensions it is singular: add a negligible ridge.
    ridge = 1e-6 * covariance.diagonal().mean() + 1e-12
    factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean), dtype=torch.float64, device=rows.device))
    return RowStatistics(mean.float(), factor.float())


def sample_rows(statistics: RowStatistics, num_rows: int, seed: int) -> Tensor:
    """Rows (num_rows, H) sampled from the statistics. Row i depends on `seed` and i only, not on `num_rows`."""
    noise = _standard_normal(num_rows, len(statistics.mean_H), seed).to(statistics.mean_H.device)
    return statistics.mean_H + noise @ statistics.factor_HH.t()


def cooccurrence_rows(statistics: RowStatistics, clips: Sequence[Tensor], num_rows: int, seed: int) -> Tensor:
    """Rows (num_rows, H) of the statistics' mean and scale in which codes that occur alike are alike.

    In place of the noise of `sample_rows`, its coordinates are `cooccurrence_embedding` plus a tenth of that noise. A
    code that co-occurs with none in `clips` (1-D int64 each) keeps its noise.
    """
    noise_VH = _standard_normal(num_rows, len(statistics.mean_H), seed)
    together_VH = cooccurrence_embedding(clips, num_rows, noise_VH.shape[1], rms=1.0)
    alone_V1 = (together_VH == 0).all(1, keepdim=True)
    rows_VH = torch.where(alone_V1, noise_VH, together_VH + 0.1 * noise_VH).to(statistics.mean_H.device)
    return statistics.mean_H + rows_VH @ statistics.factor_HH.t()


def _standard_normal(num_rows: int, width: int, seed: int) -> Tensor:
    """Noise (num_rows, width); row i depends on `seed` and i only."""
    blocks = []
    for block in range(-(-num_rows // BLOCK_ROWS)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + block) % (1 << 63))
        blocks.append(torch.randn(BLOCK_ROWS, width, generator=generator))
    return torch.cat(blocks)[:num_rows]


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
    rows of tokens that co-occur with another; other rows are 0, and so are columns beyond the vocabulary's size.
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


def load_tensors(path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]], what: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file of another run, which must have these names and shapes.

    Args:
        what: beginning of error messages.

    Raises:
        ValueError: no such file, a damaged one (`check_tensors`), or other names or shapes.
    """
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise ValueError(f"{what}: no such file: {path}")
    found = load_file(check_tensors(path))
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    there = {name: tuple(value.shape) for name, value in found.items()}
    for name in [*wanted, *there]:
        if there.get(name) != wanted.get(name):
            raise ValueError(
                f"{what}: {path} has {there.get(name, 'nothing')} for {name}, this run needs "
                f"{wanted.get(name, 'nothing')}: it is of another codec, size or language model"
            )
    return found


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that `load_tensors` reads, and its digests next to it."""
    from safetensors.torch import save_file

    place = Path(path)
    with renewed_digests(place.parent, escape(place.name)), atomic_path(place) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


def load_module(module: nn.Module, path: str | os.PathLike[str], what: str) -> None:
    """Read a module's whole state with `load_tensors`."""
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    module.load_state_dict(load_tensors(path, shapes, what))
