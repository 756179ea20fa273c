"""evaluation/cache.py: results come back as they were; other keys, damage and strange classes never do."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from llmcodec.evaluation.cache import Journal, kept, key_of, pack, unpack, unseal
from llmcodec.evaluation.predictability import LikelihoodConfig
from llmcodec.io.digests import digest
from llmcodec.report.tables import to_json
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult

from ..report.made_up import made_up_row


def test_a_whole_row_comes_back_as_it_was():
    row = replace(made_up_row("a", fail=True), salmon=SalmonResult({"p": PartScore([PairScore(0, -1.0, -2.0, 5, 5)])}))
    back = unpack(json.loads(json.dumps(pack(row))))
    assert to_json([back]) == to_json([row])
    assert back.predictability == row.predictability and back.consistency == row.consistency
    assert back.reconstruction == row.reconstruction
    assert torch.equal(back.probe.quantizer.codes_KD, row.probe.quantizer.codes_KD)
    assert back.predictability.config.seeds == (0, 1)
    assert back.predictability.seed_bits_per_second == row.predictability.seed_bits_per_second  # integer keys


def test_the_second_call_measures_nothing(tmp_path):
    calls = []

    def measure() -> PairScore:
        calls.append(1)
        return PairScore(0, -1.5, -2.5, 5, 5)

    for _ in range(2):
        assert kept(tmp_path, "key", measure) == PairScore(0, -1.5, -2.5, 5, 5)
    assert len(calls) == 1
    kept(tmp_path, "other", measure)
    kept(None, "key", measure)
    kept(tmp_path, None, measure)
    assert len(calls) == 4


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"!class": "salmon.score:PairScore", "fields": {"index": 0}}',
        '{"!class": "salmon.score:Gone", "fields": {}}',
        '{"!class": "os:system", "fields": {}}',
        '{"!class": "metrics.statistics:bootstrap_mean", "fields": {}}',
        '{"!class": "salmon.x:PairScore", "fields": {}}',
        '{"!class": "training.recipe:DataConfig", "fields": {}}',
        '{"!tensor": [1], "dtype": "no"}',
    ],
)
def test_what_cannot_be_read_is_measured_again(tmp_path, text):
    if text != "{":  # the digest is right: what a stranger, or an older version, has made
        text = json.dumps({"result": json.loads(text), "digest": digest("key", json.dumps(json.loads(text)))})
    (tmp_path / "key.json").write_text(text)
    assert kept(tmp_path, "key", lambda: PairScore(1, 0.0, 0.0, 1, 1)).index == 1
    assert unseal("key", json.loads((tmp_path / "key.json").read_text())).index == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_only_results_can_be_kept():
    @dataclass
    class Foreign:
        x: int = 1

    for value in (Foreign(), object(), b"bytes"):
        with pytest.raises(TypeError, match="cannot be kept"):
            pack(value)


def test_keys_change_with_every_setting():
    base = LikelihoodConfig()
    assert key_of(base, "a") == key_of(LikelihoodConfig(), "a")
    assert len({key_of(base, "a"), key_of(base, "b"), key_of(replace(base, audio_seconds=1.0), "a")}) == 3


def test_a_changed_figure_is_measured_again(tmp_path):
    """Found by `make soak`: a digit changed on the disk was taken for the measurement."""
    result = PairScore(0, -1.5, -2.5, 5, 5)
    path, journal = tmp_path / "key.json", Journal(tmp_path / "rows.jsonl")
    kept(tmp_path, "key", lambda: result)
    journal.add("a", result)
    journal.add("b", result)
    path.write_text(path.read_text().replace("-2.5", "-2.4"))
    assert kept(tmp_path, "key", lambda: PairScore(1, 0.0, 0.0, 1, 1)).index == 1
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text(rows[0].replace("-2.5", "-2.4") + "\n" + rows[1] + "\n")
    assert Journal(tmp_path / "rows.jsonl").known == {"b": result}
    (tmp_path / "rows.jsonl").write_text(rows[0].replace('"key": "a"', '"key": "b"') + "\n")
    assert Journal(tmp_path / "rows.jsonl").known == {}, "a result under another one's key"
