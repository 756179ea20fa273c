"""Counting which codes follow each other, for encoding that searches (`--codec search:FOLDER`).

    llmcodec prior runs/rate -o searched --manifest corpus/manifest.jsonl
    llmcodec encode speech/ --codec search:searched -o tokens/

Test: tests/transcode/test_prior.py.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llmcodec.adapters.load import folder_of_codec, load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.hub import remove_graphs
from llmcodec.codec.landmarks import find_landmarks
from llmcodec.codec.neural_prior import AUDIO_LM, find_audio_lm
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.token_prior import FOLDS, PRIOR_FILE, CountedClip, FoldedPrior
from llmcodec.data.manifest import Clip, find_missing
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.tensor_check import check_tensors, renewed_digests
from llmcodec.runtime.torch_runtime import TorchRuntime
from llmcodec.transcode.pipeline import Watcher
from llmcodec.transcode.views import encode_views


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
    rounds: int = 1,
    device: str = "cpu",
    overwrite: bool = False,
    watcher: Watcher | None = None,
    max_bad: MaxBad = 0,
) -> PriorSummary:
    """Write a copy of a codec with the counts that rate-aware encoding needs, and its small LM if it has one.

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it appears under this name when it is complete.
        clips: whose codes are counted.
        folds: a clip that is counted will be searched by the counts of the other folds.
        rounds: 1 counts nearest codes; each further round searches the clips by the counts so far and counts again.
        device: where the codec runs.
        overwrite: write into a folder that is not empty.
        watcher: receives progress.
        max_bad: clips that may turn out unreadable; they are not counted.

    Raises:
        ValueError: a codec that cannot search, no round, an output that is not empty, too many unreadable clips.
    """
    model = load_codec(codec, device)
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can search")
    if rounds < 1:
        raise ValueError(f"prior: rounds must be at least 1, got {rounds}")
    watcher = watcher or Watcher()
    watcher.start(rounds * len(clips), rounds * math.fsum(clip.duration for clip in clips))
    bad = BadRows(max_bad, len(clips))
    find_missing(clips, bad)
    with atomic_folder(output, merge=overwrite) as folder:  # before the work, so that one in use is refused first
        prior = count_prior(model, clips, folds, bad, lambda clip: watcher.advance(1, clip.duration), rounds)
        model.save_pretrained(folder, card=model.card(Path(output).resolve().name))
        prior.save(folder / PRIOR_FILE, model)
        lm = find_audio_lm(folder_of_codec(codec))  # of the run that made the codec, for `search:DIR?lm`
        if lm is not None:
            with renewed_digests(folder, AUDIO_LM):
                shutil.copyfile(check_tensors(lm), folder / AUDIO_LM)
    remove_graphs(output)
    return PriorSummary(prior.num_pairs, len(prior.ids), list(bad.reasons.values()))


def count_prior(
    codec: LLMCodec,
    clips: Sequence[Clip],
    folds: int = FOLDS,
    bad: BadRows | None = None,
    on_clip: Callable[[Clip], None] = lambda clip: None,
    rounds: int = 1,
) -> FoldedPrior:
    """The counts of a codec's nearest codes on clips, or in later rounds of the codes that search finds.

    From the second round on, the codes of other clips have been drawn towards the pairs of a clip that was counted with
    them. So every fold is searched by counts of its own alone (`search_fold`), in all rounds: what a fold contributes
    never depends on a clip of another one.

    Args:
        codec: encodes them.
        clips: what is counted.
        folds: as `write_prior`.
        bad: takes the clips that cannot be read; None: the first one is an error.
        on_clip: called with every clip that was read, or could not be, in every round.
        rounds: as `write_prior`.

    Raises:
        ValueError: too many clips that cannot be read, or none that can.
    """
    bad = BadRows(0, len(clips)) if bad is None else bad
    runtime = TorchRuntime(optimize_for_inference(codec, "fp32"), "prior")
    found = list(_encoded(runtime, clips, bad, on_clip))
    if clips and not found:
        raise ValueError(f"prior: none of {len(clips)} clips could be read; the first: {bad.reasons[clips[0].id]}")
    counted = [one for _, one in found]
    readable = [clip for clip, _ in found]
    for _ in range(1, rounds):
        for fold in range(min(folds, len(counted))):
            counted[fold::folds] = search_fold(codec, readable[fold::folds], counted[fold::folds], bad, on_clip)
    return FoldedPrior.fit(counted, codec.codebook_size, folds)


def search_fold(
    codec: LLMCodec,
    clips: Sequence[Clip],
    counted: Sequence[CountedClip],
    bad: BadRows,
    on_clip: Callable[[Clip], None],
) -> list[CountedClip]:
    """The clips of a fold with the codes that search finds by counts of the same fold.

    The fold is divided once more, so that no clip is searched by its own pairs. A fold of one clip stays as it is, and
    so does a clip that can no longer be read.
    """
    if len(clips) < 2:
        return list(counted)
    prior = FoldedPrior.fit(counted, codec.codebook_size, min(FOLDS, len(counted)))
    runtime = TorchRuntime(SearchingCodec(codec, prior), "prior")
    again = {one.id: one for _, one in _encoded(runtime, clips, bad, on_clip)}
    return [again.get(one.id, one) for one in counted]


def _encoded(
    runtime: TorchRuntime, clips: Sequence[Clip], bad: BadRows, on_clip: Callable[[Clip], None]
) -> Iterator[tuple[Clip, CountedClip]]:
    """Every clip that can be read, as it is counted."""
    whole = ((clip, (0,)) for clip in clips)
    for clip, _, view, codes_QT in encode_views(runtime, whole, bad, lambda clip, _: on_clip(clip)):
        yield clip, CountedClip(clip.id, find_landmarks(view.wavs[0]), torch.from_numpy(codes_QT[0]))
