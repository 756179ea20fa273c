"""The protocol in miniature: parts, tuning, settings that are fixed before reporting, LM sizes, budgets, frontier."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.assets import speech_manifest
from llmcodec.cli.experiments import train_parser
from llmcodec.cli.main import main
from llmcodec.codec.neural_prior import NeuralPrior
from llmcodec.codec.search import SearchConfig
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.evaluation.system import Corpus, MeasurementConfig
from llmcodec.experiments import sweep, sweep_job
from llmcodec.experiments.parts import Speech
from llmcodec.experiments.sweep import finished, is_frozen, read_settings
from llmcodec.experiments.sweep_config import PartsConfig, RowConfig, SweepConfig
from llmcodec.experiments.sweep_job import Job
from llmcodec.experiments.sweep_table import budget_table
from llmcodec.io.bad_rows import BadRows
from llmcodec.lm.embeddings import save_tensors
from llmcodec.lm.small_lm_scorer import load_scorer, run_tensors, train_scorer
from llmcodec.training.named_files import named_files

from ..miniature import miniature_codec, miniature_speech

SWEEP = """
folder: {folder}
manifest: {manifest}
seeds: [0]
rows:
  control: {{configs: [one_step.yaml]}}
  smaller: {{configs: [one_step.yaml], options: [--codec.smaller_codebook=512]}}
  searched: {{of: control, search: 0.1}}
parts: {{priors: "train[:30%]", codec: "train[30%:60%]", lm: "train[60%:]", tuning: valid, reporting: test}}
line: [control, smaller]
lm_sizes:
  tiny: {{rows: [control, searched], likelihood: {{audio_seconds: 20, num_evaluations: 1, model: {{num_layers: 1}}}}}}
budgets: [10, 20]
effort_clips: 1
measurement:
  likelihood: {{audio_seconds: 20, num_evaluations: 1, model: {{num_layers: 1}}}}
  slow_metrics: false
  consistency_clips: 0
  workers: 0
