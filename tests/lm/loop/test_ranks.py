"""Two gloo processes with FSDP2 train what one does; checkpoints are read by any number of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmcodec.lm.loop import trainer as trainer_module
from llmcodec.lm.loop.ranks import FILLER, RankBatches, share_of_step
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig, TokenLMRecipe
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.lm.train import shared_recipe, train_token_lm

from ...ranks import run_ranks
from ..small_token_lm import CODEC, causal, rows

forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")


@pytest.mark.parametrize("rows_", [1, 7, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_every_row_once_in_the_order_of_one_process(rows_, ranks):
    from accelerate.data_loader import SeedableRandomSampler

    each = [RankBatches(rows_, 2, 5, rank, ranks) for rank in range(ranks)]
    for epoch in (0, 3):
        for one in each:
            one.batch_sampler.set_epoch(epoch)
        steps = [sum(batch, []) for batch in zip(*each, strict=True)]
        assert len(steps) == len(each[0])
        seen = [place for step in steps for place in step if place != FILLER]
        sampler = SeedableRandomSampler(range(rows_), data_seed=5)
        sampler.set_epoch(epoch)
        assert seen == list(sampler)
        assert all(len(one) <= 2 for rank in each for one in rank)


def test_a_step_keeps_its_rows_on_another_number_of_ranks():
    assert share_of_step(2, 1, 2, 1) == (2, 2) and share_of_step(4, 1, 1, 2) == (2, 1)
    assert share_of_step(3, 4, 2, 8) == (3, 1) and share_of_step(3, 1, 4, 2) == (3, 2)
    with pytest.raises(ValueError, match="takes 3 rows a step .1 processes.* which 2 processes cannot share"):
        share_of_step(3, 1, 1, 2)


def test_a_rank_does_not_wait_for_the_first_one_to_write_down_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = TokenLMRecipe(run=str(tmp_path), rows_per_batch=2)
    said: list[str] = []
    assert shared_recipe(recipe, tmp_path, said.append) is recipe and not said
    (tmp_path / "run.json").write_text('{"ranks": 1}')
    halved = shared_recipe(recipe, tmp_path, said.append)
    assert halved.rows_per_batch == 1 and said == ["1 processes then, 2 now: 1 rows in a micro-batch, 1 of them a step"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A miniature Qwen3 with its tokenizer, as on the hub."""
    from llmcodec.lm.audio_tokens import byte_tokenizer

    folder = tmp_path_factory.mktemp("qwen3")
    causal("qwen3").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def recipe(run: Path, base: Path, **options: Any) -> TokenLMRecipe:
    options = {"data": LMDataConfig(max_tokens=48), "model": LMModelConfig(base=str(base), train="full")} | options
    settings: dict[str, Any] = dict(steps=4, eval_every=2, log_every=1, lr=1e-2, bf16=False, keep_best=False)
    return TokenLMRecipe(run=str(run), **settings | options)


