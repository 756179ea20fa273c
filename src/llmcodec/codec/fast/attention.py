"""Rotary self-attention for inference: global without a mask, or within a window (never T x T for long clips).

Shapes: B clips of equal length, T frames, N heads, C head width. Test: tests/codec/fast/test_attention.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.conformer import MASKED_FRAMES, Reach, attention_mask, rotary_tables
from llmcodec.codec.windowed_attention import windowed_attention

SCORES_PER_BLOCK = 1 << 19  # half-precision scores held at once, all heads of a clip: the size of a core's cache
SAFE_SCORE = 40.0  # exp of scores in [-40, 40] and sums of thousands of them neither overflow nor vanish


def paired_rows(head_dim: int, width: int, device: torch.device) -> Tensor:
    """Order of the rows of `to_qkv` that makes the two halves of a rotation adjacent in queries and keys.

    Scores do not change: queries and keys are permuted alike. The rotation is then one complex product.
    """
    inside = torch.arange(head_dim, device=device).view(2, head_dim // 2).T.reshape(-1)
    heads = torch.arange(0, width, head_dim, device=device)[:, None] + inside
    order = heads.reshape(-1)
    return torch.cat((order, width + order, 2 * width + torch.arange(width, device=device)))


class Rotation:
    """The angles of rotary attention, cached for the longest clip so far in the layout that `attend` reads."""

    def __init__(self, config: LLMCodecConfig):
        self.head_dim, self.exact = config.head_dim, config.causal
        self.kept: tuple[Tensor, ...] = ()

    def tables(self, num_frames: int, device: torch.device) -> tuple[Tensor, ...]:
        """Tables of `arrange` for at least `num_frames` frames."""
        kept = self.kept  # read and replaced once each: another thread may do the same
        if not kept or len(kept[0]) < num_frames or kept[0].device != device:
            size, half = max(512, 1 << (num_frames - 1).bit_length()), self.head_dim // 2
            cos, sin = rotary_tables(size, self.head_dim, torch.empty(0, device=device), exact=self.exact)
            kept = self.kept = self.arrange(cos[:, :half].contiguous(), sin[:, :half].contiguous())
        return kept

    def arrange(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """(T, C / 2) each -> one complex table (T, 2, 1, C / 2), for queries (scaled by 1 / sqrt(C)) and keys."""
        turn = torch.complex(cos, sin)
        return (torch.stack((turn / math.sqrt(self.head_dim), turn), 1)[:, :, None],)


def attend(qkv_BTE: Tensor, rotation: Rotation, head_dim: int, reach: Reach, half: bool) -> Tensor:
    """(B, T, 3 N C), queries and keys in the order of `paired_rows` -> mixed values (B, T, N C).

    Args:
        qkv_BTE: fp32 or bf16.
        rotation: the angles.
        reach: frames before and after itself that a frame sees; None: all.
        half: scores and their sums in bf16 (fp32 inside the softmax).
    """
    batch, num_frames, width = qkv_BTE.shape[0], qkv_BTE.shape[1], qkv_BTE.shape[2] // 3
    parts = qkv_BTE.view(batch, num_frames, 3, width // head_dim, head_dim)
    (table,) = rotation.tables(num_frames, qkv_BTE.device)
    pairs = parts[:, :, :2].float().unflatten(-1, (head_dim // 2, 2))
    turned = torch.view_as_real(torch.view_as_complex(pairs) * table[:num_frames]).flatten(-2)
    query, key = turned[:, :, 0].transpose(1, 2), turned[:, :, 1].transpose(1, 2)  # (B, N, T, C)
    value = parts[:, :, 2].transpose(1, 2)
    if reach is not None and min(reach) < num_frames - 1:
        if num_frames <= MASKED_FRAMES:
            allowed = attention_mask(num_frames, None, reach, query.device)
            mixed = F.scaled_dot_product_attention(query, key, value.float(), attn_mask=allowed, scale=1.0)
        else:
            mixed = windowed_attention(query, key, value.float(), *reach)
    elif half and query.device.type == "cpu":
        mixed = in_half_precision(query, key, value)
    elif half:
        mixed = F.scaled_dot_product_attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), scale=1.0)
    else:
        mixed = F.scaled_dot_product_attention(query, key, value.float(), scale=1.0)
    return mixed.transpose(1, 2).reshape(batch, num_frames, width)


def in_half_precision(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Global attention with bf16 matrix products, some queries at a time.

    If the norms bound all scores well inside the exponent's range, the softmax needs no maximum: one pass less.
    """
    batch, heads, num_frames, head_dim = query.shape
    bounded = float(query.norm(dim=-1).max() * key.norm(dim=-1).max()) < SAFE_SCORE
    keys = key.bfloat16().contiguous().transpose(2, 3)  # contiguous first: each product would copy it otherwise
    values = value.bfloat16().contiguous()
    query = (query * math.log2(math.e) if bounded else query).bfloat16().contiguous()
    mixed = torch.empty_like(values)
    rows = max(64, SCORES_PER_BLOCK // (heads * num_frames))
    for clip in range(batch):
        for start in range(0, num_frames, rows):
            scores = query[clip, :, start : start + rows] @ keys[clip]
            if bounded:
                weights = scores.exp2_()
                part = (weights @ values[clip]) / weights.sum(-1, keepdim=True)
            else:
                part = scores.softmax(-1) @ values[clip]
            mixed[clip, :, start : start + rows] = part
    return mixed
