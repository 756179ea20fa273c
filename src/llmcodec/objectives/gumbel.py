"""Gumbel noise keyed by clip: the same numbers whatever the batch, the padding, the chunking or the rank.

The noise of frame t of a clip comes from a generator keyed by (clip key, t // 16), so any frame can be drawn again at
any time, for example in the backward pass, without keeping the noise.
Shapes: B batch, T frames, N real frames, V audio vocabulary. Test: `pytest tests/objectives/test_gumbel.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK_FRAMES = 16
_MASK64 = (1 << 64) - 1


def block_seed(clip_seed: int, block: int) -> int:
    """Key of one block of frames: splitmix64 finaliser (Steele et al. 2014) over clip key and block number."""
    z = (clip_seed + (block + 1) * 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (z ^ (z >> 31)) >> 1


def to_gumbel_(uniform: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) -> standard Gumbel noise, in place."""
    # Away from 0 and 1, so that both logarithms stay finite: noise lies in [-2.9, 16.7].
    return uniform.clamp_(2.0**-25, 1.0 - 2.0**-24).log_().neg_().log_().neg_()


class FrameNoise:
    """Gumbel noise of the real frames of a batch, drawn in pieces.

    Args:
        seeds_B: one non-negative 63-bit key per clip.
        mask_BT: real frames, row by row.
        width: V.
        lengths: real frames of each clip, if they are known (a mask on a GPU is waited for).
    """

    def __init__(
        self, seeds_B: Sequence[int] | Tensor, mask_BT: Tensor, width: int, lengths: Sequence[int] | None = None
    ):
        seeds = [int(seed) for seed in seeds_B]
        if len(seeds) != mask_BT.shape[0]:
            raise ValueError(f"FrameNoise: {len(seeds)} seeds for {mask_BT.shape[0]} clips; give one key per clip")
        self.width, self.device = width, mask_BT.device
        if lengths is None:
            frames = [row.nonzero()[:, 0].tolist() for row in mask_BT.cpu()]
        else:
            frames = [list(range(length)) for length in lengths]
        self._rows = [
            (seed, frame // BLOCK_FRAMES, frame % BLOCK_FRAMES)
            for seed, own in zip(seeds, frames, strict=True)
            for frame in own
        ]

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Noise (stop - start, width) of real frames start..stop; a new tensor each time."""
        noise = torch.empty(stop - start, self.width, device=self.device)
        block_TV = torch.empty(BLOCK_FRAMES, self.width, device=self.device)
        generator = torch.Generator(self.device)
        row = start
        while row < stop:
            seed, block, offset = self._rows[row]
            # A clip's real frames are consecutive up to holes in the mask: take the run inside this block at once.
            run = 1
            while row + run < stop and self._rows[row + run] == (seed, block, offset + run):
                run += 1
            generator.manual_seed(block_seed(seed, block))
            into = noise[row - start : row - start + run]
            if run == BLOCK_FRAMES:
                into.uniform_(generator=generator)
            else:
                into.copy_(block_TV.uniform_(generator=generator)[offset : offset + run])
            row += run
        return to_gumbel_(noise).to(dtype)  # all blocks at once: on a GPU five kernels in place of five for each


def condition_on_token(logits_NV: Tensor, noise_NV: Tensor, tokens_N: Tensor) -> Tensor:
    """Perturbed logits given that `tokens` has the largest of them: a new (N, V) tensor.

    With E = exp(-noise) and Z = sum exp(logits): logits' = log Z - log E at the token, -log(E / exp(logits) + E_token
    / Z) elsewhere (Maddison et al. 2014; Paulus et al. 2021, arXiv 2010.04838). `noise` is overwritten.
    """
    log_norm = torch.logsumexp(logits_NV, -1, keepdim=True)
    tokens = tokens_N.unsqueeze(1)
    top = noise_NV.gather(1, tokens) + log_norm
    # -log(exp(-(noise + logits)) + exp(-top)), in the stable form.
    perturbed = torch.logaddexp(noise_NV.add_(logits_NV).neg_(), -top).neg_()
    return perturbed.scatter_(1, tokens, top)
