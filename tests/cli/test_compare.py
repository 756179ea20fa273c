"""`llmcodec compare`: names, run folders, the page and its files, measurements kept, bad input in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from llmcodec.adapters.load import load_codec
from llmcodec.assets import codec_folder, speech_manifest
from llmcodec.cli.main import main
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.evaluation import system
from llmcodec.evaluation.cache import code_digest, measurement_key
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.results import SystemRow
from llmcodec.experiments import comparison
from llmcodec.experiments.comparison import System, all_statements, curves, named_systems, run_facts, split_name

from ..report.made_up import made_up_row

BUDGET = ["--measurement.likelihood.audio_seconds", "20", "--measurement.likelihood.model.num_layers", "1"]
BUDGET += ["--measurement.slow_metrics", "false", "--measurement.workers", "0"]
BUDGET += ["--measurement.likelihood.num_evaluations", "2", "--measurement.consistency_clips", "2"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as `llmcodec train` leaves one."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    shutil.copytree(codec_folder(), run / "codec")
    rows = [{"step": step, "recon/multi_mel": 1 / step, "lm/rate_bits": None} for step in range(1, 50)]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "recon')
    recipe = {"steps": 50, "seed": 3, "weights": {"rate": {"value": 0.15, "delay": 10}, "multi_mel": 5.0, "ftp": 0.0}}
    told = {
        "recipe": recipe,
        "manifest": {"path": "m.jsonl", "hash": "abc"},
        "versions": {"torch": "2"},
        "commit": None,
    }
    (run / "run.json").write_text(json.dumps(told))
    return run


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    clips = [
        clip
        for split in ("train", "valid", "test")
        for clip in [c for c in read_manifest(speech_manifest(split)) if c.duration < 2.5 and c.text][:3]
    ]
    return str(write_manifest(tmp_path_factory.mktemp("few") / "manifest.jsonl", clips))


def test_page_table_and_numbers_and_a_second_call_that_only_draws(run_folder, manifest, tmp_path, monkeypatch, capsys):
    arguments = ["compare", "bundled", str(run_folder), "--manifest", manifest, "--cache", str(tmp_path / "cache")]
    arguments += ["-o", str(tmp_path / "out" / "report.html"), *BUDGET]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "mine" in shown and "Mel distance" in shown and "report.html" in shown
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for word in ("Faithful or predictable", "Listen and look", "Training: multi-scale mel loss", "Training runs"):
        assert word in page
    assert page.count("<audio") == 3 * 3 and "rate 0.15, multi_mel 5.0" in page and "transformers" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and page.count("<script>") == 1
    assert page.count("data-tokens=") == 3 * 2  # both codecs, not the original
    table = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert table.startswith("| | bundled | mine |")
    numbers = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert numbers["bundled"]["measures"] == numbers["mine"]["measures"]  # the same weights
    assert len(list((tmp_path / "cache").iterdir())) == 1

    def never(*_: object) -> SystemRow:
        raise AssertionError("measured again")

    monkeypatch.setattr(system, "measure_system", never)
    assert main([*arguments, "--recordings", "1"]) == 0
    again = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert again.count("<audio") == 3 and json.loads((tmp_path / "out" / "report.json").read_text("utf-8")) == numbers
    assert main([*arguments, "--fresh", "true"]) == 1 and "measured again" in capsys.readouterr().err


def test_names(run_folder):
    systems = named_systems(["bundled", "a=b/c", str(run_folder), f"x={run_folder / 'codec'}"])
    assert [system.name for system in systems] == ["bundled", "a", "mine", "x"]
    assert systems[0].run is None and systems[2].run == run_folder == systems[3].run
    with pytest.raises(ValueError, match="two codecs are called 'bundled'"):
        named_systems(["bundled", "bundled"])
    with pytest.raises(ValueError, match="name at least one codec"):
        named_systems([])


@pytest.mark.parametrize(
    ("entry", "name", "place"),
    [
        ("fast=search:bundled?effort=fast", "fast", "search:bundled?effort=fast"),
        ("search@0.05:bundled?effort=path", "", "search@0.05:bundled?effort=path"),
        ("s3://bucket/lr=3/codec", "", "s3://bucket/lr=3/codec"),
        ("Opus 6 kbit/s=opus:6", "Opus 6 kbit/s", "opus:6"),
        ("mine=runs/lr=3/codec", "mine", "runs/lr=3/codec"),
        ("bundled", "", "bundled"),
    ],
)
def test_an_equals_sign_in_the_place_is_not_that_of_the_name(entry: str, name: str, place: str):
    assert split_name(entry) == (name, place)


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/lr=3").mkdir(parents=True)
    assert split_name("runs/lr=3") == ("", "runs/lr=3") and split_name("mine=runs/lr=3") == ("mine", "runs/lr=3")


def test_all_goes_on_where_a_codec_cannot_be_measured(manifest, tmp_path, monkeypatch, capsys):
    named = {entry.name: entry for entry in comparison.ENTRIES}
    broken = replace(named["random:dac_16khz"], title="Broken", name="random:nowhere")
    absent = replace(named["random:dac_24khz"], title="Absent", package="no_such_package")
    monkeypatch.setattr(comparison, "ENTRIES", (named["bundled"], named["opus:6"], broken, absent))
    monkeypatch.setattr(system, "measure_system", lambda name, *_: made_up_row(name))
    words = ["--manifest", manifest, "--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "every.md")]
    assert main(["compare", "all", *words, "--recordings", "0"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    table = (tmp_path / "every.md").read_text("utf-8")
    assert table.startswith("| | bundled | Opus 6 kbit/s |")
    for line in (
        "not measured: Absent: needs the package no_such_package",
        "not measured: Broken (random weights): no codec random:nowhere",
        "not measured: SoundStream (Google): neither code nor weights were published",
    ):
        assert line in shown and line in table, line
    assert main(["compare", "random:nowhere", *words]) == 1 and "no codec random:nowhere" in capsys.readouterr().err


def test_run_facts_and_curves(run_folder, tmp_path):
    systems = [System("mine", str(run_folder)), System("bundled", "bundled")]
    facts = run_facts(systems)
    assert facts == {
        "mine": {
            "folder": str(run_folder),
            "steps": "50",
            "seed": "3",
            "weights": "rate 0.15, multi_mel 5.0",
            "manifest": "m.jsonl (abc)",
            "commit": "unknown",
            "versions": "torch 2",
        }
    }
    (curve,) = curves([SystemRow("mine", 500.0)], systems)
    assert curve.title == "Training: multi-scale mel loss" and list(curve.series) == ["mine"]
    assert curve.series["mine"][0] == list(range(1, 50)) and list(curve.order) == ["mine", "bundled"]
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "run.json").write_text('{"recipe": 3}')
    assert "cannot be read" in run_facts([System("broken", str(tmp_path))])["broken"]["run.json"]


def test_the_caveat_is_said_once():
    rows = [made_up_row("a"), made_up_row("b", bits=270), made_up_row("c", bits=280)]
    texts = [statement.text for statement in all_statements(rows)]
    assert (
        sum("variance between training runs" in text for text in texts) == 1
        and "variance between training runs" in texts[-1]
    )
    assert sum(text.startswith("LM bits per second") for text in texts) == 2 and all_statements(rows[:1]) == []


def test_keys_see_weights_and_settings():
    codec = load_codec("bundled")
    key = measurement_key(codec, "settings")
    assert key == measurement_key(load_codec("bundled"), "settings") and key != measurement_key(codec, "others")
    next(iter(codec.parameters())).data.view(-1)[0] += 1.0  # type: ignore[attr-defined]
    assert measurement_key(codec, "settings") != key
    assert measurement_key(optimize_for_inference(codec, "fp32"), "settings") is None


def test_a_signal_ends_in_good_order_and_what_was_measured_is_kept(manifest, tmp_path, capsys, monkeypatch):
    measured: list[str] = []

    def measure(name: str, *_: object) -> SystemRow:
        if measured and name not in measured:
            os.kill(os.getpid(), signal.SIGHUP)
        measured.append(name)
        return made_up_row(name)

    monkeypatch.setattr(system, "measure_system", measure)
    shutil.copytree(codec_folder(), tmp_path / "other")
    words = [
        "compare",
        "a=bundled",
        f"b={tmp_path / 'other'}",
        "--manifest",
        manifest,
        "--cache",
        str(tmp_path / "kept"),
    ]
    words += ["--measurement.workers", "0"]
    with pytest.MonkeyPatch.context() as patch:  # the second codec is another one
        patch.setattr(
            system, "measurement_key", lambda codec, *rest: f"key{len(measured)}" if len(measured) < 2 else None
        )
        assert main(words) == 128 + signal.SIGHUP
    shown = capsys.readouterr().err
    assert "llmcodec compare: stopped by SIGHUP: codecs that are measured are kept" in shown
    assert measured == ["a"] and len(list((tmp_path / "kept").glob("*.json"))) == 1


def test_other_audio_behind_the_same_manifest_is_measured_again(manifest, tmp_path, monkeypatch):
    corpus_folder = tmp_path / "corpus"
    corpus_folder.mkdir()
    clips = []
    for number, clip in enumerate(read_manifest(manifest)):
        sf.write(copy := corpus_folder / f"{number}.wav", clip.load(16000), 16000)
        clips.append(replace(clip, audio=str(copy)))
    suite = tmp_path / "suite" / "part"
    suite.mkdir(parents=True)
    (suite / "sample_0_0.wav").write_bytes(b"one")
    splits = ([clip for clip in clips if clip.split == name] for name in ("train", "valid", "test"))
    corpus, config = system.Corpus(*splits), system.MeasurementConfig(salmon=str(suite.parent))
    measured = []

    def measure(name: str, *_: object) -> SystemRow:
        measured.append(name)
        return SystemRow(name, 1.0)

    monkeypatch.setattr(system, "measure_system", measure)
    encoded = EncodedCorpus(load_codec("bundled"))

    def look_up() -> int:
        system.look_up_system("mine", encoded, corpus, config, tmp_path / "cache")
        return len(measured)

    assert look_up() == 1 and look_up() == 1
    (suite.parent / ".codes").mkdir()
    (suite.parent / ".codes" / "part-0.safetensors").write_bytes(b"kept")
    assert look_up() == 1
    for count, clip in enumerate((corpus.test[0], corpus.valid[0], corpus.train[0]), start=2):
        noise = np.random.default_rng(count).normal(size=round(clip.duration * 16000)).astype(np.float32) * 0.1
        sf.write(clip.path, noise, 16000)
        assert look_up() == count and look_up() == count
    (suite / "sample_0_0.wav").write_bytes(b"others")
    assert look_up() == 5 and look_up() == 5
    corpus.test[0].path.unlink()
    with pytest.raises(ValueError, match="1 of 9 audio files cannot be read"):
        look_up()


def test_code_that_measures_changes_the_key_and_code_that_draws_does_not(tmp_path):
    places = ("io", "codec", "adapters", "runtime", "lm", "salmon", "evaluation", "metrics", "data", "transcode")
    for name in ("protocol.py", "precision.py", *(f"{place}/a.py" for place in places), "report/style.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    before = code_digest(tmp_path)
    (tmp_path / "report/style.py").write_text("x = 2")
    assert code_digest(tmp_path) == before
    (tmp_path / "codec/a.py").write_text("x = 2")
    assert code_digest(tmp_path) != before and len(code_digest()) == 24


def test_bad_input_is_one_line(tmp_path, capsys):
    for arguments, message in (
        (["no/such/codec/at/all"], "no codec"),
        (["bundled", "bundled"], "two codecs are called"),
        (["bundled", "-o", str(tmp_path)], "is a folder; give the name of the page"),
        (["bundled", "--manifest", str(tmp_path / "none.jsonl")], "no such manifest"),
    ):
        assert main(["compare", *arguments]) == 1
        error = capsys.readouterr().err.strip()
        assert message in error and len(error.splitlines()) == 1
