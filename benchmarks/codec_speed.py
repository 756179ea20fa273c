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
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from bench import CLOCKS, fastest, forget_peak, in_process, markdown, memory_mb, options, report, speech, timed
from transformers.utils import logging

from llmcodec import assets
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.fast.linear import PackedLinear
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

PEERS = {
    name.partition("_")[0]: f"random:{name}" for name in ("auv", "encodec_24khz", "dac_16khz", "mimi", "snac_24khz")
}
PRECISIONS = ("fp32", "mixed", "bf16", "int16", "int8")
DEFAULT = [*PEERS, *(f"ours/{p}" for p in PRECISIONS), *(f"tiny/{p}" for p in PRECISIONS)]
PARTS = ["ceilings", "speed", "memory", "fidelity"]
SIDES = ("encode", "decode")
OURS = ("ours", "tiny")


def plain_codec(family: str, device: str) -> Any:
    if family == "tiny":
        return load_codec("bundled", device)
    torch.manual_seed(0)
    return LLMCodec(LLMCodecConfig.auv()).eval().to(device)


def open_codec(name: str, device: str) -> Any:
    """`auv`, `encodec`, ..., `ours/int8`, `tiny/plain`, or any name that `load_codec` takes."""
    family, _, precision = name.partition("/")
    if family not in OURS:
        return load_codec(PEERS.get(name, name), device)
    codec = plain_codec(family, device)
    return codec if precision == "plain" else optimize_for_inference(codec, precision, consume=True)


def batch_of(codec: Any, batch: int, seconds: float, device: str) -> Any:
    wav = np.concatenate(list(speech(seconds * batch, codec.sample_rate)))
    return torch.from_numpy(wav).view(batch, 1, -1).to(device)


# -- ceilings ----------------------------------------------------------------------------------------------------------
def ceilings(device: str, clock: str) -> dict[str, float]:
    """Largest matrix rates of this machine in GFLOP/s, by PyTorch's own kernels, at the codec's sizes."""

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
        seconds = getattr(fastest(product, 20, device), clock)
        rates[precision] = 2 * rows * inputs * outputs / seconds / 1e9
    if device != "cpu":
        x = torch.randn(1 << 28, device=device)
        seconds = getattr(fastest(lambda: F.relu(x, inplace=True), 10, device), clock)
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
def measure_speed(names: list[str], batch: int, seconds: float, args: argparse.Namespace) -> list[dict]:
    """Median times of every codec, run in turn; a codec whose calls exceed the limit is not run again."""
    codecs = {name: open_codec(name, args.device) for name in names}
    inputs = {name: batch_of(codec, batch, seconds, args.device) for name, codec in codecs.items()}
    times: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in names}
    slow = set()
    with torch.inference_mode():
        for name, codec in codecs.items():  # caches, thread pools, packed shapes
            codec.decode(codec.encode(inputs[name][:1, :, : codec.sample_rate * 2]).audio_codes)
        for _ in range(args.rounds):
            for name in names:
                if name in slow:
                    continue
                codec = codecs[name]
                encoded = timed(partial(codec.encode, inputs[name]), args.device)
                decoded = timed(partial(codec.decode, encoded.result.audio_codes), args.device)
                spent = [getattr(one, args.clock) for one in (encoded, decoded)]
                for side, seconds_spent in zip(SIDES, spent, strict=True):
                    times[name][side].append(seconds_spent)
                if sum(spent) > args.limit:
                    slow.add(name)
    rows = []
    for name, codec in codecs.items():
        row: dict[str, Any] = {"codec": name, "batch": batch, "seconds": seconds}
        for side, values in times[name].items():
            row[side] = statistics.median(values)
            row[f"{side}_times"] = values
            if name.split("/")[0] in OURS:
                frames = codec.num_frames(round(seconds * codec.sample_rate))
                row[f"{side}_gflops"] = batch * matrix_gflop(codec.config, side, frames) / row[side]
        rows.append(row)
    return rows


