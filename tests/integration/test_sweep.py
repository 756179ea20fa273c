"""`llmcodec sweep`: rows trained, taken over, searched; resume, sharing, the table. Real codec, a minute of speech."""

import json
import os
from pathlib import Path

import pytest

from llmcodec.assets import speech_manifest
from llmcodec.cli import main
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.sweep import beside, paired_difference

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
    assert not list((finished / "runs").glob("*.lock"))
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
    lock.write_text(str(os.getpid()))  # it lives
    main(["sweep", str(finished / "sweep.yaml")])
    assert not lost.exists() and lock.exists() and "base (1)" in capsys.readouterr().out
    lock.write_text("999999999")  # it does not
    main(["sweep", str(finished / "sweep.yaml")])
    assert lost.read_bytes() == content and not lock.exists()


def test_a_row_waits_for_its_source(finished, tmp_path, capsys):
    text = (finished / "sweep.yaml").read_text().replace(str(finished / "runs"), str(tmp_path / "runs"))
    rows, rest = text.partition("  searched:")[::2]
    one = rows.replace("  control: {configs: [one_step.yaml]}\n", "")
    one += "  control: {configs: [one_step.yaml]}\n" + rest.partition("\n")[2].partition("\n")[2]
    (finished / "waiting.yaml").write_text(one)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "control-0.lock").write_text(str(os.getpid()))
    main(["sweep", str(finished / "waiting.yaml")])
    assert "again, .5, seed 0, needs control" in capsys.readouterr().out