def train(one: TokenLMRecipe, resume: bool = False) -> dict[str, Any]:
    """A run as this rank sees it: its share of the parameters, its rows, what it logged."""
    seen: dict[str, Any] = {"held": 0, "whole": 0, "sharded": 0, "ids": []}
    create = trainer_module.LMTrainer.create_optimizer
    step = trainer_module.LMTrainer.training_step

    def spy(self: Any, model: Any = None) -> Any:
        from torch.distributed.tensor import DTensor

        for value in self.trained.parameters():
            seen["whole"] += value.numel()
            seen["sharded"] += isinstance(value, DTensor)
            seen["held"] += value.to_local().numel() if isinstance(value, DTensor) else value.numel()
        return create(self, model)

    def count(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        seen["ids"] += [row[row != 0].tolist() for row in inputs["input_ids"] if row.any()]
        return step(self, model, inputs, *rest)

    trainer_module.LMTrainer.create_optimizer = spy  # this process ends with the function
    trainer_module.LMTrainer.training_step = count
    train_token_lm(one, rows(), rows(4, seed=9), CODEC, resume=resume, say=lambda line: None)
    trainer_module.LMTrainer.create_optimizer, trainer_module.LMTrainer.training_step = create, step
    return seen


def history(run: Path) -> list[dict[str, float]]:
    newest = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


def assert_equal_runs(left: Path, right: Path) -> None:
    """Losses, gradient norms, held-out figures and the final weights."""
    ours, theirs = history(left), history(right)
    assert len(ours) == len(theirs) > 4
    for a, b in zip(ours, theirs, strict=True):
        names = {"step", "epoch", "loss", "grad_norm", "learning_rate", "eval_bits_per_second"}
        assert {name: a[name] for name in names & set(a)} == pytest.approx(
            {name: b[name] for name in names & set(b)}, rel=2e-5
        )
    first, second = (load_token_lm(str(run)).model.state_dict() for run in (left, right))
    for name, value in first.items():
        # Adam makes a step of the sign of a gradient that is nothing but rounding, as that of LoRA's A at first.
        far = (value - second[name]).abs() > 2e-5
        assert far.float().mean() <= (0.02 if "lora_A" in name else 0.0), name
    figures = [json.loads((run / "result.json").read_text()) for run in (left, right)]
    assert figures[0] == pytest.approx(figures[1], rel=2e-5)


@forked
@pytest.mark.parametrize("kind", ["full", "lora", "checkpointed"])
def test_two_ranks_hold_half_each_and_train_what_one_does(tmp_path, base, kind):
    options: dict[str, Any] = {"gradient_checkpointing": kind == "checkpointed", "accumulate": 2}
    if kind == "lora":
        options["model"] = LMModelConfig(base=str(base), train="lora", lora_rank=4, lora_alpha=8)
    one = recipe(tmp_path / "one", base, rows_per_batch=2, **options)
    two = recipe(tmp_path / "two", base, rows_per_batch=1, **options)
    (alone,) = run_ranks(1, tmp_path / "seen", train, one)
    first, second = run_ranks(2, tmp_path / "seen", train, two)
    assert alone["sharded"] == 0 and alone["held"] == alone["whole"]
    for rank in (first, second):
        assert rank["sharded"] and 0.45 * rank["whole"] < rank["held"] < 0.55 * rank["whole"]
    assert first["held"] + second["held"] == first["whole"] == alone["whole"]
    assert sorted(first["ids"] + second["ids"]) == sorted(alone["ids"])
    assert first["ids"] != second["ids"]
    assert_equal_runs(tmp_path / "one", tmp_path / "two")


@forked
def test_a_run_goes_from_two_ranks_to_one_and_back(tmp_path, base):
    """2 -> 1 -> 2, with an epoch's end between, where one rank has no row: equal to a run of one."""
    small = {"data": LMDataConfig(max_tokens=256), "rows_per_batch": 1, "schedule": "constant_with_warmup"}
    small |= {"warmup_share": 0.0, "eval_every": 1}
    run = tmp_path / "run"

    def steps(number: int, name: str = "run", **options: Any) -> TokenLMRecipe:
        return recipe(tmp_path / name, base, **{**small, **options, "steps": number})

    run_ranks(2, tmp_path / "seen", train, steps(2))
    assert len(list((run / "checkpoint-2").glob("shard-*.safetensors"))) == 2
    assert not [path.name for path in run.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".metadata")]
    run_ranks(1, tmp_path / "seen", train, steps(4), True)
    assert len(list((run / "checkpoint-4").glob("shard-*.safetensors"))) == 1
    run_ranks(2, tmp_path / "seen", train, steps(6), True)
    run_ranks(1, tmp_path / "seen", train, steps(6, "whole", rows_per_batch=2))
    assert_equal_runs(run, tmp_path / "whole")
    assert json.loads((run / "run.json").read_text())["ranks"] == 2
