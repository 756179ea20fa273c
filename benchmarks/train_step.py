"""Seconds and memory of one training step, by part, in bf16 and fp32, windowed and full, with and without GAN.

    python benchmarks/train_step.py [--reference REF] [--threads 2] [--precision bf16] [--window 1] [--gan on]

Fixed configuration (`step_fixture.py`): AUV at full size, a random Qwen3 of 8 layers x 512 with 4,096 text and 20,480
audio tokens, two clips of 4 s, K = 5 prediction heads, semantic alignment, all reconstruction losses, MPD + MSD at full
size. What runs is `Trainer.train_step`. Every configuration has a process of its own.

Peer: the public reference (github.com/voidful/llm-codec), its own `train.py` from a checkout (`--reference`), full
window, fp32, on the same clips and weights; see `reference_step.py` for what is included. Both without R1, which is
taken at one step in 16 and timed apart (column "with R1": memory above static at such a step).

static: weights (frozen ones too), one gradient per trained weight, optimizer states. above: peak resident memory of the
steps after the first, less the interpreter with its libraries, less static. About 8 minutes on two free cores;
`--precision`, `--window` and `--gan` choose a part, `--no-reference-gan` leaves out the longest row.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from bench import forget_peak, in_process, memory_mb, options, report, timed
from step_fixture import static_memory, write_fixture

PARTS = ("encode", "bridge", "LM", "heads", "alignment", "decode", "spectral", "adversary, codec's side")
PARTS += ("adversary's step", "optimizer", "other")


def recipe(fixture: Path, run: Path, args: argparse.Namespace) -> Any:
    """The paper's terms and weights, all on from step 0."""
    from llmcodec.lm.backbone import BackboneConfig
    from llmcodec.objectives.adversary import AdversaryConfig
    from llmcodec.objectives.bridge import BridgeConfig
    from llmcodec.objectives.prediction import PredictionConfig
    from llmcodec.training.language import LanguageConfig
    from llmcodec.training.recipe import CodecConfig, DataConfig, GroupConfig, OptimizerConfig, Recipe, Weights

    gan, bf16 = args.gan == ["on"], args.precision == ["bf16"]
    window = None if args.window == ["full"] else float(args.window[0])
    language = LanguageConfig(
        backbone=BackboneConfig(name=str(fixture / "lm"), dtype="bf16" if bf16 else "fp32"),
        bridge=BridgeConfig(kind=args.bridge, bf16=bf16),
        prediction=PredictionConfig(num_heads=5, kind="linear", bf16=bf16),
    )
    weights = Weights(
        mel=1.5, multi_mel=0.5, mrstft=0.5, complex_stft=0.8, ftp=0.2, cosine=0.1, contrast=0.05,
        generator=float(gan), feature=1.5 * gan, bridge_ce=float(args.bridge == "projected"),
    )  # fmt: skip
    return Recipe(
        name="train_step",
        run=str(run),
        precision="bf16" if bf16 else "fp32",
        window_seconds=window,
        adversary_seconds=None if window is None else min(window, args.adversary_seconds),
        data=DataConfig(manifest=str(fixture / "manifest.jsonl"), clips_per_batch=2, prefetch=0),
        codec=CodecConfig(start=str(fixture / "codec")),
        weights=weights,
        adversary=AdversaryConfig(bf16=bf16, r1_gamma=0.0 if args.no_r1 else 2.0) if gan else None,
        language=language,
        optimizer=OptimizerConfig(codec=GroupConfig(kind="sgd", lr=5e-6, weight_decay=1e-4)),
    )


