"""`llmcodec evaluate salmon` and `llmcodec data salmon`, as typed: tables, files, one line for bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.assets import speech_manifest
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.report.salmon import comparisons, percent, salmon_table
from llmcodec.runtime.torch_runtime import identity_of
from llmcodec.salmon.build import BG_ALL, ROOM, SPEAKER
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made of the bundled corpus by the command itself."""
    folder = tmp_path_factory.mktemp("command") / "suite"
    arguments = ["--output", str(folder), "--pairs", "10", "--parts", f"[{BG_ALL},{ROOM}]"]
    arguments += ["--splits", "[test,valid,train]", "--max_seconds", "2.0"]
    assert main(["data", "salmon", *arguments]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six short clips to train on."""
    clips = [clip for clip in read_manifest(speech_manifest("train")) if clip.duration < 1.5][:6]
    return str(write_manifest(tmp_path_factory.mktemp("few") / "manifest.jsonl", clips))


def test_data_salmon_says_what_it_made_and_what_it_left_out(suite, capsys, tmp_path):
    told = json.loads((Path(suite) / "suite.json").read_text("utf-8"))
    assert {part: len(pairs) for part, pairs in told["parts"].items()} == {BG_ALL: 10, ROOM: 10}
    assert main(["data", "salmon", "--output", str(tmp_path / "s"), "--pairs", "10", "--parts", f"[{SPEAKER}]"]) == 1
    error = capsys.readouterr().err.strip()
    assert "speaker_consistency: the corpus is too small" in error and len(error.splitlines()) == 1


def test_evaluate_salmon_trains_scores_and_writes(suite, manifest, tmp_path, capsys):
    stem = tmp_path / "table"
    budget = ["--manifest", manifest, "--likelihood.audio_seconds", "20", "--likelihood.model.num_layers", "1"]
    budget += ["--max_pairs", "4"]
    arguments = [suite, "--codec", "bundled", "--codec", "again=bundled", *budget, "--output", str(stem)]
    assert main(["evaluate", "salmon", *arguments]) == 0
    shown = capsys.readouterr().out
    assert BG_ALL in shown and "again" in shown and "no difference shown from bundled" in " ".join(shown.split())
    content = json.loads(stem.with_suffix(".json").read_text("utf-8"))
    assert content["codecs"]["bundled"] == content["codecs"]["again"]
    assert len(content["codecs"]["again"]["parts"][ROOM]["pairs"]) == 4
    assert "| all pairs | 8 |" in stem.with_suffix(".md").read_text("utf-8")


def test_a_token_lm_is_taken_for_the_codec_that_it_speaks(suite, monkeypatch, capsys):
    from llmcodec.lm import token_lm
    from llmcodec.lm.token_lm import TokenLMCard

    identity = identity_of(load_codec("bundled"), "bundled")

    class Uniform:
        num_codes = 8192
        card = TokenLMCard(codec=identity)

        def token_log_likelihoods(self, codes: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.full((len(clip),), -8.0) for clip in codes]

    monkeypatch.setattr(token_lm, "load_token_lm", lambda place, device: Uniform())
    assert main(["evaluate", "salmon", suite, "--lm", "some/lm", "--parts", f"[{ROOM}]"]) == 0
    assert "50.0 [23.7, 76.3]" in capsys.readouterr().out  # ten ties
    Uniform.card = TokenLMCard(codec=replace(identity, weights_sha256="0" * 64))
    assert main(["evaluate", "salmon", suite, "--lm", "some/lm"]) == 1
    assert "this LM speaks the tokens of 'bundled' (000000000000)" in capsys.readouterr().err
    Uniform.card, Uniform.num_codes = TokenLMCard(), 100
    assert main(["evaluate", "salmon", suite, "--lm", "some/lm"]) == 1
    assert "but this LM has 100" in capsys.readouterr().err
    assert main(["evaluate", "salmon", suite, "--lm", "x", "--codec", "bundled", "--codec", "a=bundled"]) == 1
    assert "give one --codec" in capsys.readouterr().err


def test_bad_input_is_one_line(suite, tmp_path, capsys):
    for arguments, message in (
        ([str(tmp_path / "no" / "where")], "no such folder"),
        ([suite, "--parts", "[sentiment_consistency]"], "no part sentiment"),
        ([suite, "--codec", "bundled", "--codec", "bundled"], "two codecs"),
    ):
        assert main(["evaluate", "salmon", *arguments]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error and len(error.splitlines()) == 1


def test_tables_of_one_and_of_several_codecs():
    def result(score: float) -> SalmonResult:
        pairs = [PairScore(i, score if i % 4 else 0.0, 0.0, 5, 5) for i in range(100)]
        return SalmonResult({"rir_consistency": PartScore(pairs)})

    one = salmon_table({"mine": result(1.0)}).markdown()
    assert "| rir_consistency | 100 | 87.5 [79.6, 92.6] | 87.5 [79.6, 92.6] | 25 |" in one
    both = {"base": result(-1.0), "new": result(1.0)}
    assert "| | pairs | base | new |" in salmon_table(both).markdown()
    (sentence,) = comparisons(both)
    assert sentence.startswith("new: differs from base, +75.0 points") and "100 pairs" in sentence
    assert percent(result(1.0).overall) == "87.5 [79.6, 92.6]"
