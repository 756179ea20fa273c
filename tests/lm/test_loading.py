"""Language models load whole or not at all: full LMs, adapters, backbones, bases of a training."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcodec import assets
from llmcodec.data.manifest import read_manifest
from llmcodec.io.tensor_check import DIGESTS, inspect_tensors
from llmcodec.lm.audio_tokens import byte_tokenizer
from llmcodec.lm.backbone import BackboneConfig, FrozenCausalLM
from llmcodec.lm.bundled import load_causal_lm
from llmcodec.lm.export import export_token_lm
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.small_lm import SmallLMConfig
from llmcodec.lm.token_lm import ADAPTER, ADAPTER_WEIGHTS, AUDIO_ROWS, TokenLMCard, load_token_lm
from llmcodec.runtime.opening import open_runtime

from .small_token_lm import CODEC, NUM_CODES, causal, random_codes

Tensors = dict[str, torch.Tensor]
SMALL = SmallLMConfig(num_layers=2, hidden_size=16, num_heads=2, intermediate_size=24, dropout=0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A full LM, a LoRA adapter, and the base below it, as `lm train` writes them."""
    place = tmp_path_factory.mktemp("lms")
    full = prepare_model(LMModelConfig(base=None, train="full", small=SMALL), NUM_CODES, True)
    causal("qwen3").save_pretrained(place / "base")
    byte_tokenizer().save_pretrained(place / "base")
    lora = prepare_model(LMModelConfig(base=str(place / "base"), train="lora", lora_rank=4), NUM_CODES, True)
    with torch.no_grad():
        for number, value in enumerate(lora.module.trainable_state().values()):
            value.add_(0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
    card = TokenLMCard(codec=CODEC, formats=["audio"], base=str(place / "base"))
    full.save(place / "full", card)
    lora.save(place / "lora", card)
    return {name: place / name for name in ("full", "lora", "base")}


@pytest.fixture
def lm(folders, tmp_path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


def change(path: Path, how: Callable[[Tensors], Any], digests: bool = False) -> None:
    """Write tensors again after `how`; without the digests, as an older llmcodec left the folder."""
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path, {"format": "pt"})
    if not digests:
        (path.parent / DIGESTS).unlink(missing_ok=True)


def refused(load: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as failure:
        load()
    assert "\n" not in str(failure.value)


def drop_two(tensors: Tensors) -> None:
    for name in sorted(tensors)[-2:]:
        del tensors[name]


def keep_one(tensors: Tensors) -> None:
    for name in sorted(tensors)[1:]:
        del tensors[name]


def grow_one(tensors: Tensors) -> None:
    name = next(name for name in sorted(tensors) if tensors[name].ndim == 2)
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


def spoil_one(tensors: Tensors) -> None:
    tensors[sorted(tensors)[-1]].view(-1)[-1] = torch.nan


def flip(path: Path) -> str:
    """One bit in the middle of the file's data; returns the tensor that it is in."""
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    content = bytearray(path.read_bytes())
    part = tensors[name].contiguous().view(torch.uint8).numpy().tobytes()
    content[content.index(part) + len(part) // 2] ^= 1
    path.write_bytes(content)
    return name


def test_what_we_save_carries_digests_and_loads(folders, tmp_path):
    for name, files in (("full", ["model.safetensors"]), ("lora", [ADAPTER_WEIGHTS, AUDIO_ROWS])):
        assert set(json.loads((folders[name] / DIGESTS).read_text())["files"]) == set(files)
        scores = load_token_lm(str(folders[name])).token_log_likelihoods(random_codes(9))[0]
        assert float(scores.std()) > 0.01
    exported = export_token_lm(str(folders["lora"]), str(tmp_path / "out"))
    assert inspect_tensors(exported / "model.safetensors").has_digests


def test_a_full_lm_with_one_tensor_of_all_is_refused(lm):
    folder = lm("full")
    weights = folder / "model.safetensors"
    change(weights, keep_one)
    refused(lambda: load_token_lm(str(folder)), "num_hidden_layers is 2, but there are only 1 tensors in the weights")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight is missing from the weights"),
        (drop_two, r"is missing from the weights .*, and 1 more differ"),
        (grow_one, "is of another shape in the weights"),
        (spoil_one, "holds NaN or infinite values"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "extra is unknown to the model but in the weights"),
    ],
)
def test_every_tensor_of_a_full_lm_is_there_of_its_shape_and_finite(lm, how, said):
    folder = lm("full")
    change(folder / "model.safetensors", how)
    refused(lambda: load_token_lm(str(folder)), said)


def test_a_configuration_with_fewer_layers_than_the_weights_is_refused(lm):
    folder = lm("full")
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"num_hidden_layers": 1}))
    refused(lambda: load_token_lm(str(folder)), r"model\.layers\.1\..* is unknown to the model but in the weights")
    (folder / "config.json").write_text(json.dumps(facts | {"num_hidden_layers": 3}))
    refused(lambda: load_token_lm(str(folder)), r"model\.layers\.2\..* is missing from the weights")


