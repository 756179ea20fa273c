"""The warm-up phase: rows, heads, bridge, alignment bank and small audio LM learn while the codec stays as it is.

A run takes `language.warmup_steps` of it before the `steps` of its recipe, which train codec and language side jointly.
Without it the codec follows the gradient of heads that are still at chance for a good part of a short run.
Test: tests/training/test_warmup.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmcodec.schedule import Schedule
from llmcodec.training.objective import CodecObjective
from llmcodec.training.optimizer import GroupOptimizer
from llmcodec.training.recipe import LANGUAGE_TERMS, OptimizerConfig, Recipe, Weight, Weights, as_schedule


def enter_phase(joint_step: int, recipe: Recipe, objective: CodecObjective, groups: Sequence[GroupOptimizer]) -> int:
    """Set everything up for the phase that a step belongs to; nothing happens within a phase.

    Args:
        joint_step: 0 for the first step that trains codec and language side jointly, negative before.

    Returns:
        The step that the schedules of the phase count, 0 for its first.
    """
    warming = joint_step < 0
    if warming != objective.codec_frozen:
        phase = warmup_recipe(recipe) if warming else recipe
        objective.recipe, objective.codec_frozen = phase, warming
        if objective.language is not None and phase.language is not None:
            objective.language.config = phase.language
        for group in groups:
            group.lr = as_schedule(getattr(phase.optimizer, group.name).lr)
            for parameter in group.parameters if group.name == "codec" else ():
                parameter.requires_grad_(not warming)
        objective.train()
    return joint_step + recipe.warmup_steps if warming else joint_step


def warmup_recipe(recipe: Recipe) -> Recipe:
    """What the phase does, as a recipe: language terms alone, a codec that does not learn, schedules at their value."""
    language, optimizer = recipe.language, recipe.optimizer
    assert language is not None
    weights = {name: before_delay(getattr(recipe.weights, name)) for name in LANGUAGE_TERMS.values()}
    rates = {
        name: replace(getattr(optimizer, name), lr=before_delay(getattr(optimizer, name).lr))
        for name in ("bridge", "audio", "audio_lm")
    }
    return replace(
        recipe,
        weights=Weights(**weights, commit=0.0, codebook=0.0),
        optimizer=OptimizerConfig(**rates, codec=replace(optimizer.codec, lr=0.0)),
        language=replace(
            language,
            bridge=replace(language.bridge, tau=before_delay(language.bridge.tau)),
            rate=replace(language.rate, tau=before_delay(language.rate.tau)),
        ),
    )


def before_delay(weight: Weight) -> Schedule:
    """A schedule's rise and its value: no delay before it and no decay after it. One that starts at 0 is at its end."""
    schedule = as_schedule(weight)
    return Schedule(schedule.value or schedule.end or 0.0, warmup=schedule.warmup)
