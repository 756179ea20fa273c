"""Windowed self-attention in blocks: each block of queries attends to its own span of keys, never T x T.

Shapes: B clips, N heads, T frames, C head width. Test: tests/codec/test_windowed_attention.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.inputs import is_traced

MIN_BLOCK = 32  # frames


def windowed_attention(
    query: Tensor, key: Tensor, value: Tensor, back: int, ahead: int, real_BT: Tensor | None = None
) -> Tensor:
    """Attention in which frames see `back` frames before and `ahead` after themselves.

    Args:
        query: (B, N, T, C), already divided by sqrt(C).
        key, value: (B, N, T, C).
        back, ahead: frames that a frame sees.
        real_BT: True at real frames; only these are seen (padding also sees itself); None: all are real.

    Returns:
        (B, N, T, C).
    """
    batch, heads, num_frames, head_dim = query.shape
    block = max(MIN_BLOCK, (back + ahead) // 2)
    if not is_traced():
        block = min(block, num_frames)
    extra = -num_frames % block
    span = back + block + ahead
    query = F.pad(query, (0, 0, 0, extra)).reshape(batch, heads, -1, block, head_dim)
    key = F.pad(key, (0, 0, back, ahead + extra)).unfold(2, span, block)  # (B, N, blocks, C, span)
    value = F.pad(value, (0, 0, back, ahead + extra)).unfold(2, span, block)
    if real_BT is None:
        real_BT = torch.ones(1, num_frames, dtype=torch.bool, device=query.device)
    seen = visible(F.pad(real_BT, (back, ahead + extra)).unfold(1, span, block), block, back, ahead)
    scores = (query @ key).masked_fill_(~seen[:, None], -math.inf)
    mixed = scores.softmax(-1).to(value.dtype) @ value.transpose(3, 4)
    return mixed.reshape(batch, heads, -1, head_dim)[:, :, :num_frames]


def visible(real: Tensor, block: int, back: int, ahead: int) -> Tensor:
    """Keys of its span that a query sees: real ones in its window, and itself.

    real: (B, blocks, span) bool. Returns (B, blocks, block, span).
    """
    row = torch.arange(block, device=real.device)[:, None]
    column = torch.arange(real.shape[-1], device=real.device)
    near = (column >= row) & (column <= row + back + ahead)
    return (near & real[:, :, None]) | (column == row + back)
