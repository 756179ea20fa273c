"""Codecs by name: folders, hub ids, numbers of codebooks, and one clear line for everything that is wrong."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from llmcodec.adapters import load
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.registry import FAMILIES, WEIGHTLESS, family_of
from llmcodec.assets import codec_folder
from llmcodec.codec import LLMCodec

from .tiny_codecs import TINY, noise, tiny_codec

SAVED = [name for name in TINY if hasattr(tiny_codec(name).model, "save_pretrained")]
"""Those whose folders transformers writes."""


def test_bundled_and_folders_of_our_own(tmp_path):
    codec = load_codec("bundled")
    assert isinstance(codec, LLMCodec) and not codec.training
    run = tmp_path / "run"
    shutil.copytree(codec_folder(), run / "codec")
    wav = noise(4000)[None, None]
    for place in (run, run / "codec", f"{run}:1"):
        assert torch.equal(load_codec(str(place)).encode(wav).audio_codes, codec.encode(wav).audio_codes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders as transformers and the package `snac` write them."""
    root = tmp_path_factory.mktemp("saved")
    for name in SAVED:
        tiny_codec(name).model.save_pretrained(root / name)
    snac = root / "snac"
    snac.mkdir()
    (snac / "config.json").write_text(json.dumps(TINY["snac"][1]))
    torch.save(tiny_codec("snac").model.state_dict(), snac / "pytorch_model.bin")
    return root


@pytest.mark.parametrize("name", [*SAVED, "snac"])
def test_a_folder_gives_the_codec_it_was_saved_from(saved, name):
    codec, original = load_codec(str(saved / name)), tiny_codec(name)
    assert type(codec) is type(original) and not codec.training
    wav = noise(12 * codec.hop_samples, sample_rate=codec.sample_rate)[None, None]
    codes = codec.encode(wav).audio_codes
    assert torch.equal(codes, original.encode(wav).audio_codes)
    assert torch.equal(codec.decode(codes).audio_values, original.decode(codes).audio_values)


def test_checkpoints_with_the_names_of_the_published_ones(saved, tmp_path):
    """The files on the hub are older than the names that PyTorch gives to weight norm today."""
    weights = broken(saved, tmp_path, "encodec") / "model.safetensors"
    tensors = load_file(weights)
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in tensors.items()
    }
    assert set(old) != set(tensors)
    save_file(old, weights, metadata={"format": "pt"})
    wav = noise(2000)[None, None]
    codec = load_codec(str(weights.parent))
    assert torch.equal(codec.encode(wav).audio_codes, tiny_codec("encodec").encode(wav).audio_codes)


def test_the_number_of_codebooks_by_name_and_by_argument(saved):
    place = str(saved / "mimi")
    assert load_codec(place).num_codebooks == 8
    assert load_codec(f"{place}:3").num_codebooks == load_codec(place, num_codebooks=3).num_codebooks == 3
    assert load_codec(f"{place}:3", num_codebooks=3).num_codebooks == 3
    with pytest.raises(ValueError, match="num_codebooks=4 contradicts the name"):
        load_codec(f"{place}:3", num_codebooks=4)
    with pytest.raises(ValueError, match="Mimi here has 1 to 12 codebooks: 13 cannot be used"):
        load_codec(f"{place}:13")
    with pytest.raises(ValueError, match="LLMCodec here has 1 codebooks: 2 cannot be used"):
        load_codec("bundled:2")


def test_a_folder_whose_name_ends_like_a_number_of_codebooks(saved, tmp_path):
    shutil.copytree(saved / "mimi", tmp_path / "mimi:3")
    assert load_codec(str(tmp_path / "mimi:3")).num_codebooks == 8
    assert load_codec(f"{tmp_path}/mimi:3:2").num_codebooks == 2


def test_families_by_model_type_and_by_keys():
    assert family_of({"model_type": "dac"}) == "dac" and family_of({"model_type": "bert", "vq_strides": [1]}) is None
    assert family_of(TINY["snac"][1]) == "snac" and family_of({"ngf": 48, "vq_num_quantizers": 1}) == "bigcodec"
    assert family_of({}) is None


