"""Folders and the hub: what is saved, what loads it, what is published, which card stays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioTokenization,
    AutoProcessor,
)

from llmcodec import assets
from llmcodec.codec import LLMCodec, LLMCodecConfig, LLMCodecFeatureExtractor
from llmcodec.codec.model_card import model_card, write_card

from .small import small_codec

FILES = ["README.md", "config.json", "digests.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    torch.manual_seed(0)
    return LLMCodec(
        LLMCodecConfig(
            hidden_size=32,
            head_dim=16,
            encoder_layers=1,
            decoder_layers=1,
            codebook_size=64,
            sample_rate=24000,
            hop_samples=480,
            n_fft=1920,
        )
    ).eval()


@pytest.fixture
def folder(codec, tmp_path) -> Path:
    codec.save_pretrained(tmp_path / "my-codec")
    return tmp_path / "my-codec"


def test_every_auto_class_knows_a_saved_folder(codec, folder):
    assert sorted(os.listdir(folder)) == FILES
    assert type(AutoConfig.from_pretrained(folder)) is LLMCodecConfig
    for kind in (AutoModel, AutoModelForAudioTokenization):
        model = kind.from_pretrained(folder).eval()
        assert type(model) is LLMCodec
        wav = 0.1 * torch.randn(1, 1, 4800, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model.encode(wav).audio_codes, codec.encode(wav).audio_codes)
    for kind in (AutoFeatureExtractor, AutoProcessor):
        extractor = kind.from_pretrained(folder)
        assert type(extractor) is LLMCodecFeatureExtractor
        assert (extractor.sampling_rate, extractor.hop_length, extractor.feature_size) == (24000, 480, 1)
    assert codec.feature_extractor().to_dict() == extractor.to_dict()


def test_the_bundled_codec_has_its_feature_extractor():
    extractor = AutoFeatureExtractor.from_pretrained(assets.codec_folder())
    assert type(extractor) is LLMCodecFeatureExtractor and extractor.sampling_rate == 16000
    assert json.loads((assets.codec_folder() / "preprocessor_config.json").read_text())["hop_length"] == 320


def test_a_codec_of_the_hub_is_checked_as_a_folder_is(codec, folder, tmp_path):
    """The hub's own cache, as a download leaves it; offline, so nothing is asked for."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--me--codec" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (cache / "models--me--codec" / "refs").mkdir()
    (cache / "models--me--codec" / "refs" / "main").write_text("0" * 40)

    def load() -> LLMCodec:
        return LLMCodec.from_pretrained("me/codec", cache_dir=cache, local_files_only=True)

    assert torch.equal(load().quantizer.codebook, codec.quantizer.codebook)
    whole = (snapshot / "model.safetensors").read_bytes()
    (snapshot / "model.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ValueError, match="model.safetensors: .* differs from what was saved"):
        load()
    (snapshot / "digests.json").unlink()
    load()  # as published by llmcodec 0.1


def front_matter(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_can_be_read_off_the_model(codec, folder):
    text = (folder / "README.md").read_text()
    head = front_matter(text)
    assert head["license"] == "unknown" and head["library_name"] == "llmcodec" and "audio-codec" in head["tags"]
    assert huggingface_hub.ModelCard(text).data.license == "unknown"
    for said in ("# my-codec", "24,000 Hz", "50 tokens per second", "480 samples", "64 codes", "300 bit/s", "width 32"):
        assert said in text, said
    assert "the whole clip" in text and 'AutoModel.from_pretrained("my-codec", trust_remote_code=False)' in text
    assert "Not stated yet" in text and "llmcodec compare" in text
    licensed = codec.card("me/codec", "cc-by-4.0", "| Mel | 0.7 |\n\nby `llmcodec compare`")
    assert front_matter(licensed)["license"] == "cc-by-4.0" and "Weights: cc-by-4.0." in licensed
    assert "| Mel | 0.7 |" in licensed and "None stated" not in licensed
    tiny = model_card(LLMCodecConfig.tiny(), "x")
    assert "32 frames to each side per layer" in tiny and "600 bit/s" in tiny and "not counted" in tiny
    assert "64 frames back" in model_card(LLMCodecConfig.causal_tiny(), "x")


def test_the_usage_in_the_card_runs(folder):
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {"wav": torch.randn(4410).mul(0.1).numpy(), "rate": 44100}
    exec(code.replace('"my-codec"', repr(str(folder))), names)
    assert names["codes"].shape == (1, 1, 5) and names["audio"].shape == (1, 1, 2400)


def test_a_card_that_is_there_stays(codec, folder):
    (folder / "README.md").write_text("mine")
    codec.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    codec.save_pretrained(folder, card="asked")
    assert (folder / "README.md").read_text() == "asked"
    codec.save_pretrained(folder.parent / "run1" / "codec")
    assert "# run1/codec" in (folder.parent / "run1" / "codec" / "README.md").read_text()
    assert not write_card(folder, "other") and write_card(folder, "other", replace=True)
    assert sorted(os.listdir(folder)) == FILES


def test_other_ranks_write_nothing_and_a_file_is_refused(codec, tmp_path):
    codec.save_pretrained(tmp_path / "rank1", is_main_process=False)
    assert not list((tmp_path / "rank1").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; name a folder"):
        codec.save_pretrained(tmp_path / "file")


class FakeHub:
    """Stands for HfApi: keeps repositories as folders and what was asked of it as a list."""

    def __init__(self, place: Path):
        self.place, self.calls = place, []

    def __call__(self, token=None):
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))
        full = repo_id if "/" in repo_id else f"me/{repo_id}"
        (self.place / full).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=full)

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("create_branch", repo_id, branch, exist_ok))

    def file_exists(self, repo_id, filename, *, revision=None):
        return (self.place / repo_id / filename).exists()

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, **options):
        self.calls.append(("upload_folder", repo_id, options))
        for path in Path(folder_path).iterdir():
            if path.name not in (ignore_patterns or []):
                shutil.copy(path, self.place / repo_id / path.name)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def test_publishing_is_one_commit_with_our_card(codec, hub):
    made = codec.push_to_hub("codec", private=True, token="secret", revision="v1", commit_message="first")
    assert made.commit_url == "https://hub/me/codec/commit/1"
    assert hub.calls == [
        ("token", "secret"),
        ("create_repo", "codec", {"private": True, "exist_ok": True}),
        ("create_branch", "me/codec", "v1", True),
        (
            "upload_folder",
            "me/codec",
            {"commit_message": "first", "commit_description": None, "revision": "v1", "create_pr": False},
        ),
    ]
    published = hub.place / "me" / "codec"
    assert sorted(os.listdir(published)) == FILES
    assert "# me/codec" in (published / "README.md").read_text()


