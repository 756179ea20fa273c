"""The script that chooses the weight of search: parts that share nothing, rows that are kept, the table."""

import sys
from pathlib import Path

import pytest

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.io.structured import read_object

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import search_weight  # noqa: E402


def test_rows_are_measured_once_and_differences_are_to_nearest_codes(tmp_path, capsys, monkeypatch):
    pytest.importorskip("scipy")
    clips = {
        split: [clip for clip in read_manifest(speech_manifest(split)) if clip.duration < 2.0][:count]
        for split, count in (("train", 24), ("valid", 3))
    }
    write_manifest(tmp_path / "m.jsonl", [clip for part in clips.values() for clip in part])
    counted = []
    count_prior = search_weight.count_prior

    def count(codec, chosen):
        counted.extend(clip.id for clip in chosen)
        return count_prior(codec, chosen)

    monkeypatch.setattr(search_weight, "count_prior", count)
    arguments = [str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "rows"), "--weights", "0,.4", "--clips", "2"]
    arguments += ["--lm-clips", "2", "--lm-seconds", "20"]
    search_weight.main(arguments)
    assert counted == [clip.id for clip in clips["train"][::2]]
    rows = {path.stem: read_object(path) for path in (tmp_path / "rows").glob("*.json")}
    assert sorted(rows) == ["nearest", "weight 0", "weight 0.4"]
    near, sound, cheap = rows["nearest"], rows["weight 0"], rows["weight 0.4"]
    assert near["nearest"] == [1.0, 1.0] and max(*sound["nearest"], *cheap["nearest"]) < 0.9
    assert sum(sound["mel"]) < sum(near["mel"]) and sum(cheap["judge"]) < sum(sound["judge"])
    assert all(len(row["own"]) == len(row["pesq"]) == 2 for row in rows.values())
    lines = capsys.readouterr().out.splitlines()
    table = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    percent = 100 * (sum(sound["mel"]) / sum(near["mel"]) - 1)
    assert f"({percent:+.1f} % [" in table["weight 0"] and "%" not in table["nearest"]
    monkeypatch.setattr(search_weight, "measure", None)
    search_weight.main(arguments)
    assert capsys.readouterr().out.splitlines()[-4:] == lines[-4:]
    refused = [(["--clips", "3"], "clips was 2, not 3"), (["--split", "train"], "split was valid, not train")]
    refused += [(["--lm-seconds", "9"], "lm_seconds was 20.0, not 9.0")]
    refused += [(["--codec", "causal_base"], "codec was bundled, not causal_base")]
    for others, message in refused:
        with pytest.raises(SystemExit, match=rf"nearest\.json: {message}.*; choose another folder"):
            search_weight.main([*arguments, *others])
    write_manifest(tmp_path / "m.jsonl", [clip for part in clips.values() for clip in part[1:]])
    with pytest.raises(SystemExit, match=r"nearest\.json: prior clips was "):
        search_weight.main(arguments)