def measure(fixture: Path, args: argparse.Namespace) -> dict[str, object]:
    """One configuration in this process."""
    import llmcodec.training.trainer as trainer_module

    base = memory_mb("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_module.Trainer(recipe(fixture, Path(folder) / "run", args), show_progress=False)
        batch = next(iter(trainer.loader))
        trainer.step = 1  # R1 is taken at steps 0, 16, ..
        trainer.train_step([batch])  # fills caches, makes optimizer states
        forget_peak()
        wall, cpu, parts = timed_steps(trainer, batch, args.repeats)
        result: dict[str, object] = {"seconds": wall, "cpu_seconds": cpu, "parts": parts, "base_mb": base}
        result["peak_mb"] = memory_mb("VmHWM")
        if trainer.adversary is not None and not args.no_r1:
            trainer.step = trainer.recipe.adversary.r1_every
            result["r1_seconds"] = timed(partial(trainer.train_step, [batch])).wall - wall
            result["r1_peak_mb"] = memory_mb("VmHWM")
        return result | {f"{name}_mb": value for name, value in vars(static_memory()).items()}


def timed_steps(trainer: Any, batch: Any, repeats: int) -> tuple[float, float, dict[str, float]]:
    """Fastest wall and CPU seconds of `repeats` steps and one instrumented one, and that one's seconds by part."""
    runs = [partial(trainer.train_step, [batch])] * repeats + [partial(parts_of_a_step, trainer, batch)]
    walls, processes, results = zip(*map(timed, runs), strict=True)
    assert None not in results, "a skipped step measures nothing"
    return min(walls), min(processes), results[-1]


def parts_of_a_step(trainer: Any, batch: Any) -> dict[str, float]:
    """Seconds by part of one more step."""
    from step_parts import PartClock

    import llmcodec.training.language as language

    clock, objective = PartClock(), trainer.objective
    clock.wrap(objective.codec, "encode_latents", "encode")
    clock.wrap(objective, "decode_window", "decode")
    clock.wrap(objective.spectral, "forward", "spectral")
    clock.wrap(objective.language.bridge, "forward", "bridge")
    clock.wrap(objective.language.backbone, "forward", "LM")
    clock.wrap(language, "prediction_terms", "heads")
    clock.wrap(objective.language, "_align", "alignment")
    if trainer.adversary is not None:
        clock.wrap(trainer.adversary, "forward", "adversary, codec's side")
        clock.wrap(trainer, "train_adversary", "adversary's step")
    for group in trainer.groups:
        for method in ("clip", "step", "zero_grad"):
            clock.wrap(group, method, "optimizer")
    backward = trainer.accelerator.backward

    def watched(loss: Any, **options: Any) -> None:
        clock.watch_backward(loss)
        backward(loss, **options)

    trainer.accelerator.backward = watched
    clock.start()
    trainer.train_step([batch])
    return clock.stop()


HEADER = f"{'':34}{'seconds':>9}{'CPU s':>8}{'peak':>8}{'static':>8}{'above':>8}{'with R1':>9}   MB"


def line(name: str, row: dict[str, Any]) -> str:
    peak, static = row["peak_mb"] - row["base_mb"], total(row)
    with_r1 = f"{row['r1_peak_mb'] - row['base_mb'] - static:9.0f}" if "r1_peak_mb" in row else ""
    times = f"{row['seconds']:9.2f}{row['cpu_seconds']:8.2f}"
    return f"{name:34}{times}{peak:8.0f}{static:8.0f}{peak - static:8.0f}{with_r1}"


def total(row: dict[str, Any]) -> float:
    return row["weights_mb"] + row["gradients_mb"] + row["states_mb"]


def measure_all(fixture: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every asked-for configuration, each printed when it is done."""
    rows: dict[str, dict[str, Any]] = {}

    def measured(name: str, *command: Any) -> None:
        rows[name] = in_process(*command, threads=args.threads)
        print(line(name, rows[name]), flush=True)

    print(f"{args.threads} threads, {args.bridge} bridge; the interpreter with its libraries is not counted")
    print(HEADER)
    for gan in args.gan if args.reference else ():
        if gan == "off" or not args.no_reference_gan:
            steps = ("--gan", "--steps", 2) if gan == "on" else ("--steps", 3)  # the first is not counted
            name = f"reference, fp32, full, GAN {gan}"
            measured(name, "reference_step.py", args.reference, fixture, *steps)
    for gan, precision, window in itertools.product(args.gan, args.precision, args.window):
        command = ["--precision", precision, "--window", window, "--gan", gan, "--bridge", args.bridge]
        command += ["--adversary-seconds", args.adversary_seconds]
        # The slow corners: the instrumented step alone, and R1 is left out.
        slow = window == "full" and gan == "on"
        command += ["--repeats", 0 if slow else args.repeats]
        command += ["--no-r1"] if slow or args.no_r1 else []
        name = f"ours, {precision}, {'full' if window == 'full' else window + ' s'}, GAN {gan}"
        measured(name, "train_step.py", "--worker", "--fixture", fixture, *command)
    return rows


def print_parts(rows: dict[str, dict[str, Any]]) -> None:
    """Seconds by part, one column per configuration."""
    ours = {name.removeprefix("ours, "): row for name, row in rows.items() if "parts" in row}
    names = list(ours)
    print("\nseconds by part (one instrumented step; the clips' text states are cached)")
    for index, name in enumerate(names):
        print(f"  [{index}] {name}")
    print(f"{'':26}" + "".join(f"{f'[{i}]':>8}" for i in range(len(names))))
    for part in PARTS:
        print(f"{part:26}" + "".join(f"{ours[name]['parts'].get(part, 0.0):8.2f}" for name in names))
    print(f"{'sum':26}" + "".join(f"{sum(ours[name]['parts'].values()):8.2f}" for name in names))
    print(f"{'R1, one step in 16':26}" + "".join(f"{ours[name].get('r1_seconds', 0.0):8.2f}" for name in names))


def print_ratios(rows: dict[str, dict[str, Any]]) -> None:
    """Ours over the reference."""
    for gan, aim in (("on", 0.1), ("off", 1 / 3)):
        peer = rows.get(f"reference, fp32, full, GAN {gan}")
        for name, row in rows.items():
            if peer is None or not name.startswith("ours") or not name.endswith(f"GAN {gan}"):
                continue
            time_ratio = row["seconds"] / peer["seconds"]
            above = [r["peak_mb"] - r["base_mb"] - total(r) for r in (row, peer)]
            print(f"{name:38} {time_ratio:6.3f} x the reference's time (aim {aim:.3f}), ", end="")
            print(f"{above[0] / above[1]:5.2f} x its memory above static (aim 0.33)")


def main() -> None:
    args = options(
        __doc__,
        reference=(None, "checkout of github.com/voidful/llm-codec to time as well"),
        no_reference_gan=(False, "leave out its step with GAN"),
        precision=(["bf16", "fp32"], "", ("bf16", "fp32")),
        window=(["1", "full"], "seconds decoded, or full"),
        gan=(["off", "on"], "with discriminators", ("on", "off")),
        adversary_seconds=(0.5, "what the discriminators see of a window"),
        bridge=("native", "", ("native", "projected")),
        repeats=(2, "steps, of which the fastest counts, beside the instrumented one"),
        no_r1=(False, "do not time a step with R1"),
        threads=2,
        json=(None, "write all figures here too"),
        fixture=(None, "folder of the fixed configuration, written if empty"),
        worker=(False, argparse.SUPPRESS),
    )
    if args.worker:
        report(measure(Path(args.fixture), args))
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as temporary:
        fixture = Path(args.fixture or temporary)
        if not (fixture / "manifest.jsonl").exists():
            fixture.mkdir(parents=True, exist_ok=True)
            write_fixture(fixture)
        rows = measure_all(fixture, args)
    if args.json is not None:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print_parts(rows)
    if args.reference is not None:
        print()
        print_ratios(rows)


if __name__ == "__main__":
    main()
