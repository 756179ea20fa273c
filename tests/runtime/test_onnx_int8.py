"""int8 by ONNX Runtime: the same for every batch, above the policy's limits, refused where there is none."""

import shutil

import numpy as np
import pytest
import torch

from llmcodec import LLMCodec, LLMCodecConfig, assets
from llmcodec.cli.main import main
from llmcodec.codec.interop.onnx_graph import Graph, int8_weights
from llmcodec.data.manifest import read_manifest
from llmcodec.experiments.verification import verify
from llmcodec.io import audio
from llmcodec.precision import AUTO, MIN_SNR_DB, MIN_TOKENS
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_runtime import OnnxRuntime
from llmcodec.runtime.opening import open_runtime, runs_light

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
BOTH = ("encoder", "decoder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("int8")
    write_onnx(LLMCodec.from_pretrained(assets.codec_folder()).eval(), "bundled", place, int8=BOTH)
    return place


@pytest.fixture(scope="module")
def wavs():
    return [clip.load(16000) for clip in read_manifest(assets.speech_manifest("test"))][:6]


def test_the_policy_holds_on_the_bundled_codec(folder, wavs):
    """Both of its limits, on both sides: int8 is what `auto` decodes by, and no encoder for `auto`."""
    exact, rounded = (OnnxRuntime(folder, 1, precision) for precision in ("fp32", "int8"))
    codes, lengths = exact.encode_batch(wavs), [len(wav) for wav in wavs]
    others = rounded.encode_batch(wavs)
    same = np.mean(np.concatenate([a[0] == b[0] for a, b in zip(codes, others, strict=True)]))
    assert 0.9 < same < MIN_TOKENS
    wanted, got = (np.concatenate(runtime.decode_batch(codes, lengths)) for runtime in (exact, rounded))
    assert MIN_SNR_DB < 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()) < 50
    assert AUTO["onnx"] == {"encoder": "fp32", "decoder": "int8"}
    assert AUTO["kernels"]["decoder"] == "int8" != AUTO["kernels"]["encoder"]
    automatic = OnnxRuntime(folder, 1)
    assert automatic.precisions == AUTO["onnx"] and automatic.ran_by == "by ONNX Runtime, decoder in int8"
    assert all(map(np.array_equal, automatic.encode_batch(wavs[:3]), codes[:3]))
    loud = rounded.decode_batch(codes[:1], lengths[:1])[0]
    assert np.array_equal(automatic.decode_batch(codes[:1], lengths[:1])[0], loud)