def test_a_card_on_the_hub_stays_unless_one_is_given(codec, hub, tmp_path):
    card = hub.place / "me" / "codec" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("written by hand")
    codec.push_to_hub("me/codec")
    assert card.read_text() == "written by hand" and sorted(os.listdir(card.parent)) == FILES
    codec.push_to_hub("me/codec", card="new card")
    assert card.read_text() == "new card"
    codec.save_pretrained(tmp_path / "local", push_to_hub=True, repo_id="me/other", private=True)
    assert sorted(os.listdir(hub.place / "me" / "other")) == sorted(os.listdir(tmp_path / "local")) == FILES
    assert "# me/other" in (hub.place / "me" / "other" / "README.md").read_text()


LOAD = """
import sys
import llmcodec.codec
from transformers import AutoFeatureExtractor, AutoModel
codec = AutoModel.from_pretrained({name!r}).eval()
feature_extractor = AutoFeatureExtractor.from_pretrained({name!r})
inputs = feature_extractor(raw_audio=[[0.1, -0.2] * 3000, [0.3] * 100], sampling_rate=24000, return_tensors="pt")
encoded = codec.encode(**inputs)
print(encoded.audio_codes.tolist())
optional = ("pesq", "datasets", "onnx", "onnxruntime", "peft", "librosa", "einops", "matplotlib", "accelerate")
print([name for name in optional if name in sys.modules and name != "accelerate"])
"""


