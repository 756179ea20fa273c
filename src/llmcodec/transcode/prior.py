"""`llmcodec prior`: count which codes follow each other, for encoding that searches (`--codec search:FOLDER`).

    llmcodec prior runs/rate searched --manifest corpus/manifest.jsonl
    llmcodec encode speech/ --codec search:searched -o tokens/

Test: tests/transcode/test_prior.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.token_prior import PRIOR_FILE, BigramPrior
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io.atomic import atomic_folder
from llmcodec.runtime.opening import pick_device
from llmcodec.runtime.torch_runtime import TorchRuntime
from llmcodec.transcode.progress import FilesBar
from llmcodec.transcode.tokenize import read_clip

BATCH_CLIPS = 64


def make_prior(
    codec: str,
    output: str,
    manifest: str = "bundled",
    split: str | None = "train",
    sources: list[str] | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> None:
    """Write a copy of a codec with the counts that rate-aware encoding needs; `--codec search:OUTPUT` then searches.

    A clip that cannot be read is named and left out.

    Example: llmcodec prior runs/rate searched --manifest corpus/manifest.jsonl

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it gets its name when everything is in it.
        manifest: JSONL manifest of speech like that to be encoded (ten minutes help, hours are better); `bundled` is
            the corpus in the package.
        split: of the manifest; null takes all clips.
        sources: keep clips of these sources.
        overwrite: write into a folder that is not empty.
        device: auto takes a GPU where there is one; or cpu, cuda, cuda:1, mps.

    Raises:
        ValueError: not a codec that can search, an output that is not empty, not one clip that can be read.
    """
    model = load_codec(codec, pick_device(device))
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can search")
    path = assets.speech_manifest() if manifest == "bundled" else Path(manifest)
    clips = read_manifest(path, split, sources=sources)
    with atomic_folder(output, merge=overwrite) as folder:  # before the work, so that a folder in use is refused first
        tokens = _tokens(TorchRuntime(optimize_for_inference(model, "fp32"), codec), clips)
        prior = BigramPrior.fit(tokens, model.codebook_size)
        model.save_pretrained(folder)
        prior.save(folder / PRIOR_FILE, model)
    found = f"{prior.keys_G.numel():,} pairs of codes from {len(tokens):,} clips"
    print(f"{output}: {found}; use it with --codec search:{output}")


def _tokens(runtime: TorchRuntime, clips: Sequence[Clip]) -> list[torch.Tensor]:
    """Codes of every clip that can be read, on the CPU; the others are named."""
    tokens: list[torch.Tensor] = []
    unreadable: list[str] = []
    with FilesBar("counting") as bar:
        bar.start(len(clips), sum(clip.duration for clip in clips))
        for start in range(0, len(clips), BATCH_CLIPS):
            batch = clips[start : start + BATCH_CLIPS]
            read = [read_clip(clip, runtime.identity.sample_rate, unreadable) for clip in batch]
            wavs = [recording.wavs[0] for recording in read if recording is not None]
            tokens += [torch.from_numpy(codes_QT[0]) for codes_QT in (runtime.encode_batch(wavs) if wavs else [])]
            bar.advance(len(batch), sum(clip.duration for clip in batch))
    if not tokens:
        raise ValueError(f"prior: none of {len(clips)} clips could be read; the first: {unreadable[0]}")
    for line in unreadable:
        print(f"left out: {line}")
    if unreadable:
        print(f"{len(unreadable)} clips could not be read and are not counted")
    return tokens
