"""Every shipped recipe of a token LM parses; what a recipe cannot say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmcodec.assets import shipped_recipe
from llmcodec.cli.lm import lm_train_parser
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig, TokenLMRecipe
from llmcodec.lm.small_lm import SmallLMConfig


def parse(*arguments: str) -> TokenLMRecipe:
    return lm_train_parser().read_recipe(arguments)


@pytest.mark.parametrize("name", ["lm_small", "lm_paper", "lm_tts", "lm_voice"])
def test_shipped_recipes(name):
    one = parse("--config", str(shipped_recipe(name)))
    assert one.name == name and one.run == f"runs/{name}"


def test_the_paper():
    one = parse("--config", str(shipped_recipe("lm_paper")), "--epochs", "1")
    assert one.model.train == "lora" and one.model.lora_rank == 64 and one.lr == 1e-4 and one.epochs == 1
    assert one.rows_per_batch * one.accumulate == 32 and not one.data.packing and one.warmup_share == 0.1
    assert one.schedule == "cosine" and "Qwen3-4B-Instruct" in one.model.base
    assert "whole vocabulary" in one.loss_in_words()


def test_the_small_model_in_new_and_old_spelling():
    default = parse().model.small
    sizes = (default.num_layers, default.hidden_size, default.intermediate_size, default.start_window)
    assert sizes == (4, 256, 768, 2)
    assert parse("--model.small.cooccurrence", "false").model.small == replace(default, start_window=0)
    narrow = parse("--model.small", "{hidden_size: 64, cooccurrence: true}").model.small
    assert narrow == replace(default, hidden_size=64)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: TokenLMRecipe(data=LMDataConfig(formats=["asr"])), "have text as targets; set loss_over to full"),
        (lambda: TokenLMRecipe(data=LMDataConfig(formats=["tts"]), everywhere=True), "everywhere asks for text"),
        (lambda: LMDataConfig(formats=["song"]), "choose from audio"),
        (lambda: LMDataConfig(text_template="x"), "must contain"),
        (lambda: LMModelConfig(train="lora"), "from scratch trains in full"),
        (lambda: LMModelConfig(small=SmallLMConfig()), "has a dropout of its own"),
        (lambda: TokenLMRecipe(steps=0), "steps must be at least 1"),
        (lambda: TokenLMRecipe(accumulate=0), "accumulate must be at least 1"),
    ],
)
def test_what_cannot_be(make, line):
    with pytest.raises(ValueError, match=line):
        make()
