"""Encoder with quantiser, and decoder, as two ONNX graphs that any runtime can run: batch and time are free axes.

    export_onnx(codec, "folder")                      # encoder.onnx, decoder.onnx
    export_onnx(codec, "folder", int8=["decoder"])    # decoder.int8.onnx beside them

Graph of the encoder: `padded_audio (B, P)` float32, `num_frames (B,)` int64 -> `audio_codes (B, 1, T)` int64, where
every clip is reflected at its own two ends by (n_fft - hop) / 2 samples and zero beyond, P = (T - 1) hop + n_fft
(`runtime.onnx_runtime.reflect_padded` does it in numpy). Graph of the decoder: `audio_codes (B, 1, T)` int64,
`num_frames (B,)` -> `audio_values (B, 1, T * hop)`, 0 beyond each clip's frames. Frames beyond `num_frames` influence
nothing, so a clip's result does not depend on its batch.

Both transforms are real matrix products with the window folded in; each uses the symmetry of the cosine and the
antisymmetry of the sine, which halves the work. ONNX has no two-argument arctangent: the phase comes from the
arctangent of the smaller part over the larger.
Shapes: B batch, T frames, N = n_fft, F = N / 2 + 1 bins, D width. Test: tests/runtime/test_onnx.py.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.interop.onnx_graph import END, Graph, array, conformer, frames_mask
from llmcodec.codec.model import LLMCodec
from llmcodec.io.tensor_file import read_arrays, read_header
from llmcodec.precision import SIDES, Precision, Side, graph_file

SMALLEST_SHARED = 1024  # numbers; smaller constants are not worth a node
OPSET, IR_VERSION = 20, 9  # the first opset with a tanh-GELU; ONNX Runtime 1.17 and newer


def export_onnx(
    codec: LLMCodec,
    folder: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    weights: Path | None = None,
    int8: Collection[Side] = (),
) -> tuple[Path, ...]:
    """Write encoder.onnx and decoder.onnx (float32) into an existing folder; returns the paths of all graphs.

    Args:
        codec: the codec; its own precision and device do not matter.
        folder: where the two files go.
        metadata: stored in both files (`metadata_props`).
        weights: the codec's safetensors file, in `folder`; the graphs refer to it instead of holding its matrices.
        int8: sides that also get a graph whose conformer multiplies in int8: encoder.int8.onnx, decoder.int8.onnx.

    Raises:
        ValueError: the package `onnx` is missing.
    """
    try:
        import onnx
    except ImportError:
        raise ValueError("ONNX export needs the package onnx: pip install 'llmcodec[onnx]'") from None
    if {parameter.dtype for parameter in codec.parameters()} != {torch.float32} or codec.device.type != "cpu":
        codec = copy.deepcopy(codec).cpu().float()  # type: ignore[no-untyped-call]
    paths = []
    kinds: list[tuple[Side, Precision]] = [*((side, "fp32") for side in SIDES), *((side, "int8") for side in int8)]
    for side, precision in kinds:
        model = {"encoder": encoder_model, "decoder": decoder_model}[side](codec, precision == "int8")
        onnx.helper.set_model_props(model, dict(metadata or {}))
        if weights is not None:
            refer_to_weights(model.graph, weights)
        path = Path(folder) / graph_file(side, precision)
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path), full_check=True)
        paths.append(path)
    return tuple(paths)


def refer_to_weights(graph: Any, file: Path) -> None:
    """Let an ONNX graph read its large matrices from the codec's own weights, beside which it lies.

    A matrix that is a tensor of `file`, scaled for each output (halves and attention scales are folded in), gives way
    to that tensor and the nodes that make it equal, which ONNX Runtime computes when it opens the graph. Others stay.
    """
    from onnx import TensorProto, helper, numpy_helper

    header, kinds = read_header(file), {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}
    tensors, _ = read_arrays(file, file.stat().st_size)
    initializers, nodes, used = list(graph.initializer), [], set()
    del graph.initializer[:]
    for initializer in initializers:
        value, old = numpy_helper.to_array(initializer), initializer.name
        large = value.dtype == np.float32 and value.ndim == 2 and value.size >= SMALLEST_SHARED
        found = {name: scales_between(tensors[name], value) for name in tensors} if large else {}
        name = next((name for name, how in found.items() if how), None)
        if name is None:
            graph.initializer.append(initializer)
            continue
        turned, scales_M = found[name] or (False, value)
        entry = header.tensors[name]
        if name not in used:
            used.add(name)
            shared = TensorProto(name=name, dims=entry.shape, data_type=kinds[entry.dtype])
            shared.data_location = TensorProto.EXTERNAL
            place = {"location": file.name, "offset": header.data_start + entry.start}
            for key, number in (place | {"length": entry.stop - entry.start}).items():
                shared.external_data.add(key=key, value=str(number))
            graph.initializer.append(shared)
        cast, way, scales = (f"{old}_{part}" for part in ("cast", "way", "scales"))
        graph.initializer.append(numpy_helper.from_array(scales_M, scales))
        nodes += [
            helper.make_node("Cast", [name], [cast], to=TensorProto.FLOAT),
            helper.make_node("Transpose" if turned else "Identity", [cast], [way]),
            helper.make_node("Mul", [way, scales], [old]),
        ]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def scales_between(tensor: np.ndarray, value_IM: np.ndarray) -> tuple[bool, np.ndarray] | None:
    """Whether to transpose a tensor, and the scales (M,) that then make it this matrix exactly; None if none do."""
    for turned in (True, False):
        base_IM = (tensor.T if turned else tensor).astype(np.float32)
        if base_IM.shape != value_IM.shape:
            continue
        largest_M = np.maximum(np.abs(base_IM).max(0), np.finfo(np.float32).tiny)
        near_M = np.abs(value_IM).max(0) / largest_M  # of a rounded product: off by one step at most
        scales_M = near_M.copy()
        for other in (-np.inf, np.inf):
            wrong_M = (base_IM * scales_M != value_IM).any(0)
            scales_M[wrong_M] = np.nextafter(near_M, np.float32(other))[wrong_M]
        if np.array_equal(base_IM * scales_M, value_IM):
            return turned, scales_M
    return None


def encoder_model(codec: LLMCodec, int8: bool = False) -> Any:
    """ONNX model: reflected audio (B, P), frames (B,) -> codes (B, 1, T); `int8`: in the conformer."""
    graph, config = Graph(), codec.config
    hop, half = config.hop_samples, config.n_fft // 2
    cosine, sine, window = transform_matrices(graph, config)
    frames = graph("Mul", overlapping_frames(graph, "padded_audio", config), window)
    first, mirror = graph.slice(frames, 1, half, 2), graph.slice(frames, -1, half, 2, step=-1)
    even = graph(
        "Concat",
        graph.slice(frames, 0, 1, 2),
        graph("Add", first, mirror),
        graph.slice(frames, half, half + 1, 2),
        axis=2,
    )
    real = graph("MatMul", even, cosine)
    imag = graph("Pad", graph("MatMul", graph("Sub", first, mirror), sine), [0, 0, 1, 0, 0, 1])
    power = graph("Add", graph("Mul", real, real), graph("Mul", imag, imag))
    log_magnitude = graph("Log", graph("Add", graph("Sqrt", power), float(config.log_floor)))
    features = graph("Concat", log_magnitude, arctangent(graph, imag, real), axis=2)
    mask = frames_mask(graph, features, "num_frames")
    projection = codec.encoder.frontend.input_proj
    projected = graph.linear(features, projection.weight, projection.bias)
    latent = conformer(graph, codec.encoder.conformer, projected, mask, int8)
    quantizer = codec.quantizer
    query = graph.linear(latent, quantizer.in_proj.weight, quantizer.in_proj.bias)
    length = graph("Max", graph("ReduceL2", query, [-1], keepdims=1), 1e-12)
    similarity = graph("MatMul", graph("Div", query, length), np.ascontiguousarray(array(codec.codebook_VC).T))
    codes = graph("Mul", graph("ArgMax", similarity, axis=-1, keepdims=0), graph("Cast", mask, to=7))
    graph("Unsqueeze", codes, [1], name="audio_codes")
    return model_of(
        graph,
        "encoder",
        {"padded_audio": (1, ["batch", "padded_samples"]), "num_frames": (7, ["batch"])},
        {"audio_codes": (7, ["batch", 1, "frames"])},
        f"hop {hop}, n_fft {config.n_fft}: clips reflected by {(config.n_fft - hop) // 2} samples at both ends",
    )


def decoder_model(codec: LLMCodec, int8: bool = False) -> Any:
    """ONNX model: codes (B, 1, T), frames (B,) -> audio (B, 1, T * hop); `int8`: in the conformer."""
    graph, config = Graph(), codec.config
    quantizer, head = codec.quantizer, codec.decoder.head
    codes = graph("Squeeze", "audio_codes", [1])
    mask = frames_mask(graph, codes, "num_frames")
    vectors = graph("Gather", array(quantizer.codebook), codes, axis=0)
    quantized = graph.linear(vectors, quantizer.out_proj.weight, quantizer.out_proj.bias)
    hidden = conformer(graph, codec.decoder.conformer, quantized, mask, int8)
    spectrum = graph.linear(hidden, head.output_proj.weight, head.output_proj.bias)
    log_magnitude, phase = graph.split(spectrum, 2, -1)
    magnitude = graph("Exp", graph("Min", log_magnitude, math.log(config.max_magnitude)))
    cosine, sine, window = transform_matrices(graph, config)
    # The inverse: every bin but the first and the last counts twice.
    share = np.full((config.n_fft // 2 + 1, 1), 2.0 / config.n_fft, np.float32)
    share[0] = share[-1] = 1.0 / config.n_fft
    real = graph("Mul", magnitude, graph("Cos", phase))
    even = graph("MatMul", real, graph("Mul", cosine, share))  # samples 0 .. N / 2
    imag = graph.slice(graph("Mul", magnitude, graph("Sin", phase)), 1, -1, 2)
    odd = graph("MatMul", imag, graph("Mul", sine, share[1:-1]))  # samples 1 .. N / 2 - 1
    inner = graph.slice(even, 1, -1, 2)
    mirror = graph.slice(graph("Sub", inner, odd), -1, -END, 2, step=-1)
    first, middle = graph.slice(even, 0, 1, 2), graph.slice(even, -1, END, 2)
    frames = graph("Concat", first, graph("Add", inner, odd), middle, mirror, axis=2)
    ones = graph("Unsqueeze", graph("Cast", mask, to=1), [2])
    total = overlap_add(graph, graph("Mul", graph("Mul", frames, window), ones), config)
    envelope = overlap_add(graph, graph("Mul", ones, (window * window)[None, None]), config)
    wav = graph("Div", total, graph("Max", envelope, 1e-11))  # (B, T, hop)
    graph("Reshape", graph("Mul", wav, ones), [0, 1, -1], name="audio_values")
    return model_of(
        graph,
        "decoder",
        {"audio_codes": (7, ["batch", 1, "frames"]), "num_frames": (7, ["batch"])},
        {"audio_values": (1, ["batch", 1, "samples"])},
        f"{config.hop_samples} samples per frame at {config.sample_rate} Hz",
    )


def model_of(graph: Graph, name: str, inputs: dict[str, Any], outputs: dict[str, Any], about: str) -> Any:
    """Nodes and constants -> an ONNX model; inputs and outputs are name -> (element type, shape)."""
    from onnx import helper

    given, made = (
        [helper.make_tensor_value_info(edge, kind, shape) for edge, (kind, shape) in side.items()]
        for side in (inputs, outputs)
    )
    body = helper.make_graph(graph.nodes, name, given, made, initializer=graph.constants)
    return helper.make_model(
        body,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="llmcodec",
        doc_string=about,
    )


def overlapping_frames(graph: Graph, audio: str, config: LLMCodecConfig) -> str:
    """(B, P) -> (B, T, N): whole hops side by side."""
    count = config.n_fft // config.hop_samples
    hops = graph("Reshape", audio, [0, -1, config.hop_samples])
    parts = [graph.slice(hops, i, i - count + 1 if i < count - 1 else END, 1) for i in range(count)]
    return graph("Concat", *parts, axis=2)


def overlap_add(graph: Graph, frames: str, config: LLMCodecConfig) -> str:
    """(B, T, N) -> (B, T, hop), the (N - hop) / 2 samples at each end trimmed."""
    hop, count = config.hop_samples, config.n_fft // config.hop_samples
    parts = graph.split(frames, count, 2) if count > 1 else [frames]
    padded = [graph("Pad", part, [0, i, 0, 0, count - 1 - i, 0]) for i, part in enumerate(parts)]
    total = graph("Reshape", graph("Sum", *padded), [0, -1])
    trim = (config.n_fft - hop) // 2
    return graph("Reshape", graph.slice(total, trim, -trim if trim else END, 1), [0, -1, hop])


def transform_matrices(graph: Graph, config: LLMCodecConfig) -> tuple[str, str, np.ndarray]:
    """cosine (F, F) over samples 0 .. N/2 and bins, -sine (F-2, F-2) over 1 .. N/2-1, Hann window (N,).

    Real part of bin k: sum over n of even[n] cos(2 pi n k / N); imaginary part: sum of odd[n] times -sin. The file
    holds N values of each, computed in float64 and kept in float32; ONNX Runtime looks the matrices up in them, by
    n k mod N, when it opens a graph. Zeros are exact: with a negative real part, the sign of a rounding error would
    turn the phase from pi to -pi.
    """
    size = config.n_fft
    angle = np.arange(size) * (2 * math.pi / size)
    window = 0.5 - 0.5 * np.cos(angle)
    matrices = []
    for values, index in ((np.cos(angle), np.arange(size // 2 + 1)), (-np.sin(angle), np.arange(1, size // 2))):
        values[np.abs(values) < 1e-9] = 0.0
        phases = graph("Mod", graph("Mul", index[:, None], index), size)
        matrices.append(graph("Gather", values.astype(np.float32), phases, axis=0))
    return matrices[0], matrices[1], window.astype(np.float32)


def arctangent(graph: Graph, imag: str, real: str) -> str:
    """Angle of real + i imag in (-pi, pi], 0 at the origin."""
    across, along = graph("Abs", imag), graph("Abs", real)
    larger = graph("Max", graph("Max", across, along), np.finfo(np.float32).tiny)
    angle = graph("Atan", graph("Div", graph("Min", across, along), larger))
    angle = graph("Where", graph("Greater", across, along), graph("Sub", math.pi / 2, angle), angle)
    angle = graph("Where", graph("Less", real, 0.0), graph("Sub", math.pi, angle), angle)
    return graph("Where", graph("Less", imag, 0.0), graph("Neg", angle), angle)
