"""`llmcodec export`: whole folders or nothing, the card that is there stays, what cannot be exported is named."""

import json
import os
import re

import numpy as np
import pytest
import soundfile
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
    files = ["README.md", "decoder.int8.onnx", "decoder.onnx", "digests.json", "encoder.onnx", "llmcodec_onnx.json"]
    assert sorted(os.listdir(out)) == files
    values = json.loads((out / "llmcodec_onnx.json").read_text())
    assert values["encoder_context"] is None and values["identity"]["codebook_size"] == 64
    card = (out / "README.md").read_text()
    assert "ONNX graphs in float32" in card and "`decoder.int8.onnx` replaces `decoder.onnx`" in card
    assert "encoder.int8.onnx" not in card
    assert main(["export", folder, "-o", str(out), "--format", "onnx"]) == 1
    assert "is not empty" in capsys.readouterr().err
    (out / "README.md").write_text("mine")
    assert main(["export", folder, "-o", str(out), "--format", "onnx", "--overwrite"]) == 0
    assert (out / "README.md").read_text() == "mine"


@pytest.mark.parametrize(("floor", "lengths"), [(False, (1, 320, 5001)), (True, (960, 5001))])
def test_the_lines_on_the_onnx_card_run_and_give_the_codes_of_the_codec(floor, lengths, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    torch.manual_seed(1)
    sizes = dict(hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=64)
    codec = LLMCodec(LLMCodecConfig(**sizes, auv_floor_frames=floor)).eval()
    codec.save_pretrained(tmp_path / "codec")
    assert main(["export", str(tmp_path / "codec"), "-o", str(tmp_path / "graphs"), "--format", "onnx"]) == 0
    card = (tmp_path / "graphs" / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert "from_pretrained" not in card and "torch" not in lines
    monkeypatch.chdir(tmp_path / "graphs")
    for samples in lengths:
        wav = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))
        soundfile.write("speech.wav", wav.numpy(), 16000, subtype="FLOAT")
        names = {}
        exec(lines, names)
        want = codec.encode(wav[None, None]).audio_codes
        assert np.array_equal(names["codes"], want.numpy())
        audio, rate = soundfile.read("again.wav")
        expected = codec.decode(want).audio_values[0, 0, :samples]
        assert rate == 16000
        np.testing.assert_allclose(audio, expected.numpy().clip(-1, 1), rtol=0, atol=1e-4)
    soundfile.write("speech.wav", np.zeros((400, 2)), 16000)
    with pytest.raises(AssertionError, match="mono"):
        exec(lines, {})


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