def one_line(run) -> str:
    with pytest.raises(ValueError) as caught:
        run()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def test_names_that_mean_nothing_are_answered_with_what_is_supported():
    text = one_line(lambda: load_codec("qqqq"))
    assert text.startswith(
        f"no codec 'qqqq': give {', '.join(['bundled', 'causal_base', *WEIGHTLESS])}, a folder, a Hugging Face id"
    )
    for name in ("EnCodec", "DAC", "Mimi", "X-codec", "xcodec2", "NeuCodec", "SNAC", "BigCodec", "AUV", "UniCodec"):
        assert name in text
    assert "pip install 'llmcodec[snac]'" in text


def test_files_and_folders_that_are_no_codec(saved, tmp_path):
    (tmp_path / "auv.pt").write_bytes(b"x")
    assert "llmcodec convert" in one_line(lambda: load_codec(str(tmp_path / "auv.pt")))
    (tmp_path / "a.wav").write_bytes(b"x")
    assert "a file, not a folder" in one_line(lambda: load_codec(str(tmp_path / "a.wav")))
    assert "has no config.json, nor has a folder codec/" in one_line(lambda: load_codec(str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    assert "config.json cannot be read" in one_line(lambda: load_codec(str(tmp_path)))
    (tmp_path / "config.json").write_text("[]")
    assert "not a JSON object" in one_line(lambda: load_codec(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "a model of type 'bert'; supported: LLMCodec, EnCodec" in one_line(lambda: load_codec(str(tmp_path)))
    assert "there is no such file" in one_line(lambda: load_codec(f"auv:{tmp_path}/none.pt"))


def broken(saved: Path, tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(saved / name, tmp_path / "broken"))


def test_weights_that_are_cut_missing_or_of_another_model(saved, tmp_path):
    folder = broken(saved, tmp_path, "dac")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in one_line(lambda: load_codec(str(folder)))
    weights.unlink()
    assert "cannot be read" in one_line(lambda: load_codec(str(folder)))
    shutil.copy(saved / "mimi" / "model.safetensors", weights)
    assert "tensors, such as" in one_line(lambda: load_codec(str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_codebooks": "many"}))
    assert "cannot be read" in one_line(lambda: load_codec(str(folder)))


@pytest.mark.parametrize(
    ("name", "lost"), [("encodec", "embed"), ("mimi", "embed_sum"), ("mimi", "cluster_usage"), ("xcodec", "embed")]
)
def test_codebooks_that_are_missing_are_refused_though_they_are_buffers(saved, tmp_path, name, lost):
    weights = broken(saved, tmp_path, name) / "model.safetensors"
    tensors = load_file(weights)
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(f".{lost}")}
    assert len(kept) < len(tensors)
    save_file(kept, weights, metadata={"format": "pt"})
    text = one_line(lambda: load_codec(str(weights.parent)))
    assert f"lack {len(tensors) - len(kept)} tensors, such as " in text and f".{lost}: no " in text


@pytest.mark.parametrize("name", ["encodec", "mimi", "xcodec"])
def test_what_only_training_reads_may_be_missing(saved, tmp_path, name):
    weights = broken(saved, tmp_path, name) / "model.safetensors"
    spare = (".inited", ".initialized", ".cluster_size", ".embed_avg", ".masked_spec_embed")
    tensors = load_file(weights)
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(spare)}
    assert len(kept) < len(tensors)
    save_file(kept, weights, metadata={"format": "pt"})
    codec, original = load_codec(str(weights.parent)), tiny_codec(name)
    wav = noise(12 * codec.hop_samples)[None, None]
    assert torch.equal(codec.encode(wav).audio_codes, original.encode(wav).audio_codes)


def test_a_pickle_that_would_run_code_is_refused(saved, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = broken(saved, tmp_path, "snac")
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    one_line(lambda: load_codec(str(folder)))
    pytest.importorskip("auv")
    torch.save({"auv": Evil()}, tmp_path / "auv.pt")
    one_line(lambda: load_codec(f"auv:{tmp_path}/auv.pt"))
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_is_named_with_how_to_install_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "snac", None)
    text = one_line(lambda: load_codec(str(saved / "snac")))
    assert "needs the package snac: pip install 'llmcodec[snac]'" in text
    text = one_line(lambda: load_codec("random:snac_24khz"))
    assert "pip install 'llmcodec[snac]'" in text
    monkeypatch.setitem(sys.modules, "auv", None)
    monkeypatch.setitem(sys.modules, "auv.model", None)
    assert "pip install --no-deps auv einops" in one_line(lambda: load_codec("random:auv"))


def test_a_transformers_without_the_model_is_named(saved, monkeypatch):
    import transformers

    monkeypatch.delattr(transformers, "NeuCodecModel", raising=False)
    monkeypatch.setattr(transformers.utils.import_utils._LazyModule, "__getattr__", object.__getattribute__)
    text = one_line(lambda: load_codec(str(saved / "neucodec")))
    assert "pip install -U transformers" in text


def hub_error(kind: type[errors.HfHubHTTPError], text: str = "no") -> errors.HfHubHTTPError:
    """Without the HTTP library's response, which differs between versions of huggingface_hub."""
    error = kind.__new__(kind, text)
    error.args = (text,)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error(errors.GatedRepoError), "grants access on request"),
        (hub_error(errors.RepositoryNotFoundError), "no such repository"),
        (hub_error(errors.RemoteEntryNotFoundError), "has no config.json"),
        (errors.LocalEntryNotFoundError("no"), "hub cannot be reached"),
        (hub_error(errors.HfHubHTTPError, "very\nbad"), r"did not answer well \(very bad"),
    ],
)
def test_a_hub_that_says_no_is_one_line(monkeypatch, error, message):
    import huggingface_hub

    def refuse(*_arguments, **_options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ValueError, match=f"^codec facebook/encodec_24khz: .*{message}"):
        load_codec("facebook/encodec_24khz:4")


def test_from_the_hub_only_what_is_needed_is_fetched(saved, monkeypatch):
    import huggingface_hub

    asked: list[tuple[str, ...]] = []

    def snapshot(repo, allow_patterns):
        asked.append(tuple(allow_patterns))
        return str(saved / repo.partition("/")[2])

    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, name: str(saved / repo.partition("/")[2] / name)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_codec("someone/mimi:4").num_codebooks == 4
    assert load_codec("someone/snac").num_codebooks == 7
    assert asked == [load.FILES, (*load.FILES, "pytorch_model.bin")]


def test_what_came_with_a_codec_from_the_hub_goes_with_the_adapted_one(saved, monkeypatch, tmp_path):
    import huggingface_hub

    repository = tmp_path / "repository"
    shutil.copytree(saved / "mimi", repository)
    (repository / "preprocessor_config.json").write_text("{}")

    def snapshot(repo, allow_patterns):
        kept = huggingface_hub.utils.filter_repo_objects(os.listdir(repository), allow_patterns=allow_patterns)
        (place := tmp_path / "snapshot").mkdir()
        for name in kept:
            shutil.copy(repository / name, place)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(repository / name))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    load_codec("someone/mimi").save_pretrained(tmp_path / "adapted")
    assert (tmp_path / "adapted" / "preprocessor_config.json").read_text() == "{}"


