"""CLAP: its vectors are those of its authors' extractor and model; long clips are heard to their end."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, ClapModel

from llmcodec.adapters.features.clap import ClapEncoder
from llmcodec.io.audio import resample

from ..miniature import miniature_teacher
from ..speech import speech_like


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return miniature_teacher(tmp_path_factory.mktemp("clap") / "clap", "clap")


def called_directly(folder, wav_S: np.ndarray) -> torch.Tensor:
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    model = ClapModel.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        found = model.get_audio_features(**extractor(wav_S, sampling_rate=48_000, return_tensors="pt"))
    vector = getattr(found, "pooler_output", found)[0]
    return vector / vector.norm()


def test_vectors_are_those_of_the_model_called_directly(folder):
    clap, wav_S = ClapEncoder(str(folder)), speech_like(1.5, 0)
    at_48k = resample(wav_S, 16_000, 48_000)
    torch.testing.assert_close(clap.embed(wav_S, 16_000), called_directly(folder, at_48k))
    other = speech_like(1.5, 4)[::-1].copy() * 0.1
    cosine = float(called_directly(folder, at_48k) @ called_directly(folder, resample(other, 16_000, 48_000)))
    assert clap.similarity(wav_S, other, 16_000) == pytest.approx(cosine, abs=1e-5) and cosine < 0.9999
    assert clap.similarity(wav_S, wav_S, 16_000) == pytest.approx(1)


def test_a_long_clip_is_the_mean_of_its_parts(folder):
    clap = ClapEncoder(str(folder))
    parts = [np.tile(speech_like(2.0, seed), 15)[: 48_000 * seconds] for seed, seconds in ((1, 10), (2, 5))]
    vectors = [called_directly(folder, part) for part in parts]
    norms = []
    for part, vector in zip(parts, vectors, strict=True):
        assert torch.allclose(clap.embed(part, 48_000), vector, atol=1e-5)
        norms.append(vector)
    whole = clap.embed(np.concatenate(parts), 48_000)
    expected = torch.nn.functional.normalize(2 * norms[0] + norms[1], dim=0)
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=0)


def test_bad_places_are_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match=r"^CLAP no/such/where: "):
        ClapEncoder("no/such/where")
    with pytest.raises(ValueError, match="a model of type 'wav2vec2', not 'clap'"):
        ClapEncoder(str(miniature_teacher(tmp_path / "other")))
    weights = load_file(folder / "model.safetensors")
    bad = tmp_path / "bad"
    bad.mkdir()
    for path in folder.iterdir():
        (bad / path.name).write_bytes(path.read_bytes())
    name = "audio_projection.linear1.weight"
    save_file(weights | {name: weights[name][:, :-1].contiguous()}, bad / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"{name} is \(12, \d+\), its configuration needs \(12, \d+\)"):
        ClapEncoder(str(bad))
    name = "audio_model.audio_encoder.batch_norm.running_mean"
    del weights[name]
    save_file(weights, bad / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"the weights lack 1 tensors, such as {name}"):
        ClapEncoder(str(bad))


def test_a_checkpoint_may_lack_what_the_model_fills_in_by_itself(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "less")
    weights = load_file(place / "model.safetensors")
    constant = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
    kept = {key: value for key, value in weights.items() if not key.endswith(constant)}
    assert len(kept) < len(weights)
    save_file(kept, place / "model.safetensors", {"format": "pt"})
    wav_S = speech_like(1.5, 0)
    assert torch.equal(ClapEncoder(str(place)).embed(wav_S, 48_000), ClapEncoder(str(folder)).embed(wav_S, 48_000))
