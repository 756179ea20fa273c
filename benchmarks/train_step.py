"""Seconds and memory of one training step, by part, in bf16 and fp32, windowed and full, with and without GAN.

    python benchmarks/train_step.py [--reference REF] [--threads 2] [--precision bf16] [--window 1] [--gan on]

Fixed configuration (`step_fixture.py`): AUV at full size, a random Qwen3 of 8 layers x 512 with 4,096 text and 20,480
audio tokens, two clips of 4 s, K = 5 prediction heads, semantic alignment, all reconstruction losses, MPD + MSD at full
size. What runs is `Trainer.train_step`. Every configuration has a process of its own.

Peer: the public reference (github.com/voidful/llm-codec), its own `train.py` from a checkout (`--reference`), full
window, fp32, on the same clips and weights; see `reference_step.py` for what is included. Both without R1, which is
taken at one step in 16 and timed apart (column "with R1": memory above static at such a step).

static: weights (frozen ones too), one gradient per trained weight, optimizer states. above: peak resident memory of the
steps, less the interpreter with its libraries, less static. Everything takes about 6 minutes on two free cores;
`--precision`, `--window` and `--gan` choose a part, `--no-reference-gan` leaves out the longest row.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from common import forget_peak, memory_mb, new_parser, report, result_of
from step_fixture import static_memory, write_fixture

PARTS = ("encode", "bridge", "LM", "heads", "alignment", "decode", "spectral", "adversary, codec's side")
PARTS += ("adversary's step", "optimizer", "other")


def recipe(fixture: Path, run: Path, arguments: argparse.Namespace) -> Any:
    """The paper's terms and weights, all on from step 0."""
    from llmcodec.lm.backbone import BackboneConfig
    from llmcodec.objectives.adversary import AdversaryConfig
    from llmcodec.objectives.bridge import BridgeConfig
    from llmcodec.objectives.prediction import PredictionConfig
    from llmcodec.training.language import LanguageConfig
    from llmcodec.training.recipe import CodecConfig, DataConfig, GroupConfig, OptimizerConfig, Recipe, Weights

    gan, bf16 = arguments.gan == ["on"], arguments.precision == ["bf16"]
    window = None if arguments.window == ["full"] else float(arguments.window[0])
    language = LanguageConfig(
        backbone=BackboneConfig(name=str(fixture / "lm"), dtype="bf16" if bf16 else "fp32"),
        bridge=BridgeConfig(kind=arguments.bridge, bf16=bf16),
        prediction=PredictionConfig(num_heads=5, kind="linear", bf16=bf16),
    )
    weights = Weights(
        mel=1.5, multi_mel=0.5, mrstft=0.5, complex_stft=0.8, ftp=0.2, cosine=0.1, contrast=0.05,
        generator=float(gan), feature=1.5 * gan, bridge_ce=float(arguments.bridge == "projected"),
    )  # fmt: skip
    return Recipe(
        name="train_step",
        run=str(run),
        precision="bf16" if bf16 else "fp32",
        window_seconds=window,
        adversary_seconds=None if window is None else min(window, arguments.adversary_seconds),
        data=DataConfig(manifest=str(fixture / "manifest.jsonl"), clips_per_batch=2, prefetch=0),
        codec=CodecConfig(start=str(fixture / "codec")),
        weights=weights,
        adversary=AdversaryConfig(bf16=bf16, r1_gamma=2.0 if arguments.r1 else 0.0) if gan else None,
        language=language,
        optimizer=OptimizerConfig(codec=GroupConfig(kind="sgd", lr=5e-6, weight_decay=1e-4)),
    )


