"""runtime/opening.py: names without machine paths, devices that are there, precisions that a runtime has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcodec.adapters import load
from llmcodec.runtime import opening
from llmcodec.runtime.onnx_config import CONFIG
from llmcodec.runtime.opening import codec_title, may_have_gpu, open_runtime, pick_device, runs_light
from llmcodec.runtime.torch_runtime import weights_sha256

from ..miniature import miniature_codec
from ..pcm import speech_like


def test_a_name_for_people_holds_no_path_of_the_machine(tmp_path):
    (tmp_path / "rate" / "codec").mkdir(parents=True)
    assert codec_title(str(tmp_path / "rate" / "codec")) == "rate/codec"
    assert codec_title("facebook/encodec_24khz") == "facebook/encodec_24khz" and codec_title("bundled") == "bundled"


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    for name in ("cuda", "cuda:1", "mps", "tpu", "cpu:x", ""):
        with pytest.raises(ValueError, match="is not there; this machine has cpu$"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == "cuda" and pick_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="this machine has cpu, cuda:0, cuda:1"):
        pick_device("cuda:2")


def test_every_precision_is_the_same_codec_by_its_hash(tmp_path):
    codec = miniature_codec()
    codec.save_pretrained(tmp_path / "run" / "codec")
    wav = speech_like(16000)
    exact = open_runtime(str(tmp_path / "run" / "codec"), device="cpu", precision="fp32")
    with torch.no_grad():
        plain = codec.eval().encode(torch.from_numpy(wav)[None, None]).audio_codes[0].numpy()
    assert (exact.encode_batch([wav])[0] == plain).mean() > 0.97
    for precision in ("auto", "bf16"):
        opened = open_runtime(str(tmp_path / "run" / "codec"), device="cpu", precision=precision)
        assert opened.identity == exact.identity and opened.identity.codec == "run/codec"
        assert opened.identity.weights_sha256 == weights_sha256(codec)
        assert np.isfinite(opened.decode_batch([plain], [16000])[0]).all()


def test_what_a_runtime_cannot_do_is_said(tmp_path):
    with pytest.raises(ValueError, match="runs on the CPU"):
        open_runtime("x", "onnx", device="cuda")
    with pytest.raises(ValueError, match="no precision 'int16': choose auto, fp32 or int8"):
        open_runtime("x", "onnx", precision="int16")
    with pytest.raises(ValueError, match="nowhere"):
        open_runtime(str(tmp_path / "nowhere"), device="cpu")


def test_auto_takes_the_graphs_where_no_gpu_may_be(monkeypatch, tmp_path):
    folder = str(tmp_path)
    (tmp_path / CONFIG).write_text("{}")
    monkeypatch.setattr(opening, "may_have_gpu", lambda: False)
    assert runs_light("bundled") and runs_light(folder) and runs_light("bundled", "cpu", "fp32")
    for codec, device, precision in (
        ("bundled", "cuda", "auto"),
        ("bundled", "auto", "int8"),
        ("search:bundled", "auto", "auto"),
        ("facebook/encodec_24khz", "auto", "auto"),
        (str(tmp_path / "elsewhere"), "auto", "auto"),
    ):
        assert not runs_light(codec, device, precision)
    monkeypatch.setattr(opening, "may_have_gpu", lambda: True)
    assert not runs_light("bundled") and runs_light("bundled", "cpu")
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == "torch" else name)
    assert runs_light("bundled"), "without torch nothing could use the GPU"
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    assert not runs_light("bundled", "cpu"), "nothing to run graphs with"


def test_a_gpu_is_looked_for_without_torch(monkeypatch):
    monkeypatch.setattr(opening.sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(opening.os.path, "exists", lambda place: place == "/dev/nvidiactl")
    assert may_have_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not may_have_gpu()
    monkeypatch.setattr(opening.sys, "platform", "darwin")
    for machine, expected in (("arm64", True), ("x86_64", False)):
        monkeypatch.setattr(opening.platform, "machine", lambda name=machine: name)
        assert may_have_gpu() is expected


class Other(torch.nn.Module):
    """A codec that is not ours."""

    sample_rate, hop_samples, frame_rate, num_codebooks, codebook_size = 16000, 100, 160.0, 2, 16


def test_only_our_own_codec_has_precisions(monkeypatch):
    monkeypatch.setattr(load, "load_codec", lambda name, device: Other())
    assert open_runtime("their/codec", device="cpu").identity.codebook_size == 16
    with pytest.raises(ValueError, match="own codecs; their/codec runs in fp32"):
        open_runtime("their/codec", device="cpu", precision="bf16")
