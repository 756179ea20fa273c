"""The exported graphs against the torch codec: batches, lengths, streams, real speech; and a process without torch."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from llmcodec import LLMCodec, LLMCodecConfig, assets
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_config import CONFIG, DECODER, ENCODER, OnnxConfig
from llmcodec.runtime.onnx_runtime import OnnxRuntime, reflect_padded
from llmcodec.runtime.torch_runtime import TorchRuntime

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

KINDS = {
    "global": {},
    "window": {"attention_window": 3},
    "causal": {"attention_window": 4, "causal": True},
    "floor": {"auv_floor_frames": True},
    "two hops per window": {"n_fft": 640, "attention_window": 50},
}


def make(**overrides) -> LLMCodec:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, encoder_layers=2, decoder_layers=2, head_dim=16, codebook_size=64)
    codec = LLMCodec(LLMCodecConfig(**(sizes | overrides)))
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
    return codec.eval()


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory) -> tuple[LLMCodec, OnnxRuntime]:
    codec = make(**KINDS[request.param])
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(codec, "test", folder)
    return codec, OnnxRuntime(folder, threads=1)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def assert_same_codes(codec: LLMCodec, wav: np.ndarray, expected: np.ndarray, got: np.ndarray) -> None:
    """Equal wherever float64 separates the two best codes by more than 1e-4 (the two transforms round differently)."""
    double = make(
        **{key: getattr(codec.config, key) for key in ("attention_window", "causal", "auv_floor_frames", "n_fft")}
    )
    double = double.double()
    query = double.encode_latents(torch.from_numpy(wav)[None].double()).query_BTC
    best = (query @ double.codebook_VC.T)[0].topk(2).values
    clear = (best[:, 0] - best[:, 1] > 1e-4).numpy()
    assert expected.shape == got.shape and np.array_equal(expected[0, clear], got[0, clear])
    assert clear.mean() > 0.95 or len(clear) < 40


def test_a_batch_of_any_lengths(pair):
    codec, runtime = pair
    assert isinstance(runtime, Runtime)
    lengths = [641, 960, 7001, 16000] if codec.config.auv_floor_frames else [1, 319, 320, 641, 7001, 16000]
    wavs = [noise(n, n) for n in lengths]
    batch = runtime.encode_batch(wavs)
    expected = TorchRuntime(codec, "test").encode_batch(wavs)
    for wav, codes, reference in zip(wavs, batch, expected, strict=True):
        assert codes.dtype == np.int64
        assert_same_codes(codec, wav, reference, codes)
        assert np.array_equal(codes, runtime.encode_batch([wav])[0])  # padding influences nothing
    decoded = runtime.decode_batch(expected, lengths)
    again = TorchRuntime(codec, "test").decode_batch(expected, lengths)
    for one, other, length in zip(decoded, again, lengths, strict=True):
        assert one.shape == (length,) and one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
    whole = runtime.decode_batch(expected)
    assert [len(wav) for wav in whole] == [codes.shape[1] * 320 for codes in expected]


def test_streams_equal_torchs_chunks(pair):
    """Chunks of 20 frames with the context of the configuration; pieces of odd sizes."""
    codec, runtime = pair
    runtime.chunk_frames = 20
    wav = noise(100 * 320 + 17, 5)
    pieces = np.split(wav, [1, 100, 101, 20000])
    reference = torch.cat(list(encode_blocks(codec, [wav], 0.4)), dim=1).numpy()
    parts = list(runtime.encode_stream(pieces))
    codes = np.concatenate(parts, axis=1)
    if codec.config.attention_window is None:  # chunks are not the whole here: only the same chunks are comparable
        assert (codes == reference).mean() > 0.98
    else:
        assert_same_codes(codec, wav, reference, codes)
        assert np.array_equal(codes, runtime.encode_batch([wav])[0])  # a long clip goes through the stream
    assert len(parts) >= (2 if codec.config.attention_window in (3, 4) else 1)
    blocks = np.split(reference, [1, 2, 60], axis=1)
    length = min(len(wav), reference.shape[1] * 320)
    heard = torch.cat(list(decode_blocks(codec, [reference], length, 0.4))).numpy()
    made = np.concatenate(list(runtime.decode_stream(blocks, length)))
    assert made.shape == heard.shape == (length,)
    np.testing.assert_allclose(made, heard, rtol=0, atol=1e-4)
    assert len(np.concatenate(list(runtime.decode_stream(blocks)))) == reference.shape[1] * 320
    runtime.chunk_frames = 1500
    np.testing.assert_array_equal(np.concatenate(list(runtime.decode_stream(blocks, length, 0.4))), made)
    if codec.config.attention_window is not None:
        assert_same_codes(codec, wav, codes, runtime.encode_batch([wav])[0])  # chunked == whole


@pytest.mark.parametrize(("levels", "threads"), [("3", 3), ("2,1", 2), ("", 0), ("all", 0)])
def test_threads_are_those_of_openmps_outermost_level(pair, monkeypatch, levels, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", levels)
    assert OnnxRuntime(pair[1].folder).threads == threads


def test_reflection_is_the_front_ends():
    from llmcodec.codec.stft import reflect_pad_each

    for samples in (1, 320, 641, 5000):
        wav, frames = noise(samples), -(-samples // 320)
        extent = max(frames * 320, 640)
        padded = torch.nn.functional.pad(torch.from_numpy(wav), (0, extent - samples))[None]
        expected = reflect_pad_each(padded, torch.tensor([extent]), 480, (frames - 1) * 320 + 1280)
        assert np.array_equal(reflect_padded(wav, 320, 1280, frames), expected[0].numpy())


def test_the_phase_of_every_quadrant_and_edge():
    from llmcodec.codec.interop.onnx_export import arctangent, model_of
    from llmcodec.codec.interop.onnx_graph import Graph

    graph = Graph()
    graph("Identity", arctangent(graph, "imag", "real"), name="angle")
    model = model_of(graph, "angle", {"imag": (1, ["n"]), "real": (1, ["n"])}, {"angle": (1, ["n"])}, "")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.array([0.0, 1e-30, 1e-3, 1.0, 1e20], np.float32)
    values = np.concatenate([values, -values[1:]])
    imag, real = (one.ravel() for one in np.meshgrid(values, values))
    angle = session.run(None, {"imag": imag, "real": real})[0]
    np.testing.assert_allclose(angle, np.arctan2(imag, real), rtol=0, atol=3e-7)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    codec = LLMCodec.from_pretrained(assets.codec_folder()).eval()
    folder = tmp_path_factory.mktemp("bundled")
    write_onnx(codec, "bundled", folder)
    return codec, folder


def test_real_speech_on_the_bundled_codec(bundled):
    """The acceptance: at least 99.9 % equal tokens, waveforms within 1e-3 on identical codes."""
    codec, folder = bundled
    manifest = assets.speech_manifest("test")
    wavs = [audio.load(row.path, 16000) for row in read_manifest(manifest)][:16]
    runtime, reference = OnnxRuntime(folder, threads=1), TorchRuntime(codec, "bundled")
    assert runtime.identity == reference.identity  # so token files of either are read by both
    codes, expected = runtime.encode_batch(wavs), reference.encode_batch(wavs)
    total = sum(one.size for one in expected)
    same = sum(int((a == b).sum()) for a, b in zip(codes, expected, strict=True))
    assert total > 1000 and same / total >= 0.999
    lengths = [len(wav) for wav in wavs]
    for a, b in zip(runtime.decode_batch(expected, lengths), reference.decode_batch(expected, lengths), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


WITHOUT_TORCH = """
import sys
class Never:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Never())
from llmcodec.cli.main import main
folder, wav, tokens, again = sys.argv[1:]
assert main(["encode", wav, "-o", tokens, "--runtime", "onnx", "--codec", folder]) == 0
assert main(["decode", tokens, "-o", again, "--runtime", "onnx", "--codec", folder]) == 0
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_the_commands_run_in_a_process_without_torch(bundled, tmp_path):
    codec, folder = bundled
    wav = audio.load(read_manifest(assets.speech_manifest("test"))[0].path, 16000)
    audio.write(tmp_path / "in.wav", wav, 16000, subtype="FLOAT")
    paths = [str(one) for one in (folder, tmp_path / "in.wav", tmp_path / "in.safetensors", tmp_path / "again.wav")]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from llmcodec.io.token_file import load_token_file

    codes = load_token_file(tmp_path / "in.safetensors")[0].codes
    expected = TorchRuntime(codec, "bundled").encode_batch([wav])[0]
    assert (np.asarray(codes).reshape(expected.shape) == expected).mean() >= 0.99
    assert len(audio.load(tmp_path / "again.wav", 16000)) == len(wav)


