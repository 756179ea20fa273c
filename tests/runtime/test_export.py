"""`llmcodec export`: whole folders or nothing, the card that is there stays, what cannot be exported is named."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from llmcodec.cli.main import main
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.runtime import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("codec") / "small"
    LLMCodec(
        LLMCodecConfig(hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=64)
    ).save_pretrained(place)
    return str(place)


def test_a_hugging_face_folder_in_half_precision(folder, tmp_path, capsys):
    out = tmp_path / "published"
    assert main(["export", folder, "-o", str(out), "--precision", "fp16", "--licence", "cc-by-4.0"]) == 0
    files = ["README.md", "config.json", "digests.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(os.listdir(out)) == files
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} >= {torch.float16}
    card = (out / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "# published" in card
    assert LLMCodec.from_pretrained(out).dtype == torch.float32
    assert capsys.readouterr().out.startswith(f"{out}: README.md, config.json")
    assert os.listdir(tmp_path) == ["published"]


def test_onnx_graphs_beside_a_card(folder, tmp_path, capsys):
    pytest.importorskip("onnx")
    out = tmp_path / "graphs"
    assert main(["export", folder, "-o", str(out), "--format", "onnx"]) == 0
    files = ["README.md", "decoder.onnx", "digests.json", "encoder.onnx", "llmcodec_onnx.json"]
    assert sorted(os.listdir(out)) == files
    values = json.loads((out / "llmcodec_onnx.json").read_text())
    assert values["encoder_context"] is None and values["identity"]["codebook_size"] == 64
    assert "## This folder" in (out / "README.md").read_text()
    assert main(["export", folder, "-o", str(out), "--format", "onnx"]) == 1
    assert "is not empty" in capsys.readouterr().err
    (out / "README.md").write_text("mine")
    assert main(["export", folder, "-o", str(out), "--format", "onnx", "--overwrite"]) == 0
    assert (out / "README.md").read_text() == "mine"


def test_what_cannot_be_exported_is_named(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    load = export.load_codec
    monkeypatch.setattr(export, "load_codec", lambda name: object() if name == "facebook/encodec_24khz" else load(name))
    for arguments, message in (
        ([folder, "-o", str(tmp_path / "file")], "is a file"),
        ([folder, "-o", str(tmp_path / "x"), "--format", "onnx", "--precision", "fp16"], "graphs are float32"),
        (["facebook/encodec_24khz", "-o", str(tmp_path / "x")], "only codecs of llmcodec itself"),
    ):
        assert main(["export", *arguments]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error and len(error.splitlines()) == 1
    assert os.listdir(tmp_path) == ["file"]
