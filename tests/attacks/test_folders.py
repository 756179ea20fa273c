"""Attacks on folders that somebody sent: settings, weights, digests, ONNX. README.md lists what they found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcodec import LLMCodec
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_config import OnnxConfig

from ..miniature import miniature_codec
from .attack import accepts, refuses, wav


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two codecs of equal size, a recording."""
    place = tmp_path_factory.mktemp("made")
    for seed, name in enumerate("AB"):
        miniature_codec(seed).save_pretrained(place / name)
    wav(place / "a.wav")
    return place


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made / "A", tmp_path / "codec")


def settings(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        LLMCodec.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("sampling_rate", 8000), ("hop_length", 640)])
def test_a_feature_extractor_for_another_rate(folder, name, value):
    """Right: refused; the extractor prepared audio of 8 kHz for a codec of 16 kHz."""
    settings(folder / "preprocessor_config.json", **{name: value})
    assert f"{name} is {value}, but config.json beside it has" in refused(folder)


def test_a_setting_twice(folder):
    """Right: refused; the last one counted."""
    text = (folder / "config.json").read_text().rstrip().removesuffix("}").rstrip()
    (folder / "config.json").write_text(text + ',\n"attention_window": 4}')
    assert "the key 'attention_window' stands twice" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate": "16000"},
        {"sample_rate": 16000.5},
        {"sample_rate": True},
        {"codebook_size": 32},
        {"n_fft": 512},
        {"attention_windw": 4},
        {"attention_window": float("inf")},
        {"model_type": "dac"},
        {"dtype": "float8_e4m3fn"},
    ],
    ids=str,
)
def test_settings_that_cannot_be(folder, changes):
    """Right: one line that names config.json."""
    settings(folder / "config.json", **changes)
    assert "config.json" in refused(folder)


@pytest.mark.parametrize(
    "changes", [{"attention_window": 4}, {"head_dim": 8}, {"causal": True}, {"hop_samples": 640}], ids=str
)
def test_settings_that_fit_the_weights_and_change_the_codes(folder, changes):
    """Right: refused, or said."""
    (folder / "preprocessor_config.json").unlink()
    settings(folder / "config.json", **changes)
    refused(folder)


@pytest.mark.parametrize(("name", "value"), [("n_fft", 640), ("encoder_context", [1, 1]), ("identity", {})])
def test_sizes_of_an_exported_codec(made, tmp_path, name, value):
    """Right: refused, the setting named; the graphs do not tell contexts and windows apart."""
    codec = LLMCodec.from_pretrained(made / "A")
    write_onnx(codec, "mine", tmp_path)
    settings(tmp_path / "llmcodec_onnx.json", **{name: value})
    with pytest.raises(ValueError, match=f"{name} is not as it was saved"):
        OnnxConfig.load(tmp_path)


def weights(change: Callable[[dict[str, torch.Tensor], str], Any], digests: bool = False) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        square = "decoder.conformer.layers.0.attn.to_out.weight"
        change(tensors, square)
        save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors")
        if not digests:
            (folder / "digests.json").unlink()

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        weights(lambda t, k: t.pop(k)),
        weights(lambda t, k: t.update(extra=torch.ones(3))),
        weights(lambda t, k: t.update({k: t[k].T}), digests=True),
        weights(lambda t, k: t.update({k: t[k].to(torch.float8_e4m3fn)})),
        weights(lambda t, k: t.update({k: t[k].to(torch.int8)})),
        weights(lambda t, k: t.update({k: t[k] > 0})),
        weights(lambda t, k: t.update({k: t[k] * float("nan")})),
        lambda folder: shutil.copy(folder.parent / "B.safetensors", folder / "model.safetensors"),
        lambda folder: (folder / "digests.json").write_text("{}"),
        lambda folder: (folder / "digests.json").write_text(""),
        lambda folder: (folder / "digests.json").write_text("null"),
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
    ],
    ids=[
        "missing",
        "extra",
        "transposed",
        "fp8",
        "int8",
        "bool",
        "nan",
        "of-B",
        "digests-{}",
        "digests-empty",
        "digests-null",
        "adapter",
        "bom",
    ],
)
def test_weights_that_are_not_those(made, folder, edit):
    """Right: refused in one line."""
    shutil.copy(made / "B" / "model.safetensors", folder.parent / "B.safetensors")
    edit(folder)
    refused(folder)


def test_weights_that_overflow(made, folder, tmp_path):
    """Right: float64 weights that are infinite as float32 end in a line, not in noise."""
    weights(lambda t, k: t.update({k: t[k].double() * 1e300}))(folder)
    said = refuses("reconstruct", made / "a.wav", "-o", tmp_path / "b.wav", "--codec", folder)
    assert "to_out.weight: NaN or infinite" in said and not (tmp_path / "b.wav").exists()


def test_a_prior_of_another_codec(made, tmp_path):
    """Right: refused without digests too: it knows its codebook."""
    from ..miniature import miniature_speech

    manifest = miniature_speech(tmp_path / "speech")
    for name in "AB":
        accepts("prior", made / name, "-o", tmp_path / name, "--manifest", manifest, "--folds", 2)
    shutil.copy(tmp_path / "B" / "token_prior.safetensors", tmp_path / "A")
    (tmp_path / "A" / "digests.json").unlink()
    said = refuses("encode", made / "a.wav", "-o", tmp_path / "o", "--codec", f"search:{tmp_path / 'A'}")
    assert "the token prior of another codec" in said
