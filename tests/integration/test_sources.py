"""One corpus as a folder, Parquet, Arrow, WebDataset and shar: equal tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.corpora import FORMS, some_clips

from llmcodec.cli.main import main
from llmcodec.io.token_shards import read_token_shards


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