def test_a_published_codec_loads_by_its_hub_id_in_a_fresh_process(codec, hub, tmp_path):
    """The hub's cache is laid out as a download would; the process is offline and has transformers and llmcodec."""
    codec.push_to_hub("me/codec")
    repository = tmp_path / "home" / "hub" / "models--me--codec"
    commit = "0" * 40
    shutil.copytree(hub.place / "me" / "codec", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(name="me/codec")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes, loaded = done.stdout.strip().splitlines()
    extractor = codec.feature_extractor()
    inputs = extractor(raw_audio=[[0.1, -0.2] * 3000, [0.3] * 100], sampling_rate=24000, return_tensors="pt")
    assert json.loads(codes) == codec.encode(**inputs).audio_codes.tolist()
    assert loaded == "[]"


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_precision_asked_for_is_the_one_given(tmp_path, name):
    codec = small_codec()
    codec.save_pretrained(tmp_path)
    assert LLMCodec.from_pretrained(tmp_path, **{name: torch.float16}).dtype == torch.float16
    assert LLMCodec.from_pretrained(tmp_path).dtype == torch.float32
    assert AutoModel.from_pretrained(tmp_path, **{name: "bfloat16"}).dtype == torch.bfloat16
    assert LLMCodec.from_pretrained(tmp_path, dtype=None, torch_dtype="float16").dtype == torch.float16


def broken(codec: LLMCodec) -> LLMCodec:
    """Weights that no drawing gives."""
    with torch.no_grad():
        for value in codec.state_dict().values():
            value.fill_(1234)
    return codec


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_what_does_not_fit_is_drawn_and_the_rest_stays(tmp_path, low_cpu_mem_usage):
    broken(small_codec()).save_pretrained(tmp_path)
    torch.empty(1 << 20).fill_(7e30)  # memory that comes back dirty
    sizes = dict(codebook_dim=16, conv_kernel_size=7)
    loaded = LLMCodec.from_pretrained(
        tmp_path, ignore_mismatched_sizes=True, low_cpu_mem_usage=low_cpu_mem_usage, **sizes
    )
    before, drawn = small_codec().state_dict(), []
    for name, value in loaded.state_dict().items():
        if value.shape == before[name].shape:
            assert bool((value == 1234).all()), name
        else:
            drawn.append(name.rpartition(".")[2] if "quantizer" in name else name)
            like = LLMCodec(loaded.config).state_dict()[name]
            spread = float(like.std(correction=0))
            assert float(value.mean()) == pytest.approx(float(like.mean()), abs=6 * spread / value.numel() ** 0.5)
            assert float(value.std(correction=0)) == pytest.approx(spread, rel=0.5)
    assert {"codebook", "direction", "magnitude", "bias"} < set(drawn) and any("depthwise" in name for name in drawn)


def test_a_codec_from_the_meta_device_is_drawn():
    with torch.device("meta"):
        codec = LLMCodec(small_codec().config)
    codec = broken(codec.to_empty(device="cpu"))
    torch.manual_seed(7)
    codec.init_weights()
    torch.manual_seed(7)
    like = LLMCodec(codec.config).state_dict()
    for name, value in codec.state_dict().items():
        assert torch.equal(value, like[name]), name
    codec.eval()
    with torch.device("meta"):
        empty = LLMCodec(codec.config)
    empty.load_state_dict(codec.state_dict(), assign=True)
    wav = torch.randn(1, 1, 3200)
    assert torch.equal(empty.eval().encode(wav).audio_codes, codec.encode(wav).audio_codes)
