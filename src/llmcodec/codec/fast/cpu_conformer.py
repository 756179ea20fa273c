"""The conformer on our own CPU kernels: all layers in one call, real frames only, in fp32, bf16, int16 or int8.

Equal to conformer.py up to rounding, with the interface of `PackedConformer`, which runs where these kernels cannot.
Integers: symmetric weights with a scale per output, inputs with a scale (int8: and a zero point) per frame, computed at
run time: no calibration, and a frame's result does not depend on its batch. bf16 and integers round the inputs of a
matrix product; results, norms, residuals and the softmax are fp32. Shapes: N rows (real frames of all clips), D width,
M outputs, K inputs. Test: tests/codec/fast/test_cpu_kernels.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.conformer import Conformer, ConformerLayer
from llmcodec.codec.fast.attention import Rotation, paired_rows
from llmcodec.codec.fast.conformer import Done, Layout, PackedConformer, Precisions
from llmcodec.codec.fast.cpu_kernels import (
    LANES,
    MAX_HEAD,
    PANEL,
    ROWS,
    CBatch,
    CConformer,
    CLayer,
    library,
    multiplies_bf16,
    processor_has,
    threads_for,
)
from llmcodec.codec.fast.cpu_linear import PRECISION_CODES, WORDS, CpuModule

ROWS_PER_CALL = 4096  # rows of short clips processed together: memory is bounded
UNBOUNDED = 1 << 30  # frames that global attention sees to each side


def pack_conformer(conformer: Conformer, config: LLMCodecConfig, precisions: Precisions, done: Done) -> nn.Module:
    """`conformer` packed for its device: our kernels where they run, else PyTorch's operators."""
    # oneDNN multiplies bf16 in AMX tiles if the CPU has them, many times faster than vector instructions.
    ours = (multiplies_bf16() and not processor_has("_is_amx_tile_supported")) or "bf16" not in precisions.values()
    if ours and kernels_run(config, next(conformer.parameters()).device):
        return CpuConformer(conformer, config, precisions, done)
    return PackedConformer(conformer, config, precisions, done)


def kernels_run(config: LLMCodecConfig, device: torch.device) -> bool:
    """Whether our kernels run this architecture on this device, in fp32, int16 and int8."""
    fits = config.hidden_size % LANES == 0 and config.head_dim % LANES == 0 and config.head_dim <= MAX_HEAD
    return device.type == "cpu" and fits and library() is not None


