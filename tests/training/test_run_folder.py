"""run_folder.py: what a run may change when it is resumed, what is refused, what run.json says afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.training.trainer import Trainer

from ..miniature import everything_on


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of two steps, checkpointed."""
    folder = tmp_path_factory.mktemp("runs")
    Trainer(recipe(folder), show_progress=False).run()
    return folder


def recipe(folder: Path, **options):
    return everything_on("rate", folder, "run", steps=2, **options)


@pytest.fixture
def run(folder, tmp_path) -> Path:
    """A copy of the run that a test may change; codec, LM and speech stay where they were."""
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "run"


def resumed(folder: Path, run: Path, allow_changes: bool = False, **changes) -> Trainer:
    return Trainer(
        replace(recipe(folder), run=str(run), **changes), resume=True, show_progress=False, allow_changes=allow_changes
    )


def test_what_no_computation_reads_may_differ(folder, run):
    before = json.loads((run / "run.json").read_text())
    trainer = resumed(folder, run, steps=3, log_every=7, checkpoint_every=1, keep_checkpoints=5)
    assert trainer.step == 2 and trainer.run() == run / "codec"
    after = json.loads((run / "run.json").read_text())
    (row,) = after.pop("resumed")
    assert after == before and row["step"] == 2 and row["changes"]["steps"] == [2, 3]


def test_anything_else_is_refused_with_old_and_new_value_or_accepted_on_demand(folder, run):
    weights = replace(recipe(folder).weights, rate=0.25)
    with pytest.raises(ValueError, match=r"seed was 0, is 5; .*weights\.rate was 0\.5, is 0\.25.*--allow-changes"):
        resumed(folder, run, seed=5, weights=weights)
    assert "resumed" not in json.loads((run / "run.json").read_text())
    resumed(folder, run, weights=weights, allow_changes=True)
    assert resumed(folder, run, weights=weights).step == 2  # accepted once, it is the run's recipe
    rows = json.loads((run / "run.json").read_text())["resumed"]
    assert [list(row["changes"]) for row in rows] == [["run", "weights.rate"], []]
    with pytest.raises(ValueError, match=r"weights\.rate was 0\.25, is 0\.5"):
        resumed(folder, run)


def test_fewer_steps_are_refused(folder, run):
    with pytest.raises(ValueError, match="steps was 2, is 1"):
        resumed(folder, run, steps=1)


def test_the_manifest_may_move_but_its_clips_may_not_change(folder, run, tmp_path):
    clips = read_manifest(folder / "speech" / "train.jsonl")
    data = recipe(folder).data
    moved = write_manifest(tmp_path / "moved.jsonl", [replace(clip, audio=str(clip.path)) for clip in clips])
    with pytest.raises(ValueError, match=r"data\.manifest was "):  # other paths in the rows: other clips by their hash
        resumed(folder, run, data=replace(data, manifest=str(moved)))
    same = tmp_path / "speech"
    shutil.copytree(folder / "speech", same)
    assert resumed(folder, run, data=replace(data, manifest=str(same / "train.jsonl"))).step == 2
    (same / "train.jsonl").write_text((same / "train.jsonl").read_text().replace("clip number 1", "another text"))
    with pytest.raises(ValueError, match=r"data\.manifest"):
        resumed(folder, run, data=replace(data, manifest=str(same / "train.jsonl")))


def test_a_changed_manifest_behind_the_same_path_is_seen(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "all")
    own = tmp_path / "all"
    Trainer(everything_on("rate", own, "other", steps=1), show_progress=False).run()
    manifest = own / "speech" / "train.jsonl"
    manifest.write_text(manifest.read_text().replace("clip number 1", "another text"))
    with pytest.raises(ValueError, match=r"data\.manifest \(its content\) was '\w+', is '\w+'"):
        Trainer(everything_on("rate", own, "other", steps=1), resume=True, show_progress=False)


def test_a_corpus_that_grew_is_accepted_on_demand_and_trained_on(folder, tmp_path):
    own = tmp_path / "all"
    shutil.copytree(folder, own)
    options = everything_on("rate", own, "other", steps=2)
    Trainer(replace(options, steps=1), show_progress=False).run()
    manifest = own / "speech" / "train.jsonl"
    first = json.loads(manifest.read_text().splitlines()[0])
    manifest.write_text(manifest.read_text() + json.dumps({**first, "id": "one more"}) + "\n")
    with pytest.raises(ValueError, match=r"data\.manifest.*--allow-changes"):
        Trainer(options, resume=True, show_progress=False)
    trainer = Trainer(options, resume=True, show_progress=False, allow_changes=True)
    assert trainer.step == 1 and "one more" in {clip.id for clip in trainer.loader.dataset.clips}
    trainer.run()
    assert json.loads((own / "other" / "run.json").read_text())["resumed"][0]["step"] == 1


def test_audio_that_changed_behind_the_same_manifest_is_seen(folder, tmp_path):
    own = tmp_path / "all"
    shutil.copytree(folder, own)
    Trainer(everything_on("rate", own, "other", steps=1), show_progress=False).run()
    clip = read_manifest(own / "speech" / "train.jsonl")[0]
    wav, rate = soundfile.read(clip.path)
    soundfile.write(clip.path, 0.1 * np.random.default_rng(0).standard_normal(len(wav)), rate)
    with pytest.raises(ValueError, match=r"data\.manifest \(sizes of its audio files\) was '\w+', is '\w+'"):
        Trainer(everything_on("rate", own, "other", steps=1), resume=True, show_progress=False)


def test_a_run_without_its_description_is_not_resumed_in_silence(folder, run):
    (run / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        resumed(folder, run)
    assert resumed(folder, run, allow_changes=True).step == 2
