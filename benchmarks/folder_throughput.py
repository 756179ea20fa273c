"""Throughput of `llmcodec encode` on a folder of short clips, against a loop that codes one file at a time.

    python benchmarks/folder_throughput.py                                  # 2,000 clips cut from the bundled speech
    python benchmarks/folder_throughput.py --manifest corpus/manifest.jsonl --repeats 3

The peer is the loop that one writes by hand with the same codec: load a file, encode it, save its codes, the next file;
once with the codec as `LLMCodec.from_pretrained` gives it, once with the codec packed by `optimize_for_inference`, as
`encode` does. `encode` runs as the command does, loading of the codec, summary and all. Loop and command take turns;
medians over `--repeats`, every repeat in its own folders. All threads that torch takes by default, for both.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch
from common import new_parser
from safetensors.torch import save_file

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.cli.main import main as run_command
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio


def cut_clips(manifest: Path, number: int, low: float, high: float, folder: Path) -> float:
    """Write `number` FLAC clips of `low` to `high` seconds, 100 to a folder; returns their seconds together."""
    sources = itertools.cycle([clip.path for clip in read_manifest(manifest, min_seconds=low)])
    generator = np.random.default_rng(0)
    total = 0.0
    for i in range(number):
        wav = audio.load(next(sources), 16000)
        length = min(len(wav), round(16000 * generator.uniform(low, high)))
        start = int(generator.integers(0, len(wav) - length + 1))
        path = folder / f"{i // 100:03d}" / f"{i:05d}.flac"
        audio.write(path, wav[start : start + length], 16000, durable=False)
        total += length / 16000
    return total


def one_by_one(codec, folder: Path, out: Path) -> None:
    """The loop that one writes by hand."""
    for path in sorted(folder.rglob("*.flac")):
        wav = torch.from_numpy(audio.load(path, codec.sample_rate))
        codes = codec.encode(wav[None, None]).audio_codes
        target = (out / path.relative_to(folder)).with_suffix(".safetensors")
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({"codes": codes.to(torch.int32)}, target)


def command(precision: str, codec: str) -> Callable[[Path, Path], None]:
    def run(folder: Path, out: Path) -> None:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            run_command(
                ["encode", str(folder), "-o", str(out), "--codec", codec, "--device=cpu", f"--precision={precision}"]
            )

    return run


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--manifest", type=Path, default=assets.speech_manifest())
    parser.add_argument("--codec", default="bundled")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--seconds", type=float, nargs=2, default=(0.5, 3.0), help="shortest and longest clip")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    plain = load_codec(options.codec)
    rows: dict[str, Callable[[Path, Path], None]] = {
        "one by one": lambda folder, out: one_by_one(plain, folder, out),
        "llmcodec encode": command("auto", options.codec),
        "one by one, packed codec": lambda folder, out: one_by_one(packed, folder, out),
        "llmcodec encode --precision fp32": command("fp32", options.codec),
    }
    packed = optimize_for_inference(load_codec(options.codec))
    wall: dict[str, list[float]] = {name: [] for name in rows}
    processor: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        seconds = cut_clips(options.manifest, options.clips, *options.seconds, folder)
        print(f"{options.clips} clips, {seconds:.0f} s of audio, {torch.get_num_threads()} threads", flush=True)
        for repeat in range(options.repeats):
            for name, run in rows.items():
                started, used = time.perf_counter(), time.process_time()
                run(folder, Path(place) / f"{name} {repeat}")
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
                assert len(list((Path(place) / f"{name} {repeat}").rglob("*.safetensors"))) == options.clips
                print(f"  {name}: {wall[name][-1]:.1f} s, processor {processor[name][-1]:.1f} s", flush=True)
    base = statistics.median(wall["one by one"])
    print(f"\n| {options.clips} clips | seconds | processor seconds | files/s | times real time | against the loop |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in rows:
        median = statistics.median(wall[name])
        print(
            f"| {name} | {median:.1f} | {statistics.median(processor[name]):.1f} | {options.clips / median:.0f} | "
            f"{seconds / median:.0f} | {base / median:.2f} |"
        )


if __name__ == "__main__":
    main()