def test_a_clip_is_the_same_in_a_batch_as_alone(folder, wavs):
    """One step for a whole tensor would let a loud neighbour change a quiet clip."""
    runtime = OnnxRuntime(folder, 1, "int8")
    quiet, loud = 0.01 * wavs[0][:8000], wavs[1][:30000] / np.abs(wavs[1]).max()
    together = runtime.encode_batch([quiet, loud])
    alone = [runtime.encode_batch([wav])[0] for wav in (quiet, loud)]
    for got, expected in zip(together, alone, strict=True):
        assert got.shape == expected.shape and (got == expected).mean() > 0.99, "rounding of one bit at the most"
    made = [runtime.decode_batch([one])[0] for one in alone]
    for got, expected in zip(runtime.decode_batch(alone), made, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_no_two_neighbours_overflow_16_bits_and_the_product_is_right():
    random = np.random.default_rng(0)
    for inputs in (1, 7, 64):
        matrix_IM = random.standard_t(2, (inputs, 33)).astype(np.float32)
        matrix_IM[:, 0] = 0
        matrix_IM[:, 1] = 3.0  # all as large as the largest
        weight_IM, step_M = int8_weights(matrix_IM)
        assert (np.abs(weight_IM * step_M - matrix_IM) <= 0.5001 * step_M).all()
        pairs = np.pad(weight_IM.astype(np.int64), ((0, inputs % 2), (0, 0))).reshape(-1, 2, 33)
        for worst in (np.maximum(pairs, 0), np.minimum(pairs, 0)):
            assert np.abs(255 * worst.sum(1)).max() <= 32767
        assert np.abs(weight_IM).max() > 60
        x_BTI = random.normal(0.3, 1, (2, 5, inputs)).astype(np.float32)
        x_BTI[0, 1], x_BTI[1, 2], x_BTI[1, 3] = 0, 1e4 * x_BTI[1, 2], np.abs(x_BTI[1, 3])
        got = product(x_BTI, matrix_IM)
        largest = (x_BTI.max(-1).clip(0) - x_BTI.min(-1).clip(None, 0))[..., None] / 255
        bound = inputs * (0.51 * largest * np.abs(matrix_IM).max(0) + 0.51 * step_M * np.abs(x_BTI).max(-1)[..., None])
        assert (np.abs(got - x_BTI @ matrix_IM) <= 1.1 * bound + 1e-6).all()
        assert not got[0, 1].any() and not got[..., 0].any()
        assert np.array_equal(got[1:, 1:2], product(x_BTI[1:, 1:2], matrix_IM)), "a frame depends on that frame alone"


def product(x_BTI, matrix_IM):
    graph = Graph()
    out = graph.int8_product("x", matrix_IM)
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        graph.nodes, "product", [info("x", 1, ["b", "t", len(matrix_IM)])], [info(out, 1, None)], graph.constants
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x_BTI})[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("codec") / "small"
    sizes = dict(hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=64)
    LLMCodec(LLMCodecConfig(**sizes)).save_pretrained(place)
    return str(place)


def test_the_export_writes_what_auto_takes_and_the_encoder_on_request(small, tmp_path, capsys):
    graphs = {"decoder.onnx", "encoder.onnx"}
    for precision, more in (
        ("auto", {"decoder.int8.onnx"}),
        ("int8", {"decoder.int8.onnx", "encoder.int8.onnx"}),
        ("fp32", set()),
    ):
        out = tmp_path / "out"
        command = ["export", small, "-o", str(out), "--format", "onnx", "--precision", precision, "--overwrite"]
        assert main(command) == 0
        assert {path.name for path in out.glob("*.onnx")} == graphs | more, "and none of the export before"
        assert OnnxRuntime(out).precisions["decoder"] == ("int8" if more else "fp32")
        capsys.readouterr()
        said = {finding.path.name: str(finding) for finding in verify(out)}
        assert all("as they were saved" in said[name] for name in graphs | more) and "opens" in said["out"]
    assert main(["export", small, "-o", str(tmp_path / "x"), "--precision", "int8"]) == 1
    assert "is for --format onnx" in capsys.readouterr().err


def test_the_commands_decode_in_int8_by_default_and_say_so(folder, wavs, tmp_path, capsys):
    audio.write(tmp_path / "in.wav", wavs[0], 16000, subtype="FLOAT")
    place = str(tmp_path / "graphs")
    shutil.copytree(folder, place)
    (tmp_path / "graphs" / "encoder.int8.onnx").unlink()
    common = ["--codec", place, "--device", "cpu"]
    assert main(["encode", str(tmp_path / "in.wav"), "-o", str(tmp_path / "t.safetensors"), *common]) == 0
    assert "int8" not in capsys.readouterr().err
    made = {}
    for precision in ("auto", "fp32", "int8"):
        out = str(tmp_path / f"{precision}.wav")
        assert main(["decode", str(tmp_path / "t.safetensors"), "-o", out, *common, "--precision", precision]) == 0
        assert ("decoder in int8" in capsys.readouterr().err) == (precision != "fp32")
        made[precision] = audio.load(out, 16000)
    assert np.array_equal(made["auto"], made["int8"]) and not np.array_equal(made["auto"], made["fp32"])
    arguments = ["encode", str(tmp_path / "in.wav"), "-o", str(tmp_path / "u.safetensors"), *common]
    assert main([*arguments, "--precision", "int8"]) == 1
    error = capsys.readouterr().err
    assert "no encoder.int8.onnx" in error and "--precision int8" in error and "Traceback" not in error


def test_int8_where_there_are_no_graphs_of_it(small, tmp_path):
    write_onnx(LLMCodec.from_pretrained(small).eval(), "small", tmp_path)
    assert OnnxRuntime(tmp_path).precisions == {"encoder": "fp32", "decoder": "fp32"}
    with pytest.raises(ValueError, match="no encoder.int8.onnx"):
        open_runtime(str(tmp_path), "onnx", precision="int8")
    with pytest.raises(ValueError, match="choose auto, fp32 or int8"):
        open_runtime(str(tmp_path), "onnx", precision="bf16")
    with pytest.raises(ValueError, match="choose auto, fp32 or int8"):
        OnnxRuntime(tmp_path, precision="int4")
    assert not runs_light(str(tmp_path), "cpu", "int8")
    (tmp_path / "decoder.int8.onnx").touch()
    assert runs_light(str(tmp_path), "cpu", "int8") and not runs_light(str(tmp_path), "cpu", "bf16")
