"""The list of codecs: complete, with the rates of the architectures, and near names for those that do not exist."""

import re

import pytest
import torch

from llmcodec import assets
from llmcodec.adapters import catalogue
from llmcodec.adapters.catalogue import ENTRIES, UNAVAILABLE, Entry, nearest, origin_of, rows, state_of
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.random_weights import OURS, PRESETS
from llmcodec.adapters.registry import FAMILIES, WEIGHTLESS
from llmcodec.cli.main import main

BY_NAME = {entry.name: entry for entry in ENTRIES}


def test_every_preset_and_every_codec_without_weights_has_an_entry():
    names = {f"random:{name}" for name in (*PRESETS, *OURS)} | set(WEIGHTLESS) | set(assets.CODECS)
    assert set(BY_NAME) - {name for name in BY_NAME if name.startswith("opus:")} == names
    assert len(BY_NAME) == len(ENTRIES) == len({entry.title for entry in ENTRIES})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_rates_are_those_of_the_architecture(name):
    family, sizes = PRESETS[name]
    with torch.device("meta"):
        codec = FAMILIES[family].build_codec(sizes)
    entry = BY_NAME[f"random:{name}"]
    levels = 1 if name == "encodec_48khz" else 0
    said = (entry.sample_rate, entry.frame_rate, entry.num_codebooks + levels, entry.codebook_size)
    assert said == pytest.approx((codec.sample_rate, codec.frame_rate, codec.num_codebooks, codec.codebook_size))
    assert entry.nominal_bits_per_second == pytest.approx(codec.bitrate, rel=1e-3)
    assert entry.decodes == codec.can_decode


def test_the_bundled_codec_is_as_listed():
    codec, entry = load_codec("bundled"), BY_NAME["bundled"]
    assert (codec.sample_rate, codec.frame_rate, codec.codebook_size) == (16_000, 50, 8192)
    assert (entry.sample_rate, entry.frame_rate, entry.codebook_size) == (16_000, 50, 8192)


def test_states():
    def state(name: str, cached: bool) -> str:
        return state_of(BY_NAME[name], lambda repo: cached)

    assert state("bundled", False) == "works offline"
    assert state("random:mimi", False) == "needs the hub" and state("random:mimi", True) == "works offline"
    assert state("random:auv", True) == "works offline"  # auv:OWNER/NAME
    assert state("random:wavtokenizer_40", True) == "needs the hub"  # through convert
    assert state("random:bigcodec", True) == "random only"


def test_near_names_say_where_weights_come_from():
    text = nearest("wavtokeniser")
    assert "WavTokenizer 75 Hz: convert hf://novateur/WavTokenizer/" in text
    assert nearest("mimi") == "Mimi: kyutai/mimi" and nearest("") == "" and nearest("qqqq") == ""
    with pytest.raises(ValueError, match=r"^no codec 'encodec' \(near: EnCodec: facebook/encodec_24khz; "):
        load_codec("encodec")
    with pytest.raises(ValueError, match="no codec random:speechtokeniser .near: SpeechTokenizer: convert hf://fnlp"):
        load_codec("random:speechtokeniser")


def test_the_command_lists_every_name_with_origin_rate_licence_and_state(capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "is_cached", lambda repo: repo == "kyutai/mimi")
    monkeypatch.setattr(catalogue, "missing_package", lambda entry: "snac" if entry.package == "snac" else "")
    assert main(["codecs"]) == 0
    out = capsys.readouterr().out
    for entry in ENTRIES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{entry.name} ")]
        assert origin_of(entry) in line and entry.licence in line and f"{entry.sample_rate:,}" in line
        assert re.search("works offline|needs the hub|random only", line)
    mimi = next(line for line in out.splitlines() if line.startswith("random:mimi "))
    assert "works offline" in mimi and "12.5" in mimi and "1,100" in mimi
    assert "pip install snac" in next(line for line in out.splitlines() if line.startswith("random:snac_24khz "))
    for name, reason in UNAVAILABLE.items():
        assert f"{name}: {reason}" in out


def test_cells_say_what_is_special():
    made = Entry("New", "random:new", "someone/new", "pip", 16_000, 50, 2, 8, "MIT", "(1-2)", 999.6, False, 8000)
    assert rows([made]) == [
        ["New `random:new`", "`--codec someone/new`", "`pip`", "16,000 (hears 8,000)", "50", "2 (1-2), encode only"]
        + ["8", "1,000", "MIT"]
    ]
