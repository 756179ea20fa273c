"""`llmcodec sweep`: rows trained, taken over, searched; resume, sharing, the table. Real codec, a minute of speech."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from llmcodec.assets import speech_manifest
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.experiments.sweep import beside, claim, paired_difference

SWEEP = """
folder: {folder}
manifest: {manifest}
seeds: [0]
reference: control
rows:
  control: {{configs: [one_step.yaml]}}
  again, .5: {{of: control}}
  searched: {{of: control, search: 0.1}}
  base: {{codec: bundled, seeds: [0, 1]}}
train_clips: 3
measurement:
  likelihood: {{audio_seconds: 20, num_evaluations: 1, model: {{num_layers: 1}}}}
  reconstruction_clips: 2
  slow_metrics: false
  consistency_clips: 1
  workers: 0
"""
ONE_STEP = """
steps: 1
codec: {start: bundled}
data: {clips_per_batch: 2}
weights: {multi_mel: 1.0}
checkpoint_every: 1000
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a finished sweep and its file."""
    here = tmp_path_factory.mktemp("sweep")
    clips = [
        clip
        for split in ("train", "valid", "test")
        for clip in [c for c in read_manifest(speech_manifest(split)) if c.duration < 2.5][:4]
    ]
    write_manifest(here / "manifest.jsonl", clips)
    (here / "one_step.yaml").write_text(ONE_STEP)
    (here / "sweep.yaml").write_text(SWEEP.format(folder=here / "runs", manifest=here / "manifest.jsonl"))
    main(["sweep", str(here / "sweep.yaml")])
    return here


def results(folder: Path, job: str) -> dict:
    return json.loads(beside(folder / "runs" / job, ".json").read_text())


def test_every_row_is_measured_and_stands_in_the_table(finished):
    table = (finished / "runs" / "table.md").read_text()
    assert table.startswith("| | control (1) | again, .5 (1) | searched (1) | base (2) |")
    assert "LM bits per second" in table and "mel against control" in table
    assert (finished / "runs" / "control-0" / "codec" / "config.json").is_file()


def test_a_row_of_another_has_its_codec_and_a_search_other_tokens(finished):
    control, again, searched = (results(finished, f"{job}-0") for job in ("control", "again, .5", "searched"))
    assert again["measures"] == control["measures"]
    value = {name: row["measures"]["mel"]["value"] for name, row in (("control", control), ("searched", searched))}
    assert value["searched"] != value["control"]
    assert paired_difference({0: control}, {0: again}, "mel").value == 0.0
    assert not (finished / "runs" / "searched-0").exists()


def test_a_second_call_does_nothing_and_a_lost_result_is_made_again(finished, capsys):
    kept, lost = (beside(finished / "runs" / job, ".json") for job in ("control-0", "base-1"))
    before, bytes_lost = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    main(["sweep", str(finished / "sweep.yaml")])
    assert capsys.readouterr().out.count("sweep: ") == 1
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == bytes_lost


def test_another_process_has_the_job(finished, capsys):
    lost = beside(finished / "runs" / "base-1", ".json")
    content = lost.read_bytes()
    lost.unlink()
    lock = beside(finished / "runs" / "base-1", ".lock")
    with claim(lock):
        main(["sweep", str(finished / "sweep.yaml")])
    out = capsys.readouterr().out
    assert not lost.exists() and "base, seed 1, is being done by another process" in out and "base (1)" in out
    main(["sweep", str(finished / "sweep.yaml")])
    assert lost.read_bytes() == content and "another process" not in capsys.readouterr().out


def test_one_process_alone_claims_a_job(tmp_path):
    lock = tmp_path / "job.lock"
    lock.write_text("1")  # a number that belongs to a living process says nothing
    for _ in range(2):
        with claim(lock) as mine, claim(lock) as second:
            assert mine and not second
            lock.write_text("")
            with claim(lock) as third:
                assert not third
    assert lock.exists()  # whoever has it open and whoever comes later hold the same lock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_killed_process_lets_go_of_its_job(tmp_path):
    lock = tmp_path / "job.lock"
    ready, claimed = os.pipe()
    child = os.fork()
    if child == 0:
        with claim(lock) as mine:
            os.write(claimed, b"1" if mine else b"0")
            time.sleep(600)
        os._exit(1)
    try:
        assert os.read(ready, 1) == b"1"
        with claim(lock) as mine:
            assert not mine
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with claim(lock) as mine:
        assert mine


def test_differences_are_of_clips_measured_in_both_rows_at_every_seed():
    def row(*values):
        return {"files": [{"id": f"c{i}", "pesq": value} for i, value in enumerate(values)]}

    reference = {0: row(1.0, 2.0, 4.0, 3.0), 1: row(2.0, 4.0, 8.0, 3.0)}
    other = {0: row(1.5, 3.0, None, 9.0), 1: row(3.0, 6.0, 9.0, None)}  # each seed lacks another clip
    found = paired_difference(reference, other, "pesq")
    assert (found.value, found.low, found.high, found.num) == (0.5, 0.5, 0.5, 2)
    assert paired_difference(reference, {0: row(*[None] * 4)} | {1: other[1]}, "pesq") is None
    assert paired_difference(reference, {0: {"files": []}, 1: other[1]}, "pesq") is None
    assert paired_difference({0: {"files": []}}, {0: {"files": []}}, "pesq") is None
    assert paired_difference({0: {"files": [{"id": "c0"}]}}, {0: row(1.0)}, "pesq") is None
    assert paired_difference(reference, reference, "pesq") is None


def test_a_row_waits_for_its_source(finished, tmp_path, capsys):
    text = (finished / "sweep.yaml").read_text().replace(str(finished / "runs"), str(tmp_path / "runs"))
    rows, rest = text.partition("  searched:")[::2]
    one = rows.replace("  control: {configs: [one_step.yaml]}\n", "")
    one += "  control: {configs: [one_step.yaml]}\n" + rest.partition("\n")[2].partition("\n")[2]
    (finished / "waiting.yaml").write_text(one)
    (tmp_path / "runs").mkdir()
    with claim(tmp_path / "runs" / "control-0.lock"):
        main(["sweep", str(finished / "waiting.yaml")])
    assert "again, .5, seed 0, needs control" in capsys.readouterr().out
