"""Throughput of `llmcodec encode` on a folder of short clips, against a loop that codes one file at a time.

    python benchmarks/folder_throughput.py                                  # 2,000 clips cut from the bundled speech
    python benchmarks/folder_throughput.py --manifest corpus/manifest.jsonl --repeats 3
    python benchmarks/folder_throughput.py --only "llmcodec encode"         # what --shard costs

The peer is the loop that one writes by hand with the same codec: load a file, encode it, save its codes, the next file;
once with the codec packed by `optimize_for_inference`, which computes as `encode --runtime torch` does and is the peer
to quote, once as `LLMCodec.from_pretrained` gives it. `encode` runs as the command does, loading of the codec, summary
and all; without `--runtime` it takes ONNX Runtime where there is no GPU. Loops and commands take turns; medians over
`--repeats`, every repeat in its own folders. All threads that torch takes by default, for all.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import RATE, markdown, options, take_turns, timed
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
        wav = audio.load(next(sources), RATE)
        length = min(len(wav), round(RATE * generator.uniform(low, high)))
        start = int(generator.integers(0, len(wav) - length + 1))
        path = folder / f"{i // 100:03d}" / f"{i:05d}.flac"
        audio.write(path, wav[start : start + length], RATE, durable=False)
        total += length / RATE
    return total


def one_by_one(codec, folder: Path, out: Path) -> None:
    """The loop that one writes by hand."""
    for path in sorted(folder.rglob("*.flac")):
        wav = torch.from_numpy(audio.load(path, codec.sample_rate))
        codes = codec.encode(wav[None, None]).audio_codes
        target = (out / path.relative_to(folder)).with_suffix(".safetensors")
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({"codes": codes.to(torch.int32)}, target)


def command(codec: str, *more: str) -> Callable[[Path, Path], None]:
    def run(folder: Path, out: Path) -> None:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            run_command(
                [
                    "encode",
                    str(folder),
                    "-o",
                    str(out),
                    "--codec",
                    codec,
                    "--device=cpu",
                    *more,
                ]
            )

    return run


def main() -> None:
    args = options(
        __doc__,
        manifest=assets.speech_manifest(),
        codec="bundled",
        clips=2000,
        seconds=([0.5, 3.0], "shortest and longest clip"),
        repeats=3,
        only=("", "only the ways with this in their names; the first of them is compared with"),
        json=(None, "write all figures there"),
    )
    plain, packed = load_codec(args.codec), optimize_for_inference(load_codec(args.codec))
    ways: dict[str, Callable[[Path, Path], None]] = {
        "one by one, packed codec": partial(one_by_one, packed),
        "one by one": partial(one_by_one, plain),
        "llmcodec encode": command(args.codec),
        "llmcodec encode --runtime torch": command(args.codec, "--runtime=torch"),
        "llmcodec encode --runtime torch --precision fp32": command(args.codec, "--precision=fp32", "--runtime=torch"),
        "llmcodec encode --runtime torch --shard 0/1": command(args.codec, "--runtime=torch", "--shard=0/1"),
    }
    ways = {name: way for name, way in ways.items() if args.only in name}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        seconds = cut_clips(args.manifest, args.clips, *args.seconds, folder)
        print(f"{args.clips} clips, {seconds:.0f} s of audio, {torch.get_num_threads()} threads", flush=True)

        def run(name: str) -> tuple[float, float]:
            """Wall and processor seconds."""
            out = Path(tempfile.mkdtemp(dir=place)) / "out"
            wall, processor, _ = timed(lambda: ways[name](folder, out))
            assert len(list(out.rglob("*.safetensors"))) == args.clips
            print(f"  {name}: {wall:.1f} s, processor {processor:.1f} s", flush=True)
            return wall, processor

        spent = take_turns({name: partial(run, name) for name in ways}, args.repeats)
    medians = {name: [statistics.median(values) for values in zip(*rows, strict=True)] for name, rows in spent.items()}
    base, _ = next(iter(medians.values()))
    lines = [
        [name, f"{wall:.1f}", f"{cpu:.1f}", f"{args.clips / wall:.0f}", f"{seconds / wall:.0f}", f"{base / wall:.2f}"]
        for name, (wall, cpu) in medians.items()
    ]
    peer = f"against {next(iter(medians))}"
    header = [f"{args.clips} clips", "seconds", "processor seconds", "files/s", "times real time", peer]
    print(f"\n{markdown(header, lines)}")
    if args.json:
        Path(args.json).write_text(
            json.dumps({"clips": args.clips, "audio_seconds": seconds, "seconds": spent}, indent=1)
        )


if __name__ == "__main__":
    main()