def test_the_configuration_is_checked(bundled, tmp_path):
    _, folder = bundled
    good = (folder / CONFIG).read_text()
    values = json.loads(good)
    assert OnnxConfig.load(folder).encoder_context == (143, 143) == tuple(values["encoder_context"])
    for change, message in (
        ({"format": "other"}, "not a configuration of an exported codec"),
        ({"version": 9}, "version 9"),
        ({"n_fft": "1280x"}, "damaged, ValueError"),
        ({"n_fft": 1279}, "do not fit"),
        ({"n_fft": 1 << 40}, "positive integers"),
        ({"identity": {}}, "damaged, TypeError"),
        ({"encoder_context": [-1, 2]}, "context of"),
        ({"encoder_context": 3}, "damaged, TypeError"),
    ):
        (tmp_path / CONFIG).write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=message) as error:
            OnnxRuntime(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        OnnxRuntime(tmp_path)
    (tmp_path / CONFIG).write_text(good)
    with pytest.raises(ValueError, match="encoder.onnx: missing"):
        OnnxRuntime(tmp_path)
    with pytest.raises(ValueError, match="make the folder with"):
        OnnxRuntime(tmp_path / "nowhere")


def test_graphs_of_another_codec_or_damaged_ones_are_refused(bundled, tmp_path):
    _, folder = bundled
    write_onnx(make(attention_window=3), "other", tmp_path)
    (tmp_path / ENCODER).replace(tmp_path / "kept")
    (tmp_path / ENCODER).write_bytes((folder / ENCODER).read_bytes())
    runtime = OnnxRuntime(tmp_path, threads=1)
    with pytest.raises(ValueError, match="its weights are not those of"):
        runtime.encode_batch([noise(1000)])
    (tmp_path / DECODER).write_bytes((folder / DECODER).read_bytes()[:5000])
    with pytest.raises(ValueError, match="ONNX Runtime cannot load it") as error:
        runtime.decode_batch([np.zeros((1, 3), np.int64)])
    assert "\n" not in str(error.value)


def test_integer_samples_give_the_codes_of_their_floats(pair):
    codec, runtime = pair
    wav = (noise(5000) * 32768).round().astype(np.int16)
    expected = runtime.encode_batch([wav / np.float32(32768)])[0]
    assert np.array_equal(runtime.encode_batch([wav])[0], expected) and len(set(expected[0].tolist())) > 1
    streamed = [np.concatenate(list(runtime.encode_stream(blocks)), axis=1) for blocks in ([wav], [wav[:9], wav[9:]])]
    assert np.array_equal(*streamed)
    with pytest.raises(ValueError, match="stream: sample 11 is NaN or infinite"):
        list(runtime.encode_stream([wav[:10], np.array([0.0, np.nan])]))


def test_a_codec_with_broken_weights_is_not_exported(tmp_path):
    codec = make()
    torch.nn.init.constant_(codec.encoder.frontend.input_proj.weight, float("nan"))
    with pytest.raises(ValueError, match="weights or the audio are broken"):
        write_onnx(codec, "test", tmp_path)


def exported(tmp_path, name: str, change) -> OnnxRuntime:
    """A folder whose graph `name` has been changed by `change(initialisers by name)` and that has no digests."""
    write_onnx(make(), "test", tmp_path)
    (tmp_path / "digests.json").unlink()
    model = onnx.load(tmp_path / name)
    arrays = {one.name: onnx.numpy_helper.to_array(one).copy() for one in model.graph.initializer}
    change(arrays)
    for one in model.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(arrays[one.name], one.name))
    onnx.save(model, tmp_path / name)
    return OnnxRuntime(tmp_path, threads=1)


