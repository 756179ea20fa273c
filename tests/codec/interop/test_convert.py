"""Checkpoints of other people: found wherever they are nested, equal to the published package, and never executed."""

import os
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from llmcodec.adapters.convert import convert
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.interop.auv import from_auv, to_auv
from llmcodec.codec.interop.checkpoints import ALLOWED_NAMES, read_tensors
from llmcodec.codec.interop.convert import auv_states


@pytest.fixture(scope="module")
def codec() -> LLMCodec:
    torch.manual_seed(5)
    config = LLMCodecConfig(
        hidden_size=64, encoder_layers=1, decoder_layers=2, ffn_mult=2, codebook_size=64, auv_floor_frames=True
    )
    return LLMCodec(config).eval()


@pytest.fixture(scope="module")
def state(codec):
    return to_auv(codec)


def noise(samples: int = 16000) -> torch.Tensor:
    return 0.1 * torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(1))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "auv": lambda state: {"auv": state, "step": 7, "config": {"lr": 1e-4, "names": ["a"]}},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}}},
    "module.": lambda state: prefixed(state, "module."),
    "auv.": lambda state: prefixed(state, "auv.") | {"bridge.weight": torch.zeros(2, 2)},
    "state_dict, module.auv.": lambda state: {"state_dict": prefixed(state, "module.auv.")},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_checkpoint_becomes_a_codec_wherever_the_weights_are(tmp_path, codec, state, wrapping):
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "auv.pt")
    said = convert(str(tmp_path / "auv.pt"), str(tmp_path / "out"))
    back = LLMCodec.from_pretrained(tmp_path / "out").eval()
    assert back.config.auv_floor_frames and back.config.encoder_layers == 1 and back.config.decoder_layers == 2
    for name, tensor in codec.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert torch.equal(back.encode(noise()).audio_codes, codec.encode(noise()).audio_codes)
    assert "1 + 2 layers of width 64" in said and "64 codes" in said and "floored" in said
    assert ("ignored" in said) == (wrapping in ("model", "auv."))
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md",
        "config.json",
        "digests.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert sorted(os.listdir(tmp_path)) == ["auv.pt", "out"]


def test_safetensors_half_precision_and_ceil(tmp_path, codec, state):
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(half, tmp_path / "auv.safetensors")
    said = convert(str(tmp_path / "auv.safetensors"), str(tmp_path / "out"), ceil_frames=True, licence="cc-by-4.0")
    back = LLMCodec.from_pretrained(tmp_path / "out").eval()
    assert not back.config.auv_floor_frames and back.num_frames(1) == 1
    reference = from_auv(half)
    assert torch.equal(back.encode(noise()).audio_codes, reference.encode(noise()).audio_codes)
    assert "license: cc-by-4.0" in (tmp_path / "out" / "README.md").read_text()
    assert "any length" in said


@pytest.mark.parametrize("name", ["back.pt", "back.safetensors"])
def test_back_to_auv(tmp_path, codec, state, name):
    codec.save_pretrained(tmp_path / "codec")
    convert(str(tmp_path / "codec"), str(tmp_path / name), to="auv")
    again = read_tensors(tmp_path / name)
    assert again.keys() == state.keys() and all(torch.equal(again[one], state[one]) for one in state)
    if name.endswith(".pt"):
        loaded = torch.load(tmp_path / name, weights_only=True)  # as the published package does
        assert loaded.keys() == state.keys()
    with pytest.raises(ValueError, match="already there"):
        convert(str(tmp_path / "codec"), str(tmp_path / name), to="auv")
    convert(str(tmp_path / "codec"), str(tmp_path / name), to="auv", overwrite=True)


def test_what_auv_cannot_run_is_not_given_its_name(tmp_path):
    LLMCodec(
        LLMCodecConfig(
            hidden_size=32, head_dim=16, encoder_layers=1, decoder_layers=1, codebook_size=16, attention_window=3
        )
    ).save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="attention is bounded"):
        convert(str(tmp_path / "codec"), str(tmp_path / "x.pt"), to="auv")
    with pytest.raises(ValueError, match="a .pt or .safetensors file"):
        convert(str(tmp_path / "codec"), str(tmp_path / "x"), to="auv")
    with pytest.raises(ValueError, match="config.json is missing"):
        convert(str(tmp_path), str(tmp_path / "x.pt"), to="auv")


