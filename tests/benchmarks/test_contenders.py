"""benchmarks/contenders.py: every way keeps the codec's interface, and rows are compared at equal precision."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import contenders

from llmcodec import LLMCodec, LLMCodecConfig
from llmcodec.adapters.random_weights import random_codec


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=64)
    return LLMCodec(LLMCodecConfig(**sizes)).eval()


def test_rows_of_ours_are_compared_with_auv_in_the_same_precision():
    assert {
        name: contenders.matched(name) for name in ("ours/fp32", "ours/int8", "bundled/onnx-int8", "ours/bf16")
    } == {
        "ours/fp32": "auv",
        "ours/int8": "auv/int8",
        "bundled/onnx-int8": "auv/int8",
        "ours/bf16": "auv/bf16",
    }
    assert contenders.matched("mimi/loop") == "" and contenders.reference("mimi/loop") == "mimi"
    assert contenders.reference("bundled/int8") == "bundled/plain" and contenders.reference("auv/bf16") == "auv"
    assert all(contenders.matched(name) in ("", *contenders.DEFAULT) for name in contenders.DEFAULT)


@pytest.mark.parametrize("way", ["bf16", "int8", "loop"])
def test_ways_of_peers_code_batches_and_differ_as_they_should(way):
    pytest.importorskip("auv")
    torch.manual_seed(0)
    codec = random_codec("auv", dict(hidden_size=64, encoder_layers=1, decoder_layers=1, codebook_size=64)).eval()
    wav = torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = codec.encode(wav).audio_codes
        wanted = codec.decode(codes).audio_values
        other = contenders.in_a_way(codec, way, "cpu")
        got, made = other.encode(wav).audio_codes, other.decode(codes).audio_values
    assert got.shape == codes.shape and made.shape == wanted.shape and other.sample_rate == 16_000
    if way == "loop":
        assert torch.equal(got, codes) and torch.allclose(made, wanted, atol=1e-5)
    else:
        error = 10 * torch.log10(wanted.square().sum() / (made.float() - wanted).square().sum())
        assert 10 < error < 70, "a low precision that is not low, or a broken one"
    with pytest.raises(ValueError, match="no way 'int4'"):
        contenders.in_a_way(codec, "int4", "cpu")


def test_onnx_runtime_behind_the_codecs_interface(codec):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    wav = torch.randn(2, 1, 3200, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        codes = codec.encode(wav).audio_codes
        wanted = codec.decode(codes).audio_values
    for precision, low in (("fp32", 90), ("int8", 15)):
        other = contenders.ByOnnx(codec, precision)
        assert (other.encode(wav).audio_codes == codes).float().mean() > 0.7 and other.frame_rate == 50
        error = other.decode(codes).audio_values - wanted
        assert low < 10 * torch.log10(wanted.square().sum() / error.square().sum()) < (200 if low == 90 else 70)


def test_who_cannot_run_here_is_said(monkeypatch, capsys):
    import codec_speed

    monkeypatch.setitem(sys.modules, "rustymimi", None)
    with codec_speed.left_out("rustymimi"):
        contenders.open_contender("rustymimi", "cpu")
    assert "left out: rustymimi (ModuleNotFoundError" in capsys.readouterr().out
    assert "rustymimi" in codec_speed.LEFT_OUT