def set_matrices(value: float, only: tuple[int, ...] | None = None):
    def change(arrays: dict[str, np.ndarray]) -> None:
        for array in arrays.values():
            if array.dtype == np.float32 and array.ndim > 1 and only in (None, array.shape):
                array[:] = value

    return change


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_an_older_folder_with_broken_weights_is_refused_where_it_is_opened(tmp_path, name):
    def use(runtime: OnnxRuntime) -> object:
        wav, codes = noise(5000), np.arange(20)[None]
        return runtime.encode_batch([wav]) if name == ENCODER else runtime.decode_batch([codes])

    for value, said in (
        (np.nan, r"holds NaN or infinite values: the weights are broken"),
        (np.inf, r"holds NaN or infinite values: the weights are broken"),
        (0.0, "is 0 throughout, and the graph gives (code 0 for noise|silence for any codes); export again"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{said}") as failure:
            use(exported(tmp_path, name, set_matrices(value)))
        assert "\n" not in str(failure.value)


def test_a_codebook_of_zeros_alone_is_found_and_another_zero_matrix_runs(tmp_path):
    codec = make()
    shape = tuple(codec.quantizer.codebook.shape)[::-1]  # code vectors are columns
    with pytest.raises(ValueError, match="code 0 for noise"):
        exported(tmp_path, ENCODER, set_matrices(0.0, shape)).encode_batch([noise(5000)])
    with torch.no_grad():
        codec.encoder.conformer.layers[0].ffn1.down_proj.weight.zero_()  # an ablation, not damage
    write_onnx(codec, "test", tmp_path)
    codes = OnnxRuntime(tmp_path).encode_batch([noise(5000)])[0]
    expected = codec.encode(torch.from_numpy(noise(5000))[None, None]).audio_codes[0].numpy()
    assert np.array_equal(codes, expected) and len(set(codes[0].tolist())) > 1


def test_a_flipped_bit_of_an_exported_folder_names_the_tensor(tmp_path):
    write_onnx(make(), "test", tmp_path)
    for name in (ENCODER, DECODER):
        path = tmp_path / name
        whole = path.read_bytes()
        largest = max(onnx.load(path).graph.initializer, key=lambda one: len(one.raw_data))
        place = whole.index(largest.raw_data) + len(largest.raw_data) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        runtime = OnnxRuntime(tmp_path)
        with pytest.raises(ValueError, match=f"{name}: {largest.name} differs from what was saved"):
            _ = runtime.encoder if name == ENCODER else runtime.decoder
        path.write_bytes(whole)
        _ = runtime.encoder if name == ENCODER else runtime.decoder


def test_bad_input_is_one_line(pair):
    codec, runtime = pair
    for wav, message in (
        (np.zeros(0, np.float32), "a clip is empty"),
        (np.zeros((2, 3), np.float32), "mono"),
        (np.zeros(3, np.int64), "must be floats .* got int64"),
        (np.full(3000, np.nan, np.float32), "clip 0: sample 0 is NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            runtime.encode_batch([wav])
    with pytest.raises(ValueError, match="the stream is empty"):
        list(runtime.encode_stream([np.zeros(0, np.float32)]))
    with pytest.raises(ValueError, match="outside"):
        runtime.decode_batch([np.full((1, 3), 64)])
    with pytest.raises(ValueError, match="cannot give"):
        runtime.decode_batch([np.zeros((1, 3), np.int64)], [4 * 320 + 1])
    if codec.config.auv_floor_frames:
        with pytest.raises(ValueError, match="needs clips of more than 480 samples"):
            runtime.encode_batch([np.zeros(400, np.float32)])


def test_missing_packages_are_named(bundled, monkeypatch, tmp_path):
    codec, folder = bundled
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'llmcodec\[onnx\]'"):
        OnnxRuntime(folder).encode_batch([noise(1000)])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'llmcodec\[onnx\]'"):
        write_onnx(codec, "x", tmp_path)


def test_the_plan_is_longforms():
    from llmcodec.codec.streaming import latency
    from llmcodec.runtime import onnx_runtime

    assert onnx_runtime.CHUNK_SECONDS == latency.CHUNK_SECONDS
    assert onnx_runtime.GLOBAL_CONTEXT_SECONDS == latency.GLOBAL_CONTEXT_SECONDS
    assert math.inf not in LLMCodecConfig.tiny().encoder_context