def test_several_codecs_in_one_checkpoint(tmp_path, state):
    ema = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"auv": state, "ema": {"auv": ema}}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match="choose one with --key: auv, ema.auv"):
        convert(str(tmp_path / "two.pt"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="no codec under the key 'other'"):
        convert(str(tmp_path / "two.pt"), str(tmp_path / "out"), key="other")
    assert not (tmp_path / "out").exists()
    convert(str(tmp_path / "two.pt"), str(tmp_path / "out"), key="ema.auv")
    back = LLMCodec.from_pretrained(tmp_path / "out")
    assert torch.equal(back.quantizer.codebook, ema["tokenizer.vq.quantizers.0._codebook.weight"])


def test_wrong_weights_are_named_and_nothing_is_left(tmp_path, state):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="weights of none of AUV, .*layer.weight"):
        convert(str(tmp_path / "other.pt"), str(tmp_path / "out"))
    key = "token2wav.istft_head.out.bias"
    torch.save(state | {key: torch.full_like(state[key], torch.nan)}, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=f"{key} holds NaN"):
        convert(str(tmp_path / "nan.pt"), str(tmp_path / "out"))
    torch.save(state | {key: state[key][:-1].clone()}, tmp_path / "shape.pt")
    with pytest.raises(ValueError, match="has shape"):
        convert(str(tmp_path / "shape.pt"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="no such file"):
        convert(str(tmp_path / "nothing.pt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_an_existing_folder_is_kept_unless_asked(tmp_path, state):
    torch.save(state, tmp_path / "auv.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        convert(str(tmp_path / "auv.pt"), str(tmp_path / "out"))
    convert(str(tmp_path / "auv.pt"), str(tmp_path / "out"), overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert (tmp_path / "out" / "model.safetensors").is_file()


class Evil:
    """Would write a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, state, protocol):
    trap = tmp_path / "trap"
    torch.save({"auv": state, "hook": Evil(trap)}, tmp_path / "evil.pt", pickle_protocol=protocol)
    with pytest.raises(ValueError, match="refused, nothing of it was executed") as error:
        convert(str(tmp_path / "evil.pt"), str(tmp_path / "out"))
    assert "\n" not in str(error.value) and ("mkdir" in str(error.value) or protocol == 4)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(trap)))
    with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
        convert(str(tmp_path / "bare.pt"), str(tmp_path / "out"))
    assert not trap.exists()
    with zipfile.ZipFile(tmp_path / "evil.pt") as archive:  # the trap is real: without the check it would spring
        assert b"mkdir" in archive.read("evil/data.pkl")


def test_every_allowed_name_builds_tensors_only():
    """PyTorch's own list has more, `bytearray` of any size among it; ours may only be narrower."""
    from torch._weights_only_unpickler import _get_allowed_globals

    theirs = set(_get_allowed_globals())
    assert {name.replace(" ", ".") for name in ALLOWED_NAMES} <= theirs
    assert "builtins.bytearray" in theirs and "builtins bytearray" not in ALLOWED_NAMES


def test_archives_that_claim_more_than_they_hold(tmp_path, state):
    torch.save(state, tmp_path / "auv.pt")
    with zipfile.ZipFile(tmp_path / "auv.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data if name.endswith("data.pkl") else bytes(10 * len(data)))
    with pytest.raises(ValueError, match="claims more than the file contains"):
        read_tensors(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as archive:
        archive.writestr("a/b.txt", b"x")
    with pytest.raises(ValueError, match="not a checkpoint made by torch.save"):
        read_tensors(tmp_path / "empty.pt")


def test_damaged_checkpoints_end_in_one_line(tmp_path):
    """Mutations of a small checkpoint: read, or refused with a ValueError of one line; never anything else."""
    torch.save({"auv": {"a": torch.arange(8.0), "b": torch.zeros(2, 3).t()}, "step": 3}, tmp_path / "small.pt")
    data = (tmp_path / "small.pt").read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        mutated = bytearray(data)
        for _ in range(draw.randint(1, 6)):
            mutated[draw.randrange(len(data))] = draw.randrange(256)
        cut = len(data) if draw.random() < 0.7 else draw.randrange(len(data))
        (tmp_path / "bad.pt").write_bytes(bytes(mutated[:cut]))
        try:
            for tensor in read_tensors(tmp_path / "bad.pt").values():
                assert tensor.numel() * tensor.element_size() <= len(data) and tensor.sum() is not None
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(tmp_path / "bad.pt") in str(error)
    assert refused > 100


def test_states_are_found_by_their_landmark():
    landmark = "tokenizer.stft_head.inp.weight"
    tensors = {f"a.{landmark}": torch.zeros(1), "a.token2wav.x": torch.zeros(1), "b.token2wav.x": torch.zeros(1)}
    found = auv_states(tensors)
    assert list(found) == ["a"] and set(found["a"]) == {landmark, "token2wav.x"}
    assert list(auv_states({landmark: torch.zeros(1)})) == [""]
