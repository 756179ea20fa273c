"""One codec, everything measured: the row of a table. Used by `llmcodec compare`, the quickstart and the experiments.

Reconstruction and consistency are measured on held-out clips; a small token LM is trained on the codec's tokens of the
train clips and scored on the held-out ones (`likelihood`). Test: tests/unit/evaluation/test_systems.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..codecs.protocol import Codec
from ..data.manifest import Clip
from .codes import code_statistics
from .consistency import slice_consistency
from .likelihood import LikelihoodConfig, measure_predictability
from .reconstruction import encode_clip, evaluate_reconstruction
from .summary import SystemRow

Progress = Callable[[str, float], None]  # stage, share done


@dataclass(frozen=True)
class Corpus:
    """The clips of one evaluation; every system gets the same."""

    train: Sequence[Clip]
    """For the token LM."""
    valid: Sequence[Clip]
    """Held out; chooses the LM checkpoint that is scored on `test` (and the other way round)."""
    test: Sequence[Clip]
    """Held out."""

    @property
    def held_out(self) -> list[Clip]:
        return [*self.valid, *self.test]


@dataclass(frozen=True)
class MeasurementConfig:
    """What is measured; the same for every row of a table."""

    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Token LM and its budget."""
    reconstruction_clips: int | None = None
    """Measure reconstruction on this many held-out clips, evenly spread; null takes all."""
    slow_metrics: bool = True
    """PESQ and STOI (needs the packages of the `metrics` extra)."""
    consistency_clips: int | None = 40
    """Clips for slice consistency; 0 leaves it out, null takes all."""
    workers: int | None = None
    """Processes for PESQ and STOI; null takes what is free, at most 2."""


def measure_system(
    name: str, codec: Codec, corpus: Corpus, config: MeasurementConfig, on_progress: Progress | None = None
) -> SystemRow:
    """Reconstruction, token statistics, LM bits per second and slice consistency of one codec.

    Raises:
        ValueError: no clips, unreadable audio, metric packages missing.
    """

    def report(stage: str) -> Callable[[float], None]:
        return lambda share: on_progress(stage, share) if on_progress is not None else None

    pieces = spread(corpus.held_out, config.reconstruction_clips)
    reconstruction = evaluate_reconstruction(
        codec, pieces, num_workers=config.workers, slow_metrics=config.slow_metrics, on_progress=report("reconstruct")
    )
    train, valid, test = (encode_all(codec, clips) for clips in (corpus.train, corpus.valid, corpus.test))
    predictability = measure_predictability(
        train,
        valid,
        test,
        codec.codebook_size,
        codec.frame_rate,
        config.likelihood,
        num_codebooks=codec.num_codebooks,
        valid_ids=[clip.id for clip in corpus.valid],
        test_ids=[clip.id for clip in corpus.test],
        on_progress=report("token LM"),
    )
    consistency = None
    if config.consistency_clips != 0:
        consistency = slice_consistency(codec, spread(corpus.held_out, config.consistency_clips))
    return SystemRow(
        name,
        codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size),
        reconstruction,
        predictability,
        code_statistics([*valid, *test], codec.codebook_size, codec.num_codebooks),
        consistency,
    )


@torch.no_grad()
def encode_all(codec: Codec, clips: Sequence[Clip]) -> list[Tensor]:
    """Flattened 1-D codes of every clip."""
    return [encode_clip(codec, clip) for clip in clips]


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """`count` clips evenly spread over the sequence; all of them for None."""
    if count is None or count >= len(clips):
        return list(clips)
    return [clips[i * len(clips) // count] for i in range(count)]
