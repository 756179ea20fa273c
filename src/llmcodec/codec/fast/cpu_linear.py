"""Linear layers packed for our own CPU kernels: weights rounded and in the layout of cpu_kernels.c.

Shapes: N rows (frames), K inputs, M outputs. Test: tests/codec/fast/test_cpu_kernels.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import Array, Structure, c_void_p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.codec.fast.cpu_kernels import LANES, CMatrix, CNorm, in_panels, library, why_not
from llmcodec.codec.fast.linear import PackedLinear, Precision

PRECISION_CODES = {"fp32": 0, "bf16": 1, "int16": 2, "int8": 3}
WORDS = {"fp32": 1, "bf16": 2, "int16": 2, "int8": 4}  # inputs in a 32-bit word
STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int16": torch.int16, "int8": torch.int8}
LARGEST_NORM = 46340  # of an int16 row, 2^15.5: two of them cannot overflow a sum


def pack_linear(linear: nn.Linear, precision: Precision) -> nn.Module:
    """A linear layer (N, K) -> (N, M): integers on our own kernels, floats on PyTorch's operators."""
    layer = CpuLinear if precision in ("int16", "int8") else PackedLinear
    return layer(linear.weight, linear.bias, precision)


class CpuModule(nn.Module):
    """A module whose weights C structures point to.

    Raises:
        ValueError: there are no kernels on this machine.
    """

    def __init__(self) -> None:
        super().__init__()
        loaded = library()
        if loaded is None:
            raise ValueError("our own kernels do not run here: check kernels_run first")
        self.kernels = loaded
        self.kept: list[Tensor] = []  # arrays that the structures point to

    def norm(self, norm: nn.LayerNorm) -> CNorm:
        return CNorm(weight=self.keep(norm.weight), bias=self.keep(norm.bias))

    def matrix(self, weight_MK: Tensor, bias_M: Tensor | None, precision: Precision) -> CMatrix:
        """Weights and bias rounded to `precision`, in panels."""
        weight_MK = weight_MK.detach().float()
        outputs, inputs = weight_MK.shape
        scale_M = offset_M = torch.zeros(outputs)
        if precision in ("int8", "int16"):
            scale_M = weight_MK.abs().amax(1).clamp(min=1e-12) / (127 if precision == "int8" else 32767)
            if precision == "int16":
                scale_M = scale_M.maximum(weight_MK.norm(dim=1) / (LARGEST_NORM - inputs**0.5))
            weight_MK = (weight_MK / scale_M[:, None]).round()
            offset_M = weight_MK.sum(1) * scale_M
        return CMatrix(
            kind=PRECISION_CODES[precision],
            inputs=inputs,
            outputs=outputs,
            weight=self.keep(in_panels(weight_MK.to(STORED[precision]), WORDS[precision]), dtype=None),
            scale=self.keep(scale_M),
            offset=self.keep(offset_M),
            bias=self.keep(torch.zeros(outputs) if bias_M is None else bias_M),
        )

    def keep(self, array: Tensor, dtype: torch.dtype | None = torch.float32) -> int:
        """The address of a copy that lives as long as this module."""
        self.kept.append(array.detach().to(dtype or array.dtype).contiguous().clone())
        return self.kept[-1].data_ptr()

    # Addresses are invalid in a copy or another process: pickle structures as bytes, with the old addresses.
    def __getstate__(self) -> dict[str, Any]:
        found = {name: value for name, value in self.__dict__.items() if isinstance(value, (Structure, Array))}
        structures = {
            name: (value._type_, len(value), bytes(value))
            if isinstance(value, Array)
            else (type(value), 0, bytes(value))
            for name, value in found.items()
        }
        state = {name: value for name, value in self.__dict__.items() if name not in (*found, "kernels")}
        return {"state": state, "structures": structures, "addresses": [array.data_ptr() for array in self.kept]}

    def __setstate__(self, packed: dict[str, Any]) -> None:
        loaded = library()
        if loaded is None:
            raise ValueError(f"this codec is packed for kernels that do not run here:  {why_not()}")
        self.__dict__.update(packed["state"], kernels=loaded)
        moved = dict(zip(packed["addresses"], (array.data_ptr() for array in self.kept), strict=True))
        for name, (kind, count, content) in packed["structures"].items():
            value = (kind * count if count else kind).from_buffer_copy(content)
            for structure in value if count else [value]:
                relocate(structure, moved)
            setattr(self, name, value)


def relocate(structure: Structure, moved: Mapping[int, int]) -> None:
    """Replace old addresses by new ones, also in nested structures."""
    for name, kind in ((field[0], field[1]) for field in structure._fields_):
        value = getattr(structure, name)
        if kind is c_void_p and value is not None:
            setattr(structure, name, moved[value])
        elif isinstance(value, Structure):
            relocate(value, moved)


class CpuLinear(CpuModule):
    """`x W^T + b`, as `PackedLinear`; K and M are padded to multiples of 16."""

    def __init__(self, weight: Tensor, bias: Tensor, precision: Precision):
        super().__init__()
        self.outputs, inputs = weight.shape
        self.extra = -inputs % LANES
        below = -self.outputs % LANES
        whole = F.pad(weight.detach().float(), (0, self.extra, 0, below)), F.pad(bias.detach().float(), (0, below))
        self.packed = self.matrix(*whole, precision)

    def forward(self, x_NK: Tensor) -> Tensor:
        """Floats (N, K) -> fp32 (N, M)."""
        return self.kernels.linear(self.packed, F.pad(x_NK, (0, self.extra)))[:, : self.outputs]