"""
ONE_STEP = """
steps: 1
codec: {start: bundled}
data: {clips_per_batch: 1}
weights: {multi_mel: 1.0}
checkpoint_every: 1000
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Folder of a sweep that was tuned with one row, reported with three, and changed afterwards; what it printed."""
    here = tmp_path_factory.mktemp("protocol")
    clips = [
        clip
        for split, count in (("train", 16), ("valid", 4), ("test", 3))
        for clip in [c for c in read_manifest(speech_manifest(split)) if c.duration < 2.5][:count]
    ]
    write_manifest(here / "manifest.jsonl", clips)
    (here / "one_step.yaml").write_text(ONE_STEP)
    (here / "sweep.yaml").write_text(SWEEP.format(folder=here / "runs", manifest=here / "manifest.jsonl"))
    return here


def result(here: Path, job: str) -> dict:
    return json.loads((here / "runs" / f"{job}.json").read_text())


def ids(here: Path, part: str) -> set[str]:
    return {clip.id for clip in read_manifest(here / "runs" / "parts" / f"{part}.jsonl")}


def test_from_tuning_to_the_reporting_table(reported, monkeypatch, capsys):
    here, file = reported, str(reported / "sweep.yaml")
    assert main(["sweep", file, "--only_parts=true"]) == 0
    out = capsys.readouterr().out
    assert "| LM training | train[60%:] |" in out and "disjoint" in out and "speaker" in out.lower()
    assert not (here / "runs" / "settings.json").exists()
    parts = {name: ids(here, name) for name in ("priors", "codec", "lm", "tuning", "reporting")}
    assert sum(map(len, parts.values())) == 23 == len(set().union(*parts.values()))

    counted = []
    count = sweep_job.count_prior
    monkeypatch.setattr(
        sweep_job, "count_prior", lambda codec, clips: (counted.append({c.id for c in clips}), count(codec, clips))[1]
    )
    alone = yaml.safe_load((here / "sweep.yaml").read_text()) | {"line": [], "lm_sizes": {}}
    alone["rows"] = {"control": alone["rows"]["control"]}
    (here / "tuning.yaml").write_text(yaml.safe_dump(alone))
    assert main(["sweep", str(here / "tuning.yaml"), "--stage=tuning"]) == 0
    out = capsys.readouterr().out
    assert "| Budget of LM | bits per second | saved by the next |" in out and "arge enough" in out
    assert {row["id"] for row in result(here, "tuning/control-0")["lm_clips"]} == parts["tuning"]
    assert not (here / "runs" / "control-0.json").exists() and not (here / "runs" / "settings.json").exists()

    weights = here / "runs" / "control-0" / "codec" / "model.safetensors"
    trained = weights.stat().st_mtime_ns
    assert main(["sweep", file]) == 0
    out = capsys.readouterr().out
    assert weights.stat().st_mtime_ns == trained, "both stages measure one training"
    assert counted == [parts["priors"]]
    recipe = json.loads((here / "runs" / "control-0" / "run.json").read_text())["recipe"]
    assert Path(recipe["data"]["manifest"]) == here / "runs" / "parts" / "codec.jsonl"
    assert recipe["data"]["split"] is None
    control, searched = result(here, "control-0"), result(here, "searched-0")
    for row in (control, searched):
        assert {r["id"] for r in row["lm_clips"]} == {r["id"] for r in row["files"]} == parts["reporting"]
        assert row["made_from"]["part reporting"].startswith("test ")
        assert row["made_from"]["part priors"].startswith("train[:30%] ")
        assert row["effort"]["times_real_time"] > 0 and list(row["further_lms"]) == ["tiny"]
    assert control["further_lms"]["tiny"]["lm_clips"] == control["lm_clips"], "the same LM, here"
    assert "further_lms" not in result(here, "smaller-0")
    assert control["effort"]["times_real_time"] > 2 * searched["effort"]["times_real_time"]
    assert (
        "| Encoding, times real time, one thread |" in out
        and "| LM tiny | LM bits per second | against control |" in out
    )
    assert "LM bits against the line" in out and (here / "runs" / "frontier_mel.png").is_file()
    frozen = json.loads((here / "runs" / "settings.json").read_text())
    assert frozen == {f"{row}-0": result(here, f"{row}-0")["settings"] for row in ("control", "smaller", "searched")}


def test_rows_that_come_or_change_after_the_start_of_reporting_are_not_reported(reported, capsys):
    here, file = reported, reported / "sweep.yaml"
    before = (here / "runs" / "searched-0.json").read_bytes()
    text = (
        file.read_text()
        .replace("search: 0.1", "search: 0.2")
        .replace("  smaller:", "  late: {of: control}\n  smaller:", 1)
    )
    (here / "changed.yaml").write_text(text)
    assert main(["sweep", str(here / "changed.yaml")]) == 0
    out = capsys.readouterr().out
    for name in ("late", "searched"):
        assert f"sweep: {name}, seed 0, is not measured on the reporting clips: other settings" in out
    assert "| | control (1) | smaller (1) |" in out and "Left out" in out and "late-0, searched-0." in out
    assert not (here / "runs" / "late-0.json").exists()
    assert (here / "runs" / "searched-0.json").read_bytes() == before
    (here / "changed.yaml").write_text(file.read_text().replace("one_step.yaml]}", "one_step.yaml, more.yaml]}", 1))
    (here / "more.yaml").write_text("weights: {mel: 1.0}\n")
    assert main(["sweep", str(here / "changed.yaml")]) == 0
    out = capsys.readouterr().out
    assert "| | smaller (1) |" in out and "control-0, searched-0." in out, "a row goes with the row that it is of"


def test_a_row_may_not_leave_its_part(reported, capsys):
    (reported / "other.yaml").write_text(
        (reported / "sweep.yaml")
        .read_text()
        .replace("configs: [one_step.yaml]}", "configs: [one_step.yaml], options: [--data.manifest=bundled]}", 1)
    )
    assert main(["sweep", str(reported / "other.yaml")]) == 1
    assert "control trains on bundled; with `parts:` all rows train on" in capsys.readouterr().err


def test_a_budget_is_large_enough_where_the_next_saves_little():
    tried = [(1000.0, 500.0), (2000.0, 480.0), (4000.0, 477.0), (8000.0, 476.0)]
    table = budget_table("5M", tried, 0.01)
    assert (
        "| 1,000 s | 500.0 | 4.0 % |" in table
        and "Large enough: 2,000 s, the next budget saves less than 1 %." in table
    )
    assert "No budget is large enough" in budget_table("5M", tried[:2], 0.01)


def test_what_a_sweep_file_cannot_mean_is_refused():
    plain = {"folder": "x", "manifest": "y", "rows": {}}
    for wrong, message in (
        ({"stage": "tuning"}, "need `parts:`"),
        ({"only_parts": True}, "need `parts:`"),
        ({"budgets": [2.0, 1.0]}, "ascend"),
        ({"line": ["control"]}, "no rows of this sweep: control"),
        ({"rows": {"a": RowConfig(search_lm=True)}}, "row a: search_effort, search_lm and search_rounds need a weight"),
        ({"rows": {"a": RowConfig(search=0.1, search_effort="path", search_lm=True)}}, "row a: .*a path goes by pairs"),
        ({"rows": {"a": RowConfig(search=0.1, search_rounds=0)}}, "row a: search_rounds is at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SweepConfig(**plain | wrong)


def job_of(here: Path, row: RowConfig, name: str = "control", **more: Any) -> Job:
    """A job of a sweep in `here`, on speech that nobody reads."""
    rows = {"control": row, "searched": RowConfig(of="control", search=0.1)}
    measurement = MeasurementConfig(salmon=str(here / "suite"))
    config = SweepConfig(str(here), str(here / "speech" / "train.jsonl"), rows, measurement=measurement, **more)
    speech = Speech(Corpus([], [], []), [], None, {"manifest": "of this content"}, BadRows(0, 0), "")
    return Job(config, name, 0, here, speech, here, train_parser().read_recipe)


def write_result(job: Job, **changes: Any) -> dict[str, Any]:
    """The result that a job would have, without its measurement."""
    kept = {"measures": {}, "made_from": job.made_from(), "settings": job.settings} | changes
    job.result.parent.mkdir(exist_ok=True)
    job.result.write_text(json.dumps(kept))
    return kept


def test_an_existing_codec_and_files_of_the_protocol_cannot_be_exchanged_behind_frozen_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniature_codec(1).save_pretrained(tmp_path / "own")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "a.wav").write_text("one")
    row = RowConfig(codec=str(tmp_path / "own"))
    jobs = [job_of(tmp_path, row), job_of(tmp_path, row, "searched")]
    frozen = {job.place.name: job.settings for job in jobs}
    written = write_result(jobs[0])
    assert all(is_frozen(frozen, job) for job in jobs) and not jobs[0].find_stale()
    assert list(finished(jobs, frozen)[0]) == ["control"]

    for path in (tmp_path / "own").iterdir():  # a copy
        os.utime(path, (1e9, 1e9))
    assert job_of(tmp_path, row).settings == frozen["control-0"]
    (tmp_path / "suite" / "a.wav").write_text("another")
    assert job_of(tmp_path, row).find_stale().startswith("other weights, file measurement.salmon")
    (tmp_path / "suite" / "a.wav").write_text("one")

    miniature_codec(2).save_pretrained(tmp_path / "own")
    exchanged = [job_of(tmp_path, row), job_of(tmp_path, row, "searched")]
    assert not any(is_frozen(frozen, job) for job in exchanged), "the row and the one that is of it"
    assert "file codec" in exchanged[0].find_stale() and finished(exchanged, frozen)[0] == {}

    older = {name: settings.split(" ")[0] for name, settings in frozen.items()}
    assert all(is_frozen(older, job) for job in exchanged), "of a version that did not look into files"
    without = {name: fact for name, fact in written["made_from"].items() if not name.startswith(("file ", "weights"))}
    write_result(exchanged[0], made_from=without, settings=older["control-0"])
    capsys.readouterr()
    assert not exchanged[0].find_stale() and list(finished(exchanged, older)[0]) == ["control"]
    said = "does not say which files of codec, measurement.salmon it is made of; it is kept"
    assert f"sweep: control, seed 0: the result of an older version {said}" in capsys.readouterr().out


def test_settings_that_an_older_version_froze_are_taken_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniature_codec(1).save_pretrained(tmp_path / "own")
    parts = PartsConfig("a", "b", "c", "d", "e")
    job = job_of(tmp_path, RowConfig(codec=str(tmp_path / "own")), parts=parts)
    (tmp_path / "settings.json").write_text(json.dumps({"control-0": job.settings.split(" ")[0]}))
    assert is_frozen(read_settings(job.config, [job]), job)
    said = "is of an older version: whether the files of control-0 are the same is unknown"
    assert said in capsys.readouterr().out
    (tmp_path / "settings.json").unlink()
    assert is_frozen(read_settings(job.config, [job]), job) and not capsys.readouterr().out
    bundled = job_of(tmp_path, RowConfig(codec="bundled"))
    assert bundled.files == {} and " " not in bundled.settings


def trained(here: Path, steps: int, *, taken: int, start: Path, resumed: Sequence[int] = ()) -> Job:
    """The job of a row of `steps`, and its run folder after so many steps, begun with 2 and then lengthened."""
    options = [f"--codec.start={start}", "--weights.multi_mel=1", "--data.min_seconds=0.1"]
    jobs = [job_of(here, RowConfig(options=[*options, f"--steps={n}"])) for n in (2, *resumed, steps)]
    first, *others, job = [one.recipe for one in jobs]
    assert job is not None and first is not None
    rows = [{"changes": {"steps": []}, "recipe": asdict(one)} for one in others if one is not None]
    described = {"recipe": asdict(first), "files": named_files(first), "resumed": rows}
    (jobs[-1].place / "checkpoints" / f"step_{taken:08d}").mkdir(parents=True, exist_ok=True)
    (jobs[-1].place / "run.json").write_text(json.dumps(described))
    return jobs[-1]


def test_a_run_that_went_further_or_from_another_file_is_put_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniature_codec(1).save_pretrained(tmp_path / "start")
    miniature_speech(tmp_path / "speech")
    for number, (steps, taken, resumed, why) in enumerate(
        ((2, 2, (), ""), (6, 2, (), ""), (6, 6, (6,), ""), (2, 6, (6,), "steps"), (2, 6, (), "steps")), start=1
    ):
        job = trained(tmp_path / str(number), steps, taken=taken, start=tmp_path / "start", resumed=resumed)
        assert job.recipe is not None
        job.recipe = replace(job.recipe, data=replace(job.recipe.data, manifest=str(tmp_path / "speech/train.jsonl")))
        job.put_stale_run_aside(job.recipe)
        assert job.place.exists() is not bool(why), (steps, taken, resumed)
        assert (f"was trained with other {why};" in capsys.readouterr().out) is bool(why)
    job = trained(tmp_path / "1", 2, taken=2, start=tmp_path / "start")
    assert job.recipe is not None
    job.recipe = replace(job.recipe, data=replace(job.recipe.data, manifest=str(tmp_path / "speech/train.jsonl")))
    write_result(job)
    miniature_codec(2).save_pretrained(tmp_path / "start")
    again = job_of(tmp_path / "1", job.row)
    again.recipe = job.recipe
    assert again.find_stale() == "other file codec.start than its result"
    again.put_stale_run_aside(job.recipe)
    assert "was trained with other codec.start (its files);" in capsys.readouterr().out and not job.place.exists()


def test_a_row_searches_by_a_language_model_and_by_pairs_of_a_second_round(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_job, "RATE_LM", replace(sweep_job.RATE_LM, audio_seconds=60.0))
    codec = load_codec("bundled")
    clips = [clip for clip in read_manifest(speech_manifest("train")) if clip.duration < 2.0][:6]
    row = RowConfig(search=0.2, search_effort="fast", search_lm=True, search_rounds=2)
    searching = sweep_job.searching(codec, clips, row, seed=0)
    assert searching.config == SearchConfig.of("fast", 0.2) and isinstance(searching.prior, NeuralPrior)
    pairs, once = searching.prior.pairs, sweep_job.searching(codec, clips, RowConfig(search=0.2), seed=0).prior
    assert (pairs.folds, once.folds) == (2, 10) and not torch.equal(pairs.pooled.keys_G, once.pooled.keys_G)
    codes = [codec.encode(clip.load(codec.sample_rate)[None, None]).audio_codes[0, 0] for clip in clips]
    expected = train_scorer(codes, codec.codebook_size, codec.frame_rate, sweep_job.RATE_LM, seed=0)
    for name, value in run_tensors(expected.model).items():
        torch.testing.assert_close(searching.prior.tensors[name], value)
    save_tensors(tmp_path / "audio_lm.safetensors", searching.prior.tensors)
    again = load_scorer(tmp_path / "audio_lm.safetensors", expected.max_tokens)
    one, other = (scorer.token_log_likelihoods(codes[:1])[0] for scorer in (expected, again))
    torch.testing.assert_close(one, other)


def test_the_shipped_frontier_is_read_and_its_line_and_sizes_name_rows(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "run_sweep", lambda config, here, read: (seen.append(config), Path(__file__))[1])
    path = assets.shipped_recipe("sweep_frontier")
    assert main(["sweep", str(path)]) == 0
    config = seen[0]
    assert config.seeds == [0, 1, 2] and all(row.seeds in (None, [0]) for row in config.rows.values())
    assert all(config.rows[name].seeds is None for name in config.line), "a line of one seed compares nothing"
    assert {row.search for row in config.rows.values() if row.of} == {0.1}
    assert isinstance(config.parts, PartsConfig) and config.line[0] == config.reference == "control"
    assert set(config.lm_sizes) == {"1M", "20M"} and "control" in config.lm_sizes["20M"].rows
    assert len(config.line) >= 3 and set(yaml.safe_load(Path(path).read_text())["rows"]) == set(config.rows)


@pytest.mark.parametrize(("name", "millions"), [("1M", 1), ("", 5), ("20M", 20)])
def test_the_lm_sizes_are_what_they_are_called(name: str, millions: int):
    config = yaml.safe_load(Path(assets.shipped_recipe("sweep_frontier")).read_text())
    likelihood = config["lm_sizes"][name]["likelihood"] if name else config["measurement"]["likelihood"]
    from llmcodec.lm.small_lm import SmallLM, SmallLMConfig

    model = SmallLM(SmallLMConfig(**likelihood["model"]), 8192, seed=0)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6 * millions, rel=0.1)
