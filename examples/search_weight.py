"""Choosing the weight of encoding by search: bits against Mel, STOI and PESQ, on clips that nothing else has seen.

    python examples/search_weight.py corpus/manifest.jsonl -o runs/tuning --split valid --weights 0,.02,.05,.1,.2,.4
    python examples/search_weight.py corpus/manifest.jsonl -o runs/report --split test --weights .1 --lm-clips 300

Of the train split, every second clip is counted for the prior; the others train the judge, a small LM of nearest codes
that prices all rows alike. `--lm-clips` adds an LM of its own for each row: trained on that many of the judge's clips,
encoded as the row says. That is what a user of the tokens pays, and it takes longer. Weights are chosen on one split
and reported on another. Every row is kept (OUTPUT/ROW.json), so the same command goes on where it was stopped;
rows of another split, other clips, another codec or another budget are refused.
Test: tests/examples/test_search_weight.py.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.search import SearchConfig, SearchingCodec
from llmcodec.codec.token_prior import FoldedPrior
from llmcodec.data.manifest import Clip, read_manifest, spread
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.reconstruction import measure_reconstruction
from llmcodec.io.structured import read_object, write_json
from llmcodec.lm.small_lm_scorer import SmallLMScorer, train_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.metrics.statistics import compare_paired
from llmcodec.protocol import Codec
from llmcodec.report.tables import TextTable
from llmcodec.runtime.torch_runtime import fingerprint
from llmcodec.transcode.prior import count_prior

NEAREST = "nearest"
COLUMNS = {"judge": "bit/s, judge", "own": "bit/s, own LM", "mel": "Mel", "stoi": "STOI", "pesq": "PESQ"}
COLUMNS |= {"nearest": "stay nearest"}


@dataclass(frozen=True)
class Parts:
    """Clips that share nothing."""

    prior: Sequence[Clip]
    judge: Sequence[Clip]
    measured: Sequence[Clip]
    own_lm: Sequence[Clip]
    """Of the judge's; none: no LM for each row."""


def measure(codec: Codec, parts: Parts, judge: SmallLMScorer, lm: LikelihoodConfig, near: Sequence[Any]) -> Any:
    """One row: a list of values, clip by clip, for every column."""
    started = time.process_time()
    with EncodedCorpus(codec) as encoded:
        tokens = encoded.tokens(parts.measured)
        spent = time.process_time() - started
        found = measure_reconstruction(encoded, parts.measured, metrics=("mel", "stoi", "pesq"), num_workers=0)
        row: dict[str, Any] = {name: [one.metrics[name].value for one in found.rows] for name in found.metric_names}
        row |= {"judge": bits(judge, tokens), "tokens": [codes_T.tolist() for codes_T in tokens]}
        if parts.own_lm:
            own = train_scorer(encoded.tokens(parts.own_lm, keep=False), codec.codebook_size, codec.frame_rate, lm)
            row["own"] = bits(own, tokens)
    same = zip(row["tokens"], near or row["tokens"], strict=True)
    row["nearest"] = [float((torch.tensor(one) == torch.tensor(other)).double().mean()) for one, other in same]
    return row | {"encoding_cpu_seconds": spent, "cpu_seconds": time.process_time() - started}


def bits(scorer: SmallLMScorer, tokens: Sequence[torch.Tensor]) -> list[float]:
    """Of every clip."""
    return [-float(nats_T.sum()) / math.log(2) for nats_T in scorer.token_log_likelihoods(tokens)]


