"""Builds what a recipe describes: codec, adversary, language side, loader.

Test: tests/training/test_trainer.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.adaptable import AdaptableAdapter
from llmcodec.adapters.load import load_codec
from llmcodec.adapters.registry import adaptable
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.data.clips import ClipDataset
from llmcodec.data.loader import ClipLoader
from llmcodec.data.manifest import Clip, find_blocks, find_missing, read_manifest
from llmcodec.data.sampler import ResumableSampler
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows
from llmcodec.objectives.adversary import Adversary
from llmcodec.objectives.bigram import BigramTerm
from llmcodec.objectives.distillation import Distillation
from llmcodec.protocol import AdaptableCodec, Codec, device_of, tokens_of
from llmcodec.training.recipe import TEACHER_TERMS, Recipe

if TYPE_CHECKING:
    from llmcodec.training.language import LanguageObjective

SCRATCH = {"tiny": LLMCodecConfig.tiny, "causal_tiny": LLMCodecConfig.causal_tiny, "auv": LLMCodecConfig.auv}


def build_codec(recipe: Recipe, device: torch.device | str = "cpu") -> AdaptableCodec:
    """The codec to train: from scratch, bundled, or what `load_codec` names; with a smaller codebook if wanted.

    Raises:
        ValueError: overrides that a pretrained codec cannot take, a codec that cannot be trained or cannot do what the
            recipe asks, a smaller codebook that is not smaller.
    """
    start = recipe.codec.start
    if start in SCRATCH:
        codec = LLMCodec(SCRATCH[start](**recipe.codec.overrides))
    else:
        loaded = load_codec(start, str(device), seed=recipe.seed)
        if not isinstance(loaded, LLMCodec):
            return open_codec(recipe, loaded)
        codec = with_other_reach(loaded, recipe.codec.overrides) if recipe.codec.overrides else loaded
    codec = codec.to(device)  # type: ignore[arg-type]
    if recipe.codec.smaller_codebook is not None:
        codec = with_smaller_codebook(codec, recipe, recipe.codec.smaller_codebook)
    if recipe.codec.gradient_checkpointing:
        codec.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    return codec


def open_codec(recipe: Recipe, codec: Codec) -> AdaptableCodec:
    """Another project's codec, ready to be trained by a recipe.

    Raises:
        ValueError: it cannot be trained, or cannot do what the recipe asks for.
    """
    start = recipe.codec.start
    if not isinstance(codec, AdaptableAdapter) or codec.cannot_adapt:
        why = codec.cannot_adapt if isinstance(codec, AdaptableAdapter) else f"a {type(codec).__name__}"
        raise ValueError(
            f"recipe: codec.start {start} cannot be trained here: {why}; llmcodec's own codecs, {adaptable()} can"
        )
    ours = {
        "codec.overrides": bool(recipe.codec.overrides),
        "codec.audio_kind": recipe.codec.audio_kind is not None,
        "codec.smaller_codebook": recipe.codec.smaller_codebook is not None,
        "codec.gradient_checkpointing": recipe.codec.gradient_checkpointing,
        "codec.revive_below": recipe.codec.revive_below > 0,
        "weights.bigram": "codes/bigram" in recipe.weights.ever(),
        "weights.distill_l1 and distill_cosine": bool(set(TEACHER_TERMS) & set(recipe.weights.ever())),
    }
    if asked := [name for name, on in ours.items() if on]:
        raise ValueError(
            f"recipe: {', '.join(asked)}: only for codecs of llmcodec (set to null, 0 or {{}}); codec.start is {start}"
        )
    codec.train_codebooks()
    return codec


def with_other_reach(codec: LLMCodec, changes: Mapping[str, Any]) -> LLMCodec:
    """The same weights in a codec that looks less far, or no longer ahead.

    A convolution that becomes causal keeps its taps for now and before; those for later are lost.

    Raises:
        ValueError: other changes than `causal: true` and `attention_window`.
    """
    if (others := set(changes) - {"causal", "attention_window"}) or changes.get("causal", True) is not True:
        raise ValueError(
            "recipe: codec.overrides of a pretrained codec are causal: true and attention_window, not "
            f"{', '.join(sorted(others or {'causal: false'}))}; the rest of its architecture is in its weights"
        )
    config = LLMCodecConfig.from_dict(codec.config.to_dict() | dict(changes))
    state = codec.state_dict()
    if config.causal and not codec.config.causal:
        for name in [name for name in state if name.endswith("depthwise_conv.weight")]:
            ahead = state[name].shape[-1] // 2
            state[name] = F.pad(state[name][..., :-ahead], (ahead, 0))
    other = LLMCodec(config)
    other.load_state_dict(state)
    return other


@torch.no_grad()
def with_smaller_codebook(codec: LLMCodec, recipe: Recipe, size: int) -> LLMCodec:
    """The same codec with only its `size` most used codes on the training clips (most used first).

    They are taken from the partition of the recipe's audio kind; every kind of audio may use all of them.
    """
    first, last = partition_of(recipe, codec) or (0, codec.codebook_size)
    if not 0 < size < last - first:
        of = "the codec" if recipe.codec.audio_kind is None else f"codec.audio_kind {recipe.codec.audio_kind}"
        raise ValueError(
            f"recipe: codec.smaller_codebook must be below the {last - first} codes of {of}, got {size}; "
            "null keeps them all"
        )
    counts_V = torch.zeros(codec.codebook_size, dtype=torch.int64)
    for codes_T in training_codes(codec, recipe):
        counts_V += torch.bincount(codes_T, minlength=codec.codebook_size)
    keep = first + counts_V[first:last].argsort(descending=True, stable=True)[:size]
    whole = {kind: [0, size] for kind in codec.config.codebook_partitions}
    config = codec.config.to_dict() | {"codebook_size": size, "codebook_partitions": whole}
    smaller = LLMCodec(LLMCodecConfig.from_dict(config))
    state = codec.state_dict()
    smaller.load_state_dict(state | {"quantizer.codebook": state["quantizer.codebook"][keep]})
    smaller.to(codec.device)  # type: ignore[arg-type]
    return smaller


@torch.no_grad()
def training_codes(codec: AdaptableCodec, recipe: Recipe, most_clips: int | None = None) -> Iterator[Tensor]:
    """The codec's codes (T,) of the training clips, of at most `most_clips` of them evenly spread."""
    assert isinstance(codec, nn.Module)
    codec.train(False)
    partition = partition_of(recipe, codec)
    kept: dict[str, Any] = {} if partition is None else {"partitions": [partition]}
    dataset = build_dataset(recipe, codec.sample_rate)
    count = len(dataset) if most_clips is None else min(most_clips, len(dataset))
    for index in range(count):
        wav_S = torch.from_numpy(dataset.read_or_stand_in(index * len(dataset) // count))
        yield codec.encode_latents(wav_S[None].to(device_of(codec)), **kept).codes_BT[0].cpu()


def partition_of(recipe: Recipe, codec: AdaptableCodec) -> tuple[int, int] | None:
    """Code range of the recipe's audio kind; None for all codes."""
    kind = recipe.codec.audio_kind
    if not isinstance(codec, LLMCodec):  # `open_codec` has refused a kind
        return None
    spans = codec.partitions_of(None if kind is None else [kind], 1)
    return None if spans is None else spans[0]


def build_adversary(recipe: Recipe) -> Adversary | None:
    return None if recipe.adversary is None else Adversary(recipe.adversary)


def build_distillation(recipe: Recipe, codec: AdaptableCodec) -> Distillation | None:
    """The teacher on the codec's device, and the projection towards it; None where no term of it ever has a weight."""
    if recipe.teacher is None or not set(TEACHER_TERMS) & set(recipe.weights.ever()):
        return None
    from llmcodec.adapters.features.load import load_encoder

    assert isinstance(codec, LLMCodec)
    dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
    teacher = load_encoder(recipe.teacher.name, codec.device, dtype, recipe.teacher.padded_seconds)
    config = codec.config
    return Distillation(teacher, recipe.teacher, config.hidden_size, config.decoder_layers, recipe.seed)


def build_bigram(recipe: Recipe, codec: AdaptableCodec) -> BigramTerm | None:
    """The bigram term; None where it never has a weight."""
    if recipe.bigram is None or "codes/bigram" not in recipe.weights.ever():
        return None
    return BigramTerm.from_file(recipe.bigram, codec)


def build_language(recipe: Recipe, codec: AdaptableCodec, fresh: bool = True) -> LanguageObjective | None:
    """The language side; what starts from the tokens of a pretrained codec has done so.

    fresh: False when a checkpoint will be loaded over it, so that its initialisation does not matter.

    Raises:
        ValueError: rows or heads are to start from the tokens of a codec that is not trained yet.
    """
    if recipe.language is None:
        return None
    from llmcodec.training.language import LanguageObjective

    terms = frozenset(recipe.weights.ever())
    language = LanguageObjective(recipe.language, tokens_of(codec), codec.latent_dim, recipe.seed, terms)
    scratch = recipe.codec.start in SCRATCH
    if language.starts_from_clips and scratch:
        raise ValueError(
            f"recipe: language.rows_start cooccurrence and language.prediction.start unigram need the tokens of a "
            f"trained codec, but codec.start is {recipe.codec.start!r}; set both to random"
        )
    codes = cache(lambda most_clips: list(training_codes(codec, recipe, most_clips)))
    start_clips = recipe.language.rate.small_lm.start_clips
    from_codes = fresh and start_clips != 0 and recipe.language.audio_lm is None and not scratch
    if language.audio_lm is not None and from_codes:
        language.audio_lm.start_from(codes(start_clips))
    if fresh and language.starts_from_clips:
        language.start_from(codes(recipe.language.start_clips))
    return language


def clips_of(recipe: Recipe) -> Sequence[Clip]:
    """Clips of the recipe's manifest after its filters. Raises ValueError if there are none."""
    data = recipe.data
    return read_manifest(
        data.manifest,
        data.split,
        sources=data.sources,
        languages=data.languages,
        min_seconds=data.min_seconds,
        max_seconds=math.inf if data.max_seconds is None else data.max_seconds,
    )


def build_dataset(recipe: Recipe, sample_rate: int) -> ClipDataset:
    """Clips of the recipe; those that are missing count as bad already.

    Raises:
        ValueError: no clips, or more audio files are missing than `data.max_bad` allows.
    """
    clips, data = clips_of(recipe), recipe.data
    bad = BadRows(data.max_bad, len(clips))
    find_missing(clips, bad)  # told now, not hours later; they stay in the list, for the order hangs on all of it
    return ClipDataset(
        clips, sample_rate, crop_seconds=data.crop_seconds, seed=recipe.seed, augmentation=data.augmentation, bad=bad
    )


def resampling_of(dataset: ClipDataset, looked_at: int = 5) -> str:
    """A line where clips, by the headers of a few, have a lower rate than the codec; else nothing."""
    rates = []
    for index in range(0, len(dataset), -(-len(dataset) // looked_at)):
        with suppress(ValueError, OSError):  # told elsewhere
            rates.append(audio.info(dataset.clips[index].path).sample_rate)
    if not rates or max(rates) >= dataset.sample_rate:
        return ""
    return (
        f"clips at {max(rates):,} Hz are resampled to the codec's {dataset.sample_rate:,} Hz: it learns nothing above "
        f"{max(rates) // 2:,} Hz"
    )


def build_loader(recipe: Recipe, sample_rate: int, rank: int, world_size: int) -> ClipLoader:
    """Endless batches of this rank, resumable."""
    data = recipe.data
    dataset = build_dataset(recipe, sample_rate)
    if rank == 0:
        for line in dataset.bad.lines():
            print(line, file=sys.stderr)
        if line := resampling_of(dataset):
            print(line, file=sys.stderr)
    dataset.bad.say = partial(print, file=sys.stderr)  # each process names those that it comes upon
    sampler = ResumableSampler(
        dataset.durations,
        batch_clips=data.clips_per_batch,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        bucket_batches=data.bucket_batches if data.crop_seconds is None else 1,
        blocks=find_blocks(dataset.clips),
    )
    return ClipLoader(dataset, sampler, data.prefetch)
