"""Counting which codes follow each other, for encoding that searches (`--codec search:FOLDER`).

    llmcodec prior runs/rate -o searched --manifest corpus/manifest.jsonl
    llmcodec encode speech/ --codec search:searched -o tokens/

Test: tests/transcode/test_prior.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.landmarks import find_landmarks
from llmcodec.codec.token_prior import FOLDS, PRIOR_FILE, CountedClip, FoldedPrior
from llmcodec.data.manifest import Clip, find_missing
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.runtime.torch_runtime import TorchRuntime
from llmcodec.transcode.pipeline import Watcher
from llmcodec.transcode.tokenize import encode_views


@dataclass(frozen=True)
class PriorSummary:
    """Result of the counting."""

    num_pairs: int
    """Different pairs of codes."""
    num_clips: int
    unreadable: list[str]
    """One line per clip that could not be read and is not counted."""


def write_prior(
    codec: str,
    output: str | os.PathLike[str],
    clips: Sequence[Clip],
    *,
    folds: int = FOLDS,
    device: str = "cpu",
    overwrite: bool = False,
    watcher: Watcher | None = None,
    max_bad: MaxBad = 0,
) -> PriorSummary:
    """Write a copy of a codec with the counts that rate-aware encoding needs.

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it appears under this name when it is complete.
        clips: whose codes are counted.
        folds: a clip that is counted will be searched by the counts of the other folds.
        device: where the codec runs.
        overwrite: write into a folder that is not empty.
        watcher: receives progress.
        max_bad: clips that may turn out unreadable; they are not counted.

    Raises:
        ValueError: a codec that cannot search, an output that is not empty, too many unreadable clips.
    """
    model = load_codec(codec, device)
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can search")
    watcher = watcher or Watcher()
    watcher.start(len(clips), math.fsum(clip.duration for clip in clips))
    bad = BadRows(max_bad, len(clips))
    find_missing(clips, bad)
    with atomic_folder(output, merge=overwrite) as folder:  # before the work, so that one in use is refused first
        prior = count_prior(model, clips, folds, bad, lambda clip: watcher.advance(1, clip.duration))
        model.save_pretrained(folder, card=model.card(Path(output).resolve().name))
        prior.save(folder / PRIOR_FILE, model)
    return PriorSummary(prior.num_pairs, len(prior.ids), list(bad.reasons.values()))


def count_prior(
    codec: LLMCodec,
    clips: Sequence[Clip],
    folds: int = FOLDS,
    bad: BadRows | None = None,
    on_clip: Callable[[Clip], None] = lambda clip: None,
) -> FoldedPrior:
    """The counts of a codec's nearest codes on clips.

    Args:
        codec: encodes them.
        clips: what is counted.
        folds: as `write_prior`.
        bad: takes the clips that cannot be read; None: the first one is an error.
        on_clip: called with every clip that was read, or could not be.

    Raises:
        ValueError: too many clips that cannot be read, or none that can.
    """
    bad = BadRows(0, len(clips)) if bad is None else bad
    runtime = TorchRuntime(optimize_for_inference(codec, "fp32"), "prior")
    whole = [(clip, {clip.id: 0}) for clip in clips]
    encoded = encode_views(runtime, whole, bad, lambda clip, _: on_clip(clip))
    counted = [
        CountedClip(clip.id, find_landmarks(view.wavs[0]), torch.from_numpy(codes_QT[0]))
        for clip, _, view, codes_QT in encoded
    ]
    if clips and not counted:
        raise ValueError(f"prior: none of {len(clips)} clips could be read; the first: {bad.reasons[clips[0].id]}")
    return FoldedPrior.fit(counted, codec.codebook_size, folds)
