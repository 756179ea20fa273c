"""Training at a scale of seconds: what trains, resume, kills, the three ways to train, held-out figures."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmcodec.io.run_guard import RunLock, Stopped, StopSignals
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig, TokenLMRecipe
from llmcodec.lm.small_lm import SmallLMConfig
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.lm.train import _facts, _start, newest_checkpoint, train_token_lm

from .small_token_lm import CODEC, NUM_CODES, causal, random_codes, rows

SMALL = SmallLMConfig(1, 16, 2, 24, dropout=0.0, max_positions=128)


def recipe(run, **options):
    model = options.pop("model", LMModelConfig(small=SMALL))
    data = options.pop("data", LMDataConfig(max_tokens=48))
    defaults = dict(
        run=str(run), steps=6, eval_every=3, log_every=1, rows_per_batch=2, lr=1e-2, bf16=False, keep_best=False
    )
    return TokenLMRecipe(data=data, model=model, **defaults | options)


def train(one, resume=False, valid=4, codec=CODEC, **how):
    lines: list[str] = []
    held_out = rows(valid, seed=9) if valid else []
    folder = train_token_lm(one, rows(), held_out, codec, resume=resume, say=lines.append, **how)
    return folder, lines


def weights(folder):
    return load_token_lm(str(folder)).model.state_dict()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A published LM, so to speak: byte rows alone, with its tokenizer."""
    from llmcodec.lm.audio_tokens import byte_tokenizer

    folder = tmp_path_factory.mktemp("base")
    causal("qwen3").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_run_learns_and_says_what_it_did(tmp_path):
    one = recipe(tmp_path / "run", steps=40, eval_every=20, model=LMModelConfig(small=SMALL, dropout=0.1), bf16=True)
    folder, lines = train(one)
    assert any("cross-entropy" in line and "softmax over the codes" in line for line in lines)
    state = json.loads((tmp_path / "run" / "checkpoint-40" / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert losses[-1] < losses[0] - 0.2
    lm = load_token_lm(str(tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    scores = lm.token_log_likelihoods([row.codes for row in rows(4, seed=9)])
    bits = -sum(float(row.sum()) for row in scores) / math.log(2) / sum(len(row) for row in scores)
    assert result["bits_per_token"] == pytest.approx(bits, rel=1e-4)
    assert result["bits_per_second"] == pytest.approx(bits * CODEC.frame_rate, rel=1e-4)
    evaluated = [row["eval_bits_per_second"] for row in state["log_history"] if "eval_bits_per_second" in row]
    assert evaluated[-1] == pytest.approx(result["bits_per_second"], rel=1e-5)
    assert lm.card.codec == CODEC and lm.card.formats == ["audio"] and folder == tmp_path / "run" / "lm"
    assert lm.model.generation_config.eos_token_id[0] == lm.tokens.end


def test_resumed_is_uninterrupted_and_an_unfinished_checkpoint_is_passed_over(tmp_path):
    whole = weights(train(recipe(tmp_path / "whole", accumulate=2))[0])
    run = tmp_path / "cut"
    train(recipe(run, accumulate=2))
    shutil.rmtree(run / "lm")
    (run / "checkpoint-6" / "trainer_state.json").write_text('{"epo')  # killed while it was written
    folder, lines = train(recipe(run, accumulate=2), resume=True)
    assert any("checkpoint-6: unfinished, passed over" in line for line in lines)
    resumed = weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(("epochs", "accumulate"), [(1.5, 1), (0.3, 1), (1.5, 2), (2.0, 3)])
def test_a_run_of_epochs_killed_after_its_last_checkpoint_takes_no_step_more(tmp_path, epochs, accumulate):
    options = dict(steps=None, epochs=epochs, accumulate=accumulate, eval_every=100)
    train(recipe(tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed", ignore=shutil.ignore_patterns("lm", "result.json"))
    (last,) = (path.name for path in (tmp_path / "whole").glob("checkpoint-*"))
    train(recipe(tmp_path / "killed", **options), resume=True, allow_changes=True)  # its folder has another name
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == [last]
    before, after = (weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    results = [(tmp_path / name / "result.json").read_text() for name in ("whole", "killed")]
    assert results[0] == results[1]


def test_a_folder_in_use_and_a_changed_recipe(tmp_path):
    one = recipe(tmp_path / "run", steps=3)
    train(one)
    with pytest.raises(ValueError, match="contains a run already; continue with --resume"):
        train(one)
    with pytest.raises(ValueError, match=r"lr was 0\.01, is 0\.0001"):
        train(replace(one, lr=1e-4), resume=True)
    with pytest.raises(ValueError, match="started with tokens of codec 'toy'"):
        train(one, resume=True, codec=replace(CODEC, weights_sha256="1" * 64))
    assert newest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    assert newest_checkpoint(tmp_path / "none") is None
    with pytest.raises(ValueError, match="steps was 3, is 5"):  # its learning rate falls over the steps
        train(replace(one, steps=5), resume=True)
    train(replace(one, steps=5), resume=True, allow_changes=True)
    steady = recipe(tmp_path / "steady", steps=3, schedule="constant_with_warmup", warmup_share=0.0)
    train(steady)
    train(replace(steady, steps=5), resume=True)
    assert newest_checkpoint(tmp_path / "steady") == tmp_path / "steady" / "checkpoint-5"


@pytest.mark.parametrize("resume", [False, True])
def test_the_folder_of_a_training_that_goes_on_is_left_as_it_is(tmp_path, resume):
    run = tmp_path / "run"
    train(recipe(run, steps=3))
    (run / "checkpoint-6").mkdir()  # being written
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with RunLock(run), pytest.raises(ValueError, match="is writing this run"):
        train(recipe(run, steps=3), resume=resume)
    (run / "checkpoint-6").rmdir()
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def start(one, resume=False):
    return _start(one, _facts(rows(), CODEC), resume, False, print)


def test_other_tokens_behind_the_same_path_are_seen(tmp_path):
    one = recipe(tmp_path / "run")
    start(one)
    assert start(one, True) is None
    with pytest.raises(ValueError, match=r"data\.tokens \(its content\) was"):
        _start(one, _facts(rows()[:-1], CODEC), True, False, print)


def test_a_signal_saves_the_step_and_ends_the_run(tmp_path, monkeypatch):
    class Told(StopSignals):
        def __enter__(self):
            self.received = signal.SIGTERM
            return self

    monkeypatch.setattr("llmcodec.lm.train.StopSignals", Told)
    with pytest.raises(Stopped, match="stopped by SIGTERM: step 1 is saved") as stopped:
        train(recipe(tmp_path / "run", steps=3))
    assert stopped.value.exit_code == 143
    assert newest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    monkeypatch.undo()
    train(recipe(tmp_path / "run", steps=3), resume=True)


def test_of_several_processes_one_writes(tmp_path, monkeypatch):
    one = recipe(tmp_path / "run")
    monkeypatch.setenv("RANK", "1")
    assert start(one) is None and not (tmp_path / "run" / "run.json").exists()
    for step, state in ((3, "{}"), (6, '{"epo')):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    whole, unfinished = tmp_path / "run" / "checkpoint-3", tmp_path / "run" / "checkpoint-6"
    assert newest_checkpoint(tmp_path / "run") == whole and unfinished.exists()
    monkeypatch.setenv("RANK", "0")
    assert newest_checkpoint(tmp_path / "run") == whole and not unfinished.exists()


def test_a_start_that_is_killed_leaves_no_half_description(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        start(recipe(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())


def test_a_run_from_before_a_field_existed_resumes(tmp_path):
    run = tmp_path / "run"
    one = recipe(run, data=LMDataConfig(formats=["audio"], max_tokens=48))
    start(one)
    facts = json.loads((run / "run.json").read_text())
    fields = facts["recipe"]
    del fields["data"]["turns"], fields["everywhere"]
    sizes = {name: getattr(SMALL, name) for name in ("num_layers", "hidden_size", "num_heads", "intermediate_size")}
    fields["model"]["small"] = sizes | {"max_positions": 128, "initializer_range": 0.02}
    fields["data"]["gone"] = 1  # a field of then
    (run / "run.json").write_text(json.dumps(facts))
    assert start(one, True) is None
    other = replace(one, data=replace(one.data, turns=(3, 8)), model=LMModelConfig(small=replace(SMALL, num_heads=1)))
    with pytest.raises(ValueError, match=r"data\.turns was .*; model\.small\.num_heads was 2, is 1"):
        start(other, True)
    fields["model"]["small"]["cooccurrence"] = False  # the old spelling of start_window
    (run / "run.json").write_text(json.dumps(facts))
    drawn = replace(one, model=LMModelConfig(small=replace(SMALL, start_window=0)))
    assert start(drawn, True) is None
    with pytest.raises(ValueError, match=r"model\.small\.start_window was 0, is 2"):
        start(one, True)


def test_accumulation_and_packing_do_not_change_the_step(tmp_path):
    """One optimizer step over all the data, in one, two and unpacked micro-batches."""
    found = {}
    for name, options in {
        "one": {"rows_per_batch": 12},
        "two": {"rows_per_batch": 3, "accumulate": 2},
        "unpacked": {"rows_per_batch": 12, "data": LMDataConfig(max_tokens=48, packing=False)},
    }.items():
        folder, lines = train(recipe(tmp_path / name, steps=1, eval_every=1, warmup_share=0.0, **options), valid=0)
        state = json.loads((folder.parent / "checkpoint-1" / "trainer_state.json").read_text())
        found[name] = {key: state["log_history"][0][key] for key in ("loss", "grad_norm", "learning_rate")}
    assert next(line for line in lines if "sequences" in line).endswith("in 12 rows")  # the last run is not packed
    for other in ("two", "unpacked"):
        assert found[other] == pytest.approx(found["one"], rel=1e-4)
    assert found["one"]["grad_norm"] > 0.01 and found["one"]["learning_rate"] == 1e-2


@pytest.mark.parametrize("kind", ["lora", "embeddings"])
def test_lora_and_embeddings_train_what_they_say(tmp_path, base, kind):
    model = LMModelConfig(base=str(base), train=kind, lora_rank=4, lora_alpha=8)
    folder, lines = train(recipe(tmp_path / "run", model=model, gradient_checkpointing=kind == "lora", lr=0.05))
    files = {path.name for path in folder.iterdir()}
    assert "audio_rows.safetensors" in files and "model.safetensors" not in files
    assert ("adapter_model.safetensors" in files) == (kind == "lora")
    lm, merged = load_token_lm(str(folder)), load_token_lm(str(folder), merge=True)
    codes = random_codes(9, 4)
    for a, b in zip(lm.token_log_likelihoods(codes), merged.token_log_likelihoods(codes), strict=True):
        assert torch.allclose(a, b, atol=1e-5)  # LoRA merged == unmerged
    plain, after = causal("qwen3").state_dict(), merged.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value[: len(plain[name])], plain[name])}
    assert bool(changed) == (kind == "lora") and not any("embed" in name or "norm" in name for name in changed)
    start = prepare_model(model, NUM_CODES, True)
    rows_before = start.module.rows.input_NH.detach()
    assert float((after["model.embed_tokens.weight"][258:] - rows_before).abs().max()) > 0.01


def test_an_lm_that_already_speaks_goes_on(tmp_path):
    first, _ = train(recipe(tmp_path / "a", steps=2))
    folder, _ = train(recipe(tmp_path / "b", steps=1, lr=1e-9, model=LMModelConfig(base=str(first))))
    assert all(torch.allclose(weights(first)[name], value, atol=1e-6) for name, value in weights(folder).items())
    with pytest.raises(ValueError, match="not the 41 of this codec"):
        train(recipe(tmp_path / "c", model=LMModelConfig(base=str(first))), codec=replace(CODEC, codebook_size=41))


def test_text_formats_are_evaluated_by_their_targets(tmp_path):
    data = LMDataConfig(formats=["tts", "asr"], max_tokens=48, text_template="{speaker} {text}")
    folder, _ = train(recipe(tmp_path / "run", steps=2, data=data, loss_over="full"))
    assert set(json.loads((Path(folder).parent / "result.json").read_text())) == {"nats_per_target"}
    assert load_token_lm(str(folder)).card.text_template == "{speaker} {text}"


def test_recipes_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="max_tokens is 200, but the language model reads 128"):
        train(recipe(tmp_path / "a", data=LMDataConfig(max_tokens=200)))
    with pytest.raises(ValueError, match="tokens of another codec"):
        train(recipe(tmp_path / "b"), codec=replace(CODEC, codebook_size=20))


def test_draft_heads_train_beside_the_lm_and_afterwards_without_changing_it(tmp_path):
    from llmcodec.objectives.prediction import draft_nats

    beside = recipe(tmp_path / "beside", model=LMModelConfig(small=SMALL, heads=2))
    lm = load_token_lm(str(train(beside, draft_loss=draft_nats)[0]))
    assert lm.heads is not None and lm.heads.num_heads == 2
    after = LMModelConfig(base=str(tmp_path / "beside"), train="heads", heads=3)
    text = LMDataConfig(max_tokens=48, formats=["tts"])
    one = recipe(tmp_path / "after", model=after, data=text, steps=60, eval_every=60, keep_best=True)
    folder, _ = train(one, draft_loss=draft_nats)
    found = load_token_lm(str(folder))
    assert all(torch.equal(value, found.model.state_dict()[name]) for name, value in lm.model.state_dict().items())
    assert found.card == lm.card and found.card.formats == ["audio"]  # what the LM can do is what it could
    assert found.heads is not None and found.heads.num_heads == 3
    losses = json.loads((tmp_path / "after" / "checkpoint-60" / "trainer_state.json").read_text())
    nats = [entry["loss"] for entry in losses["log_history"] if "loss" in entry]
    assert nats[-1] < 0.9 * nats[0]
    other = replace(CODEC, weights_sha256="f" * 64)
    with pytest.raises(ValueError, match="draft heads need tokens of the LM's own codec"):
        train(replace(one, run=str(tmp_path / "strangers")), draft_loss=draft_nats, codec=other)
    with pytest.raises(ValueError, match="model.heads needs draft_loss"):
        train(replace(one, run=str(tmp_path / "none")))
    with pytest.raises(ValueError, match="model.heads must be from 1 to 16, got 0"):
        LMModelConfig(base="x", train="heads")
    with pytest.raises(ValueError, match="model.train is 'heads', but a model from scratch trains in full"):
        LMModelConfig(train="heads", heads=2)
    (folder / "draft_heads.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="draft_heads"):
        load_token_lm(str(folder))
