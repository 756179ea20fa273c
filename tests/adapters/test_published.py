"""Networks that are written again here: equal to their own projects' code on made-up weights (tests/golden)."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcodec.adapters import s3tokenizer
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.networks.folder import CONFIG, WEIGHTS, fill, fold_norms, load_network, save_network
from llmcodec.adapters.networks.s3_onnx import STRIDE
from llmcodec.adapters.random_weights import random_codec
from llmcodec.adapters.registry import FAMILIES
from llmcodec.adapters.s3tokenizer import log_mels

from ..golden.make_published import PLACE, made_up, made_up_wav
from .tiny_codecs import TINY, noise, tiny_codec

GOLDEN = json.loads(PLACE.read_text())
NAMES = ("wavtokenizer", "unicodec", "speechtokenizer", "soundstream", "s3tokenizer_v1", "s3tokenizer_v2")


def published(name):
    """The checkpoint as its project would save it."""
    facts = GOLDEN[name]
    stride = {STRIDE: torch.tensor([1])} if name == "s3tokenizer_v1" else {}
    return made_up(facts["shapes"], facts["spread"]) | stride


def built(name):
    family = FAMILIES[name.partition("_")[0]]
    sizes, state = family.published(published(name))
    network = family.build(**sizes).eval()
    fill(network, state, name)
    return family.adapter(network, None), sizes


def test_the_golden_file_has_them_all_with_their_origin():
    assert tuple(GOLDEN) == NAMES and all(facts["origin"].startswith("github.com/") for facts in GOLDEN.values())


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_audio_are_those_of_the_public_code(name):
    codec, _ = built(name)
    wav_BS, facts = made_up_wav(GOLDEN[name]["num_samples"], 1)[None], GOLDEN[name]
    codes_QT = torch.tensor(facts["codes"])
    if name == "soundstream":  # its code pads nothing; the adapter pads clips and codes before it calls the network
        latent_BTD = codec.model.encoder(wav_BS[:, None]).transpose(1, 2)
        found = codec.model.quantizer.encode(latent_BTD, codec.num_codebooks)
        audio = codec.model.decoder(codec.model.quantizer.decode(codes_QT[None]).transpose(1, 2))[:, 0]
    else:
        found = codec.codes_of(wav_BS)
        audio = codec.audio_of(codes_QT[None]) if codec.can_decode else torch.zeros(1, 0)
    assert torch.equal(found[0], codes_QT)
    np.testing.assert_allclose(audio[0, ::7].numpy(), np.array(facts["audio"]), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_codes_come_from_the_latents_that_are_shown(name):
    codec, _ = built(name)
    wav = noise(6 * codec.hop_samples)[None, None]
    latent_BTD = codec.encode_features(wav)
    quantizer = codec.model.quantizer
    if name.startswith("s3"):
        again = quantizer.encode(latent_BTD)[:, None]
    else:
        again = quantizer.encode(latent_BTD, codec.num_codebooks)
    assert torch.equal(again, codec.encode(wav).audio_codes)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_back_the_codec(name, tmp_path):
    codec, sizes = built(name)
    save_network(tmp_path, name.partition("_")[0], sizes, codec.model.state_dict())
    again = load_codec(str(tmp_path))
    wav = noise(2000)[None, None]
    assert torch.equal(again.encode(wav).audio_codes, codec.encode(wav).audio_codes)
    if codec.can_decode:
        codes = codec.encode(wav).audio_codes
        assert torch.equal(again.decode(codes).audio_values, codec.decode(codes).audio_values)


def test_weights_of_another_shape_are_named_by_their_tensor(tmp_path):
    codec, sizes = built("speechtokenizer")
    save_network(tmp_path, "speechtokenizer", sizes, codec.model.state_dict())
    (tmp_path / "digests.json").unlink()
    name = "quantizer.layers.1.codebook.embed"
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors | {name: tensors[name][:9].clone()}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=rf"{name} is \(9, 32\), the sizes of its configuration need \(16, 32\)"):
        load_codec(str(tmp_path))
    save_file({one: tensor for one, tensor in tensors.items() if one != name}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=f"{name} is missing"):
        load_codec(str(tmp_path))
    save_file(tensors | {"more": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"more is \(2,\), .* need none such"):
        load_codec(str(tmp_path))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"width": -3}, "width is -3, not a size"),
        ({"width": 2.5}, "width is 2.5, not a size"),
        ({"ratios": []}, "ratios"),
        ({"ratios": {"a": 1}}, "ratios"),
        ({"colour": 3}, "colour"),
        ({"width": 10**9}, "more than the"),
        ({"width": 10**6}, r"is \(32,\), the sizes of its configuration need|need \("),
    ],
)
def test_hostile_configurations_are_one_line(setting, message, tmp_path):
    codec, sizes = built("wavtokenizer")
    save_network(tmp_path, "wavtokenizer", sizes, codec.model.state_dict())
    (tmp_path / "digests.json").unlink()
    (tmp_path / CONFIG).write_text(json.dumps({"model_type": "wavtokenizer", **sizes, **setting}))
    with pytest.raises(ValueError, match=message) as caught:
        load_codec(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_both_names_of_weight_norms_are_folded_exactly():
    conv = torch.nn.Conv1d(3, 5, 2)
    old = {"a.weight_g": torch.rand(5, 1, 1), "a.weight_v": conv.weight.detach()}
    new = {
        "a.parametrizations.weight.original0": old["a.weight_g"],
        "a.parametrizations.weight.original1": old["a.weight_v"],
    }
    expected = old["a.weight_v"] * (old["a.weight_g"] / old["a.weight_v"].norm(dim=(1, 2), keepdim=True))
    assert torch.equal(fold_norms(old)["a.weight"], fold_norms(new)["a.weight"])
    torch.testing.assert_close(fold_norms(old)["a.weight"], expected)


@pytest.mark.parametrize("name", ["wavtokenizer", "unicodec"])
def test_one_frame_is_decoded_by_a_model_whose_norms_have_a_channel_a_group(name):
    family, sizes = TINY[name]
    codec = random_codec(family, sizes | {"channels": 32})
    codes = codec.encode(noise(codec.hop_samples)[None, None]).audio_codes
    assert codes.shape == (1, 1, 1) and codec.decode(codes).audio_values.shape == (1, 1, codec.hop_samples)


def test_unicodec_searches_the_quarter_of_its_domain():
    _, sizes = built("unicodec")
    wav_BS, quarter = noise(4000)[None], sizes["codebook_size"] // 4
    spans = {"speech": (0, quarter), "music": (quarter, 2 * quarter), "audio": (2 * quarter, 4 * quarter)}
    family = FAMILIES["unicodec"]
    _, state = family.published(published("unicodec"))
    for domain, (first, last) in spans.items():
        network = family.build(**(sizes | {"domain": domain})).eval()
        fill(network, state, "unicodec")
        codes = network.encode(wav_BS)
        assert first <= codes.min() and codes.max() < last, domain
    with pytest.raises(ValueError, match="domain 'noise': give speech, music, audio or all"):
        family.build(domain="noise")


def test_windows_of_a_long_clip_join_in_the_middle_of_their_overlap(monkeypatch):
    codec = tiny_codec("s3tokenizer")
    monkeypatch.setattr(s3tokenizer, "LONGEST_MELS", 60)
    monkeypatch.setattr(s3tokenizer, "OVERLAP_MELS", 16)
    wav_BS = noise(320 * 71)[None]  # 142 mel frames: windows from 0, 44 and 88, the last one of 54
    mels_BFT = log_mels(wav_BS[0], codec.model.num_mels)[None]
    windows = [codec.model.encoder(mels_BFT[..., start : start + 60]) for start in (0, 44, 88)]
    expected = torch.cat([windows[0][:, :26], windows[1][:, 4:26], windows[2][:, 4:]], 1)
    assert torch.equal(codec.latents_of(wav_BS), expected) and expected.shape[1] == 71
    for frames in (30, 31, 38, 52, 53, 60):  # every length has its frames, where the public code may lose some
        assert codec.latents_of(noise(320 * frames)[None]).shape[1] == frames


def test_a_tokenizer_without_decoder_says_so_in_one_line():
    codec = tiny_codec("s3tokenizer")
    codes = codec.encode(noise(3200)[None, None]).audio_codes
    with pytest.raises(ValueError, match="^S3Tokenizer has no decoder: its tokens can be made and measured"):
        codec.decode(codes)


def test_load_network_is_what_the_families_call(tmp_path):
    codec, sizes = built("soundstream")
    save_network(tmp_path, "soundstream", sizes, codec.model.state_dict())
    network = load_network(FAMILIES["soundstream"].build, tmp_path)
    assert torch.equal(network.quantizer.codebooks[0].embed, codec.model.quantizer.codebooks[0].embed)
