"""Linear layers packed for our own CPU kernels: weights rounded and laid out as cpu_kernels.c reads them.

Shapes: N rows (frames), K inputs, M outputs. Test: tests/codec/fast/test_cpu_kernels.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import Array, Structure, c_void_p
from dataclasses import dataclass
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
    """A layer (N, K) -> (N, M): integers on our own kernels, floats on PyTorch's operators."""
    layer = CpuLinear if precision in ("int16", "int8") else PackedLinear
    return layer(linear.weight, linear.bias, precision)


class CpuModule(nn.Module):
    """A module whose weights are read by C structures.

    Raises:
        ValueError: there are no kernels on this machine.
    """

    def __init__(self) -> None:
        super().__init__()
        loaded = library()
        if loaded is None:
            raise ValueError("our own kernels do not run here: ask kernels_run first")
        self.kernels = loaded
        self.kept: list[Tensor] = []  # what the structures point at

    def norm(self, norm: nn.LayerNorm) -> CNorm:
        return CNorm(weight=self.keep(norm.weight), bias=self.keep(norm.bias))

    def matrix(self, weight_MK: Tensor, bias_M: Tensor | None, precision: Precision) -> CMatrix:
        """Rounded as `precision` says, in panels."""
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

    # Addresses mean nothing in another process or in a copy: structures travel as numbers of kept arrays.
    def __getstate__(self) -> dict[str, Any]:
        numbers = {array.data_ptr(): number for number, array in enumerate(self.kept)}
        state = {name: value for name, value in self.__dict__.items() if name != "kernels"}
        structures = {name: value for name, value in state.items() if isinstance(value, (Structure, Array))}
        return state | {name: packed_fields(value, numbers) for name, value in structures.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        loaded = library()
        if loaded is None:
            raise ValueError(f"a codec packed for our own kernels arrived where they do not run: {why_not()}")
        self.__dict__.update(state, kernels=loaded)
        for name, value in state.items():
            if isinstance(value, PackedFields):
                setattr(self, name, value.unpacked(self.kept))


@dataclass
class PackedFields:
    """A C structure, or an array of one kind of structure, with numbers of kept arrays in the place of addresses."""

    kind: type[Structure]
    entries: list[dict[str, Any]]
    is_array: bool

    def unpacked(self, kept: Sequence[Tensor]) -> Structure | Array[Any]:
        """The same with the addresses of the arrays in `kept`."""
        structures = []
        for entry in self.entries:
            fields = dict(entry)
            for name, kind in ((field[0], field[1]) for field in self.kind._fields_):
                if kind is c_void_p and fields[name] is not None:
                    fields[name] = kept[fields[name]].data_ptr()
                elif isinstance(fields.get(name), PackedFields):
                    fields[name] = fields[name].unpacked(kept)
            structures.append(self.kind(**fields))
        return (self.kind * len(structures))(*structures) if self.is_array else structures[0]


def packed_fields(value: Structure | Array[Any], numbers: Mapping[int, int]) -> PackedFields:
    """The inverse of `PackedFields.unpacked`; numbers: address of a kept array -> its number."""
    structures = list(value) if isinstance(value, Array) else [value]
    entries = []
    for structure in structures:
        entry: dict[str, Any] = {}
        for name, kind in ((field[0], field[1]) for field in structure._fields_):
            field = getattr(structure, name)
            if kind is c_void_p:
                entry[name] = None if field is None else numbers[field]
            elif isinstance(field, Structure):
                entry[name] = packed_fields(field, numbers)
            elif not hasattr(kind, "contents"):  # a pointer to structures is set by the module that owns them
                entry[name] = field
        entries.append(entry)
    return PackedFields(type(structures[0]), entries, isinstance(value, Array))


class CpuLinear(CpuModule):
    """`x W^T + b`, as `PackedLinear`; K and M are filled up to multiples of 16."""

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
