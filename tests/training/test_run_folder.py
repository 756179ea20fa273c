"""run_folder.py: what a run may change when it is resumed, what is refused, what run.json says afterwards."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.schedule import Schedule
from llmcodec.training import run_folder
from llmcodec.training import trainer as trainer_module
from llmcodec.training.run_folder import is_finished
from llmcodec.training.trainer import Trainer

from ..miniature import everything_on, miniature_codec


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    """Of each run they take longer than its steps; tests/integration/test_resume.py checks that they are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "plot_curves", lambda *_: None)
        yield


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
    trainer = Trainer(
        replace(recipe(folder), run=str(run), **changes), resume=True, show_progress=False, allow_changes=allow_changes
    )
    trainer.record()  # as `run` does once it has the lock
    return trainer


def test_what_no_computation_reads_may_differ(folder, run):
    before = json.loads((run / "run.json").read_text())
    trainer = resumed(folder, run, steps=3, log_every=7, checkpoint_every=1, keep_checkpoints=5)
    assert trainer.step == 2 and trainer.run() == run / "codec"
    after = json.loads((run / "run.json").read_text())
    (row,) = after.pop("resumed")
    assert after == before and row["step"] == 2 and row["changes"]["steps"] == [2, 3]
    ours = replace(recipe(folder), run=str(run))
    assert is_finished(replace(ours, steps=3))
    with pytest.raises(ValueError, match="steps was 3, is 2"):  # the codec is that of three steps
        is_finished(ours)
    (run / "run.json").write_text(json.dumps(before))
    with pytest.raises(ValueError, match="steps was 3, is 2"):  # the checkpoint says so, too
        is_finished(ours)


def test_a_run_on_its_way_by_another_recipe_is_told_before_anything_is_built(folder, run):
    shutil.rmtree(run / "codec")
    ours = replace(recipe(folder), run=str(run), steps=3)
    assert not is_finished(ours)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        is_finished(replace(ours, seed=1))


def test_a_change_that_was_accepted_is_the_recipe_of_a_finished_run(folder, run):
    ours = replace(recipe(folder), run=str(run))
    resumed(folder, run, allow_changes=True, seed=5)
    assert is_finished(replace(ours, seed=5))
    with pytest.raises(ValueError, match="seed was 5, is 0"):
        is_finished(ours)


def test_a_file_that_the_recipe_names_and_that_was_replaced_makes_another_run(folder, run, capsys):
    ours = replace(recipe(folder), run=str(run))
    described = json.loads((run / "run.json").read_text())
    assert set(described["files"]) == {"codec.start", "language.backbone.name", "bigram.prior", "teacher.name"}
    weights = folder / "codec" / "model.safetensors"
    whole = weights.read_bytes()
    os.utime(weights, (1e9, 1e9))
    assert is_finished(ours), "a copy of the same codec"
    try:
        miniature_codec(seed=7).save_pretrained(folder / "codec")
        with pytest.raises(ValueError, match=r"codec\.start \(its files\) was '\w+', is '\w+'"):
            is_finished(ours)
        (run / "run.json").write_text(json.dumps({name: fact for name, fact in described.items() if name != "files"}))
        assert is_finished(ours)
        assert "an older version, which kept no digests of files, began this run" in capsys.readouterr().err
    finally:
        miniature_codec().save_pretrained(folder / "codec")
    assert weights.read_bytes() == whole
    (run / "run.json").write_text(json.dumps(described))
    settings = folder / "lm" / "config.json"
    text = settings.read_text()
    try:
        settings.write_text(text + "\n")
        with pytest.raises(ValueError, match=r"language\.backbone\.name \(its files\) was '\w+', is '\w+'"):
            resumed(folder, run)
    finally:
        settings.write_text(text)


def test_a_learning_rate_that_does_not_fit_the_steps_is_told(folder, run, capsys):
    optimizer = recipe(folder).optimizer
    short = replace(optimizer, codec=replace(optimizer.codec, lr=Schedule(1e-3, end=0.0, steps=1, shape="linear")))
    resumed(folder, run, allow_changes=True, optimizer=short)
    told = "optimizer.codec.lr is 0 from step 1 of 2 on: nothing is learnt in the rest; set optimizer.codec.lr.steps 2"
    assert f"warning, {run}: {told}" in capsys.readouterr().err


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
    trainer.record()
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


