"""codec/folder.py: a folder asks for what its weights hold, or it is refused before memory is taken."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.config import edit_distance
from llmcodec.codec.folder import _standard_fields, check_folder, check_foreign_folder
from llmcodec.io.tensor_file import read_arrays, write_arrays

from ..miniature import miniature_codec


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    miniature_codec().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "codec"))


def settings(folder: Path, **changes) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v != "REMOVED"}))


def tensors(folder: Path, **changes: np.ndarray | None) -> None:
    arrays, metadata = read_arrays(folder / "model.safetensors", 1 << 30)
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    write_arrays(folder / "model.safetensors", arrays, metadata)


def refused(folder: Path, said: str) -> None:
    """Refused by the check, by `LLMCodec.from_pretrained` and by `load_codec`, in one line."""
    for load in (check_folder, LLMCodec.from_pretrained, lambda place: load_codec(str(place))):
        with pytest.raises(ValueError, match=said) as failure:
            load(folder)
        assert "\n" not in str(failure.value)


def test_what_we_save_passes(folder):
    config = check_folder(folder)
    assert (config.hidden_size, config.codebook_size, config.attention_window) == (32, 64, 8)
    loaded = LLMCodec.from_pretrained(folder)
    assert torch.equal(loaded.quantizer.codebook, miniature_codec().quantizer.codebook)


@pytest.mark.parametrize("overrides", [{}, {"attention_window": None}, {"causal": True}, {"auv_floor_frames": True}])
def test_every_variant_and_precision_passes(tmp_path, overrides):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        miniature_codec(**overrides).to(dtype).save_pretrained(tmp_path)
        check_folder(tmp_path)
        LLMCodec.from_pretrained(tmp_path)


def test_settings_left_at_their_default_need_not_be_written(tmp_path):
    codec = miniature_codec(ffn_mult=4)
    codec.save_pretrained(tmp_path)
    settings(tmp_path, ffn_mult="REMOVED", hop_samples="REMOVED", n_fft="REMOVED")
    assert check_folder(tmp_path).ffn_mult == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"codebook_size": 2**31 - 1},
            r"asks for quantizer.codebook of shape \(2147483647, 8\), the weights have \(64, 8\)",
        ),
        ({"hidden_size": 2**30}, "asks for encoder.frontend.input_proj.weight|head_dim"),
        ({"n_fft": 320 * 10**6}, "asks for encoder.frontend.input_proj.weight"),
        ({"ffn_mult": 10**6}, "asks for .*up_proj"),
        ({"conv_kernel_size": 10**9 + 1}, "asks for .*depthwise_conv"),
        ({"encoder_layers": 10**9}, "asks for 1000000000 encoder layers, the weights have 1"),
        ({"decoder_layers": 2}, "asks for 2 decoder layers, the weights have 1"),
        ({"head_dim": 64}, "head_dim 64 is more than hidden_size 32"),
        ({"head_dim": 5}, "head_dim must be even and divide"),
        ({"hidden_size": 10**30}, "hidden_size cannot be"),
        ({"hidden_size": "32"}, "hidden_size cannot be '32'"),
        ({"hidden_size": 32.0}, "hidden_size cannot be 32.0|'32.0'"),
        ({"hop_samples": 0}, "hop_samples cannot be"),
        ({"causal": 1}, "causal cannot be"),
        ({"codebook_partitions": {"speech": [0, 99]}}, "partition 'speech'"),
        ({"codebook_partitions": [1]}, "codebook_partitions cannot be"),
        ({"dtype": "float8"}, "dtype cannot be 'float8'"),
        ({"dtype": ["float16"]}, "dtype cannot be"),
        ({"model_type": "encodec"}, "of type 'encodec'|EnCodec|encodec"),
        ({"hiden_size": 32}, "unknown setting 'hiden_size'; did you mean hidden_size?"),
        ({"casual": True}, "unknown setting 'casual'; did you mean causal?"),
        ({"codebook_sizes": 32}, "unknown setting 'codebook_sizes'; did you mean codebook_size?"),
        ({"sampling_rate": 16000}, "sampling_rate is called sample_rate in this file"),
        ({"transformers_weights": "other.safetensors"}, "'transformers_weights' cannot be a setting of a codec"),
        ({"attn_implementation": "somebody/kernel"}, "'attn_implementation' cannot be a setting of a codec"),
        ({"frame_rate": 50}, "'frame_rate' cannot be a setting of a codec"),
        ({"to_dict": 1}, "'to_dict' cannot be a setting of a codec"),
        ({"__class__": 1}, "'__class__' cannot be a setting of a codec"),
        ({"id2label": 3}, "id2label cannot be"),
    ],
)
def test_a_configuration_that_the_weights_do_not_bear_is_refused(folder, changes, said):
    settings(folder, **changes)
    with pytest.raises(ValueError, match=said) as failure:
        check_folder(folder)
    assert "\n" not in str(failure.value)


FOREIGN = {
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "license": "cc-by-4.0",
    "_attn_implementation_autoset": True,
}


def test_settings_of_others_are_kept_and_written_back(folder, tmp_path, recwarn):
    """transformers writes some of them itself: `LLMCodecConfig(tie_word_embeddings=False)`, saved, must load."""
    settings(folder, **FOREIGN)
    codec = LLMCodec.from_pretrained(folder)
    assert codec.config.tie_word_embeddings is False and codec.config.license == "cc-by-4.0"
    assert torch.equal(codec.quantizer.codebook, miniature_codec().quantizer.codebook), "nothing was quantised"
    codec.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: written[name] for name in FOREIGN} == FOREIGN
    assert LLMCodec.from_pretrained(tmp_path / "again").config.to_diff_dict() == codec.config.to_diff_dict()
    assert not [one for one in recwarn if "kept without effect" in str(one.message)]


def test_a_setting_that_nobody_knows_is_kept_and_named(folder, tmp_path):
    settings(folder, surprise=[1, {"deep": None}])
    with pytest.warns(
        UserWarning, match=r"config.json: kept without effect: surprise; was it made by a newer llmcodec\?"
    ):
        codec = LLMCodec.from_pretrained(folder)
    codec.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["surprise"] == [1, {"deep": None}]


def test_what_transformers_writes_is_not_taken_for_a_slip():
    for name in _standard_fields():
        LLMCodecConfig.refuse_misspelt(name, "here")
    with pytest.raises(ValueError, match="codec config: unknown setting 'hop_sample'; did you mean hop_samples"):
        LLMCodecConfig(hop_sample=480)
    assert LLMCodecConfig(sampling_rate=24000).sample_rate == 24000, "the name that transformers has for it"


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("causal", "casual", 2), ("n_fft", "n_fft", 0), ("a", "b", 1)],
)
def test_edit_distance(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance


def test_nothing_large_is_allocated_for_an_absurd_configuration(folder):
    settings(folder, codebook_size=2**31 - 1, codebook_dim=2**20, hidden_size=2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, "asks for")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_weights_that_are_missing_too_many_or_of_another_shape_are_refused(folder):
    weight = read_arrays(folder / "model.safetensors", 1 << 30)[0]["decoder.head.output_proj.weight"]
    tensors(folder, **{"decoder.head.output_proj.weight": None})
    refused(folder, "decoder.head.output_proj.weight is missing from the weights")
    tensors(folder, **{"decoder.head.output_proj.weight": weight[:, :-1]})
    refused(folder, r"output_proj.weight is F32 \(1282, 31\) in the weights, not of shape \(1282, 32\)")
    tensors(folder, **{"decoder.head.output_proj.weight": weight.astype(np.int32)})
    refused(folder, "output_proj.weight is I32")
    tensors(folder, **{"decoder.head.output_proj.weight": weight, "extra": np.zeros(3, np.float32)})
    refused(folder, "extra is unknown but in the weights")


def test_files_that_are_not_there_or_not_what_they_should_be(folder, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        check_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"config.json")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    refused(folder, "cut short or not what its header says")
    (folder / "model.safetensors").write_bytes((10 * 2**40).to_bytes(8, "little") + weights[8:])
    refused(folder, "a header of 10995116277760 bytes")
    (folder / "model.safetensors").unlink()
    refused(folder, "no model.safetensors in it")
    (folder / "codec.pt").write_bytes(b"PK")
    refused(folder, "codec.pt: pickled weights could run code")
    for text, said in (("{", "JSON|config.json cannot be read"), ("[]", "object"), ("[" * 200_000, "config.json")):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            check_folder(folder)
    (folder / "config.json").write_text(" " * (1 << 21))
    with pytest.raises(ValueError, match="too large for a configuration"):
        check_folder(folder)


def test_an_adapter_beside_the_weights_is_refused(folder):
    """transformers would put it on top of the weights that were checked."""
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "adapter_config.json in it would change the weights while they are loaded; remove it")


def test_weights_in_several_files_are_checked_together(folder):
    arrays, metadata = read_arrays(folder / "model.safetensors", 1 << 30)
    (folder / "model.safetensors").unlink()
    names = sorted(arrays)
    files = {"model-00001-of-00002.safetensors": names[:40], "model-00002-of-00002.safetensors": names[40:]}
    for file, part in files.items():
        write_arrays(folder / file, {name: arrays[name] for name in part}, metadata)
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check_folder(folder)
    for value in ("../model.safetensors", "model.bin", 3):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": value}}))
        with pytest.raises(ValueError, match="is not a safetensors file of this folder"):
            check_folder(folder)
    for text in ("{", "[]", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match="not an index of weight files"):
            check_folder(folder)


def test_other_architectures_are_checked_as_far_as_one_can(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dac", "sizes": [4, {"hidden_size": 64}]}')
    check_foreign_folder(tmp_path)  # no safetensors: nothing to compare with
    write_arrays(tmp_path / "model.safetensors", {"a": np.zeros((64, 64), np.float32)}, {})
    check_foreign_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dac", "sizes": [4, {"hidden_size": 1000000000000}]}')
    with pytest.raises(ValueError, match="contains the number 1000000000000, more than the 1048576 weights"):
        check_foreign_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "mimi", "num_hidden_layers": 1000000}')
    with pytest.raises(ValueError, match="num_hidden_layers is 1000000, but there are only 1 tensors in the weights"):
        check_foreign_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02" + bytes(100))
    with pytest.raises(ValueError, match="pickled"):
        check_foreign_folder(tmp_path)
