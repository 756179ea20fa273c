"""Efforts of search: CPU seconds of one thread, bits, Mel, STOI and PESQ, each against the nearest codes.

    python benchmarks/search_speed.py                                   # the bundled test clips
    git show COMMIT:src/llmcodec/codec/search.py > before.py
    python benchmarks/search_speed.py --before before.py                # and against an earlier version, in one run

Bits are those of the small audio LM beside the bundled codec, which has learnt nearest codes of other clips. Rows are
timed in turns, so that a busy machine hits all alike; the fastest turn counts. docs/results/search_effort.md has the
table. Test: tests/benchmarks/test_search_speed.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.search import EFFORTS, SearchConfig, SearchingCodec
from llmcodec.data.manifest import read_manifest
from llmcodec.lm.small_lm_scorer import load_scorer
from llmcodec.metrics.registry import measure_pair
from llmcodec.metrics.statistics import compare_paired
from llmcodec.report.tables import TextTable
from llmcodec.training.language import audio_lm_path

NEAREST, BEFORE = "nearest", "before"
METRICS = ("mel", "stoi", "pesq")


def earlier(path: Path, codec: SearchingCodec) -> Any:
    """`SearchingCodec` of an earlier search.py, with the same codec, prior and weight."""
    spec = importlib.util.spec_from_file_location("search_before", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.SearchingCodec(codec.plain, codec.prior, module.SearchConfig(weight=codec.config.weight))


def encode(codec: Any, wavs: Sequence[np.ndarray]) -> tuple[list[torch.Tensor], float]:
    """Codes of every clip, and CPU seconds."""
    started = time.process_time()
    codes = [codec.encode(torch.from_numpy(wav_S)[None, None]).audio_codes[0, 0] for wav_S in wavs]
    return codes, time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure all rows and print the table; returns the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default=str(assets.speech_manifest()))
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="the first ones; default: all")
    parser.add_argument("--before", type=Path, help="search.py of an earlier version")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, help="values as JSON")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clips = read_manifest(given.manifest, given.split)[: given.clips]
    searching = load_codec("search:bundled")
    assert isinstance(searching, SearchingCodec)
    wavs = [clip.load(searching.sample_rate) for clip in clips]
    plain = optimize_for_inference(searching.plain, "fp32")
    codecs: dict[str, Any] = {NEAREST: plain}
    if given.before is not None:
        codecs[BEFORE] = earlier(given.before, searching)
    codecs |= {name: SearchingCodec(searching.plain, searching.prior, SearchConfig.of(name)) for name in EFFORTS}
    rows: dict[str, Any] = {name: {"cpu": []} for name in codecs}
    for _ in range(given.turns):
        for name, codec in codecs.items():
            rows[name]["codes"], spent = encode(codec, wavs)
            rows[name]["cpu"].append(spent)
    judge = load_scorer(audio_lm_path("bundled"), max_tokens=4000)
    for row in rows.values():
        row["bits"] = [-float(one.sum()) / math.log(2) for one in judge.token_log_likelihoods(row["codes"])]
        heard = [
            plain.decode(codes_T[None, None], length=len(wav_S)).audio_values[0, 0].numpy()
            for codes_T, wav_S in zip(row["codes"], wavs, strict=True)
        ]
        found = [measure_pair(wav, one, plain.sample_rate, METRICS) for wav, one in zip(wavs, heard, strict=True)]
        row |= {metric: [one[metric].value for one in found] for metric in METRICS}
    print(table(rows, [len(wav) / plain.sample_rate for wav in wavs]))
    values = {name: row | {"codes": [one.tolist() for one in row["codes"]]} for name, row in rows.items()}
    if given.output is not None:
        given.output.write_text(json.dumps(values), encoding="utf-8")
    return values


def table(rows: dict[str, Any], seconds: list[float]) -> str:
    """Means, and differences to the nearest codes paired by clip with 95 % intervals; below, what is equal."""
    first = rows.get(BEFORE, rows["thorough"])
    lines = []
    for name, row in rows.items():
        line = [name, f"{min(row['cpu']):.2f} s", f"{min(first['cpu']) / min(row['cpu']):.2f}"]
        for metric in ("bits", *METRICS):
            paired = compare_paired(rows[NEAREST][metric], row[metric], seconds if metric == "bits" else None)
            cell = f"{paired.mean_b:.4g}"
            if name != NEAREST:
                low, value, high = (
                    100 * one - 100 for one in (paired.ratio.low, paired.ratio.value, paired.ratio.high)
                )
                cell += f" ({value:+.1f} % [{low:+.1f}, {high:+.1f}])"
            line.append(cell)
        saved = sum(rows[NEAREST]["bits"]) - sum(row["bits"])
        line.append(f"{100 * saved / (sum(rows[NEAREST]['bits']) - sum(first['bits'])):.0f} %")
        lines.append(line)
    head = [f"{len(seconds)} clips, {sum(seconds):.0f} s", "CPU", "times as fast", "bit/s", "Mel", "STOI", "PESQ"]
    told = TextTable([*head, "of the saving"], lines).markdown()
    same = [int((a == b).sum()) for a, b in zip(first["codes"], rows["thorough"]["codes"], strict=True)]
    return f"{told}\nthorough: {sum(same)} of {sum(len(one) for one in first['codes'])} codes as before\n"


if __name__ == "__main__":
    main()