def measure(fixture: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """One configuration in this process."""
    import llmcodec.training.trainer as trainer_module

    base = memory_mb("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_module.Trainer(recipe(fixture, Path(folder) / "run", arguments), show_progress=False)
        batch = next(iter(trainer.loader))
        trainer.step = 1  # R1 is taken at steps 0, 16, ..
        trainer.train_step([batch])  # fills caches, makes optimizer states
        forget_peak()
        wall, cpu, parts = timed_steps(trainer, batch, arguments.repeats)
        result: dict[str, object] = {"seconds": wall, "cpu_seconds": cpu, "parts": parts, "base_mb": base}
        result["peak_mb"] = memory_mb("VmHWM")
        if trainer.adversary is not None and arguments.r1:
            trainer.step = trainer.recipe.adversary.r1_every
            started = time.perf_counter()
            trainer.train_step([batch])
            result["r1_seconds"] = time.perf_counter() - started - wall
            result["r1_peak_mb"] = memory_mb("VmHWM")
        return result | {f"{name}_mb": value for name, value in vars(static_memory()).items()}


def timed_steps(trainer: Any, batch: Any, repeats: int) -> tuple[float, float, dict[str, float]]:
    """Fastest wall and CPU seconds of `repeats` steps and one instrumented one, and that one's seconds by part."""
    walls, cpus, parts = [], [], {}
    for index in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        if index < repeats:
            assert trainer.train_step([batch]) is not None, "a skipped step measures nothing"
        else:
            parts = parts_of_a_step(trainer, batch)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), parts


def parts_of_a_step(trainer: Any, batch: Any) -> dict[str, float]:
    """Seconds by part of one more step."""
    from step_parts import PartClock

    clock, objective = PartClock(), trainer.objective
    clock.wrap(objective.codec, "encode_latents", "encode")
    clock.wrap(objective, "decode_window", "decode")
    clock.wrap(objective.spectral, "forward", "spectral")
    clock.wrap(objective.language.bridge, "forward", "bridge")
    clock.wrap(objective.language.backbone, "forward", "LM")
    clock.wrap(objective.language.prediction, "forward", "heads")
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


def measure_all(fixture: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every asked-for configuration, each printed when it is done."""
    rows: dict[str, dict[str, Any]] = {}
    benchmarks = Path(__file__).parent
    print(f"{arguments.threads} threads, {arguments.bridge} bridge; the interpreter with its libraries is not counted")
    print(HEADER)
    environment = {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"}
    if arguments.reference is not None:
        for gan in arguments.gan if arguments.reference_gan else ["off"]:
            command = [str(benchmarks / "reference_step.py"), "--reference", str(arguments.reference)]
            command += ["--fixture", str(fixture), "--steps", "1" if gan == "on" else "2"]
            name = f"reference, fp32, full, GAN {gan}"
            rows[name] = result_of(command + (["--gan"] if gan == "on" else []), **environment)
            print(line(name, rows[name]), flush=True)
    for gan in arguments.gan:
        for precision in arguments.precision:
            for window in arguments.window:
                command = [str(benchmarks / "train_step.py"), "--fixture", str(fixture), "--worker"]
                command += ["--precision", precision, "--window", window, "--gan", gan, "--bridge", arguments.bridge]
                command += ["--adversary-seconds", str(arguments.adversary_seconds)]
                # The slow corners: the instrumented step alone, and R1 is left out.
                slow = window == "full" and gan == "on"
                command += ["--repeats", "0", "--no-r1"] if slow else ["--repeats", str(arguments.repeats)]
                name = f"ours, {precision}, {'full' if window == 'full' else window + ' s'}, GAN {gan}"
                rows[name] = result_of(command, **environment)
                print(line(name, rows[name]), flush=True)
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
    parser = new_parser(__doc__)
    parser.add_argument("--reference", type=Path, help="checkout of github.com/voidful/llm-codec to time as well")
    parser.add_argument("--no-reference-gan", dest="reference_gan", action="store_false", help="its step without GAN")
    parser.add_argument("--precision", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--window", nargs="+", default=["1", "full"], help="seconds decoded, or full")
    parser.add_argument("--gan", nargs="+", choices=["on", "off"], default=["off", "on"])
    parser.add_argument("--adversary-seconds", type=float, default=0.5, help="what the discriminators see of a window")
    parser.add_argument("--bridge", choices=["native", "projected"], default="native")
    parser.add_argument(
        "--repeats", type=int, default=2, help="steps, of which the fastest counts, beside the instrumented one"
    )
    parser.add_argument("--no-r1", dest="r1", action="store_false", help="do not time a step with R1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here too")
    parser.add_argument("--fixture", type=Path, help="folder of the fixed configuration, written if empty")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        report(measure(arguments.fixture, arguments))
        return
    with tempfile.TemporaryDirectory() as temporary:
        fixture = arguments.fixture or Path(temporary)
        if not (fixture / "manifest.jsonl").exists():
            fixture.mkdir(parents=True, exist_ok=True)
            write_fixture(fixture)
        rows = measure_all(fixture, arguments)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print_parts(rows)
    if arguments.reference is not None:
        print()
        print_ratios(rows)


if __name__ == "__main__":
    main()
