"""One corpus as a folder, Parquet, Arrow, WebDataset and shar: equal tokens."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmcodec.assets import speech_manifest
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import read_token_shards
from llmcodec.runtime.opening import open_runtime
from llmcodec.transcode.files import Transcoder

from ..cli.test_compare import BUDGET
from ..data.corpora import FORMS, as_dataset, as_folder, some_clips


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    clips = some_clips()
    return {name: make(clips, tmp_path_factory.mktemp(name) / "speech") for name, make in FORMS.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "cache"))


def tokens(corpus: Path, output: Path) -> dict[str, np.ndarray]:
    assert main(["tokenize", "--manifest", str(corpus), "-o", str(output)]) == 0
    return {row.id: row.codes for row in read_token_shards(output / "train")}


def test_equal_tokens(corpora, tmp_path, capsys):
    found = {name: tokens(corpus, tmp_path / name) for name, corpus in corpora.items()}
    expected = found.pop("folder")
    assert len(expected) == 6 and len(found) == 4
    for name, rows in found.items():
        assert rows.keys() == expected.keys(), name
        assert all(np.array_equal(rows[clip], codes) for clip, codes in expected.items()), name
    capsys.readouterr()
    assert main(["tokenize", "--manifest", str(corpora["tars"]), "-o", str(tmp_path / "tars")]) == 0
    assert "0 clips, 0 s of audio, 6 there before" in capsys.readouterr().out


def test_encode_reads_clips(corpora, tmp_path):
    runtime = open_runtime("bundled", only="encoder")
    made = {}
    for form in ("folder", "tars", "parquet"):
        place = tmp_path / form
        report = Transcoder(lambda side: runtime, output=str(place)).encode([str(corpora[form])])
        assert report.done == 6 and not report.failed
        made[form] = {
            path.relative_to(place).as_posix(): load_token_file(path)[0] for path in place.rglob("*.safetensors")
        }
        again = Transcoder(lambda side: runtime, output=str(place), resume=True).encode([str(corpora[form])])
        assert again.done == 0 and again.skipped == 6
    for name, clip in made["folder"].items():
        for form in ("tars", "parquet"):
            assert np.array_equal(made[form][name].codes, clip.codes)
            assert made[form][name].original_num_samples == clip.original_num_samples
    assert made["folder"].keys() == made["tars"].keys() == made["parquet"].keys()


def test_evaluate_reads_clips(corpora, tmp_path):
    rows = {}
    for form, corpus in corpora.items():
        place, how = (
            tmp_path / f"{form}.csv",
            ["--opus", "[]", "--metrics", "sdr", "--workers", "0", "--split", "train"],
        )
        arguments = ["--codec", "opus:6", "--manifest", str(corpus), "--per-file", str(place)]
        assert main(["evaluate", "reconstruction", *arguments, *how]) == 0
        with open(place, encoding="utf-8") as file:
            rows[form] = {row["id"]: row["sdr"] for row in csv.DictReader(file)}
    assert len(rows["folder"]) == 6 and all(rows["folder"].values())
    assert all(found == rows["folder"] for found in rows.values())


def test_compare_reads_clips(tmp_path, capsys):
    splits = {split: read_manifest(speech_manifest(split), max_seconds=2.5)[:3] for split in ("train", "valid", "test")}
    clips = [replace(clip, id=clip.id.replace("/", "_")) for members in splits.values() for clip in members]
    corpora = {"folder": as_folder(clips, tmp_path / "folder"), "parquet": tmp_path / "parquet"}
    corpora["parquet"].mkdir()
    for split in splits:
        as_dataset([clip for clip in clips if clip.split == split]).to_parquet(corpora["parquet"] / f"{split}.parquet")
    measured = {}
    for form, corpus in corpora.items():
        arguments = ["--manifest", str(corpus), "--cache", str(tmp_path / "kept"), "-o", str(tmp_path / f"{form}.json")]
        assert main(["compare", "bundled", *arguments, *BUDGET]) == 0
        measured[form] = json.loads((tmp_path / f"{form}.json").read_text())["bundled"]["measures"]
    assert measured["folder"] == measured["parquet"] and "lm_bits_per_second" in measured["folder"]


def test_an_equal_first_training_step(corpora, tmp_path):
    measured = {}
    for form in ("folder", "tars", "parquet"):
        options = [f"--data.manifest={corpora[form]}", "--steps=1", "--log_every=1", "--data.clips_per_batch=2"]
        assert main(["train", "--config", "control", "--run", str(tmp_path / form), *options]) == 0
        row = json.loads((tmp_path / form / "log.jsonl").read_text().splitlines()[0])
        measured[form] = {name: value for name, value in row.items() if "/" in name}
    assert "vq/commit" in measured["folder"]
    assert measured["tars"] == measured["folder"] == measured["parquet"]
