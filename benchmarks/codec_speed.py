"""Speed and memory of encode and decode: ours in every precision beside AUV, EnCodec, DAC, Mimi and others.

    python benchmarks/codec_speed.py                          # all tables: 10 s and 60 s, batch 1 and 8
    python benchmarks/codec_speed.py --codecs auv mimi --seconds 60 --batch 8 --parts speed --rounds 1     # one cell
    python benchmarks/codec_speed.py --codecs dac --seconds 60 --parts memory --threads 1
    python benchmarks/codec_speed.py --codecs bundled/mixed --parts fidelity --fidelity-manifest corpus/manifest.jsonl
    python benchmarks/codec_speed.py --device cuda            # the same table on a GPU, with its ceilings

Names of codecs: contenders.py. Peers have random weights in their published shapes: speed and memory do not depend on
them. Every codec runs once per round, in turn, so that a machine that slows down slows all of them; figures are medians
over rounds. A row of ours is compared with AUV twice: with the row of its own precision (fp32; bf16 autocast, for int16
too; PyTorch's dynamic int8), and with AUV as published. With the part `fidelity`, rows show what they keep: tokens, and
the decoder's SNR on equal codes, against the same codec in fp32. A contender that cannot run here is named with the
reason. On a machine with other work, `--clock process --threads 1` counts the processor's time instead of the wall's.
Memory comes from a process per codec and side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench import CLOCKS, fastest, forget_peak, in_process, markdown, memory_mb, options, report, timed
from contenders import DEFAULT, NOT_HERE, OURS, batch_of, matched, open_contender, ready, reference
from transformers.utils import logging

from llmcodec import assets
from llmcodec.codec.fast.linear import PackedLinear
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

PARTS = ["ceilings", "fidelity", "speed", "memory"]
SIDES = ("encode", "decode")
LEFT_OUT: dict[str, str] = {}


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
    codecs, inputs = {}, {}
    for name in names:
        with left_out(name):
            codec = ready(name, args.device, batch, seconds)
            codecs[name], inputs[name] = codec, batch_of(codec, batch, seconds, args.device)
    times: dict[str, dict[str, list[float]]] = {name: {side: [] for side in SIDES} for name in codecs}
    slow = set()
    with torch.inference_mode():
        for _ in range(args.rounds):
            for name in codecs:
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


def speed_table(rows: list[dict], ceilings: dict[str, float], fidelity: list[dict]) -> str:
    """Times real time, ratios to AUV at equal precision and as published, what is kept, matrix rates; cell by cell."""
    header = ["codec", "compared with"]
    for side in SIDES:
        header += [f"{side}, x real time", "at equal precision", "to AUV fp32"]
    header += ["equal tokens", "SNR, dB", "matrix GFLOP/s"]
    kept = {row["codec"]: [f"{row['agreement']:.1%}", decibels(row["snr_db"])] for row in fidelity}
    tables = []
    for batch, seconds in dict.fromkeys((row["batch"], row["seconds"]) for row in rows):
        cell = {row["codec"]: row for row in rows if (row["batch"], row["seconds"]) == (batch, seconds)}
        lines = []
        for name, row in cell.items():
            line, rates = [name, matched(name)], []
            ceiling = ceilings.get(name.partition("/")[2])
            for side in SIDES:
                ratios = [cell[base][side] / row[side] if base in cell else None for base in (matched(name), "auv")]
                line += [f"{batch * seconds / row[side]:.1f}", *("" if one is None else f"{one:.2f}" for one in ratios)]
                if rate := row.get(f"{side}_gflops"):
                    rates.append(f"{rate:.0f}" + (f" ({rate / ceiling:.0%})" if ceiling else ""))
            lines.append([*line, *kept.get(name, ["", ""]), " / ".join(rates)])
        tables.append(f"\nbatch {batch}, clips of {seconds:g} s\n\n{markdown(header, lines, texts=2)}")
    return "\n".join(tables)


# -- memory ------------------------------------------------------------------------------------------------------------
def measure_memory(name: str, side: str, seconds: float, device: str) -> dict:
    """Resident memory of a process that codes one clip with `name`, MB: before and at its highest while it codes.

    Interpreter, libraries and weights count, what only opening the codec took does not. Run in a process of its own.
    """
    codec = open_contender(name, device)
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
    held_out = [clip for clip in clips if clip.held_out][: max_clips or None]
    train = [clip for clip in clips if clip.split == "train"]
    step = max(1, len(train) // max(1, train_clips))
    return held_out + train[::step][:train_clips]


def measure_fidelity(base: str, names: list[str], clips: list[Any], device: str) -> list[dict]:
    """What each keeps of `base`: equal tokens, by source, and decoder SNR in dB on the codes of `base`."""
    plain, codecs = ready(base, device), {}
    for name in names:
        with left_out(name):
            codecs[name] = ready(name, device)
    equal: dict[str, Counter[str]] = {name: Counter() for name in codecs}
    tokens: Counter[str] = Counter()
    signal, noise = 0.0, dict.fromkeys(codecs, 0.0)
    with torch.inference_mode():
        for clip in clips:
            wav = torch.from_numpy(audio.load(clip.path, plain.sample_rate))[None, None].to(device)
            codes = plain.encode(wav).audio_codes
            expected = plain.decode(codes).audio_values
            group = f"{clip.source}, {'train' if clip.split == 'train' else 'held out'}"
            tokens[group] += codes.numel()
            signal += float(expected.square().sum())
            for name, codec in codecs.items():
                equal[name][group] += int((codec.encode(wav).audio_codes == codes).sum())
                noise[name] += float((codec.decode(codes).audio_values - expected).square().sum())
    return [
        {
            "codec": name,
            "tokens": tokens.total(),
            "agreement": equal[name].total() / tokens.total(),
            "groups": {
                group: {"tokens": tokens[group], "agreement": equal[name][group] / tokens[group]} for group in tokens
            },
            "snr_db": 10 * math.log10(signal / noise[name]) if noise[name] else None,
        }
        for name in codecs
    ]


def decibels(snr_db: float | None) -> str:
    return "equal" if snr_db is None else f"{snr_db:.1f}"


def fidelity_table(rows: list[dict]) -> str:
    """All tokens, then every source."""
    lines = []
    for row in rows:
        lines.append([row["codec"], "all", f"{row['tokens']:,}", f"{row['agreement']:.2%}", decibels(row["snr_db"])])
        for group, part in sorted(row["groups"].items()):
            lines.append(["", group, f"{part['tokens']:,}", f"{part['agreement']:.2%}", ""])
    table = markdown(["codec", "speech", "tokens", "equal", "decoder SNR on equal codes, dB"], lines, texts=2)
    return f"\nagainst the same codec in fp32 (bundled: trained weights, all others: random)\n\n{table}"


@contextmanager
def left_out(name: str) -> Iterator[None]:
    """Say why a contender does not take part, and go on."""
    try:
        yield
    except (*NOT_HERE, SystemExit) as error:  # the latter: what failed in a process of its own
        LEFT_OUT[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(f"left out: {name} ({LEFT_OUT[name]})", flush=True)


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
        kept=(None, "JSON of a run with the part fidelity, for the columns of tokens and SNR; also a part of all.sh"),
        memory_of=([], argparse.SUPPRESS),
    )
    logging.disable_progress_bar()
    everything = args.codecs is DEFAULT
    if everything and args.device != "cpu":
        args.codecs = [name for name in DEFAULT if not name.endswith("int8") and "onnx" not in name]  # for CPUs
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
    if args.kept and Path(args.kept).is_file():
        known = json.loads(Path(args.kept).read_text())
        figures["fidelity"] = (known.get("figures") or known).get("fidelity", [])
    if "fidelity" in args.parts:
        clips = fidelity_clips(args.fidelity_manifest, args.fidelity_clips, args.fidelity_train)
        changed = [name for name in args.codecs if "/" in name and name != reference(name)]
        figures["fidelity"] = []
        for base in dict.fromkeys(map(reference, changed)):
            same = [name for name in changed if reference(name) == base]
            figures["fidelity"] += measure_fidelity(base, same, clips, args.device)
        print(fidelity_table(figures["fidelity"]), flush=True)
    if "speed" in args.parts:
        figures["speed"] = []
        for seconds in args.seconds:
            for batch in args.batch:
                long = everything and batch * seconds > args.skip_above
                names = [n for n in args.codecs if not long or n.split("/")[0] in ("auv", *OURS)]
                rows = measure_speed(names, batch, seconds, args)
                print(speed_table(rows, figures.get("ceilings", {}), figures.get("fidelity", [])), flush=True)
                figures["speed"] += rows
    if "memory" in args.parts:
        longest = max(args.seconds)
        figures["memory"] = []
        for name in args.codecs:
            with left_out(name):
                figures["memory"] += [memory_in_process(name, side, longest, args) for side in SIDES]
        print(memory_table(figures["memory"], longest), flush=True)
    figures["left_out"] = LEFT_OUT
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
