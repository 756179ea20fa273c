"""Linear layers packed for inference with PyTorch's operators: fp32 or bf16, activation inside the matrix product.

On a CPU they run on oneDNN (weights reordered once, for the kernel that reads them); on other devices they are plain
`F.linear`. Shapes: N rows (frames), K inputs, M outputs. Test: tests/codec/fast/test_linear.py.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "int16", "int8"]  # integers: on our own kernels only
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PackedLinear(nn.Module):
    """`activation(x W^T + b)` in one kernel.

    Args:
        weight: (M, K). bias: (M,) or None. Both are copied in the packed form.
        precision: fp32, or bf16: type of the kernel's inputs and results; sums are fp32.
        gelu: tanh-approximated GELU on the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: Precision, gelu: bool = False):
        super().__init__()
        self.dtype, self.gelu = FLOATS[precision], gelu
        self.packed = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.post: tuple[str, list[float | None], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.bias = None if bias is None else bias.detach().to(self.dtype, copy=True)
        weight = weight.detach().to(self.dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight.clone()

    # A packed weight has no storage that could be copied: pickle it as a plain tensor.
    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"weight": self.weight.to_dense()} if self.packed else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def after_norm(self, x: Tensor, weight_K: Tensor, bias_K: Tensor, eps: float) -> Tensor:
        """The layer norm in front of this layer, then this layer."""
        return self(F.layer_norm(x, weight_K.shape, weight_K, bias_K, eps))

    def forward(self, x: Tensor) -> Tensor:
        """Floats (N, K) -> (N, M) in the layer's own precision."""
        x = x.to(self.dtype)
        if self.packed:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.post)
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out, approximate="tanh") if self.gelu else out
