"""`llmcodec prior`: count which codes follow each other, for encoding that searches (`--codec search:FOLDER`).

    llmcodec prior runs/rate searched --manifest corpus/manifest.jsonl
    llmcodec encode speech/ --codec search:searched -o tokens/

Test: tests/unit/coding/test_prior.py.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .. import assets, audio
from ..codec import LLMCodec
from ..codec.folder import finished_folder
from ..codec.inference import optimize_for_inference
from ..codec.search import PRIOR_FILE, BigramPrior
from ..codecs.load import load_codec
from ..data.manifest import read_manifest
from .progress import ProgressBar
from .torch_runtime import TorchRuntime

BATCH_CLIPS = 64


def make_prior(
    codec: str,
    output: str,
    manifest: str = "bundled",
    split: str | None = "train",
    sources: list[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a copy of a codec with the counts that rate-aware encoding needs; `--codec search:OUTPUT` then searches.

    Example: llmcodec prior runs/rate searched --manifest corpus/manifest.jsonl

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it gets its name when everything is in it.
        manifest: JSONL manifest of speech like that to be encoded (ten minutes help, hours are better); `bundled` is
            the corpus in the package.
        split: of the manifest; null takes all clips.
        sources: keep clips of these sources.
        overwrite: write into a folder that is not empty.
    """
    model = load_codec(codec)
    if not isinstance(model, LLMCodec):
        raise ValueError(f"{codec}: is a {type(model).__name__}; only codecs of llmcodec itself can search")
    path = assets.speech_manifest() if manifest == "bundled" else Path(manifest)
    clips = read_manifest(path, split, sources=sources)
    runtime = TorchRuntime(optimize_for_inference(model, "fp32"), codec)
    tokens: list[torch.Tensor] = []
    with ProgressBar("counting") as bar:
        bar.start(len(clips), sum(clip.duration for clip in clips))
        for start in range(0, len(clips), BATCH_CLIPS):
            batch = clips[start : start + BATCH_CLIPS]
            codes = runtime.encode_batch([audio.load(clip.path, model.sample_rate) for clip in batch])
            tokens += [torch.from_numpy(codes_QT[0]) for codes_QT in codes]
            bar.advance(len(batch), sum(clip.duration for clip in batch))
    prior = BigramPrior.fit(tokens, model.codebook_size)
    with finished_folder(output, overwrite) as folder:
        model.save_pretrained(folder)
        prior.save(folder / PRIOR_FILE, model)
    found = f"{prior.keys_G.numel():,} pairs of codes from {len(clips):,} clips"
    print(f"{output}: {found}; use it with --codec search:{output}")
