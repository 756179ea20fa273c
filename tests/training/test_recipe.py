"""Recipes: every shipped one parses, differences stack where their first line says, nonsense is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from llmcodec.assets import shipped_recipe
from llmcodec.cli.experiments import train_parser
from llmcodec.lm.recipe import TokenLMRecipe
from llmcodec.objectives.adversary import AdversaryConfig
from llmcodec.objectives.collapse import CollapseFloors
from llmcodec.schedule import Schedule
from llmcodec.training.language import LanguageConfig
from llmcodec.training.recipe import (
    LANGUAGE_TERMS,
    TERMS,
    CodecConfig,
    DataConfig,
    GroupConfig,
    Recipe,
    Weights,
    as_schedule,
)

from ..miniature import recipe_of

FOLDER = shipped_recipe("paper").parent
WHOLE = [
    path
    for path in sorted(FOLDER.glob("*.yaml"))
    if "rows" not in yaml.safe_load(path.read_text()) and not path.stem.startswith("lm_")  # sweeps, token LMs
]
OFF_AT_5 = Schedule(1.0, end=0.0, steps=5, shape="linear")
AT_8 = Schedule(1.0, delay=8)
DIFFERENCES = {"control": ["rate"], "paper_as_released": ["paper"], "paper_tiny": ["rate"]}


def stacks() -> list[tuple[str, ...]]:
    """(base, .., ablation) as the comment of each ablation says: `Stack on a.yaml or b.yaml`, `a.yaml + b.yaml`."""
    found = [(base, name) for name, bases in DIFFERENCES.items() for base in bases]
    for path in sorted((FOLDER / "ablations").glob("*.yaml")):
        comment = path.read_text().splitlines()[0]
        named = re.search(r"Stack on (.*)$", comment)
        assert named, f"{path.name} says what it stacks on"
        for choice in re.split(r", | or ", named[1]):
            found.append((*re.findall(r"(\w+)\.yaml", choice), f"ablations/{path.stem}"))
    return found


def configs(names: tuple[str, ...]) -> list[str]:
    return [argument for name in names for argument in ("--config", str(FOLDER / f"{name}.yaml"))]


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses_alone(path: Path):
    recipe = recipe_of("--config", str(path))
    assert recipe.name == path.stem and recipe.weights.ever()
    assert recipe.weights.at(recipe.steps - 1), "something is trained in the end"


@pytest.mark.parametrize("names", stacks(), ids="+".join)
def test_a_difference_stacks_and_changes_what_it_names_alone(names: tuple[str, ...]):
    base = recipe_of(*configs(names[:-1]))
    stacked = recipe_of(*configs(names))
    difference = yaml.safe_load((FOLDER / f"{names[-1]}.yaml").read_text())
    assert stacked.name == names[-1].split("/")[-1] != base.name
    changed = {name for name in vars(base) if getattr(base, name) != getattr(stacked, name)}
    assert changed <= set(difference) and changed >= {"name", "run"} and len(changed) > 2
    for name in set(vars(base.weights)) - set(difference.get("weights", {})):
        assert getattr(base.weights, name) == getattr(stacked.weights, name)
    if "language" in difference and base.language is not None:
        untouched = set(vars(base.language)) - set(difference["language"])
        assert all(getattr(base.language, name) == getattr(stacked.language, name) for name in untouched)


def test_the_control_has_no_language_term_and_the_released_recipe_has_the_flaws():
    control = recipe_of(*configs(("rate", "control")))
    assert not set(LANGUAGE_TERMS) & set(control.weights.ever())
    paper, released = recipe_of(*configs(("paper",))), recipe_of(*configs(("paper", "paper_as_released")))
    assert paper.language and released.language and paper.adversary and released.adversary
    assert released.language.released_no_start and released.language.alignment.released_bank
    assert released.language.released_crops and released.data.crop_seconds == 4.0
    bridge = as_schedule(released.optimizer.bridge.lr)
    assert bridge(9_999) == 0 and bridge(10_000) == 5e-6 == as_schedule(paper.optimizer.bridge.lr)(0) / 1000
    assert set(released.adversary.msd.groups) == {1} and set(paper.adversary.msd.groups) != {1}
    weights = {name for name in vars(paper.weights) if getattr(paper.weights, name) != getattr(released.weights, name)}
    assert weights == {"mel"} and as_schedule(released.weights.mel)(25_000) == pytest.approx(1.125)
    assert as_schedule(paper.optimizer.codec.lr)(9_999) == 0 < as_schedule(paper.optimizer.codec.lr)(10_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz=3"], "stepz"),
        (["--weights.mell=1"], "mell"),
        (["--steps=many"], "many"),
        (["--optimizer.codec.kind=adam"], "adam"),
        (["--precision=fp8"], "fp8"),
        (["--optimizer.codec.clip=0"], "clip must be positive"),
        (["--data.clips_per_batch=0"], "clips_per_batch must be at least 1"),
        (["--weights.mel={value: 1, delay: -1}"], "delay"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_command_line_names_what_is_wrong(arguments, message, capsys):
    with pytest.raises((SystemExit, ValueError)) as caught:
        recipe_of(*arguments)
    assert message in f"{caught.value} {capsys.readouterr().err}"


def test_an_unknown_key_in_a_recipe_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("weights: {mel: 1.0, melody: 2.0}\n")
    with pytest.raises(SystemExit):
        recipe_of("--config", str(tmp_path / "bad.yaml"))
    assert "melody" in capsys.readouterr().err


def language(**options):
    from llmcodec.training.language import LanguageConfig

    return LanguageConfig(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe(steps=0), "steps must be at least 1"),
        (lambda: Recipe(max_bad_steps=0), "max_bad_steps"),
        (lambda: Recipe(keep_checkpoints=0), "keep_checkpoints"),
        (lambda: Recipe(window_seconds=0.0), "window_seconds must be positive"),
        (lambda: Recipe(adversary_seconds=-1.0), "adversary_seconds must be positive"),
        (lambda: Recipe(ema_decay=1.0), "ema_decay"),
        (lambda: DataConfig(crop_seconds=0.0), "crop_seconds"),
        (lambda: CodecConfig(revive_every=0), "revive_every"),
        (lambda: CodecConfig(usage_decay=1.0), "usage_decay"),
        (lambda: GroupConfig(lr=-1e-3), "cannot be negative"),
        (lambda: Recipe(weights=Weights(feature=1.0)), "weights.feature needs an `adversary` section"),
        (
            lambda: Recipe(weights=Weights(feature=1.0), adversary=AdversaryConfig()),
            "weights.feature needs weights.generator too: without it the discriminators never train",
        ),
        (
            lambda: Recipe(weights=Weights(multi_mel=Schedule(1.0, delay=3), commit=0.0, codebook=0.0)),
            "nothing to train at step 0: weights.multi_mel is 0 there",
        ),
        (
            lambda: Recipe(steps=9, weights=Weights(mel=OFF_AT_5, view=AT_8, commit=0.0, codebook=0.0)),
            "nothing to train at step 5: weights.mel, weights.view is 0 there",
        ),
        (lambda: Recipe(weights=Weights(commit=0.0, codebook=0.0)), "step 0: every weight is 0 there"),
        (lambda: Recipe(weights=Weights(distill_l1=1.0)), "weights.distill_l1 needs a `teacher` section"),
        (lambda: Recipe(weights=Weights(ftp=1.0)), "weights.ftp needs a `language` section"),
        (lambda: Recipe(weights=Weights(bridge_ce=1.0), language=language()), "bridge_ce teaches a projected bridge"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_values_are_refused(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_alignment_of_crops_is_refused_unless_the_released_code_is_wanted():
    weights, crops = Weights(cosine=Schedule(0.1, delay=5)), DataConfig(crop_seconds=4.0)
    with pytest.raises(ValueError, match="alignment needs audio of its whole text"):
        Recipe(weights=weights, data=crops, language=language())
    Recipe(weights=weights, data=crops, language=language(released_crops=True))
    Recipe(weights=weights, language=language())
    Recipe(weights=Weights(ftp=0.1), data=crops, language=language())


def test_the_rate_of_a_backbone_that_has_read_its_target_is_refused():
    from llmcodec.objectives.rate import RateConfig

    config = language(released_no_start=True, rate=RateConfig(model="backbone"))
    with pytest.raises(ValueError, match="has read each code before it predicts it"):
        Recipe(weights=Weights(rate=0.1), language=config)
    Recipe(weights=Weights(rate=0.1), language=language(released_no_start=True))


def test_the_small_lm_of_the_rate_term_in_new_and_old_spelling():
    """Recipes and runs of 0.1 say ffn_size and max_frames."""
    new = "{hidden_size: 96, num_layers: 2, head_dim: 32, intermediate_size: 288, max_positions: 512, start_clips: 9}"
    old = new.replace("intermediate_size", "ffn_size").replace("max_positions", "max_frames")
    found = [recipe_of(f"--language.rate.small_lm={text}").language.rate.small_lm for text in (new, old)]
    assert found[0] == found[1] and found[0].intermediate_size == 288 and found[0].max_positions == 512
    assert (found[0].family, found[0].num_heads, found[0].dropout) == ("qwen3", None, 0.0)
    assert recipe_of("--language.rate.small_lm.ffn_size=7").language.rate.small_lm.intermediate_size == 7


def test_a_run_that_ends_before_its_weights_do_is_fine():
    assert Recipe(steps=5, weights=Weights(mel=OFF_AT_5, view=AT_8, commit=0.0, codebook=0.0)).steps == 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steps=160"], ""),
        (
            ["--steps=800"],
            "lr is 0 from step 160 of 800 on: nothing is learnt in the rest; set optimizer.codec.lr.steps 770",
        ),
        (
            ["--steps=50"],
            "lr is still 0.00028 at the last of 50 steps, its curve takes more; set optimizer.codec.lr.steps 20",
        ),
        (["--steps=20"], "at the last of 20 steps, its curve takes more; set optimizer.codec.lr.warmup and .steps"),
        (["--steps=800", "--optimizer.codec.lr.steps=770"], ""),
        (["--steps=800", "--optimizer.codec.lr.end=1e-5"], ""),
    ],
)
def test_a_learning_rate_that_does_not_fit_the_steps_is_told(options: list[str], told: str):
    lines = recipe_of("--config", "rate", *options).rate_lines()
    assert (told in lines[0] and len(lines) == 1) if told else lines == []


@pytest.mark.parametrize("names", stacks())
def test_the_learning_rates_of_shipped_recipes_fit_their_steps(names: tuple[str, ...]):
    assert recipe_of(*configs(names)).rate_lines() == []


def test_the_step_before_a_line_of_the_log():
    recipe = Recipe(steps=7, log_every=3)
    assert [step for step in range(1, 8) if recipe.logs(step)] == [3, 6, 7]


def test_weights_at_a_step_leave_out_what_is_zero():
    weights = Weights(mel=2, ftp=Schedule(0.2, delay=10, warmup=1), commit=0.0)
    assert weights.at(0) == {"recon/mel": 2.0, "vq/codebook": 1.0}
    assert weights.at(11) == {"recon/mel": 2.0, "vq/codebook": 1.0, "lm/ftp": 0.2}
    assert set(weights.ever()) == {"recon/mel", "vq/codebook", "lm/ftp"}
    assert set(TERMS.values()) == set(vars(Weights())), "every weight has its term"


def test_help_explains_every_field():
    text = re.sub(r"\s+", " ", train_parser().parser.format_help())
    assert "Optimizer steps; those of" in text and "Largest gradient norm of the group." in text
    assert "recon/mel: log-mel L1" in text and "Expand" not in text


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe(precision="fp16"), "recipe: precision must be bf16, fp32 or fp64, got 'fp16'"),
        (lambda: GroupConfig(kind="adam"), "an optimizer: kind must be adamw, sgd or muon, got 'adam'"),
        (lambda: AdversaryConfig(loss="ls"), "AdversaryConfig: loss must be hinge or least_squares, got 'ls'"),
        (lambda: CollapseFloors(action="halt"), "CollapseFloors: action must be warn or stop, got 'halt'"),
        (lambda: LanguageConfig(rows_start="ngrams"), "rows_start must be random or cooccurrence, got 'ngrams'"),
        (lambda: TokenLMRecipe(loss_over="text"), "recipe: loss_over must be audio or full, got 'text'"),
    ],
)
def test_an_unknown_choice_in_python_counts_as_no_other(build, message):
    with pytest.raises(ValueError, match=message):
        build()
