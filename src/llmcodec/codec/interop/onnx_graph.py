"""A small writer of ONNX graphs, and the conformer written with it node by node: faster than tracing.

    graph = Graph()
    hidden = graph("MatMul", "input", weight)      # strings are edges, arrays and numbers become constants
    hidden = conformer(graph, codec.encoder.conformer, hidden, mask)

The mathematics is `conformer.py`'s in evaluation mode, folded where only rounding changes: batch norm into the
depthwise convolution, the halves of the macaron into its weights, the attention scale into the query. Windowed
attention runs in blocks of `attention_window` frames, each with its neighbours: time and memory are linear in the
length. On request the conformer's products with weights run in int8 (`int8_product`).
Shapes: B batch, T frames, D width, N heads, H head width, W attention window, K blocks of W frames; of a product I
inputs, M outputs.
Test: tests/runtime/test_onnx.py, tests/runtime/test_onnx_int8.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcodec.codec.conformer import Conformer, ConformerLayer, ConvolutionModule, FeedForward

NEVER = np.float32(-1e9)  # score of a masked frame
MOST_OF_A_PAIR = 128  # 255 * 128 fits into 16 bits with a sign
END = np.iinfo(np.int64).max


def array(tensor: Tensor) -> np.ndarray:
    """A parameter as a numpy constant, float32."""
    return tensor.detach().float().cpu().numpy()


class Graph:
    """Nodes and constants in order of writing; calling it appends a node and returns its output's name.

    While `int8` is set, `linear` multiplies in int8.
    """

    def __init__(self) -> None:
        self.int8 = False
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.known: dict[tuple[Any, ...], str] = {}

    def __call__(self, operator: str, *inputs: Any, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output. Inputs: edge names, arrays, numbers, lists of integers."""
        return self.append(operator, inputs, [name or f"{operator.lower()}_{len(self.nodes)}"], attributes)[0]

    def split(self, edge: str, parts: int, axis: int) -> list[str]:
        """Equal parts along one axis."""
        names = [f"split_{len(self.nodes)}_{part}" for part in range(parts)]
        return self.append("Split", (edge,), names, {"axis": axis, "num_outputs": parts})

    def append(self, operator: str, inputs: Sequence[Any], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        """Append a node; returns `outputs`."""
        from onnx import helper

        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        stem = outputs[0] if len(outputs) == 1 else outputs[0].rpartition("_")[0]
        self.nodes.append(helper.make_node(operator, names, outputs, name=stem, **attributes))
        return outputs

    def constant(self, value: Any) -> str:
        """Name of a constant; equal small ones are stored once. Floats become float32, integers int64."""
        from onnx import numpy_helper

        data = np.asarray(value)
        if data.dtype == np.float64 and not isinstance(value, np.ndarray):
            data = data.astype(np.float32)
        key = (data.dtype.str, data.shape, data.tobytes()) if data.size < 64 else (len(self.constants),)
        if key not in self.known:
            self.known[key] = f"constant_{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(data), self.known[key]))
        return self.known[key]

    def slice(self, edge: str, start: Any, stop: Any, axis: int, step: int = 1) -> str:
        """edge[..., start:stop:step, ...] along one axis."""
        bounds = [one if isinstance(one, str) else [one] for one in (start, stop)]
        return self("Slice", edge, *bounds, [axis], [step])

    def linear(self, edge: str, weight: Tensor | np.ndarray, bias: Tensor | np.ndarray | None = None) -> str:
        """x @ weight.T + bias, with PyTorch's layout of the weight."""
        matrix = weight if isinstance(weight, np.ndarray) else array(weight)
        matrix_IM = np.ascontiguousarray(matrix.T)
        out = self.int8_product(edge, matrix_IM) if self.int8 else self("MatMul", edge, matrix_IM)
        if bias is None:
            return out
        return self("Add", out, bias if isinstance(bias, np.ndarray) else array(bias))

    def int8_product(self, edge: str, matrix_IM: np.ndarray) -> str:
        """(B, T, I) @ matrix in int8, nothing calibrated: a step per output, and step and zero per input frame.

        Therefore a frame's result depends on nothing but that frame, which ONNX Runtime's own dynamic quantisation (one
        step for the whole tensor) would not give: there a clip's result depends on its batch.
        """
        inputs, outputs = matrix_IM.shape
        weight_IM, step_M = int8_weights(matrix_IM)
        rows = self("Reshape", edge, [-1, inputs])
        high = self("Max", self("ReduceMax", rows, [1], keepdims=0), 0.0)
        low = self("Min", self("ReduceMin", rows, [1], keepdims=0), 0.0)
        step = self("Max", self("Mul", self("Sub", high, low), 1 / 255), 1e-12)
        zero = self("Round", self("Neg", self("Div", low, step)))
        codes = self("QuantizeLinear", rows, step, self("Cast", zero, to=2), axis=0)  # uint8, and 2 is uint8 too
        sums = self("Cast", self("MatMulInteger", codes, weight_IM), to=1)
        offset = self("Mul", self("Unsqueeze", zero, [1]), weight_IM.sum(0, dtype=np.float32))
        out = self("Mul", self("Mul", self("Sub", sums, offset), self("Unsqueeze", step, [1])), step_M)
        return self("Reshape", out, self("Concat", self("Shape", edge, end=2), [outputs], axis=0))

    def layer_norm(self, edge: str, norm: nn.LayerNorm) -> str:
        return self("LayerNormalization", edge, array(norm.weight), array(norm.bias), axis=-1, epsilon=float(norm.eps))

    def length(self, edge: str, axis: int) -> str:
        """Size of one axis as an int64 tensor of one element."""
        return self("Shape", edge, start=axis, end=axis + 1)


def int8_weights(matrix_IM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as int8 (I, M) and the step (M,) of each output.

    Processors without VNNI add the products of two neighbouring inputs, uint8 times int8, in 16 bits that saturate:
    silently wrong sums. The steps are so large that no two neighbours can exceed them, whatever the inputs are. What
    this costs is in docs/results/onnx_and_conversion.md.
    """
    even_IM = np.pad(matrix_IM, ((0, len(matrix_IM) % 2), (0, 0)))
    pairs = even_IM.reshape(len(even_IM) // 2, 2, -1)
    together_M = np.maximum(np.maximum(pairs, 0).sum(1), np.maximum(-pairs, 0).sum(1)).max(0)
    step_M = np.maximum(together_M / (MOST_OF_A_PAIR - 1), 1e-12).astype(np.float32)  # - 1: two may be rounded up
    return np.rint(matrix_IM / step_M).astype(np.int8), step_M


def frames_mask(graph: Graph, edge: str, num_frames: str) -> str:
    """(B, T) bool, True at frames before `num_frames (B,)`; T is axis 1 of `edge`."""
    total = graph("Squeeze", graph.length(edge, 1), [0])
    position = graph("Range", np.int64(0), total, np.int64(1))
    return graph("Less", position, graph("Unsqueeze", num_frames, [1]))


def rotary(graph: Graph, edge: str, head_dim: int, exact: bool) -> tuple[str, str]:
    """cos and sin (T, H) for the T frames on axis 1 of `edge`, as `conformer.rotary_tables` computes them."""
    real = np.float64 if exact else np.float32
    total = graph("Cast", graph("Squeeze", graph.length(edge, 1), [0]), to=11 if exact else 1)
    position = graph("Range", np.array(0, real), total, np.array(1, real))
    step = torch.arange(0, head_dim, 2).to(torch.float64 if exact else torch.float32) / head_dim
    inverse = (1.0 / 10000.0**step).numpy()
    angle = graph("Mul", graph("Unsqueeze", position, [1]), np.concatenate([inverse, inverse])[None])
    return graph("Cast", graph("Cos", angle), to=1), graph("Cast", graph("Sin", angle), to=1)


def rotate(graph: Graph, edge: str, cos: str, sin: str, head_dim: int) -> str:
    """Rotary position embedding of (B, N, T, H)."""
    half = head_dim // 2
    first, second = graph.slice(edge, 0, half, -1), graph.slice(edge, half, END, -1)
    turned = graph("Concat", graph("Neg", second), first, axis=-1)
    return graph("Add", graph("Mul", edge, cos), graph("Mul", turned, sin))


class Attention:
    """Shared by all layers of one conformer: the mask and the attention pattern."""

    def __init__(self, graph: Graph, own: Conformer, hidden: str, mask: str):
        self.graph, self.causal, self.head_dim = graph, own.causal, own.head_dim
        self.window = None if own.reach is None else own.reach[0]
        self.cos, self.sin = rotary(graph, hidden, own.head_dim, own.causal)
        if self.window is None:
            # A padded query would see nothing at all; its result is discarded, so it may see what others see.
            self.bias = self.penalty(graph("Unsqueeze", mask, [1, 2]))
            return
        width = self.window
        self.total = graph.length(hidden, 1)
        missing = graph("Mod", graph("Neg", self.total), [width])
        zero, ahead = [0], [0] if own.causal else [width]
        end = graph("Add", missing, ahead)
        self.query_pads = graph("Concat", [0, 0, 0, 0, 0, 0], missing, zero, axis=0)
        self.key_pads = graph("Concat", [0, 0, width, 0, 0, 0], end, zero, axis=0)
        mask_pads = graph("Concat", [0, width, 0], end, axis=0)
        padded = graph("Pad", graph("Cast", mask, to=1), mask_pads)
        keys = self.neighbours(graph("Reshape", padded, [0, -1, width]), 1, 2)  # (B, K, 2 or 3 W)
        offset = np.arange(width * (2 if own.causal else 3))[None] - width - np.arange(width)[:, None]
        near = (np.abs(offset) <= width) & ((offset <= 0) | (not own.causal))
        real = graph("And", graph("Greater", graph("Unsqueeze", keys, [2]), 0.5), near)
        self.bias = graph("Unsqueeze", self.penalty(graph("Or", real, offset == 0)), [1])  # (B, 1, K, W, 3 W)

    def penalty(self, allowed: str) -> str:
        return self.graph("Where", allowed, np.float32(0), NEVER)

    def neighbours(self, blocks: str, axis: int, join: int) -> str:
        """Blocks with one more at the front (and one at the end) -> each joined with its neighbours."""
        count = 2 if self.causal else 3
        parts = [self.graph.slice(blocks, i, i - count + 1 if i < count - 1 else END, axis) for i in range(count)]
        return self.graph("Concat", *parts, axis=join)

    def __call__(self, layer: ConformerLayer, edge: str) -> str:
        """Normalised (B, T, D) -> (B, T, D)."""
        graph, width = self.graph, self.head_dim
        weight = array(layer.attn.to_qkv.weight).copy()
        size = weight.shape[1]
        weight[:size] *= width**-0.5
        heads = size // width
        qkv = graph("Reshape", graph.linear(edge, weight), [0, 0, 3 * heads, width])
        qkv = graph("Transpose", qkv, perm=[0, 2, 1, 3])
        turned = rotate(graph, graph.slice(qkv, 0, 2 * heads, 1), self.cos, self.sin, width)
        query, key = graph.slice(turned, 0, heads, 1), graph.slice(turned, heads, END, 1)
        value = graph.slice(qkv, 2 * heads, END, 1)
        if self.window is None:
            mixed = self.mix(query, key, value, [0, 1, 3, 2])
        else:
            blocks = [0, 0, -1, self.window, width]
            query = graph("Reshape", graph("Pad", query, self.query_pads), blocks)
            key, value = (
                self.neighbours(graph("Reshape", graph("Pad", one, self.key_pads), blocks), 2, 3)
                for one in (key, value)
            )
            mixed = self.mix(query, key, value, [0, 1, 2, 4, 3])
            mixed = graph.slice(graph("Reshape", mixed, [0, 0, -1, width]), 0, self.total, 2)
        out = graph("Reshape", graph("Transpose", mixed, perm=[0, 2, 1, 3]), [0, 0, size])
        return graph.linear(out, layer.attn.to_out.weight, layer.attn.to_out.bias)

    def mix(self, query: str, key: str, value: str, turn: list[int]) -> str:
        scores = self.graph("MatMul", query, self.graph("Transpose", key, perm=turn))
        return self.graph("MatMul", self.graph("Softmax", self.graph("Add", scores, self.bias), axis=-1), value)


def feed_forward(graph: Graph, edge: str, norm: nn.LayerNorm, layer: FeedForward) -> str:
    """Half of a macaron: 0.5 * down(gelu(up(norm(x)))); halving is exact, so it goes into the weights."""
    up = graph.linear(graph.layer_norm(edge, norm), layer.up_proj.weight, layer.up_proj.bias)
    gelu = graph("Gelu", up, approximate="tanh")
    return graph.linear(gelu, 0.5 * layer.down_proj.weight, 0.5 * layer.down_proj.bias)


def convolution(graph: Graph, edge: str, layer: ConvolutionModule, mask: str) -> str:
    """Convolution module; batch norm's scale and shift are folded into the depthwise convolution."""
    gated = graph.linear(graph.layer_norm(edge, layer.layer_norm), layer.pointwise_conv1.weight)
    value, gate = graph.split(gated, 2, -1)
    hidden = graph("Mul", graph("Mul", value, graph("Sigmoid", gate)), mask)
    scale_D, shift_D = layer.conv_norm.scale_and_shift()
    kernel = layer.depthwise_conv.weight * scale_D[:, None, None]
    size, _, taps = kernel.shape
    pads = [layer.past, 0] if layer.past else [taps // 2, taps // 2]
    hidden = graph(
        "Conv",
        graph("Transpose", hidden, perm=[0, 2, 1]),
        array(kernel),
        array(shift_D),
        group=size,
        kernel_shape=[taps],
        pads=pads,
    )
    hidden = graph("Gelu", graph("Transpose", hidden, perm=[0, 2, 1]), approximate="tanh")
    return graph.linear(hidden, layer.pointwise_conv2.weight)


def conformer(graph: Graph, own: Conformer, hidden: str, mask: str, int8: bool = False) -> str:
    """(B, T, D) and mask (B, T) bool -> (B, T, D); padding influences no real frame.

    int8: multiply by weights in int8; attention between frames stays float32, as do norms and convolutions.
    """
    graph.int8 = int8
    attention = Attention(graph, own, hidden, mask)
    ones = graph("Unsqueeze", graph("Cast", mask, to=1), [2])
    for layer in own.layers:
        assert isinstance(layer, ConformerLayer)
        hidden = graph("Add", hidden, feed_forward(graph, hidden, layer.ffn1_layer_norm, layer.ffn1))
        hidden = graph("Add", hidden, attention(layer, graph.layer_norm(hidden, layer.attn_layer_norm)))
        hidden = graph("Add", hidden, convolution(graph, hidden, layer.conv_module, ones))
        hidden = graph("Add", hidden, feed_forward(graph, hidden, layer.ffn2_layer_norm, layer.ffn2))
        hidden = graph.layer_norm(hidden, layer.final_layer_norm)
    graph.int8 = False
    return graph.layer_norm(hidden, own.layer_norm)