def test_a_flipped_bit_names_the_tensor(lm):
    for name, file in (("full", "model.safetensors"), ("lora", ADAPTER_WEIGHTS), ("lora", AUDIO_ROWS)):
        folder = lm(name)
        tensor = flip(folder / file)
        refused(lambda place=folder: load_token_lm(str(place)), f"{file}: {tensor} differs from what was saved")
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("file", "how", "said"),
    [
        (ADAPTER_WEIGHTS, spoil_one, f"{ADAPTER_WEIGHTS}: .* holds NaN or infinite values"),
        (ADAPTER_WEIGHTS, keep_one, r"has nothing for base_model\..*, the adapter on this language model needs \("),
        (ADAPTER_WEIGHTS, grow_one, "does not fit the language model|has .* for base_model"),
        (ADAPTER_WEIGHTS, lambda tensors: tensors.update(extra=torch.zeros(2)), r"has \(2,\) for extra"),
        (AUDIO_ROWS, spoil_one, f"{AUDIO_ROWS}: input_NH holds NaN"),
        (AUDIO_ROWS, grow_one, r"audio rows: .* has \(43, 32\) for input_NH, this run needs \(42, 32\)"),
    ],
)
def test_every_tensor_of_an_adapter_is_there_of_its_shape_and_finite(lm, file, how, said):
    folder = lm("lora")
    change(folder / file, how)
    refused(lambda: load_token_lm(str(folder)), said)


def test_an_adapter_is_whole(lm):
    folder = lm("lora")
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")  # PEFT would unpickle it
    refused(lambda: load_token_lm(str(folder)), f"{ADAPTER_WEIGHTS} is missing; other formats are not read")
    (folder / ADAPTER).unlink()  # without both it would pass for an adapter that trains the rows alone
    refused(lambda: load_token_lm(str(folder)), f"the adapter is not whole: {ADAPTER_WEIGHTS} is missing")
    (folder / "adapter_model.bin").rename(folder / ADAPTER_WEIGHTS)
    refused(lambda: load_token_lm(str(folder)), f"the adapter is not whole: {ADAPTER} or")


def load_backbone(place: Path) -> Any:
    return FrozenCausalLM.from_pretrained(BackboneConfig(name=str(place), dtype="fp32"))


def load_base(place: Path) -> Any:
    return prepare_model(LMModelConfig(base=str(place), train="lora", lora_rank=2), NUM_CODES, True)


@pytest.mark.parametrize("load", [load_backbone, load_base, lambda place: load_causal_lm(str(place), torch.float32)])
def test_a_backbone_and_a_base_are_whole_finite_and_no_pickles(lm, load, caplog):
    folder = lm("base")
    weights = folder / "model.safetensors"
    with caplog.at_level(logging.WARNING, "llmcodec"):
        load(folder)
        assert not caplog.records  # somebody else's: no digests are expected
    whole = weights.read_bytes()
    for how, said in (
        (lambda tensors: tensors.pop("model.norm.weight"), r"model\.norm\.weight is missing from the weights"),
        (spoil_one, "holds NaN or infinite values"),
        (grow_one, "is of another shape in the weights"),
    ):
        change(weights, how)
        refused(lambda: load(folder), said)
        weights.write_bytes(whole)
    change(weights, lambda tensors: tensors.update(tower=torch.zeros(2)))
    with caplog.at_level(logging.WARNING, "llmcodec"):
        load(folder)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 1 and said[0].endswith("1 weights have no place in the model: left out (tower)")
    weights.unlink()
    torch.save(causal("qwen3").state_dict(), folder / "pytorch_model.bin")
    refused(lambda: load(folder), r"pytorch_model\.bin: pickled weights could run code and are not read")


def test_a_folder_of_an_older_llmcodec_loads_with_one_line(lm, caplog):
    folder = lm("lora")
    (folder / DIGESTS).unlink()
    with caplog.at_level(logging.WARNING, "llmcodec"):
        load_token_lm(str(folder))
        load_token_lm(str(folder))
    assert [f"{folder}: no digests for" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", '{"pad_token": 3}'),
        ("config.json", '{"model_type": "llama", "use_cache": "yes"}'),
        ("config.json", '{"model_type": "no such thing"}'),
    ],
)
def test_damaged_settings_and_tokenizers_are_one_line_that_names_the_folder(lm, name, text):
    folder = lm("full")
    before = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps((before if name != "tokenizer.json" else {}) | json.loads(text)))
    refused(lambda: load_token_lm(str(folder)), f"{folder}: cannot be read as a model")


def test_the_lm_of_the_package_speaks_the_tokens_of_its_codec():
    lm = load_token_lm("bundled")
    assert sum(parameter.numel() for parameter in lm.model.parameters()) < 5e6
    codec = open_runtime("bundled", "onnx")
    assert lm.card.codec is not None and lm.card.codec.weights_sha256 == codec.identity.weights_sha256
    wav = read_manifest(assets.speech_manifest("test"))[0].load(16000)
    codes = torch.from_numpy(codec.encode_batch([wav])[0])
    bits = -float(lm.token_log_likelihoods([codes[0]])[0].mean()) / math.log(2)
    assert 5 < bits < 11, "a code of 8,192 at random costs 13"
