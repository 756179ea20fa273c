"""Counting which codes follow each other, for encoding that searches (`--codec search:FOLDER`).

    llmcodec prior runs/rate -o searched --manifest corpus/manifest.jsonl
    llmcodec encode speech/ --codec search:searched -o tokens/

Test: tests/transcode/test_prior.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.token_prior import PRIOR_FILE, BigramPrior
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
        runtime = TorchRuntime(optimize_for_inference(model, "fp32"), codec)
        whole = [(clip, {clip.id: 0}) for clip in clips]
        encoded = encode_views(runtime, whole, bad, lambda clip, _: watcher.advance(1, clip.duration))
        tokens = [torch.from_numpy(codes_QT[0]) for *_, codes_QT in encoded]
        if not tokens:
            raise ValueError(f"prior: none of {len(clips)} clips could be read; the first: {bad.reasons[clips[0].id]}")
        prior = BigramPrior.fit(tokens, model.codebook_size)
        model.save_pretrained(folder)
        prior.save(folder / PRIOR_FILE, model)
    return PriorSummary(prior.keys_G.numel(), len(tokens), list(bad.reasons.values()))
