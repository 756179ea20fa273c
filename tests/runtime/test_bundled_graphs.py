"""The graphs in the package: they are of the bundled weights, with the tokens and the sound of torch in float32."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from llmcodec import LLMCodec, assets
from llmcodec.data.manifest import read_manifest
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_config import OnnxConfig
from llmcodec.runtime.onnx_runtime import OnnxRuntime
from llmcodec.runtime.opening import open_runtime
from llmcodec.runtime.torch_runtime import weights_sha256

MIN_EQUAL, NEAR = 0.999, 0.02
"""Of token equality across programs: share of all, and how much less similar to the query the code may be
that is taken instead. It is not rounding's own size: rounding can turn the phase of a bin from +pi into -pi."""


@pytest.fixture(scope="module")
def wavs() -> list[np.ndarray]:
    return [clip.load(16000) for clip in read_manifest(assets.speech_manifest())[::6]]


@pytest.fixture(scope="module")
def light() -> Runtime:
    return open_runtime("bundled", "auto", "cpu")


def codec() -> LLMCodec:
    loaded: LLMCodec = LLMCodec.from_pretrained(assets.codec_folder()).eval()
    return loaded


def test_the_graphs_are_those_of_the_bundled_weights() -> None:
    identity = OnnxConfig.load(assets.codec_folder()).identity
    assert identity.weights_sha256 == weights_sha256(codec()), "run `make bundled-graphs`"
    assert identity == open_runtime("bundled", "torch", "cpu").identity


def test_equal_tokens_and_others_are_nearly_as_near(light: Runtime, wavs: list[np.ndarray]) -> None:
    assert isinstance(light, OnnxRuntime)
    exact = open_runtime("bundled", "torch", "cpu", "fp32")
    double = codec().double()  # type: ignore[no-untyped-call]
    equal = total = 0
    for wav, ours, theirs in zip(wavs, light.encode_batch(wavs), exact.encode_batch(wavs), strict=True):
        assert ours.shape == theirs.shape
        same = ours[0] == theirs[0]
        equal, total = equal + int(same.sum()), total + len(same)
        if not same.all():
            query = double.encode_latents(torch.from_numpy(wav)[None].double()).query_BTC
            similar = (query @ double.codebook_VC.T)[0].detach().numpy()
            assert (similar.max(1) - similar[np.arange(len(same)), ours[0]]).max() < NEAR
    assert total > 4000 and equal / total >= MIN_EQUAL


def test_equal_sound_of_equal_codes(light: Runtime, wavs: list[np.ndarray]) -> None:
    codes = light.encode_batch(wavs[:8])
    lengths = [len(wav) for wav in wavs[:8]]
    exact = open_runtime("bundled", "torch", "cpu", "fp32").decode_batch(codes, lengths)
    for ours, theirs in zip(light.decode_batch(codes, lengths), exact, strict=True):
        assert np.abs(ours - theirs).max() < 1 / 32768, "less than one step of 16 bits"


def test_graphs_that_read_the_codecs_weights_compute_the_same_bits(
    light: Runtime, wavs: list[np.ndarray], tmp_path
) -> None:
    write_onnx(codec(), "bundled", tmp_path)
    whole, folder = OnnxRuntime(tmp_path), assets.codec_folder()
    for name in ("encoder.onnx", "decoder.onnx"):
        assert (folder / name).stat().st_size < 0.1 * (tmp_path / name).stat().st_size
    codes, others = light.encode_batch(wavs[:4]), whole.encode_batch(wavs[:4])
    assert all(map(np.array_equal, codes, others))
    assert all(map(np.array_equal, light.decode_batch(codes), whole.decode_batch(codes)))


def test_new_weights_in_the_folder_end_its_graphs(tmp_path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(assets.codec_folder(), folder)
    assert isinstance(open_runtime(str(folder), "auto", "cpu"), OnnxRuntime)
    changed = codec()
    with torch.no_grad():
        changed.decoder.head.output_proj.bias.add_(0.5)
    changed.save_pretrained(folder)
    assert not isinstance(open_runtime(str(folder), "auto", "cpu"), OnnxRuntime)
    assert not list(folder.glob("*.onnx"))