class CpuRotation(Rotation):
    """The angles in the layout of the kernels."""

    def arrange(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        """Cosines and sines (T, C), each angle twice, sines with the signs -, +."""
        return cos.repeat_interleave(2, 1), torch.stack((-sin, sin), -1).flatten(1)


class CpuConformer(CpuModule):
    """Stack of layers and the last norm, on packed rows.

    Args:
        conformer: the trained one, on the CPU and in evaluation mode.
        config: of the codec.
        precisions: precision of each kind of layer.
        done: called with each layer of `conformer` once its weights are packed.
    """

    def __init__(self, conformer: Conformer, config: LLMCodecConfig, precisions: Precisions, done: Done):
        super().__init__()
        self.config, self.attention = config, precisions["attention"]
        self.values = "bf16" if self.attention != "fp32" and multiplies_bf16() else "fp32"
        self.rotation = CpuRotation(config)
        self.layers = (CLayer * len(conformer.layers))()
        for packed, layer in zip(self.layers, conformer.layers, strict=True):
            assert isinstance(layer, ConformerLayer)
            self.fill(packed, layer, precisions)
            done(layer)
        width, taps = config.hidden_size, config.conv_kernel_size
        back, ahead = config.attention_reach or (UNBOUNDED, UNBOUNDED)
        self.model = CConformer(
            num_layers=len(conformer.layers),
            width=width,
            hidden=width * config.ffn_mult,
            head_dim=config.head_dim,
            kernel=taps,
            past=taps - 1 if config.causal else taps // 2,
            back=back,
            ahead=ahead,
            attention=PRECISION_CODES[self.attention],
            values=PRECISION_CODES[self.values],
            eps=conformer.layer_norm.eps,
            layers=self.layers,
            last=self.norm(conformer.layer_norm),
        )
        done(conformer.layer_norm)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.model.layers = self.layers

    def forward(self, x_ND: Tensor, layout: Layout) -> Tensor:
        """(N, D) fp32 -> (N, D). Overwrites its argument."""
        x_ND = x_ND.contiguous()
        for first, lengths in calls(layout):
            self.run(x_ND[first : first + sum(lengths)], lengths)
        return x_ND

    def run(self, x_ND: Tensor, lengths: list[int]) -> None:
        """Clips of these numbers of frames, one after the other, in place."""
        width = self.config.hidden_size
        panels = [-(-length // PANEL) * PANEL for length in lengths]
        starts, padded = (torch.tensor([0, *counts]).cumsum(0) for counts in (lengths, panels))
        cosines, sines = self.rotation.tables(max(lengths), x_ND.device)
        rows, columns, heads = len(x_ND), sum(panels), width // self.config.head_dim
        arrays = dict(
            **dict(starts=starts, padded=padded, cosines=cosines, sines=sines, gated=torch.empty_like(x_ND)),
            queries=torch.empty(rows + ROWS, width // WORDS[self.attention]),  # as text in the value of `attention`
            keys=torch.empty(columns, width // WORDS[self.attention]),
            values=torch.zeros(columns, width // WORDS[self.values]),
            query_steps=torch.empty(rows + ROWS, heads),
            key_steps=torch.empty(heads, columns),
            key_offsets=torch.empty(heads, columns),
        )
        places = {name: array.data_ptr() for name, array in arrays.items()}
        batch = CBatch(x=x_ND.data_ptr(), num_clips=len(lengths), **places)
        threads = threads_for(rows)
        scratch = torch.empty(threads * self.kernels.scratch_bytes(self.model, batch), dtype=torch.uint8)
        batch.scratch = scratch.data_ptr()
        self.kernels.conformer(self.model, batch, threads)

    def fill(self, packed: CLayer, layer: ConformerLayer, precisions: Precisions) -> None:
        """Pack one layer."""
        attention, module, width = layer.attn, layer.conv_module, self.config.hidden_size
        packed.before_ffn1, packed.before_ffn2 = self.norm(layer.ffn1_layer_norm), self.norm(layer.ffn2_layer_norm)
        packed.before_attention, packed.final = self.norm(layer.attn_layer_norm), self.norm(layer.final_layer_norm)
        packed.before_convolution = self.norm(module.layer_norm)
        for up, down, ffn in (("up1", "down1", layer.ffn1), ("up2", "down2", layer.ffn2)):
            setattr(packed, up, self.matrix(ffn.up_proj.weight, ffn.up_proj.bias, precisions["up"]))
            half = 0.5 * ffn.down_proj.weight, 0.5 * ffn.down_proj.bias
            setattr(packed, down, self.matrix(*half, precisions["down"]))
        rows = paired_rows(self.config.head_dim, width, torch.device("cpu"))
        packed.qkv = self.matrix(attention.to_qkv.weight[rows], None, precisions["qkv"])
        packed.out = self.matrix(attention.to_out.weight, attention.to_out.bias, precisions["out"])
        values, gates = module.pointwise_conv1.weight.view(2, -1, LANES, width).unbind()
        gated = torch.stack((values, gates), 1).reshape(2 * width, width)  # alternately, register by register
        packed.pointwise1 = self.matrix(gated, None, precisions["pw1"])
        packed.pointwise2 = self.matrix(module.pointwise_conv2.weight, module.pointwise_conv2.bias, precisions["pw2"])
        scale_D, shift_D = module.conv_norm.scale_and_shift()
        taps = module.depthwise_conv.weight[:, 0] * scale_D[:, None]
        packed.taps = self.keep(taps.view(-1, LANES, taps.shape[1]).transpose(1, 2))
        packed.taps_bias = self.keep(shift_D)


def calls(layout: Layout) -> Iterator[tuple[int, list[int]]]:
    """(first row, frames of each clip) of every call: up to `ROWS_PER_CALL` rows, or one longer clip."""
    first, rows, lengths = 0, 0, list[int]()
    for _, clips, frames in layout.groups:
        for _ in range(clips):
            if lengths and rows + frames > ROWS_PER_CALL:
                yield first, lengths
                first, rows, lengths = first + rows, 0, []
            lengths.append(frames)
            rows += frames
    if lengths:
        yield first, lengths
