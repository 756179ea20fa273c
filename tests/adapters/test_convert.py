"""Published checkpoints become folders: by their tensors, from here and from the hub, in one line where that fails."""

import pytest
import torch
from safetensors.torch import save_file

from llmcodec.adapters.convert import convert
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.networks.s3_onnx import STRIDE
from llmcodec.cli.main import main

from .test_published import NAMES, built, published
from .tiny_codecs import noise


def checkpoint(name, tmp_path):
    """As on the hub: a pickle whose state dict lies beside what training left."""
    tensors = {one: tensor for one, tensor in published(name).items() if one != STRIDE}
    path = tmp_path / ("v1_50hz.pt" if name == "s3tokenizer_v1" else "model.ckpt")
    whole = {"state_dict": tensors} if name in ("wavtokenizer", "unicodec", "soundstream") else tensors
    torch.save(whole | {"epoch": 3}, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_becomes_a_folder_with_the_same_codec(name, tmp_path):
    codec, _ = built(name)
    said = convert(str(checkpoint(name, tmp_path)), str(tmp_path / "out"), licence="mit")
    assert f"{codec.sample_rate:,} Hz, {codec.frame_rate:g} frames a second" in said
    assert ("it has no decoder" in said) == name.startswith("s3")
    again, wav = load_codec(str(tmp_path / "out")), noise(3000)[None, None]
    assert torch.equal(again.encode(wav).audio_codes, codec.encode(wav).audio_codes)
    assert (tmp_path / "out" / "digests.json").is_file()
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


def test_from_the_command_line_and_from_the_hub(tmp_path, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    def download(repo, name):
        asked.append((repo, name))
        return str(checkpoint("wavtokenizer", tmp_path))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert main(["convert", "hf://novateur/WavTokenizer/small/a.ckpt", "-o", str(tmp_path / "out")]) == 0
    assert asked == [("novateur/WavTokenizer", "small/a.ckpt")] and "WavTokenizer, " in capsys.readouterr().out
    assert load_codec(str(tmp_path / "out")).codebook_size == 64


def one_line(path, tmp_path, **options) -> str:
    with pytest.raises(ValueError) as caught:
        convert(str(path), str(tmp_path / "none"), **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "none").exists()
    return str(caught.value)


def test_what_is_no_codec_or_not_whole(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    text = one_line(tmp_path / "other.pt", tmp_path)
    assert "none of AUV, LLM-Codec, WavTokenizer, UniCodec, SpeechTokenizer" in text and "layer.weight" in text
    tensors = published("wavtokenizer")
    lacking = {name: tensor for name, tensor in tensors.items() if "backbone.norm.scale" not in name}
    torch.save(lacking, tmp_path / "lacking.pt")
    assert "looks like WavTokenizer, but lacks weights ('backbone.norm.scale.weight')" in one_line(
        tmp_path / "lacking.pt", tmp_path
    )
    short = tensors | {"head.out.weight": tensors["head.out.weight"][:5]}
    torch.save(short, tmp_path / "short.pt")
    assert "head.out.weight is (5, 32), the sizes" in one_line(tmp_path / "short.pt", tmp_path)
    broken = tensors | {"head.out.bias": torch.full_like(tensors["head.out.bias"], float("nan"))}
    torch.save(broken, tmp_path / "broken.pt")
    assert "head.out.bias holds NaN" in one_line(tmp_path / "broken.pt", tmp_path)
    assert "no such file" in one_line(tmp_path / "absent.ckpt", tmp_path)
    torch.save(tensors, tmp_path / "sound.pt")
    assert "--key and --ceil-frames are for AUV" in one_line(tmp_path / "sound.pt", tmp_path, ceil_frames=True)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "ran",))

    torch.save(published("soundstream") | {"more": Evil()}, tmp_path / "evil.ckpt")
    assert "refused, nothing of it was executed" in one_line(tmp_path / "evil.ckpt", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_version_1_of_s3tokenizer_needs_to_be_told_its_rate(tmp_path):
    tensors = {one: tensor for one, tensor in published("s3tokenizer_v1").items() if one != STRIDE}
    save_file(tensors, tmp_path / "speech_tokenizer_v1.safetensors")
    assert "25hz or 50hz into the file's name" in one_line(tmp_path / "speech_tokenizer_v1.safetensors", tmp_path)
    save_file(tensors, tmp_path / "speech_tokenizer_v1_25hz.safetensors")
    assert "25 frames a second" in convert(str(tmp_path / "speech_tokenizer_v1_25hz.safetensors"), str(tmp_path / "s"))


def s3_graph(name, tmp_path, stride):
    """An ONNX file whose nodes are called as in the published ones. Only weights and names: it computes nothing."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    tensors = {one: tensor.numpy() for one, tensor in published(name).items() if one != STRIDE}
    nodes, stored = [], []

    def node(kind, title, *held, **attributes):
        names = [f"onnx::{title}_{number}" for number in range(len(held))]
        stored.extend(numpy_helper.from_array(value.copy(), one) for one, value in zip(names, held, strict=True))
        nodes.append(helper.make_node(kind, ["x", *names], [title], name=title, **attributes))

    for conv, step in (("conv1", stride), ("conv2", 2)):
        parts = (tensors[f"encoder.{conv}.weight"], tensors[f"encoder.{conv}.bias"])
        node("Conv", f"/{conv}/Conv", *parts, strides=[step])
    for part in ("attn/query", "attn/key", "attn/value", "attn/out", "mlp/mlp.0", "mlp/mlp.2"):
        own = "encoder.blocks.0." + part.replace("mlp/mlp", "mlp").replace("/", ".")
        node("MatMul", f"/blocks.0/{part}/MatMul", tensors[f"{own}.weight"].T)
        if f"{own}.bias" in tensors:
            node("Add", f"/blocks.0/{part}/Add", tensors[f"{own}.bias"])
    for part in ("attn_ln", "mlp_ln"):
        own = f"encoder.blocks.0.{part}"
        if name.endswith("v1"):
            node("Mul", f"/blocks.0/{part}/Mul", tensors[f"{own}.weight"])
            node("Add", f"/blocks.0/{part}/Add_1", tensors[f"{own}.bias"])
        else:
            both = (tensors[f"{own}.weight"], tensors[f"{own}.bias"])
            node("LayerNormalization", f"/blocks.0/{part}/LayerNormalization", *both)
    if name.endswith("v1"):
        stored.append(numpy_helper.from_array(tensors["encoder.positional_embedding"], "encoders.positional_embedding"))
        nodes.append(helper.make_node("Add", ["x", "encoders.positional_embedding"], ["p"], name="/Add"))
        book = tensors["quantizer._codebook.embed"]
        node("Pow", "/quantizer/rq/model/layers.0/_codebook/Pow_1", book.T)
    else:
        node("Conv", "/blocks.0/attn/fsmn_block/Conv", tensors["encoder.blocks.0.attn.fsmn_block.weight"])
        node("MatMul", "/quantizer/project_in/MatMul", tensors["quantizer._codebook.project_down.weight"].T)
        node("Add", "/quantizer/project_in/Add", tensors["quantizer._codebook.project_down.bias"])
    graph = helper.make_graph(nodes, "g", [], [], stored)
    onnx.save(helper.make_model(graph), tmp_path / "speech_tokenizer.onnx")
    return tmp_path / "speech_tokenizer.onnx"


@pytest.mark.parametrize("name", ["s3tokenizer_v1", "s3tokenizer_v2"])
def test_onnx_files_of_s3tokenizer_are_read_by_the_names_of_their_nodes(name, tmp_path):
    codec, _ = built(name)
    convert(str(s3_graph(name, tmp_path, stride=1 if name.endswith("v1") else 2)), str(tmp_path / "out"))
    wav = noise(6400)[None, None]
    assert torch.equal(load_codec(str(tmp_path / "out")).encode(wav).audio_codes, codec.encode(wav).audio_codes)


def test_the_stride_in_an_onnx_file_tells_25_from_50_hz(tmp_path):
    assert "25 frames a second" in convert(str(s3_graph("s3tokenizer_v1", tmp_path, stride=2)), str(tmp_path / "out"))
