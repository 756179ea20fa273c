"""Weights of ONNX files as the package onnx reads them; damage and files that are none in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmcodec.io.onnx_file import GRAPH, find_zero_matrices, read_initializers
from llmcodec.io.tensor_check import check_tensors, inspect_tensors, write_digests
from llmcodec.io.tensor_file import write_arrays

onnx = pytest.importorskip("onnx")

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5


def written(path: Path, *tensors: object, inputs: int = 2) -> Path:
    """A graph y = x @ MATRIX, with more initializers beside it."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "matrix"], ["y"], name="product")],
        "toy",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 3])],
        [onnx.numpy_helper.from_array(MATRIX, "matrix"), *tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    helper.set_model_props(model, {"weights_sha256": "0" * 64})
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_are_those_that_onnx_reads(tmp_path):
    arrays = {
        "half": np.array([[1.5], [-2]], np.float16),
        "whole": np.array([-3, 1 << 40], np.int64),
        "number": np.array(2.0),
        "flags": np.array([True, False]),
    }
    path = written(tmp_path / "a.onnx", *(onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()))
    found = {one.name: one for one in read_initializers(path)}
    assert set(found) == {"matrix", *arrays, GRAPH}
    for name, value in ({"matrix": MATRIX} | arrays).items():
        assert (found[name].shape, bytes(found[name].data)) == (value.shape, value.tobytes()), name
    assert [found[name].dtype for name in ("matrix", "half", "whole", "number", "flags")] == [
        "F32",
        "F16",
        "I64",
        "F64",
        "BOOL",
    ]
    assert b"product" in bytes(found[GRAPH].data) and b"weights_sha256" in bytes(found[GRAPH].data)
    assert MATRIX.tobytes() not in bytes(found[GRAPH].data)


def test_numbers_in_typed_fields_are_read_too(tmp_path):
    typed = onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    packed = onnx.helper.make_tensor("packed", onnx.TensorProto.INT64, [2], [7, -1])
    path = written(tmp_path / "a.onnx", typed, packed)
    found = {one.name: one for one in read_initializers(path)}
    assert np.frombuffer(found["typed"].data, np.float32).tolist() == [1, 2, 3] and len(found["packed"].data)
    check_tensors(path)
    typed.float_data[1] = np.nan
    with pytest.raises(ValueError, match="typed holds NaN"):
        check_tensors(written(tmp_path / "b.onnx", typed))


def test_every_byte_of_the_file_is_covered_by_its_digests(tmp_path):
    path = written(tmp_path / "a.onnx", onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "other"))
    write_digests(tmp_path)
    assert inspect_tensors(path).has_digests
    whole = path.read_bytes()
    for byte in range(len(whole)):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << byte % 8]) + whole[byte + 1 :])
        with pytest.raises(ValueError, match=r"a\.onnx: "):
            check_tensors(path)
    place = whole.index(MATRIX.tobytes())
    path.write_bytes(whole[: place + 2] + bytes([whole[place + 2] ^ 1]) + whole[place + 3 :])
    with pytest.raises(ValueError, match=r"a\.onnx: matrix differs from what was saved"):
        check_tensors(path)


def test_matrices_of_zeros_are_found(tmp_path):
    zeros = [np.zeros((2, 3), np.float32), np.zeros(4, np.float32), np.array([[0, 1e-30]], np.float32)]
    named = [onnx.numpy_helper.from_array(value, f"zero{number}") for number, value in enumerate(zeros)]
    assert find_zero_matrices(written(tmp_path / "a.onnx", *named)) == ["zero0"]


def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path):
    whole = written(tmp_path / "a.onnx").read_bytes()
    external = onnx.numpy_helper.from_array(MATRIX, "far")
    external.ClearField("raw_data")
    external.data_location = onnx.TensorProto.EXTERNAL
    cases = {
        "no such file": None,
        "not an ONNX file, or cut short": whole[:-20],
        "not an ONNX file": b"\xff" * 50,
        "keeps weights in other files": written(tmp_path / "far.onnx", external).read_bytes(),
    }
    for said, content in cases.items():
        path = tmp_path / "b.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=said) as failure:
            check_tensors(path)
        assert "\n" not in str(failure.value)


def test_weights_of_the_codec_beside_a_graph_are_its_own(tmp_path):
    write_arrays(tmp_path / "model.safetensors", {"other": MATRIX[:, :1].copy(), "matrix": MATRIX}, {})
    start = (tmp_path / "model.safetensors").read_bytes().index(MATRIX.tobytes())

    def far(location="model.safetensors", offset=start, length=MATRIX.nbytes):
        tensor = onnx.TensorProto(name="far", dims=MATRIX.shape, data_type=1, data_location=onnx.TensorProto.EXTERNAL)
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    path = written(tmp_path / "a.onnx", far())
    assert bytes({one.name: one for one in read_initializers(path)}["far"].data) == MATRIX.tobytes()
    write_digests(tmp_path)
    check_tensors(path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[start] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="far differs from what was saved"):
        check_tensors(path)
    for wrong in ({"location": "../model.safetensors"}, {"location": "/etc/passwd"}, {"length": 4}, {"offset": -8}):
        with pytest.raises(ValueError, match="keeps weights in other files|missing or cut short"):
            check_tensors(written(tmp_path / "b.onnx", far(**wrong)))
    (tmp_path / "model.safetensors").write_bytes(content[: start + 4])
    with pytest.raises(ValueError, match="missing or cut short"):
        check_tensors(path)
