"""One corpus as a folder, Parquet, Arrow, WebDataset and shar: equal tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmcodec.cli.main import main
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import read_token_shards
from llmcodec.runtime.opening import open_runtime
from llmcodec.transcode.files import Transcoder

from ..data.corpora import FORMS, some_clips


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


def test_an_equal_first_training_step(corpora, tmp_path):
    measured = {}
    for form in ("folder", "tars", "parquet"):
        options = [f"--data.manifest={corpora[form]}", "--steps=1", "--log_every=1", "--data.clips_per_batch=2"]
        assert main(["train", "--config", "control", "--run", str(tmp_path / form), *options]) == 0
        row = json.loads((tmp_path / form / "log.jsonl").read_text().splitlines()[0])
        measured[form] = {name: value for name, value in row.items() if "/" in name}
    assert "vq/commit" in measured["folder"]
    assert measured["tars"] == measured["folder"] == measured["parquet"]
