"""Quickstart, sweep and compare, whole, at a scale of seconds: bundled codec, a few bundled clips, a miniature LM."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmcodec import assets
from llmcodec.cli.experiments import train_parser
from llmcodec.cli.main import main
from llmcodec.codec import LLMCodec
from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.evaluation.predictability import LikelihoodConfig
from llmcodec.evaluation.system import Corpus, MeasurementConfig
from llmcodec.experiments.quickstart import bundled_corpus, run_quickstart, with_half_the_codes, without_language
from llmcodec.io import audio
from llmcodec.training.recipe import Recipe

LITTLE = LikelihoodConfig(audio_seconds=30.0, batch_seconds=6.0, num_evaluations=1)


@pytest.fixture(scope="module")
def little_lm(tmp_path_factory) -> Path:
    """A 3-layer Qwen3 with a byte tokenizer: what a hub model looks like on disk."""
    folder = tmp_path_factory.mktemp("lm")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    Qwen3ForCausalLM(Qwen3Config(vocab_size=256, intermediate_size=64, **sizes)).save_pretrained(folder)
    return folder


def quickstart_recipe(lm: Path, *options: str) -> Recipe:
    arguments = ["--config", "quickstart", f"--language.backbone.name={lm}", "--steps=2", *options]
    return train_parser().read_recipe([*arguments, "--language.backbone.num_layers=3"])


@pytest.fixture(scope="module")
def few_clips() -> Corpus:
    corpus = bundled_corpus()
    short = [[c for c in part if c.duration < 3.5] for part in (corpus.train, corpus.valid, corpus.test)]
    return Corpus(short[0][:12], short[1][:3], [c for c in short[2] if c.duration > 1.5 and c.text][:3])


@pytest.mark.slow
def test_quickstart_trains_measures_and_reports(little_lm, few_clips, tmp_path, capsys):
    recipe = quickstart_recipe(little_lm, "--language.rate_to_codec=1.0", "--optimizer.codec.lr=1e-3")
    measurement = MeasurementConfig(likelihood=LITTLE, consistency_clips=2, workers=0)
    report = run_quickstart(recipe, str(tmp_path / "qs"), corpus=few_clips, measurement=measurement)
    page = report.read_text(encoding="utf-8")
    for needed in (
        "base",
        "control",
        "half the codes",
        "LLM-Codec",
        "half the codes, search",
        "<audio",
        "data:audio/flac;base64",
        "llmcodec quickstart",
    ):
        assert needed in page
    assert not re.search(r"(src|href)=[\"']https?://", page), "the page must not ask the network for anything"
    first = capsys.readouterr().out
    assert "[1/8]" in first and "[8/8]" in first and "LM bits per second" in first
    rows = [json.loads(line) for line in (tmp_path / "qs/adapted/log.jsonl").read_text().splitlines()]
    for term in ("lm/ftp", "lm/rate", "align/cosine", "align/contrast", "codes/marginal_entropy", "recon/multi_mel"):
        assert rows[-1][term] != 0.0, term
    assert rows[-1]["bridge/agreement"] == 1.0
    control = json.loads((tmp_path / "qs/control/log.jsonl").read_text().splitlines()[-1])
    assert not any(term.startswith(("lm/", "align/")) for term in control)
    before = LLMCodec.from_pretrained(assets.codec_folder()).state_dict()
    after = LLMCodec.from_pretrained(tmp_path / "qs/adapted/codec").state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    half = LLMCodec.from_pretrained(tmp_path / "qs/half/codec")
    assert half.codebook_size == len(before["quantizer.codebook"]) // 2
    assert run_quickstart(recipe, str(tmp_path / "qs")) == report  # the second run trains nothing
    assert "--restart" in capsys.readouterr().out
    with pytest.raises(ValueError, match="begun with another recipe: seed was 0, is 1"):
        run_quickstart(replace(recipe, seed=1), str(tmp_path / "qs"))


def test_the_control_differs_in_the_language_terms_alone(little_lm):
    recipe = quickstart_recipe(little_lm)
    control = without_language(recipe)
    assert control.language is None and control.weights.multi_mel == recipe.weights.multi_mel
    assert control.optimizer == recipe.optimizer and control.data == recipe.data and control.seed == recipe.seed
    assert set(control.weights.ever()) == {"recon/multi_mel", "vq/commit", "vq/codebook"}
    half = with_half_the_codes(control)
    assert replace(half, codec=control.codec) == control and half.codec.smaller_codebook == 4096
    recommended = train_parser().read_recipe(["--config", "recommended"])
    assert recommended.codec == half.codec and recommended.weights == half.weights and recommended.language is None


@pytest.mark.slow
def test_sweep_resumes_and_pairs_by_seed_and_clip(few_clips, tmp_path, capsys):
    clips = [*few_clips.train, *few_clips.valid, *few_clips.test]
    for clip in clips:
        (tmp_path / clip.audio).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / clip.audio).symlink_to(clip.path)
    write_manifest(tmp_path / "manifest.jsonl", clips)
    (tmp_path / "plain.yaml").write_text("steps: 1\nwindow_seconds: 0.5\nweights: {multi_mel: 1.0}\n")
    sweep = {
        "folder": str(tmp_path / "out"),
        "manifest": str(tmp_path / "manifest.jsonl"),
        "seeds": [0, 1],
        "rows": {
            "base": {"codec": "bundled", "seeds": [0]},
            "control": {"configs": ["plain.yaml"]},
            "fewer .5": {"configs": ["plain.yaml"], "options": ["--codec.smaller_codebook=256"]},
        },
        "measurement": {
            "likelihood": {"audio_seconds": 12.0, "batch_seconds": 6.0, "num_evaluations": 1},
            "slow_metrics": False,
            "consistency_clips": 0,
        },
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))  # JSON is YAML
    assert main(["sweep", str(tmp_path / "sweep.yaml")]) == 0
    table = capsys.readouterr().out
    assert "base (1)" in table and "control (2)" in table and "mel against control" in table
    assert LLMCodec.from_pretrained(tmp_path / "out/fewer .5-1/codec").codebook_size == 256
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    assert len(stamps) == 5
    (tmp_path / "out/fewer .5-1.json").unlink()
    assert main(["sweep", str(tmp_path / "sweep.yaml")]) == 0
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    assert len(again) == 5 and sum(again[p] == stamps[p] for p in stamps) == 4


def test_compare_command_writes_table_and_rows(few_clips, tmp_path, capsys):
    manifest = tmp_path / "m.jsonl"
    clips = [*few_clips.train[:4], *few_clips.valid[:2], *few_clips.test[:2]]
    for clip in clips:
        (tmp_path / clip.audio).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / clip.audio).symlink_to(clip.path)
    write_manifest(manifest, clips)
    options = ["--measurement.likelihood.audio_seconds=12", "--measurement.slow_metrics=false"]
    code = main(
        ["compare", "bundled", "same=bundled", "--manifest", str(manifest), *options, "--output", str(tmp_path / "o")]
    )
    assert code == 0
    out = capsys.readouterr().out
    assert "LM bits per second: no difference shown" in out or "LM bits per second" in out
    result = json.loads((tmp_path / "o.json").read_text())
    assert result["same"]["measures"] == result["bundled"]["measures"]  # the same codec, to the last digit
    assert main(["compare", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_readme_example_runs(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 7
    monkeypatch.chdir(tmp_path)
    clip = read_manifest(assets.speech_manifest("test"))[0]
    wav = audio.load(clip.path, 16000)
    audio.write("speech.wav", wav, 16000)
    exec(compile(code, "README.md", "exec"), {})
    assert audio.info("again.wav").num_frames == len(wav)


def test_the_quickstart_looks_for_all_it_needs_before_it_trains(little_lm, tmp_path, monkeypatch):
    def train(run: Recipe) -> Path:
        raise AssertionError("training has begun")

    monkeypatch.setattr("llmcodec.experiments.quickstart.train_or_resume", train)
    with pytest.raises(ValueError, match="gone"):
        run_quickstart(quickstart_recipe(tmp_path / "gone"), str(tmp_path / "out"))
    needs = MeasurementConfig(metrics=["mel", "loudness"])
    with pytest.raises(ValueError, match="loudness"):
        run_quickstart(quickstart_recipe(little_lm), str(tmp_path / "out"), measurement=needs)


def test_the_quickstart_is_done_when_all_its_runs_are(little_lm, tmp_path, monkeypatch, capsys):
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "table.md").write_text("the old table")

    def train(run: Recipe) -> Path:
        raise AssertionError("training has begun")

    monkeypatch.setattr("llmcodec.experiments.quickstart.train_or_resume", train)
    monkeypatch.setattr("llmcodec.experiments.quickstart.is_finished", lambda run: run.run.endswith("control"))
    with pytest.raises(AssertionError, match="training has begun"):
        run_quickstart(quickstart_recipe(little_lm), str(tmp_path))
    assert "Already done" not in capsys.readouterr().out
    monkeypatch.setattr("llmcodec.experiments.quickstart.is_finished", lambda run: True)
    assert run_quickstart(quickstart_recipe(little_lm), str(tmp_path)) == tmp_path / "report.html"
    out = capsys.readouterr().out
    assert "the old table" in out and "Already done" in out
