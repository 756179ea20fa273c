"""The conformer for inference: real frames only, folded norms, packed matrices, channels-last convolution.

Clips of a batch are packed one after the other, so padding costs nothing and cannot reach a real frame. Batch norm is
folded into the depthwise convolution, the 0.5 of the feed-forward halves into their matrices. Equal to conformer.py up
to rounding. Shapes: N rows (real frames of all clips), B clips, T frames, D width.
Test: tests/codec/fast/test_engine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.conformer import Conformer, ConformerLayer, FeedForward
from llmcodec.codec.fast.attention import Rotation, attend, paired_rows
from llmcodec.codec.fast.linear import PackedLinear, Precision
from llmcodec.codec.inputs import mask_of

ROWS_PER_CHUNK = 512  # frames in a feed-forward at once: its hidden layer stays in the cache and memory is bounded
ROWS_PER_CHUNK_GPU = 1 << 15  # a GPU wants large kernels and few of them
Precisions = Mapping[str, Precision]  # kind of layer -> precision; see engine.PRECISIONS
Done = Callable[[nn.Module], None]


def rows_per_chunk(device: torch.device) -> int:
    """Frames that the kernels of a device process at once."""
    return ROWS_PER_CHUNK if device.type == "cpu" else ROWS_PER_CHUNK_GPU


@dataclass(frozen=True)
class Layout:
    """Positions of the real frames of a batch."""

    batch: int
    num_frames: int
    groups: tuple[tuple[int, int, int], ...]
    """(first clip, clips, frames of each): neighbours of one length; empty clips are left out."""
    mask_BT: Tensor | None = None

    @classmethod
    def of(cls, batch: int, num_frames: int, mask_BT: Tensor | None) -> Layout:
        """From a mask that is True, then False, in every row. Raises ValueError for another one."""
        if mask_BT is None:
            return cls(batch, num_frames, ((0, batch, num_frames),))
        lengths_B = mask_BT.sum(1)
        if bool((mask_BT != mask_of(lengths_B, num_frames)).any()):
            raise ValueError("the mask of the frames must be ones followed by zeros (pad on the right)")
        groups, clip = [], 0
        for length, same in groupby(lengths_B.tolist()):
            groups.append((clip, len(list(same)), length))
            clip += groups[-1][1]
        return cls(batch, num_frames, tuple(group for group in groups if group[2]), mask_BT)

    def pack(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (N, D), a copy."""
        return x_BTD.flatten(0, 1).clone() if self.mask_BT is None else x_BTD[self.mask_BT]

    def unpack(self, x_ND: Tensor) -> Tensor:
        """(N, D) -> (B, T, D), 0 at padding."""
        if self.mask_BT is None:
            return x_ND.view(self.batch, self.num_frames, -1)
        out = x_ND.new_zeros(self.batch, self.num_frames, x_ND.shape[1])
        out[self.mask_BT] = x_ND
        return out

    def clips(self, x_ND: Tensor) -> list[Tensor]:
        """Views (B', T', D) of the groups."""
        parts = x_ND.split([clips * frames for _, clips, frames in self.groups])
        return [rows.view(clips, frames, -1) for rows, (_, clips, frames) in zip(parts, self.groups, strict=True)]

    def chunks(self, x_ND: Tensor) -> Iterator[Tensor]:
        """The groups, with large ones split."""
        most = 4 * rows_per_chunk(x_ND.device)
        for x_BTD in self.clips(x_ND):
            yield from x_BTD.split(max(1, most // x_BTD.shape[1]))


class PackedFeedForward(nn.Module):
    """`x += 0.5 * ffn(norm(x))`, chunk by chunk."""

    def __init__(self, norm: nn.LayerNorm, ffn: FeedForward, precisions: Precisions):
        super().__init__()
        self.norm = norm_of(norm)
        self.up = PackedLinear(ffn.up_proj.weight, ffn.up_proj.bias, precisions["up"], gelu=True)
        self.down = PackedLinear(0.5 * ffn.down_proj.weight, 0.5 * ffn.down_proj.bias, precisions["down"])

    def forward(self, x_ND: Tensor) -> None:
        for rows in x_ND.split(rows_per_chunk(x_ND.device)):
            rows.add_(self.down(self.up.after_norm(rows, *self.norm)))


class PackedAttention(nn.Module):
    """`x += attention(norm(x))`."""

    def __init__(self, layer: ConformerLayer, config: LLMCodecConfig, precisions: Precisions):
        super().__init__()
        qkv, out = layer.attn.to_qkv, layer.attn.to_out
        rows = paired_rows(config.head_dim, config.hidden_size, qkv.weight.device)
        self.norm = norm_of(layer.attn_layer_norm)
        self.qkv = PackedLinear(qkv.weight[rows], None, precisions["qkv"])
        self.out = PackedLinear(out.weight, out.bias, precisions["out"])
        self.head_dim, self.reach = config.head_dim, config.attention_reach
        self.half_precision = precisions["attention"] == "bf16"

    def forward(self, x_ND: Tensor, layout: Layout, rotation: Rotation) -> None:
        for clips in layout.chunks(x_ND):
            rows = clips.flatten(0, 1)
            qkv = self.qkv.after_norm(rows, *self.norm).view(*clips.shape[:2], -1)
            mixed = attend(qkv, rotation, self.head_dim, self.reach, self.half_precision)
            rows.add_(self.out(mixed.flatten(0, 1)))


class PackedConvolution(nn.Module):
    """`x += convolution module(x)`: batch norm inside the depthwise weights, channels last, GELU in the kernel."""

    def __init__(self, layer: ConformerLayer, precisions: Precisions):
        super().__init__()
        module = layer.conv_module
        second, norm = module.pointwise_conv2, module.conv_norm
        self.norm = norm_of(module.layer_norm)
        self.first = PackedLinear(module.pointwise_conv1.weight, None, precisions["pw1"])
        self.second = PackedLinear(second.weight, second.bias, precisions["pw2"])
        scale_D, shift_D = (one.detach().float() for one in norm.scale_and_shift())
        self.plain = module.depthwise_conv.weight.detach().float() * scale_D[:, None, None]
        self.bias = shift_D
        taps = self.plain.shape[-1]
        self.past, self.ahead = (taps - 1, 0) if module.past else (taps // 2, taps // 2)
        self.packed = self.first.packed
        self.weight = self.arranged()

    def arranged(self) -> Tensor:
        """The weights in the kernel's layout."""
        if not self.packed:
            return self.plain
        last = self.plain[..., None].contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._reorder_convolution_weight(last, [0, 0], [1, 1], [1, 1], len(self.plain))

    # An arranged weight has no storage that could be copied.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "weight"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.weight = self.arranged()

    def forward(self, x_ND: Tensor, layout: Layout) -> None:
        for clips in layout.chunks(x_ND):
            rows = clips.flatten(0, 1)
            gated = F.glu(self.first.after_norm(rows, *self.norm).float(), dim=-1)
            mixed = self.depthwise(gated.view(clips.shape))
            rows.add_(self.second(mixed.flatten(0, 1)))

    def depthwise(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> GELU of the normalised convolution over T, without leaving this layout."""
        padded_BDT = F.pad(x_BTD, (0, 0, self.past, self.ahead)).transpose(1, 2)
        width = self.bias.shape[0]
        if self.packed:
            out_BDT = torch.ops.mkldnn._convolution_pointwise(
                padded_BDT[..., None], self.weight, self.bias, [0, 0], [1, 1], [1, 1], width, "gelu", [], "tanh"
            )[..., 0]
        else:
            out_BDT = F.conv1d(padded_BDT.contiguous(), self.weight, self.bias, groups=width)
            out_BDT = F.gelu(out_BDT, approximate="tanh")
        return out_BDT.transpose(1, 2)


class PackedConformer(nn.Module):
    """Stack of layers and the last norm, on packed rows.

    Args:
        conformer: the trained one, in evaluation mode.
        config: of the codec.
        precisions: fp32 or bf16 for each kind of layer.
        done: called with each layer of `conformer` once its weights are packed.
    """

    def __init__(self, conformer: Conformer, config: LLMCodecConfig, precisions: Precisions, done: Done):
        super().__init__()
        self.rotation = Rotation(config)
        self.blocks = nn.ModuleList()
        self.norms: list[tuple[Tensor, Tensor, float]] = []
        for layer in conformer.layers:
            assert isinstance(layer, ConformerLayer)
            parts = (
                PackedFeedForward(layer.ffn1_layer_norm, layer.ffn1, precisions),
                PackedAttention(layer, config, precisions),
                PackedConvolution(layer, precisions),
                PackedFeedForward(layer.ffn2_layer_norm, layer.ffn2, precisions),
            )
            self.blocks.append(nn.ModuleList(parts))
            self.norms.append(norm_of(layer.final_layer_norm))
            done(layer)
        self.last_norm = norm_of(conformer.layer_norm)
        done(conformer.layer_norm)

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """(N, D) fp32 -> (N, D). Overwrites its argument."""
        for parts, (weight, bias, eps) in zip(self.blocks, self.norms, strict=True):
            assert isinstance(parts, nn.ModuleList)
            ffn1, attention, convolution, ffn2 = list(parts)
            ffn1(x_ND)
            attention(x_ND, layout, self.rotation)
            convolution(x_ND, layout)
            ffn2(x_ND)
            x_ND = F.layer_norm(x_ND, weight.shape, weight, bias, eps)
        weight, bias, eps = self.last_norm
        return F.layer_norm(x_ND, weight.shape, weight, bias, eps)


def norm_of(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    """Copies of a layer norm's weights."""
    return norm.weight.detach().float().clone(), norm.bias.detach().float().clone(), norm.eps
