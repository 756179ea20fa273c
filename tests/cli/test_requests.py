"""What commands are asked for: names, numbers, clips; fingerprints that follow the weights; atomic results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from llmcodec.cli import requests
from llmcodec.codec import LLMCodec, LLMCodecConfig

from ..fake_codec import LoudnessCodec


def test_codecs_have_names_of_their_own() -> None:
    assert requests.check_names(["bundled", "mine=runs/a=b/codec"]) == ["bundled", "mine=runs/a"]
    assert requests.check_names(["a=x", "b=x"]) == ["a", "b"]
    with pytest.raises(ValueError, match="at least one codec"):
        requests.check_names(None)
    with pytest.raises(ValueError, match="two codecs are called 'bundled'"):
        requests.check_names(["bundled", "bundled"])


def test_held_out_clips_are_taken_where_there_are_any(tmp_path: Path) -> None:
    clips = requests.clips_of("bundled")
    assert {clip.split for clip in clips} == {"valid", "test"}
    assert len(requests.clips_of("bundled", split="train")) > len(clips)
    assert {clip.language for clip in requests.clips_of("bundled", languages="es,fr")} == {"es", "fr"}
    (tmp_path / "m.jsonl").write_text('{"id": "a", "audio": "a.wav", "duration": 1.0}\n')
    assert [clip.id for clip in requests.clips_of(str(tmp_path / "m.jsonl"))] == ["a"]


def test_numbers_are_read_or_refused() -> None:
    assert requests.numbers("0.2, 1,2", "slices") == [0.2, 1.0, 2.0] and requests.numbers("", "slices") == []
    with pytest.raises(ValueError, match="--slices takes numbers"):
        requests.numbers("short", "slices")


def test_the_fingerprint_follows_the_weights() -> None:
    torch.manual_seed(0)
    config = LLMCodecConfig(hidden_size=64, encoder_layers=1, decoder_layers=1, codebook_size=16)
    codec = LLMCodec(config)
    first = requests.fingerprint(codec)
    assert first == requests.fingerprint(codec)
    with torch.no_grad():
        codec.quantizer.codebook[0, 0] += 1e-3
    assert first != requests.fingerprint(codec)
    assert requests.fingerprint(LoudnessCodec(0)) != requests.fingerprint(LoudnessCodec(2))


def test_results_come_whole(tmp_path: Path) -> None:
    paths = requests.write_results(str(tmp_path / "new" / "table.md"), "| a |\n", {"a": [1]})
    assert [path.name for path in paths] == ["table.md", "table.json"]
    assert json.loads(paths[1].read_text()) == {"a": [1]}
    requests.write_csv(tmp_path / "rows.csv", ["a", "b"], [{"a": 1, "c": 3}, {"b": "x,y"}])
    assert (tmp_path / "rows.csv").read_text() == 'a,b\n1,\n,"x,y"\n'
    with pytest.raises(ValueError):  # NaN is no JSON
        requests.write_results(str(tmp_path / "nan"), "", {"a": float("nan")})
