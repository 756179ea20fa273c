"""The warm-up phase: the codec stands still, joint steps are those of a run without it, resuming across the border."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.metrics.token_statistics import UnigramModel
from llmcodec.schedule import Schedule
from llmcodec.training import trainer as trainer_module
from llmcodec.training.build import build_language, training_codes
from llmcodec.training.recipe import LANGUAGE_TERMS, TERMS
from llmcodec.training.tracking import read_log
from llmcodec.training.trainer import Trainer
from llmcodec.training.warmup import warmup_recipe

from ..miniature import NUM_CODES, everything_on, miniature_codec, same

START: dict[str, Any] = {"language__rows_start": "cooccurrence", "language__prediction__start": "unigram"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("warmup")


def trainer_of(folder: Path, run: str, warmup: int, resume: bool = False, **options: Any) -> Trainer:
    options = START | {"language__warmup_steps": warmup} | options
    return Trainer(everything_on("paper", folder, run, **options), resume=resume, show_progress=False)


def finished(folder: Path, run: str, warmup: int, resume: bool = False, **options: Any) -> Trainer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "plot_curves", lambda *_: None)
        trainer = trainer_of(folder, run, warmup, resume, **options)
        trainer.run()
    return trainer


def log_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = read_log(folder / name / "log.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds_per_step"} for row in rows]


def test_the_codec_stands_still_while_everything_of_the_language_side_learns(folder):
    """Batch norm is not frozen in this recipe, its codec has revival and an average: none of them may move it."""
    trainer = trainer_of(folder, "frozen", 3)
    before = copy.deepcopy({**trainer.training_state(), "codec": trainer.codec.state_dict()})
    parts = {name: copy.deepcopy(group) for name, group in trainer.parameter_groups().items()}
    gradients: list[bool] = []
    clip = trainer.clip
    trainer.clip = lambda: (gradients.append(any(p.grad is not None for p in trainer.codec.parameters())), clip())[1]  # type: ignore[method-assign]
    for _ in range(3):
        row = trainer.train_step(trainer.read())
        assert row is not None and {name for name in TERMS if name in row} == set(LANGUAGE_TERMS)
        assert row["lr/codec"] == row["grad_norm/codec"] == row["codes/revived"] == 0 < row["lr/audio"]
    after = trainer.training_state()
    assert same(trainer.codec.state_dict(), before["codec"]) == [] and not trainer.codec.training
    assert same(after["optimizer"]["codec"], before["optimizer"]["codec"]) == [] and gradients == [False] * 3
    assert same(after["ema"], before["ema"]) == same(after["adversary"], before["adversary"]) == []
    for group in ("bridge", "audio", "audio_lm"):
        still = [name for name, p in trainer.parameter_groups()[group].items() if torch.equal(p, parts[group][name])]
        assert parts[group] and still == []
    row = trainer.train_step(trainer.read())
    assert row is not None and {name for name in TERMS if name in row} == set(TERMS)
    assert row["lr/codec"] > 0 < row["grad_norm/codec"] and gradients[-1] and trainer.codec.training
    assert same(trainer.codec.state_dict(), before["codec"]) != []


def test_joint_steps_count_schedules_and_read_clips_as_a_run_without_warm_up_does(folder):
    """The learning rates of all but the codec are 0, so that warm-up cannot change anything but its own count."""
    still: dict[str, Any] = {f"optimizer__{name}__lr": 0.0 for name in ("bridge", "audio", "audio_lm")}
    still |= {"weights__ftp": "{value: 0.5, delay: 1, warmup: 2}", "weights__cosine": 0.0, "weights__contrast": 0.0}
    still |= {"language__bridge__tau": "{value: 1.0, end: 0.3, steps: 3, shape: linear}", "codec__revive_below": 0.0}
    still |= {"floors__action": "warn", "steps": 4}
    finished(folder, "none", 0, **still)
    finished(folder, "three", 3, **still)
    none, three = log_of(folder, "none"), log_of(folder, "three")
    assert [row["phase"] for row in three] == ["warm-up"] * 3 + ["joint"] * 4 and "phase" not in none[0]
    assert [row["step"] for row in three] == list(range(1, 8))
    statistics = ("step", "phase", "codes/")  # running averages, which have seen three steps more
    for joint, plain in zip(three[3:], none, strict=True):
        assert {k: v for k, v in joint.items() if not k.startswith(statistics)} == {
            k: v for k, v in plain.items() if not k.startswith(statistics)
        }
    assert "lm/ftp" in three[0] and "lm/ftp" not in three[3], "its delay counts joint steps"


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_that_is_resumed_across_the_border_equals_one_that_was_never_stopped(stop, folder):
    name = f"stopped{stop}"
    if not (folder / "whole").exists():
        finished(folder, "whole", 3, steps=3)
    whole = trainer_of(folder, "whole", 3, resume=True, steps=3)
    part = trainer_of(folder, name, 3, steps=3)
    read = part.read

    class Killed(Exception):
        pass

    def read_or_stop() -> Any:
        if part.step == stop:
            part.save()
            raise Killed
        return read()

    part.read = read_or_stop  # type: ignore[method-assign]
    with pytest.raises(Killed):
        part.run()
    torch.rand(7)
    resumed = finished(folder, name, 3, resume=True, steps=3)
    assert same(resumed.training_state(), whole.training_state()) == []
    assert same(log_of(folder, name)[-2:], log_of(folder, "whole")[-2:]) == []
    assert resumed.step == 6 == resumed.recipe.total_steps


def test_a_control_takes_no_warm_up(folder):
    options = {f"weights__{name}": 0.0 for name in LANGUAGE_TERMS.values()}
    control = everything_on("paper", folder, "control", language__warmup_steps=500, **options)
    assert control.warmup_steps == 0 and control.total_steps == control.steps
    assert everything_on("paper", folder, "ftp", language__warmup_steps=500).total_steps == 500 + control.steps


def test_schedules_of_the_phase_rise_and_stay(folder):
    delayed = {"weights__ftp": "{value: 0.2, delay: 50, warmup: 10}"}
    decaying = {"optimizer__audio__lr": "{value: 1.0e-3, warmup: 4, end: 0.0, steps: 9, shape: cosine}"}
    recipe = warmup_recipe(everything_on("paper", folder, "x", language__warmup_steps=9, **delayed, **decaying))
    assert recipe.weights.ftp == Schedule(0.2, warmup=10) and recipe.optimizer.audio.lr == Schedule(1e-3, warmup=4)
    assert set(recipe.weights.ever()) == set(LANGUAGE_TERMS) and recipe.optimizer.codec.lr == 0.0
    assert recipe.language is not None and recipe.language.bridge.tau == Schedule(1.0)


@pytest.mark.parametrize("kind", ["native", "projected"])
@pytest.mark.parametrize("heads", ["linear", "residual"])
def test_the_first_step_of_ftp_costs_the_unigram_entropy_of_the_codecs_tokens(kind, heads, folder):
    """All heads, and whatever the bridge feeds the LM; rows sampled like the text rows start above ln V."""
    options: dict[str, Any] = {"language__bridge__kind": kind, "language__prediction__kind": heads}
    options |= {"language__bridge__normalize": kind == "projected"}
    options |= {"weights__bridge_ce": 0.5 * (kind == "projected"), "accumulate": 3}  # 3 batches of 2 are all six clips
    trainer = trainer_of(folder, f"{kind}{heads}", 1, **options)
    clips = list(training_codes(trainer.codec, trainer.recipe))
    trainer.objective.train()
    unigram = UnigramModel.fit(clips, NUM_CODES)
    entropy = -float((unigram.log_prob_V.exp() * unigram.log_prob_V).sum())
    row = trainer.train_step(trainer.read())
    assert row is not None and row["lm/ftp"] == pytest.approx(entropy, rel=0.04)
    assert row["lm/ftp_1"] == pytest.approx(entropy, rel=0.04) and row["lm/ftp"] < 0.9 * math.log(NUM_CODES)
    random = trainer_of(folder, f"{kind}{heads}random", 1, **options, language__prediction__start="random")
    row = random.train_step(random.read())
    assert row is not None and row["lm/ftp"] > 0.99 * math.log(NUM_CODES)


def test_starting_from_tokens_needs_a_codec_that_has_some(folder):
    recipe = everything_on("paper", folder, "scratch", **START)
    recipe = replace(recipe, codec=replace(recipe.codec, start="tiny"))
    with pytest.raises(ValueError, match="need the tokens of a trained codec, but codec.start is 'tiny'"):
        build_language(recipe, miniature_codec())


def test_a_weight_that_grows_from_0_is_at_its_end_in_warm_up(tmp_path):
    grows = "{value: 0.0, end: 0.3, steps: 100, shape: linear}"
    recipe = everything_on("rate", tmp_path, "grows", language__warmup_steps=2, weights__rate=grows)
    weights = warmup_recipe(recipe).weights
    assert weights.at(0)["lm/rate"] == weights.at(1)["lm/rate"] == 0.3 and recipe.weights.at(50)["lm/rate"] == 0.15