def test_auv_from_the_hub_is_one_file(monkeypatch, tmp_path):
    import huggingface_hub

    (tmp_path / "auv.pt").write_bytes(b"x")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(tmp_path / name))
    monkeypatch.setattr(load, "FAMILIES", {"auv": replace(FAMILIES["auv"], load=lambda _path: tiny_codec("auv").model)})
    assert load_codec("auv:SWivid/AUV").codebook_size == 64


def test_every_family_has_a_name_in_the_message_and_those_with_weights_a_preset():
    from llmcodec.adapters.random_weights import PRESETS

    assert {family for family, _ in PRESETS.values()} == set(FAMILIES) - set(WEIGHTLESS)
    squeezed = load.supported().lower().replace("-", "").replace(" ", "_")
    assert all(name in squeezed for name in FAMILIES)


def test_a_family_without_weights_is_loaded_by_its_name(monkeypatch):
    family = replace(FAMILIES["dac"], title="plain", load=None, build=lambda: FAMILIES["dac"].build(**TINY["dac"][1]))
    monkeypatch.setattr(load, "WEIGHTLESS", {"plain": family})
    codec = load_codec("plain")
    assert type(codec).__name__ == "DacCodec" and not codec.training
    with pytest.raises(ValueError, match="give bundled, causal_base, plain, a folder"):
        load_codec("plane")
