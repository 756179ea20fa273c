"""Linear layers packed for inference: fp32, bf16 or int8, activation and residual sum inside the matrix product.

On a CPU they run on oneDNN through PyTorch's own operators (weights reordered once, for the kernel that reads them); on
other devices fp32 and bf16 are plain `F.linear`. int8: weights symmetric per output channel, activations unsigned with
one static range per layer (so that a frame's result does not depend on its batch), sums in int32.
Shapes: N rows (frames), K inputs, M outputs. Test: tests/unit/codec/test_fast_linear.py.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "int8"]
Range = tuple[float, float]
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def has_int8_kernels() -> bool:
    """PyTorch carries oneDNN's int8 linear on this machine."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


class PackedLinear(nn.Module):
    """`activation(x W^T + b)` in one kernel.

    Args:
        weight: (M, K). bias: (M,) or None. Both are copied in the packed form.
        precision: what the kernel multiplies in; sums are fp32 (int32 for int8).
        gelu: tanh-approximated GELU on the result.
        span: smallest and largest input to represent, int8 only; what lies outside is clipped.

    Raises:
        ValueError: int8 without a range, or where there is no kernel for it.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, precision: Precision, gelu: bool = False, span: Range | None = None
    ):
        super().__init__()
        weight = weight.detach().float()
        bias = None if bias is None else bias.detach().float().clone()
        self.precision, self.gelu = precision, gelu
        self.packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.post: tuple[str, list[float | None], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.inverse_step, self.zero_point = 1.0, 0.0
        if precision == "int8":
            self._pack_int8(weight, bias, span)
            return
        kind = FLOATS[precision]
        self.bias = None if bias is None else bias.to(kind)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(kind).contiguous())
        else:
            self.weight = weight.to(kind, copy=True)

    def _pack_int8(self, weight: Tensor, bias: Tensor | None, span: Range | None) -> None:
        if not self.packed or not has_int8_kernels():
            raise ValueError("int8 needs a CPU and a PyTorch with oneDNN; take bf16 or fp32")
        if span is None:
            raise ValueError("int8 needs the range of its inputs: give calibration audio")
        low, high = min(span[0], 0.0), max(span[1], 0.0)
        self.step = max(high - low, 1e-8) / 255
        self.inverse_step, self.zero_point = 1 / self.step, float(round(-low / self.step))
        scale_M = weight.abs().amax(1).clamp(min=1e-12) / 127
        quantized = (weight / scale_M[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(quantized, None)
        self.scale_M, self.zero_M = scale_M, torch.zeros(len(scale_M), dtype=torch.int32)
        self.bias = bias

    def take(self, x: Tensor) -> Tensor:
        """Floats -> what the kernel reads: fp32, bf16, or uint8."""
        if self.precision != "int8":
            return x.to(FLOATS[self.precision])
        return to_uint8(x.float().mul(self.inverse_step).add_(self.zero_point + 0.5))

    def after_norm(self, x: Tensor, weight_K: Tensor, bias_K: Tensor, eps: float) -> Tensor:
        """Layer norm, then `take`; `weight_K` and `bias_K` come from `fold_norm`."""
        normed = F.layer_norm(x, weight_K.shape, weight_K, bias_K, eps)
        return to_uint8(normed) if self.precision == "int8" else normed.to(FLOATS[self.precision])

    def fold_norm(self, norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
        """The layer norm in front of this layer, with the int8 step and zero point inside its weights."""
        weight_K, bias_K = norm.weight.detach().float().clone(), norm.bias.detach().float().clone()
        if self.precision == "int8":
            weight_K, bias_K = weight_K * self.inverse_step, bias_K * self.inverse_step + (self.zero_point + 0.5)
        return weight_K, bias_K, norm.eps

    def forward(self, x: Tensor, into: PackedLinear | None = None) -> Tensor:
        """What `take` or `after_norm` gave -> floats (fp32; bf16 of a bf16 layer), or what the layer `into` reads."""
        if self.precision == "int8":
            return self._int8(x, into)
        if self.packed:
            out = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.post)
        else:
            out = F.linear(x, self.weight, self.bias)
            out = F.gelu(out, approximate="tanh") if self.gelu else out
        return out if into is None else into.take(out)

    def _int8(self, x: Tensor, into: PackedLinear | None) -> Tensor:
        kind, step, zero_point = torch.float32, 1.0, 0
        if into is not None and into.precision == "int8":
            kind, step, zero_point = torch.uint8, into.step, int(into.zero_point)
        elif into is not None:
            kind = FLOATS[into.precision]
        return torch.ops.onednn.qlinear_pointwise(
            x,
            self.step,
            int(self.zero_point),
            self.weight,
            self.scale_M,
            self.zero_M,
            self.bias,
            step,
            zero_point,
            kind,
            *self.post,
        )

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """`residual += self(x)`, fp32 (N, M), in place."""
        residual.add_(self(x))


def to_uint8(scaled: Tensor) -> Tensor:
    """Values in steps, 0.5 added (the cast only cuts) -> uint8, clipped. Overwrites its argument."""
    return scaled.clamp_(0, 255).to(torch.uint8)
