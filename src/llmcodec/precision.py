"""The precisions that a codec runs in, and which of them `auto` takes: one table for all that runs codecs.

    AUTO["onnx"]["decoder"]     # 'int8'

The rule is the same for each of them, for both int8s too (our kernels' and ONNX Runtime's): the encoder takes the
fastest precision that keeps MIN_TOKENS of the tokens, the decoder the fastest above MIN_SNR_DB, both against the plain
codec in float32 and measured on the bundled codec (docs/speed.md, "What auto takes"). Everything else runs on request.
Imports nothing: the commands that run without torch read it too. Test: tests/runtime/test_onnx_int8.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Precision = Literal["auto", "fp32", "mixed", "bf16", "int16", "int8"]
Side = Literal["encoder", "decoder"]
SIDES: tuple[Side, Side] = ("encoder", "decoder")
Means = Literal["kernels", "onnx", "torch, bf16 CPU", "torch, bf16 GPU", "torch"]
"""What runs a codec: our CPU kernels, ONNX Runtime, or PyTorch's operators where bf16 is fast and where it is not."""

MIN_TOKENS, MIN_SNR_DB = 0.99, 28.0
AUTO: Mapping[Means, Mapping[Side, Precision]] = {
    "kernels": {"encoder": "int16", "decoder": "int8"},
    "onnx": {"encoder": "fp32", "decoder": "int8"},
    "torch, bf16 CPU": {"encoder": "fp32", "decoder": "bf16"},
    "torch, bf16 GPU": {"encoder": "fp32", "decoder": "fp32"},
    "torch": {"encoder": "fp32", "decoder": "fp32"},
}


def graph_file(side: Side, precision: Precision) -> str:
    """Name of an ONNX graph in an exported folder."""
    return f"{side}.int8.onnx" if precision == "int8" else f"{side}.onnx"
