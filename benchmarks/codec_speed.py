"""Speed and memory of encode and decode: ours in every precision beside the published AUV, EnCodec, DAC, Mimi and SNAC.

    python benchmarks/codec_speed.py                          # the table of docs/speed.md: 10 s and 60 s, batch 1 and 8
    python benchmarks/codec_speed.py --codecs auv mimi --seconds 60 --batch 8 --parts speed --rounds 1     # one cell
    python benchmarks/codec_speed.py --codecs dac --seconds 60 --parts memory --threads 1
    python benchmarks/codec_speed.py --codecs tiny/mixed --parts fidelity --fidelity-manifest corpus/manifest.jsonl
    python benchmarks/codec_speed.py --device cuda            # the same table on a GPU, with its ceilings

Peers have random weights in their published shapes: speed and memory do not depend on them. Every codec runs once per
round, in turn, so that a machine that slows down slows all of them; figures are medians over rounds. On a machine with
other work, `--clock process --threads 1` counts the processor's time instead of the wall's. Memory comes from a process
per codec and side. `ours/P` is the AUV configuration in precision P (plain: without optimize_for_inference),
`tiny/P` the bundled codec.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import CLOCKS, forget_peak, memory_mb, new_parser, report, result_of, speech

PEERS = {
    "auv": "random:auv",
    "encodec": "random:encodec_24khz",
    "dac": "random:dac_16khz",
    "mimi": "random:mimi",
    "snac": "random:snac_24khz",
}
PRECISIONS = ("fp32", "mixed", "bf16", "int16", "int8")
DEFAULT = [*PEERS, *(f"ours/{p}" for p in PRECISIONS), *(f"tiny/{p}" for p in PRECISIONS)]
PARTS = ("ceilings", "speed", "memory", "fidelity")


def plain_codec(family: str, device: str) -> Any:
    import torch

    from llmcodec.adapters.load import load_codec
    from llmcodec.codec import LLMCodec, LLMCodecConfig

    if family == "tiny":
        return load_codec("bundled", device)
    torch.manual_seed(0)
    return LLMCodec(LLMCodecConfig.auv()).eval().to(device)


def open_codec(name: str, device: str) -> Any:
    """`auv`, `encodec`, ..., `ours/int8`, `tiny/plain`, or any name that `load_codec` takes."""
    from llmcodec.adapters.load import load_codec
    from llmcodec.codec.fast.engine import optimize_for_inference

    family, _, precision = name.partition("/")
    if family not in ("ours", "tiny"):
        return load_codec(PEERS.get(name, name), device)
    codec = plain_codec(family, device)
    if precision == "plain":
        return codec
    return optimize_for_inference(codec, precision, consume=True)


def batch_of(codec: Any, batch: int, seconds: float, device: str) -> Any:
    import torch

    wav = np.concatenate(list(speech(seconds * batch, codec.sample_rate)))
    return torch.from_numpy(wav).view(batch, 1, -1).to(device)


clock = time.perf_counter  # main() sets it


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    result = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start, result


# -- ceilings ----------------------------------------------------------------------------------------------------------
def ceilings(device: str) -> dict[str, float]:
    """Largest matrix rates of this machine in GFLOP/s, by PyTorch's own kernels, at the codec's sizes."""
    import torch
    import torch.nn.functional as F

    from llmcodec.codec.fast.linear import PackedLinear

    def int8_product(x: Any, weight: Any) -> Callable[[], Any]:
        scale, zero = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
        x, packed = x.to(torch.uint8), torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), None)
        after = (None, 1.0, 0, torch.float32, "none", [], "")
        return lambda: torch.ops.onednn.qlinear_pointwise(x, 1.0, 0, packed, scale, zero, *after)

    rates = {}
    rows, inputs, outputs = (500, 512, 2048) if device == "cpu" else (8192, 2048, 8192)
    for precision in ("fp32", "bf16", "int8") if device == "cpu" else ("fp32", "bf16"):
        x, weight = torch.randn(rows, inputs, device=device), torch.randn(outputs, inputs, device=device)
        if precision == "int8":
            product = int8_product(x, weight)
        else:
            layer = PackedLinear(weight, None, precision)  # type: ignore[arg-type]
            product = partial(layer, x.to(layer.dtype))
        seconds = min(timed(product, device)[0] for _ in range(20))
        rates[precision] = 2 * rows * inputs * outputs / seconds / 1e9
    if device != "cpu":
        x = torch.randn(1 << 28, device=device)
        seconds = min(timed(lambda: F.relu(x, inplace=True), device)[0] for _ in range(10))
        rates["bandwidth_gb_s"] = 2 * 4 * x.numel() / seconds / 1e9
    return rates


def matrix_gflop(config: Any, side: str, frames: int) -> float:
    """Multiply-adds of all matrix products of one clip, twice, in 1e9."""
    width, layers = config.hidden_size, config.encoder_layers if side == "encode" else config.decoder_layers
    layer = (4 * config.ffn_mult + 4 + 3) * width * width + config.conv_kernel_size * width
    seen = frames if config.attention_window is None else min(frames, 2 * config.attention_window + 1)
    end = (config.n_fft + 2) * width + (config.codebook_size * config.codebook_dim if side == "encode" else 0)
    return 2 * frames * (layers * (layer + 2 * seen * width) + end) / 1e9


# -- speed -------------------------------------------------------------------------------------------------------------
def measure_speed(names: list[str], batch: int, seconds: float, rounds: int, limit: float, device: str) -> list[dict]:
    """Median times of every codec, run in turn; a codec whose first call exceeds `limit` seconds is not run again."""
    import torch

    codecs = {name: open_codec(name, device) for name in names}
    inputs = {name: batch_of(codec, batch, seconds, device) for name, codec in codecs.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in names}
    codes, slow = {}, set()
    with torch.inference_mode():
        for name, codec in codecs.items():  # caches, thread pools, packed shapes
            small = inputs[name][:1, :, : codec.sample_rate * 2]
            codec.decode(codec.encode(small).audio_codes)
        for turn in range(rounds):
            for name, codec in codecs.items():
                if turn and name in slow:
                    continue
                wav = inputs[name]
                spent, encoded = timed(lambda codec=codec, wav=wav: codec.encode(wav), device)
                times[name]["encode"].append(spent)
                codes[name] = encoded.audio_codes
                again, _ = timed(lambda codec=codec, name=name: codec.decode(codes[name]), device)
                times[name]["decode"].append(again)
                if spent + again > limit:
                    slow.add(name)
    rows = []
    for name, codec in codecs.items():
        row: dict[str, Any] = {"codec": name, "batch": batch, "seconds": seconds}
        for side, values in times[name].items():
            row[side] = statistics.median(values)
            row[f"{side}_times"] = values
            config = getattr(codec, "config", None)
            if name.split("/")[0] in ("ours", "tiny"):
                frames = codec.num_frames(round(seconds * codec.sample_rate))
                row[f"{side}_gflops"] = batch * matrix_gflop(config, side, frames) / row[side]
        rows.append(row)
    return rows


def speed_table(rows: list[dict], ceilings: dict[str, float]) -> str:
    """Times real time and ratio to AUV, cell by cell; matrix rates and their share of the precision's ceiling."""
    lines = []
    for batch, seconds in dict.fromkeys((row["batch"], row["seconds"]) for row in rows):
        cell = [row for row in rows if (row["batch"], row["seconds"]) == (batch, seconds)]
        base = next((row for row in cell if row["codec"] == "auv"), None)
        lines += [f"\nbatch {batch}, clips of {seconds:g} s", ""]
        lines += ["| codec | encode, x real time | to AUV | decode, x real time | to AUV | matrix GFLOP/s |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for row in cell:
            text = f"| {row['codec']} "
            for side in ("encode", "decode"):
                ratio = f"{base[side] / row[side]:.2f}" if base else ""
                text += f"| {batch * seconds / row[side]:.1f} | {ratio} "
            ceiling = ceilings.get(row["codec"].partition("/")[2])
            rates = []
            for side in ("encode", "decode"):
                if rate := row.get(f"{side}_gflops"):
                    rates.append(f"{rate:.0f}" + (f" ({rate / ceiling:.0%})" if ceiling else ""))
            lines.append(text + f"| {' / '.join(rates)} |")
    return "\n".join(lines)


# -- memory ------------------------------------------------------------------------------------------------------------
def measure_memory(name: str, side: str, seconds: float, device: str) -> dict:
    """Resident memory of a process that codes one clip with `name`, MB: before and at its highest while it codes.

    Interpreter, libraries and weights count, what only opening the codec took does not. Run in a process of its own.
    """
    import torch

    codec = open_codec(name, device)
    wav = batch_of(codec, 1, seconds, device)
    frames = math.ceil(seconds * codec.frame_rate)
    opened = memory_mb("VmHWM")
    with torch.inference_mode():
        if side == "encode":
            call = lambda: codec.encode(wav)  # noqa: E731
        else:
            short = codec.encode(wav[..., : codec.sample_rate]).audio_codes
            codes = short.repeat(1, 1, -(-frames // short.shape[-1]))
            codes = codes[..., : codes.shape[-1] - codes.shape[-1] % 4]  # SNAC's rows come in groups
            call = lambda: codec.decode(codes)  # noqa: E731
        if device != "cpu":
            before = torch.cuda.memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
            call()
            peak = torch.cuda.max_memory_allocated() / 2**20
            return {"codec": name, "side": side, "before_mb": before, "peak_mb": peak}
        forget_peak()  # the peak of what follows, without that of opening
        before = memory_mb("VmRSS")
        call()
    return {
        "codec": name,
        "side": side,
        "opening_mb": opened,
        "before_mb": before,
        "peak_mb": memory_mb("VmHWM"),
    }


def memory_in_process(name: str, side: str, seconds: float, args: argparse.Namespace) -> dict:
    if args.device != "cpu":  # the GPU's allocator counts by itself
        return measure_memory(name, side, seconds, args.device)
    command = [__file__, "--memory-of", name, side, str(seconds), "--device", args.device]
    return result_of(command + (["--threads", str(args.threads)] if args.threads else []))


def memory_table(rows: list[dict], seconds: float) -> str:
    what = "resident memory of a process" if "opening_mb" in rows[0] else "memory allocated on the GPU"
    lines = [f"\nhighest {what} while it codes one clip of {seconds:g} s, MB", ""]
    lines += ["| codec | encode | above before | decode | above before |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(row["codec"] for row in rows):
        sides = {row["side"]: row for row in rows if row["codec"] == name}
        cells = []
        for side in ("encode", "decode"):
            row = sides[side]
            cells += [f"{row['peak_mb']:.0f}", f"{row['peak_mb'] - row.get('before_mb', 0):.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# -- fidelity ----------------------------------------------------------------------------------------------------------
def fidelity_clips(manifest: Path, max_clips: int, train_clips: int) -> list[Any]:
    """The first held-out clips of a manifest, or all of them, and as many evenly spaced training clips as wanted."""
    from llmcodec.data.manifest import read_manifest

    clips = read_manifest(manifest)
    held_out = [clip for clip in clips if clip.split in ("test", "valid")][: max_clips or None]
    train = [clip for clip in clips if clip.split == "train"]
    step = max(1, len(train) // max(1, train_clips))
    return held_out + train[::step][:train_clips]


def measure_fidelity(family: str, precisions: list[str], clips: list[Any], device: str) -> list[dict]:
    """Per precision: tokens equal to the plain codec's, by source, and decoder SNR in dB on the plain codec's codes."""
    import torch

    from llmcodec.codec.fast.engine import optimize_for_inference
    from llmcodec.io import audio

    plain = plain_codec(family, device)
    fast = {p: optimize_for_inference(plain, p) for p in precisions}  # type: ignore[arg-type]
    equal: dict[str, Counter[str]] = {name: Counter() for name in fast}
    tokens: Counter[str] = Counter()
    signal, noise = 0.0, dict.fromkeys(fast, 0.0)
    with torch.inference_mode():
        for clip in clips:
            wav = torch.from_numpy(audio.load(clip.path, plain.sample_rate))[None, None].to(device)
            codes = plain.encode(wav).audio_codes
            expected = plain.decode(codes).audio_values
            group = f"{clip.source}, {'train' if clip.split == 'train' else 'held out'}"
            tokens[group] += codes.numel()
            signal += float(expected.square().sum())
            for name, codec in fast.items():
                equal[name][group] += int((codec.encode(wav).audio_codes == codes).sum())
                noise[name] += float((codec.decode(codes).audio_values - expected).square().sum())
    return [
        {
            "codec": f"{family}/{name}",
            "tokens": tokens.total(),
            "agreement": equal[name].total() / tokens.total(),
            "groups": {
                group: {"tokens": tokens[group], "agreement": equal[name][group] / tokens[group]} for group in tokens
            },
            "snr_db": 10 * math.log10(signal / noise[name]) if noise[name] else math.inf,
        }
        for name in fast
    ]


def fidelity_table(rows: list[dict]) -> str:
    """All tokens, then every source."""
    lines = ["\nagainst the plain codec in fp32 (ours: random weights, tiny: trained)", ""]
    lines += ["| codec | speech | tokens | equal | decoder SNR on equal codes, dB |", "|---|---|---:|---:|---:|"]
    for row in rows:
        lines.append(f"| {row['codec']} | all | {row['tokens']:,} | {row['agreement']:.2%} | {row['snr_db']:.1f} |")
        for group, part in sorted(row["groups"].items()):
            lines.append(f"| | {group} | {part['tokens']:,} | {part['agreement']:.2%} | |")
    return "\n".join(lines)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--codecs", nargs="+", default=DEFAULT, help="names; see above")
    parser.add_argument("--seconds", nargs="+", type=float, default=[10, 60], help="clip lengths")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="clips per call")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every codec, in turn")
    parser.add_argument("--limit", type=float, default=30, help="seconds; a codec slower than this runs once per cell")
    parser.add_argument(
        "--skip-above",
        type=float,
        default=240,
        help="seconds of audio in a call above which the peers are left out, where --codecs does not name them",
    )
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="process: processor seconds, all threads")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch; default all cores")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fidelity-manifest", type=Path, help="speech for fidelity; default: the bundled")
    parser.add_argument("--fidelity-clips", type=int, default=0, help="held-out clips; default all")
    parser.add_argument("--fidelity-train", type=int, default=0, help="training clips beside them; default none")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--memory-of", nargs=3, metavar=("CODEC", "SIDE", "SECONDS"), help=argparse.SUPPRESS)
    args = parser.parse_args()

    import torch
    from transformers.utils import logging

    from llmcodec import assets

    logging.disable_progress_bar()
    everything = args.codecs is DEFAULT
    if everything and args.device != "cpu":
        args.codecs = [name for name in DEFAULT if not name.endswith("int8")]  # int8 is for CPUs
    global clock
    clock = CLOCKS[args.clock]
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    if args.memory_of:
        name, side, seconds = args.memory_of
        report(measure_memory(name, side, float(seconds), args.device))
        return
    print(
        f"{torch.get_num_threads()} threads, {args.clock} clock, {args.device}, torch {torch.__version__}", flush=True
    )
    figures: dict[str, Any] = {}
    if "ceilings" in args.parts:
        figures["ceilings"] = ceilings(args.device)
        print("ceilings:", ", ".join(f"{k} {v:.0f}" for k, v in figures["ceilings"].items()), "(GFLOP/s)", flush=True)
    if "speed" in args.parts:
        figures["speed"] = []
        for seconds in args.seconds:
            for batch in args.batch:
                long = everything and batch * seconds > args.skip_above
                names = [n for n in args.codecs if not long or n == "auv" or n.split("/")[0] in ("ours", "tiny")]
                rows = measure_speed(names, batch, seconds, args.rounds, args.limit, args.device)
                print(speed_table(rows, figures.get("ceilings", {})), flush=True)
                figures["speed"] += rows
    if "memory" in args.parts:
        sides = ("encode", "decode")
        longest = max(args.seconds)
        figures["memory"] = [memory_in_process(n, side, longest, args) for n in args.codecs for side in sides]
        print(memory_table(figures["memory"], longest), flush=True)
    if "fidelity" in args.parts:
        own = [name.split("/") for name in args.codecs if name.split("/")[0] in ("ours", "tiny")]
        clips = fidelity_clips(
            args.fidelity_manifest or assets.speech_manifest(), args.fidelity_clips, args.fidelity_train
        )
        figures["fidelity"] = []
        for family in dict.fromkeys(family for family, _ in own):
            precisions = [precision for f, precision in own if f == family and precision != "plain"]
            figures["fidelity"] += measure_fidelity(family, precisions, clips, args.device)
        print(fidelity_table(figures["fidelity"]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
