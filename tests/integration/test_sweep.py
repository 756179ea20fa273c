"""`llmcodec sweep`: rows trained, taken over, searched; resume, sharing, the table. Real codec, a minute of speech."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from llmcodec.assets import speech_manifest
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.experiments import sweep_job
from llmcodec.experiments.sweep_job import beside, claim
from llmcodec.experiments.sweep_table import paired_difference
from llmcodec.training.checkpoint import list_checkpoints
from llmcodec.training.trainer import Trainer

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


def test_the_page_shows_the_table_the_frontier_and_the_training(finished):
    page = (finished / "runs" / "report.html").read_text()
    table = (finished / "runs" / "table.md").read_text()
    (bits,) = re.findall(r"^\| LM bits per second.*", table, re.MULTILINE)
    assert all(
        f">{cell.strip()}<" in re.sub(r">\s+|\s+<", lambda found: found[0].strip(), page)
        for cell in bits.split("|")[2:-1]
    )
    assert "again, .5 (1)" in page and "LM bits against" in page and "Training: " in page
    assert "In brackets: number of seeds" in page and not re.search(r'(?:src|href)="?(?:https?:)?//', page)


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


def test_a_damaged_result_is_made_again(finished, capsys):
    path = beside(finished / "runs" / "base-1", ".json")
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"{}", b""):
        path.write_bytes(damaged)
        main(["sweep", str(finished / "sweep.yaml")])
        assert "sweep: base, seed 1: its result is damaged, made again" in capsys.readouterr().out
        assert path.read_bytes() == whole


def test_an_old_result_that_says_nothing_of_its_making_is_kept_and_named(finished, capsys):
    path = beside(finished / "runs" / "base-1", ".json")
    whole = path.read_bytes()
    old = {name: value for name, value in json.loads(whole).items() if name != "made_from"}
    path.write_text(json.dumps(old))
    main(["sweep", str(finished / "sweep.yaml")])
    assert "base, seed 1: the result of an older version does not say what it is made of" in capsys.readouterr().out
    assert json.loads(path.read_text()) == old
    path.write_bytes(whole)


def copy_of(finished: Path, folder: Path) -> Path:
    """A finished sweep of its own, with the same times; its file."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    text = (folder / "sweep.yaml").read_text().replace(str(finished), str(folder))
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def test_a_result_of_another_protocol_is_measured_again_and_nothing_is_trained(finished, tmp_path, capsys):
    file = copy_of(finished, tmp_path)
    weights = tmp_path / "runs" / "control-0" / "codec" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    file.write_text(file.read_text().replace("reconstruction_clips: 2", "reconstruction_clips: 1"))
    main(["sweep", str(file), "--only_train=true"])
    outdated = (tmp_path / "runs" / "table.md").read_text()
    assert "Not shown, until they are made again: control, seed 0, made of other measurement" in outdated
    capsys.readouterr()
    main(["sweep", str(file)])
    assert "Not shown" not in (tmp_path / "runs" / "table.md").read_text()
    out = capsys.readouterr().out
    assert out.count("other measurement than its result, made again") == 5 and weights.stat().st_mtime_ns == before
    assert len(results(tmp_path, "control-0")["files"]) == 1


def test_another_recipe_trains_again_and_keeps_the_old_run(finished, tmp_path, capsys):
    file = copy_of(finished, tmp_path)
    weights = (tmp_path / "runs" / "control-0" / "codec" / "model.safetensors").read_bytes()
    (tmp_path / "one_step.yaml").write_text(ONE_STEP.replace("multi_mel: 1.0", "multi_mel: 3.0, mel: 9.0"))
    main(["sweep", str(file)])
    out = capsys.readouterr().out
    assert "sweep: control, seed 0: other recipe than its result, made again" in out
    assert re.search(r"control-0 was trained with other weights.*; it is called control-0.stale-1 now", out)
    assert "sweep: again, .5, seed 0: other weights than its result, made again" in out, "it measures that codec"
    assert "sweep: base" not in out
    recipe = json.loads((tmp_path / "runs" / "control-0" / "run.json").read_text())["recipe"]
    assert recipe["weights"]["mel"] == 9.0 or recipe["weights"]["mel"]["value"] == 9.0
    assert (tmp_path / "runs" / "control-0" / "codec" / "model.safetensors").read_bytes() != weights
    assert (tmp_path / "runs" / "control-0.stale-1" / "codec" / "model.safetensors").read_bytes() == weights
    main(["sweep", str(file)])
    assert "sweep: " not in capsys.readouterr().out


def test_a_trained_codec_without_result_is_not_taken_when_the_manifest_has_other_clips(finished, tmp_path, capsys):
    file = copy_of(finished, tmp_path)
    for path in (tmp_path / "runs").glob("*.json"):
        path.unlink()
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert '"split": "train"' in lines[0]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines[1:]))
    main(["sweep", str(file), "--only_train=true"])
    assert "control-0 was trained with other clips; it is called control-0.stale-1 now" in capsys.readouterr().out


def test_a_signal_ends_a_sweep_in_good_order(finished, tmp_path, capsys, monkeypatch):
    file = copy_of(finished, tmp_path)
    lost = beside(tmp_path / "runs" / "base-0", ".json")
    whole = json.loads(lost.read_text())
    lost.unlink()

    def stopped(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_job, "measure_system", stopped)
        assert main(["sweep", str(file)]) == 128 + signal.SIGUSR1
    assert "llmcodec sweep: stopped by SIGUSR1: what is done is kept; start the same sweep again" in (
        capsys.readouterr().err
    )
    with monkeypatch.context() as patch:
        patch.setattr(sweep_job, "to_json", stopped)  # as soon as the clips are measured
        assert main(["sweep", str(file)]) == 128 + signal.SIGUSR1
    assert not lost.exists() and len(list((tmp_path / "runs" / "unfinished").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sweep_job, "measure_system", None)  # what was measured is taken
        assert main(["sweep", str(file)]) == 0
    assert json.loads(lost.read_text()) == whole and not list((tmp_path / "runs" / "unfinished").iterdir())


def test_a_signal_while_a_row_trains_saves_its_step(finished, tmp_path, capsys, monkeypatch):
    file = copy_of(finished, tmp_path)
    shutil.rmtree(tmp_path / "runs")
    file.write_text(file.read_text().replace("one_step.yaml", "steps.yaml"))
    (tmp_path / "steps.yaml").write_text(ONE_STEP.replace("steps: 1", "steps: 3"))
    step = Trainer.train_step

    def step_and_signal(trainer: Trainer, batches: list) -> object:
        row = step(trainer, batches)
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    monkeypatch.setattr(Trainer, "train_step", step_and_signal)
    assert main(["sweep", str(file)]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM: what is done is kept; start the same sweep again to go on" in capsys.readouterr().err
    assert [path.name for path in list_checkpoints(tmp_path / "runs" / "control-0" / "checkpoints")] == [
        "step_00000001"
    ]


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