def same_size(path: Path, wav_S: np.ndarray) -> None:
    """Put other PCM samples behind a header that stays, so that the file keeps its size."""
    content = path.read_bytes()
    pcm = (32767 * wav_S).astype("<i2").tobytes()
    path.write_bytes(content[: len(content) - len(pcm)] + pcm)
    assert path.stat().st_size == len(content)


def test_audio_of_the_same_size_and_a_copied_corpus_are_told_apart(folder, tmp_path, capsys):
    own = tmp_path / "all"
    shutil.copytree(folder / "speech", own / "speech")
    data = replace(recipe(folder).data, manifest=str(own / "speech" / "train.jsonl"))
    options, said = dict(data=data, run=str(tmp_path / "run")), f"{tmp_path / 'run'}: "
    Trainer(replace(recipe(folder), **options), show_progress=False).run()
    clip = read_manifest(own / "speech" / "train.jsonl")[0]
    audio = sorted({one.path for one in read_manifest(own / "speech" / "train.jsonl")})
    soundfile.write(clip.path, np.zeros(round(clip.duration * 16_000)), 16_000, subtype="PCM_16")
    again = partial(resumed, folder, **options | {"run": tmp_path / "run"})
    capsys.readouterr()
    with pytest.raises(ValueError, match=rf"audio files\) was .* is '1 of {len(audio)} are others, the first .*wav'"):
        again()
    assert "resumed" not in json.loads((tmp_path / "run" / "run.json").read_text())
    before = (tmp_path / "run" / "audio_files.json").read_bytes()
    for one in audio:  # a copy: the same bytes, other times
        shutil.copy(folder / "speech" / one.name, one)
        os.utime(one, (1e9, 1e9))
    capsys.readouterr()
    assert again().step == 2
    shown = capsys.readouterr().err
    assert f"{len(audio)} of {len(audio)} audio files have another time" in shown and shown.count(said) == 1
    assert (tmp_path / "run" / "audio_files.json").read_bytes() != before
    assert again().step == 2 and said not in capsys.readouterr().err, "the new times are known now"
    same_size(clip.path, np.full(100, 0.5))  # the end of it
    with pytest.raises(ValueError, match="1 of .* are others"):
        again()
    assert again(allow_changes=True).step == 2
    rows = json.loads((tmp_path / "run" / "run.json").read_text())["resumed"]
    assert list(rows[-1]["changes"]) == ["data.manifest (its audio files)"]
    assert again().step == 2, "accepted once, it is the run's audio"


def test_an_edit_between_the_pieces_is_at_least_told(tmp_path):
    path = tmp_path / "long.wav"
    wav = np.zeros(1 << 20)
    soundfile.write(path, wav, 16_000, subtype="PCM_16")
    before = run_folder._look_at_audio([path])
    for place in (0, len(wav) // 3, 2 * len(wav) // 3, len(wav) - 1):  # inside a piece each
        changed = wav.copy()
        changed[place] = 0.5
        soundfile.write(path, changed, 16_000, subtype="PCM_16")
        os.utime(path, (1e9, 1e9))
        assert run_folder._look_at_audio([path])[0][1] != before[0][1]
    assert run_folder._look_at_audio([path], [[10**18, "known"]]) == [[10**18, "known"]], "not read where times agree"


def test_a_run_of_an_older_version_resumes_with_one_line(folder, run, capsys):
    (run / "audio_files.json").unlink()
    facts = json.loads((run / "run.json").read_text())
    del facts["manifest"]["audio_sizes"]
    (run / "run.json").write_text(json.dumps(facts))
    assert resumed(folder, run).step == 2
    assert "an older version, which kept no audio_files.json" in capsys.readouterr().err
    assert resumed(folder, run).step == 2 and f"{run}: " not in capsys.readouterr().err, "known from now on"
    (run / "audio_files.json").write_text('{"files": [3]}')
    with pytest.raises(ValueError, match=r"audio_files\.json: damaged"):
        resumed(folder, run)


def test_a_run_without_its_description_is_not_resumed_in_silence(folder, run):
    (run / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        resumed(folder, run)
    assert resumed(folder, run, allow_changes=True).step == 2
