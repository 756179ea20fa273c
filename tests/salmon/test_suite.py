"""salmon/suite.py: the official folder layout and the Hugging Face data set give the same pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from llmcodec.io import audio
from llmcodec.salmon.suite import open_suite

RATE = 16_000


def tone(level: float, num: int = 1600) -> np.ndarray:
    return np.full(num, level, np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two parts, two pairs each; the level says part, pair and side."""
    for p, part in enumerate(("speaker_consistency", "rir_consistency")):
        for index in (0, 10):
            for side in (0, 1):
                audio.write(tmp_path / "suite" / part / f"sample_{index}_{side}.wav", tone(level(p, index, side)), RATE)
    (tmp_path / "suite" / "notes").mkdir()
    return tmp_path / "suite"


def level(part: int, index: int, side: int) -> float:
    return 0.1 + 0.2 * part + 0.01 * index + 0.05 * side


@pytest.fixture(params=["parquet", "saved"])
def data_set(request, folder: Path, tmp_path: Path) -> str:
    """The schema of slprl/SALMon: a configuration per part, columns task, ind, positive_audio, negative_audio."""
    import datasets

    place = tmp_path / request.param
    tables = {}
    for part in ("speaker_consistency", "rir_consistency"):
        sides = {
            name: [{"bytes": (folder / part / f"sample_{i}_{s}.wav").read_bytes(), "path": None} for i in (0, 10)]
            for s, name in enumerate(("positive_audio", "negative_audio"))
        }
        table = datasets.Dataset.from_dict({"task": [part] * 2, "ind": [0, 10], **sides})
        for name in sides:
            table = table.cast_column(name, datasets.Audio(sampling_rate=RATE))
        tables[part] = table
    if request.param == "saved":
        datasets.DatasetDict(tables).save_to_disk(place)
    else:
        card = ["---", "configs:"]
        for part, table in tables.items():
            (place / part).mkdir(parents=True)
            table.to_parquet(place / part / "train-00000-of-00001.parquet")
            card += [f"- config_name: {part}", "  data_files:", "  - split: train", f"    path: {part}/train-*"]
        (place / "README.md").write_text("\n".join([*card, "---", ""]))
    return str(place)


def check(suite: dict) -> None:
    assert list(suite) == ["speaker_consistency", "rir_consistency"]  # the order of the paper's table
    for p, pairs in enumerate(suite.values()):
        assert [pair.index for pair in pairs] == [0, 10]
        for pair in pairs:
            for side, wav in enumerate(pair.read(RATE)):
                assert wav.dtype == np.float32
                np.testing.assert_allclose(wav, tone(level(p, pair.index, side)), atol=1e-4)


def test_a_folder_in_the_official_layout(folder):
    check(open_suite(folder))
    assert list(open_suite(folder, ["rir_consistency"])) == ["rir_consistency"]


def test_a_data_set_of_the_same_schema(data_set):
    check(open_suite(data_set))
    assert list(open_suite(data_set, ["rir_consistency"])) == ["rir_consistency"]


def test_other_sample_rates_are_resampled(folder):
    (pair, *_) = open_suite(folder)["speaker_consistency"]
    assert len(pair.read(24_000)[0]) == 2400


def test_a_changed_file_changes_the_fingerprint(folder):
    (pair, *_) = open_suite(folder)["speaker_consistency"]
    before = pair.fingerprint()
    assert before == open_suite(folder)["speaker_consistency"][0].fingerprint()
    audio.write(pair.negative, tone(0.3, 1700), RATE)
    assert pair.fingerprint() != before


def test_what_is_wrong_is_said(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no such folder, and not the name of a data set"):
        open_suite(tmp_path / "no" / "where" / "at all")
    with pytest.raises(ValueError, match="no part loudness; there is rir_consistency, speaker_consistency"):
        open_suite(folder, ["loudness"])
    (folder / "rir_consistency" / "sample_10_1.wav").unlink()
    with pytest.raises(ValueError, match=r"sample_10_1.wav is missing \(1 in all\)"):
        open_suite(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folder in it holds"):
        open_suite(tmp_path / "empty")
    (folder / "speaker_consistency" / "sample_0_0.wav").write_bytes(b"RIFF broken")
    with pytest.raises(ValueError, match="sample_0_0.wav"):
        open_suite(folder, ["speaker_consistency"])["speaker_consistency"][0].read(RATE)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'llmcodec\[datasets\]'"):
        open_suite("slprl/SALMon")


def test_a_data_set_without_the_columns_is_refused(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"audio": [1]}).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="no column positive_audio, negative_audio; there is audio"):
        open_suite(tmp_path / "other")
    broken = {name: [{"bytes": b"nothing", "path": None}] for name in ("positive_audio", "negative_audio")}
    table = datasets.Dataset.from_dict({"task": ["p"], "ind": [3], **broken})
    for name in broken:
        table = table.cast_column(name, datasets.Audio())
    table.save_to_disk(tmp_path / "broken")
    (pair,) = open_suite(tmp_path / "broken")["p"]
    with pytest.raises(ValueError, match="p, pair 3: the data set's audio cannot be read"):
        pair.read(RATE)
