"""`tokenize`: a corpus to tokens, on one machine or many; `tokens merge`, `verify`; `data manifest`, `data hub`.

Test: tests/cli/test_tokens.py, tests/data/test_corpus.py, tests/data/test_hub.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.cli.options import ClipOptions, CodecOptions, OutputOptions
from llmcodec.cli.summary import Failed
from llmcodec.cli.urls import local_value
from llmcodec.data.corpus import make_manifest
from llmcodec.data.hub import make_hub_manifest
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.lm_card import remember_codec, remembered_codec
from llmcodec.io.remote.paths import shown
from llmcodec.io.run_guard import stopped_in_order
from llmcodec.io.token_shards import import_pyarrow
from llmcodec.transcode.index import INDEX, check_index
from llmcodec.transcode.merge import check_parts, merge_parts, totals
from llmcodec.transcode.sharding import parts_in

__all__ = ["make_hub_manifest", "make_manifest", "merge", "tokenize", "tokenize_bar", "verify"]

if TYPE_CHECKING:
    from llmcodec.transcode.tokenize import TokenJob

CODEC, CLIPS, TOKENS = CodecOptions(runtime="torch"), ClipOptions(min_seconds=0.0), OutputOptions("tokens")


def tokenize(
    codec: CodecOptions = CODEC,
    corpus: ClipOptions = CLIPS,
    output: OutputOptions = TOKENS,
    views: int = 1,
    format: Literal["arrow", "parquet", "slamkit"] = "arrow",
    clips_per_shard: int = 500,
    shard: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
) -> None:
    """Turn the clips of a manifest into codec tokens, once: shards that `llmcodec lm train` reads.

      llmcodec tokenize --manifest corpus/manifest.jsonl --codec runs/rate/codec -o tokens

    A manifest with splits gives one folder of shards per split (OUTPUT/train, OUTPUT/valid, ..). Started again, it
    skips the clips that are already in shards; those whose audio has changed since, or whose shard is damaged, are
    encoded again. Each shard names its codec and its manifest; OUTPUT/index.json says at the end what is there.
    Shards need pyarrow: pip install 'llmcodec[datasets]'.

    With --shard, several machines share the work: each takes a stretch of the corpus, balanced by duration, into
    OUTPUT/part-00002-of-00008. `llmcodec tokens merge OUTPUT` puts the parts together. With --engine ray, a Ray cluster
    does all of this: that of RAY_ADDRESS or of `ray start`, else this machine. OUTPUT, manifest and codec must be in
    places that all its machines see. Either way OUTPUT ends up with the bytes of a run on one machine.

    Args:
        output: folder for the shards.
        split: take these splits, joined by commas; a single one goes straight into OUTPUT.
        views: encode every clip this many times, each starting a fraction of a frame later (ID#SAMPLES): the same
            speech in different tokens, as augmentation for a small corpus. Clips of the splits valid, dev and test
            (also dev-clean, test_other, ..) are encoded once.
        format: of the shards, arrow or parquet; slamkit writes arrow and OUTPUT/SPLIT.jsonl with units and unit text
            for slamkit.
        clips_per_shard: clips in one shard, the most that a kill can lose.
        shard: take part I/N of the corpus, counted from 0 (0/8 to 7/8); the same command again goes on with it.
        engine: local, or ray for a Ray cluster (pip install 'llmcodec[ray]').
        workers: actors of --engine ray; default: one for each GPU of the cluster, or each CPU core if it has none.
    """
    from llmcodec.transcode.sharding import Shard, merged_line
    from llmcodec.transcode.slamkit import export_slamkit
    from llmcodec.transcode.tokenize import describe

    part = None if shard is None else Shard.read(shard)
    if part is not None and format == "slamkit":
        raise ValueError("--format slamkit writes one file for all clips; tokenize with --shard as arrow, then merge")
    if engine == "ray" and part is not None:
        raise ValueError("--shard is for machines that share the work without Ray; leave one of the two out")
    if workers is not None and (engine != "ray" or workers < 1):
        raise ValueError(f"--workers {workers}: a number of actors, of --engine ray")
    import_pyarrow()
    place = output.place
    options: dict[str, Any] = {
        "by_split": corpus.split is None or len(corpus.split) > 1,
        "views": views,
        "clips_per_shard": clips_per_shard,
        "format": "parquet" if format == "parquet" else "arrow",
        "settings": {"precision": codec.precision, "runtime": codec.runtime},
    }
    with stopped_in_order("finished shards stay, the same command continues after them"), tokenize_bar() as show:
        if engine == "ray":
            from llmcodec.transcode.ray_parts import import_ray

            import_ray()  # what is missing is said before a long corpus is read
        job = tokenize_job(codec, corpus, options)
        bad = BadRows(corpus.max_bad, job.num_clips)
        if part is not None:
            results = job.run_part(place, part, show, bad)
        elif engine == "ray":
            from llmcodec.transcode.ray_parts import tokenize_on_ray

            named = replace(codec, codec=shown(codec.codec))
            make = partial(job_in_actor, named, corpus, options, os.getcwd())
            gpus = codec.device.startswith(("auto", "cuda"))
            results = tokenize_on_ray(job, make, place, workers=workers, use_gpus=gpus, on_progress=show, bad=bad)
        else:
            results = job.run(place, show, bad)
    if (part is not None or engine == "ray") and not results:
        print(merged_line(place, "--shard" if part is not None else "--engine ray"))
        return
    remember_codec(place, codec.codec)
    print(*describe(results), *bad.lines(), sep="\n")
    if format == "slamkit":
        for folder in results:
            target = place / f"{folder.name if folder != place else 'tokens'}.jsonl"
            print(f"{target}: {export_slamkit(folder, target)} clips for slamkit")


def tokenize_job(codec: CodecOptions, corpus: ClipOptions, options: dict[str, Any]) -> TokenJob:
    """What `tokenize` is to do, by its options."""
    from llmcodec.transcode.tokenize import TokenJob

    return TokenJob.of(codec.open("encoder"), corpus.clips(), **options)


def job_in_actor(codec: CodecOptions, corpus: ClipOptions, options: dict[str, Any], folder: str) -> TokenJob:
    """`tokenize_job` in another process, maybe of another machine.

    Args:
        codec: may name a URL.
        corpus: likewise.
        options: of the job.
        folder: where relative paths start, if it is there.
    """
    if os.path.isdir(folder):
        os.chdir(folder)
    return tokenize_job(replace(codec, codec=local_value("tokenize", "codec", codec.codec)), corpus, options)


@contextmanager
def tokenize_bar() -> Iterator[Callable[[float], None]]:
    """A progress bar, or occasional lines; takes the share that is done."""
    from llmcodec.training.tracking import TrainingBar

    with TrainingBar("tokenize", 100, 0) as bar:
        yield lambda share: bar.update(int(100 * share), {"share": share})


def merge(inputs: list[str], output: OutputOptions = OutputOptions(), remove_parts: bool = False) -> None:
    """Put the parts of `tokenize --shard` or `encode --shard` together: the result is that of one run without --shard.

      llmcodec tokens merge tokens/

    Missing, doubled and unfinished parts are named, as are parts of another codec, corpus or setting; nothing is
    written then. A folder that is merged already stays as it is.

    Args:
        inputs: the folder with the parts, or parts from several machines.
        output: folder for the result; default: the one with the parts.
        remove_parts: delete the parts once the result is complete.
    """
    places = [Path(one) for one in inputs]
    if output.output is None and (len(places) != 1 or places[0].name.startswith("part-")):
        raise ValueError("several parts: name the folder for the result with --output")
    codec = next(filter(None, (remembered_codec(folder) for place in places for folder in parts_in(place))), "")
    target = places[0] if output.output is None else output.place
    index = merge_parts(places, target, remove_parts)
    remember_codec(target, codec)
    print(*totals(index), sep="\n")


def verify(inputs: list[str]) -> None:
    """Compare token folders with their index, or say which parts of a sharded run are still missing.

      llmcodec tokens verify tokens/

    The exit code is 1 if a shard is missing, damaged, doubled, or not in the index.

    Args:
        inputs: folders of `tokenize`, of `encode`, or of parts that are not merged yet.
    """
    places = [Path(one) for one in inputs]
    merged = [place for place in places if (place / INDEX).is_file()]
    parts = [place for place in places if place not in merged]
    wrong = 0
    for found in [*map(check_index, merged), *([check_parts(parts)] if parts else [])]:
        for path, said, is_damaged in found:
            print(f"WRONG {said}" if is_damaged else f"{path}: {said}", flush=True)
            wrong += is_damaged
    if wrong:
        raise Failed(f"{wrong} of these are wrong")
