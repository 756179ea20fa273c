"""The weights in S3Tokenizer's published ONNX files, by the names that its PyTorch version gives them.

The export names each node after the module it came from, which says whose weights it holds. Needs the package `onnx`.
Test: tests/adapters/test_convert.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcodec.io.onnx_file import read_initializers

STRIDE = "encoder.conv1.stride"
"""A number that is no weight: 2 in the version 1 of 25 Hz, whose weights have the same shapes as at 50 Hz."""
CODEBOOK, SCALARS = "quantizer._codebook.embed", "quantizer._codebook.project_down"
NODE = re.compile(r"/(?:encoder/)?(blocks\.\d+)/(.+)/(MatMul|Add|Mul|Add_1|Conv|LayerNormalization)")


def read_s3_onnx(path: Path) -> dict[str, Tensor]:
    """Tensors by name, and the stride of the first convolution.

    Raises:
        ValueError: no such file, cut short, not an S3Tokenizer, or the package `onnx` is missing.
    """
    for _ in read_initializers(path):  # whole, before it is parsed
        pass
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError:
        raise ValueError(f"{path}: needs the package onnx: pip install 'llmcodec[onnx]'") from None
    graph = onnx.load(path, load_external_data=False).graph
    stored = {one.name: one for one in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(stored[name]).copy())

    found: dict[str, Tensor] = {}
    convs = 0
    for node in graph.node:
        held = [name for name in node.input if name in stored]
        for name in held:
            if name.endswith("positional_embedding"):
                found["encoder.positional_embedding"] = tensor(name)
        if not held:
            continue
        if node.op_type == "Conv" and NODE.fullmatch(node.name) is None:
            convs += 1
            for part, name in zip(("weight", "bias"), held, strict=False):
                found[f"encoder.conv{convs}.{part}"] = tensor(name)
            if convs == 1:
                found[STRIDE] = torch.tensor([_strides(node)])
        elif "/quantizer" in node.name or any("quantizer" in name for name in held):
            found |= {name: value for name, value in _quantizer(node, [tensor(name) for name in held])}
        elif match := NODE.fullmatch(node.name):
            found |= dict(_block(match, node.op_type, [tensor(name) for name in held]))
    if convs != 2 or not {CODEBOOK, f"{SCALARS}.weight"} & found.keys():
        raise ValueError(f"{path}: an ONNX file, but not of an S3Tokenizer; those of codecs are for --runtime onnx")
    return found


def _strides(node: Any) -> int:
    given = [attribute.ints[0] for attribute in node.attribute if attribute.name == "strides"]
    return int(given[0]) if given else 1


def _quantizer(node: Any, held: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    for values in held:
        if values.ndim == 1 and node.op_type == "Add":
            yield f"{SCALARS}.bias", values
        elif values.ndim == 2 and node.op_type == "MatMul" and values.shape[1] < 16:
            yield f"{SCALARS}.weight", values.t()
        elif values.ndim == 2 and node.name.endswith("_codebook/Pow_1"):
            yield CODEBOOK, values.t()


def _block(match: re.Match[str], kind: str, held: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    stem = f"encoder.{match[1]}.{match[2].replace('/', '.').replace('mlp.mlp', 'mlp')}"
    if match[3] == "LayerNormalization":
        yield from zip((f"{stem}.weight", f"{stem}.bias"), held, strict=True)
    elif len(held) == 1:
        (values,) = held
        if match[3] in ("MatMul", "Mul", "Conv") and values.ndim:
            yield f"{stem}.weight", values if values.ndim == 3 else values.t() if values.ndim == 2 else values
        elif match[3] in ("Add", "Add_1") and values.ndim == 1:
            yield f"{stem}.bias", values