def speed_table(rows: list[dict], ceilings: dict[str, float]) -> str:
    """Times real time and ratio to AUV, cell by cell; matrix rates and their share of the precision's ceiling."""
    header = ["codec", "encode, x real time", "to AUV", "decode, x real time", "to AUV", "matrix GFLOP/s"]
    tables = []
    for batch, seconds in dict.fromkeys((row["batch"], row["seconds"]) for row in rows):
        cell = [row for row in rows if (row["batch"], row["seconds"]) == (batch, seconds)]
        base = next((row for row in cell if row["codec"] == "auv"), None)
        lines = []
        for row in cell:
            line, rates = [row["codec"]], []
            ceiling = ceilings.get(row["codec"].partition("/")[2])
            for side in SIDES:
                line += [f"{batch * seconds / row[side]:.1f}", f"{base[side] / row[side]:.2f}" if base else ""]
                if rate := row.get(f"{side}_gflops"):
                    rates.append(f"{rate:.0f}" + (f" ({rate / ceiling:.0%})" if ceiling else ""))
            lines.append([*line, " / ".join(rates)])
        tables.append(f"\nbatch {batch}, clips of {seconds:g} s\n\n{markdown(header, lines)}")
    return "\n".join(tables)


# -- memory ------------------------------------------------------------------------------------------------------------
def measure_memory(name: str, side: str, seconds: float, device: str) -> dict:
    """Resident memory of a process that codes one clip with `name`, MB: before and at its highest while it codes.

    Interpreter, libraries and weights count, what only opening the codec took does not. Run in a process of its own.
    """
    codec = open_codec(name, device)
    wav = batch_of(codec, 1, seconds, device)
    frames = math.ceil(seconds * codec.frame_rate)
    opened = memory_mb("VmHWM")
    with torch.inference_mode():
        call = partial(codec.encode, wav)
        if side == "decode":
            short = codec.encode(wav[..., : codec.sample_rate]).audio_codes
            codes = short.repeat(1, 1, -(-frames // short.shape[-1]))
            call = partial(codec.decode, codes[..., : codes.shape[-1] - codes.shape[-1] % 4])  # SNAC's come in groups
        if device != "cpu":
            before = torch.cuda.memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
            call()
            peak = torch.cuda.max_memory_allocated() / 2**20
            return {"codec": name, "side": side, "before_mb": before, "peak_mb": peak}
        forget_peak()  # what follows, without opening the codec
        before = memory_mb("VmRSS")
        call()
    peak = memory_mb("VmHWM")
    return {"codec": name, "side": side, "opening_mb": opened, "before_mb": before, "peak_mb": peak}


def memory_in_process(name: str, side: str, seconds: float, args: argparse.Namespace) -> dict:
    if args.device != "cpu":  # the GPU's allocator counts by itself
        return measure_memory(name, side, seconds, args.device)
    return in_process("codec_speed.py", "--memory-of", name, side, seconds, "--threads", args.threads)


def memory_table(rows: list[dict], seconds: float) -> str:
    what = "resident memory of a process" if "opening_mb" in rows[0] else "memory allocated on the GPU"
    lines = []
    for name in dict.fromkeys(row["codec"] for row in rows):
        sides = {row["side"]: row for row in rows if row["codec"] == name}
        peaks = [(sides[side]["peak_mb"], sides[side]["peak_mb"] - sides[side]["before_mb"]) for side in SIDES]
        lines.append([name, *(f"{value:.0f}" for pair in peaks for value in pair)])
    table = markdown(["codec", "encode", "above before", "decode", "above before"], lines)
    return f"\nhighest {what} while it codes one clip of {seconds:g} s, MB\n\n{table}"


# -- fidelity ----------------------------------------------------------------------------------------------------------
def fidelity_clips(manifest: Path, max_clips: int, train_clips: int) -> list[Any]:
    """The first held-out clips of a manifest, or all of them, and as many evenly spaced training clips as wanted."""
    clips = read_manifest(manifest)
    held_out = [clip for clip in clips if clip.split in ("test", "valid")][: max_clips or None]
    train = [clip for clip in clips if clip.split == "train"]
    step = max(1, len(train) // max(1, train_clips))
    return held_out + train[::step][:train_clips]


def measure_fidelity(family: str, precisions: list[str], clips: list[Any], device: str) -> list[dict]:
    """Per precision: tokens equal to the plain codec's, by source, and decoder SNR in dB on the plain codec's codes."""
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
    lines = []
    for row in rows:
        lines.append([row["codec"], "all", f"{row['tokens']:,}", f"{row['agreement']:.2%}", f"{row['snr_db']:.1f}"])
        for group, part in sorted(row["groups"].items()):
            lines.append(["", group, f"{part['tokens']:,}", f"{part['agreement']:.2%}", ""])
    table = markdown(["codec", "speech", "tokens", "equal", "decoder SNR on equal codes, dB"], lines, texts=2)
    return f"\nagainst the plain codec in fp32 (ours: random weights, tiny: trained)\n\n{table}"


def main() -> None:
    args = options(
        __doc__,
        codecs=(DEFAULT, "names; see above"),
        seconds=([10.0, 60.0], "clip lengths"),
        batch=([1, 8], "clips per call"),
        rounds=(5, "runs of every codec, in turn"),
        limit=(30.0, "seconds; a codec slower than this runs once per cell"),
        skip_above=(240.0, "seconds of audio in a call above which peers that --codecs does not name are left out"),
        clock=("wall", "process: processor seconds, all threads", CLOCKS),
        threads=(0, "of PyTorch; default all cores"),
        device=("cpu", "cpu, cuda, cuda:1"),
        parts=(PARTS, "of the table", PARTS),
        fidelity_manifest=(assets.speech_manifest(), "speech for fidelity; default: the bundled"),
        fidelity_clips=(0, "held-out clips; default all"),
        fidelity_train=(0, "training clips beside them; default none"),
        json=(None, "write all figures there"),
        memory_of=([], argparse.SUPPRESS),
    )
    logging.disable_progress_bar()
    everything = args.codecs is DEFAULT
    if everything and args.device != "cpu":
        args.codecs = [name for name in DEFAULT if not name.endswith("int8")]  # int8 is for CPUs
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    if args.memory_of:
        name, side, seconds = args.memory_of
        report(measure_memory(name, side, float(seconds), args.device))
        return
    threads = torch.get_num_threads()
    print(f"{threads} threads, {args.clock} clock, {args.device}, torch {torch.__version__}", flush=True)
    figures: dict[str, Any] = {}
    if "ceilings" in args.parts:
        figures["ceilings"] = ceilings(args.device, args.clock)
        print("ceilings:", ", ".join(f"{k} {v:.0f}" for k, v in figures["ceilings"].items()), "(GFLOP/s)", flush=True)
    if "speed" in args.parts:
        figures["speed"] = []
        for seconds in args.seconds:
            for batch in args.batch:
                long = everything and batch * seconds > args.skip_above
                names = [n for n in args.codecs if not long or n == "auv" or n.split("/")[0] in OURS]
                rows = measure_speed(names, batch, seconds, args)
                print(speed_table(rows, figures.get("ceilings", {})), flush=True)
                figures["speed"] += rows
    if "memory" in args.parts:
        longest = max(args.seconds)
        figures["memory"] = [memory_in_process(n, side, longest, args) for n in args.codecs for side in SIDES]
        print(memory_table(figures["memory"], longest), flush=True)
    if "fidelity" in args.parts:
        own = [name.split("/") for name in args.codecs if name.split("/")[0] in OURS]
        clips = fidelity_clips(args.fidelity_manifest, args.fidelity_clips, args.fidelity_train)
        figures["fidelity"] = []
        for family in dict.fromkeys(family for family, _ in own):
            precisions = [precision for f, precision in own if f == family and precision != "plain"]
            figures["fidelity"] += measure_fidelity(family, precisions, clips, args.device)
        print(fidelity_table(figures["fidelity"]), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