def table(rows: dict[str, Any], clips: Sequence[Clip], frame_rate: float) -> str:
    """Means; differences to the nearest codes paired by clip, with 95 % intervals. Clips without a value are named."""
    seconds = [len(codes) / frame_rate for codes in rows[NEAREST]["tokens"]]
    columns = [name for name in COLUMNS if name in rows[NEAREST]]
    failed = {
        column: [i for i in range(len(clips)) if any(row[column][i] is None for row in rows.values())]
        for column in columns
    }
    lines = []
    for name, row in rows.items():
        line = [name]
        for column in columns:
            kept = [i for i in range(len(clips)) if i not in failed[column]]
            a, b = ([one[column][i] for i in kept] for one in (rows[NEAREST], row))
            paired = compare_paired(a, b, [seconds[i] for i in kept] if column in ("judge", "own") else None)
            cell = f"{paired.mean_b:.4g}"
            if name != NEAREST and column != "nearest":
                low, value, high = (
                    100 * one - 100 for one in (paired.ratio.low, paired.ratio.value, paired.ratio.high)
                )
                cell += f" ({value:+.1f} % [{low:+.1f}, {high:+.1f}])"
            line.append(cell)
        lines.append(line)
    head = f"{len(clips)} clips, {sum(seconds):.0f} s"
    notes = [
        f"{COLUMNS[column]}: without {', '.join(clips[i].id for i in places)}, where it could not be measured\n"
        for column, places in failed.items()
        if places
    ]
    return "".join([TextTable([head, *(COLUMNS[name] for name in columns)], lines).markdown(), *notes])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="JSONL manifest with splits")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the rows")
    parser.add_argument("--codec", default="bundled")
    parser.add_argument("--split", default="valid", help="what is measured")
    parser.add_argument("--sources", help="of the manifest, joined by commas; default: all")
    parser.add_argument("--weights", default="0,.02,.05,.1,.2,.4")
    parser.add_argument("--clips", type=int, help="of the split, evenly spread; default: all")
    parser.add_argument("--lm-clips", type=int, default=0, help="train an LM for each row on so many clips")
    parser.add_argument("--lm-seconds", type=float, default=4000.0, help="budget of every LM in seconds of audio")
    given = parser.parse_args(arguments)
    codec = load_codec(given.codec)
    if not isinstance(codec, LLMCodec):
        parser.error(f"{given.codec}: only codecs of llmcodec itself can search")
    sources = given.sources.split(",") if given.sources else None
    train, held_out = (read_manifest(given.manifest, split, sources=sources) for split in ("train", given.split))
    judging = train[1::2]
    own_lm = spread(judging, given.lm_clips) if given.lm_clips else []
    parts = Parts(train[::2], judging, spread(held_out, given.clips), own_lm)
    lm = LikelihoodConfig(audio_seconds=given.lm_seconds, batch_seconds=10.0)
    settings = {name: vars(given)[name] for name in ("split", "sources", "clips", "lm_clips", "lm_seconds", "codec")}
    settings |= {"weights of the codec": fingerprint(codec)}
    settings |= {f"{part} clips": digest([clip.id for clip in clips]) for part, clips in vars(parts).items()}
    plain = optimize_for_inference(codec, "fp32")
    judge = prior = None
    rows: dict[str, Any] = {}
    names = [NEAREST, *(f"weight {float(weight):g}" for weight in given.weights.split(","))]
    files = {name: given.output / f"{name}.json" for name in names}
    for file in files.values():
        refuse_other(file, settings)
    for name, file in files.items():
        if not file.exists():
            if judge is None:
                with EncodedCorpus(plain) as encoded:
                    judge = train_scorer(encoded.tokens(judging, keep=False), codec.codebook_size, codec.frame_rate, lm)
                prior = count_prior(codec, parts.prior)
            near = rows[NEAREST]["tokens"] if rows else []
            row = measure(searching(codec, prior, name) if rows else plain, parts, judge, lm, near)
            write_json(file, {"settings": settings} | row, indent=None)
            print(f"{name}: {row['cpu_seconds']:.0f} s of CPU", flush=True)
        rows[name] = read_object(file)
    print(f"prior: {len(parts.prior)} clips; judge: {len(parts.judge)}; LM of each row: {len(parts.own_lm)}\n")
    print(table(rows, parts.measured, codec.frame_rate))


def digest(ids: Sequence[str]) -> str:
    """Of clips in their order, in 16 digits."""
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:16]


def refuse_other(file: Path, settings: dict[str, Any]) -> None:
    """End the program where a row that is kept was measured with other settings."""
    found = read_object(file).get("settings") or {} if file.exists() else settings
    for name, value in settings.items():
        if (other := found.get(name, "unknown")) != value:
            raise SystemExit(f"{file}: {name} was {other}, not {value}; choose another folder (-o), or delete the row")


def searching(codec: LLMCodec, prior: FoldedPrior | None, name: str) -> SearchingCodec:
    """The codec with the weight that a row is called by."""
    assert prior is not None
    return SearchingCodec(codec, prior, SearchConfig(weight=float(name.split()[1])))


if __name__ == "__main__":
    main()
