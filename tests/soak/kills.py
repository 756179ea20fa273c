"""`make soak`, second part: `kill -9` at random moments of every long command, then the same command to its end.

    python -m tests.soak.kills                              # 50 kills a command, a new seed, which is printed
    python -m tests.soak.kills --kills 5 --command train --seed 7

After a kill the command is run again (with --resume where it has that) and must end with exit code 0 and with the
results of a run that nobody disturbed, bit for bit, and leave no temporary file. Some kills hit the second run too.
Commands run in processes that are forked off this one, so that a run costs no imports; moments are drawn from the whole
length of an undisturbed run. tests/integration/test_soak.py runs this once a command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..miniature import miniature_codec, miniature_speech

AGAIN = 0.3
"""Share of second runs that are killed too."""
TIMED = ("seconds", "time", "rate", "runtime", "per_second", "date", "resumed", "versions", "command")
"""In the names of figures that differ between two equal runs."""
RECIPE = """
steps: 8
precision: fp32
codec: {start: CODEC, freeze_batch_norm: false}
data:
  {manifest: SPEECH/manifest.jsonl, split: train, clips_per_batch: 2, crop_seconds: 0.4, min_seconds: 0.1, prefetch: 0}
weights: {multi_mel: 1.0}
ema_decay: 0.9
log_every: 1
checkpoint_every: 2
"""
SWEEP = """
folder: OUT
manifest: SPEECH/manifest.jsonl
seeds: [0]
reference: control
rows:
  control: {configs: [recipe.yaml], options: ["--steps=3"]}
  searched: {of: control, search: 0.1}
train_clips: 3
measurement:
  likelihood: {audio_seconds: 5, num_evaluations: 1, model: {num_layers: 1}}
  reconstruction_clips: 1
  slow_metrics: false
  consistency_clips: 1
  workers: 0
"""
BUDGET = {
    "likelihood.audio_seconds": 5,
    "likelihood.model.num_layers": 1,
    "likelihood.num_evaluations": 1,
    "reconstruction_clips": 1,
    "slow_metrics": "false",
    "consistency_clips": 1,
    "workers": 0,
}
LM_SIZES = "{num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 24, max_positions: 256}"


@dataclass(frozen=True)
class Command:
    """One command: its arguments for a place of work, what it gets when it goes on, what it must have left."""

    arguments: Callable[[Path, Path], list[str]]
    """(inputs, output) -> what a user types."""
    results: Callable[[Path], Any]
    """Output -> what must be equal."""
    resumed: tuple[str, ...] = ()


def prepare(inputs: Path) -> None:
    """Codec, speech, recipes and tokens, once."""
    from llmcodec.cli.main import main
    from llmcodec.data.manifest import read_manifest, write_manifest

    miniature_codec().save_pretrained(inputs / "codec")
    miniature_codec(seed=1).save_pretrained(inputs / "other")
    seconds = (0.9, 0.62, 0.75, 0.6, 0.83, 0.7, 0.9, 0.8, 0.7, 1.0)
    manifest = miniature_speech(inputs / "speech", seconds)
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    rows = [vars(clip) | {"split": split} for clip, split in zip(read_manifest(manifest), splits, strict=True)]
    write_manifest(inputs / "speech" / "manifest.jsonl", [type(read_manifest(manifest)[0])(**row) for row in rows])
    manifest.unlink()
    places = {"CODEC": str(inputs / "codec"), "SPEECH": str(inputs / "speech")}
    for name, text in (("recipe", RECIPE), ("sweep", SWEEP)):
        for word, place in places.items():
            text = text.replace(word, place)
        (inputs / f"{name}.yaml").write_text(text)
    corpus = ["--manifest", str(inputs / "speech" / "manifest.jsonl"), "--codec", str(inputs / "codec")]
    assert main(["tokenize", *corpus, "-o", str(inputs / "tokens")]) == 0


def train(inputs: Path, out: Path) -> list[str]:
    return ["train", "--config", str(inputs / "recipe.yaml"), "-o", str(out)]


def encode(inputs: Path, out: Path) -> list[str]:
    return ["encode", str(inputs / "speech"), "-o", str(out), "--codec", str(inputs / "codec"), "--batch-seconds", "1"]


def tokenize(inputs: Path, out: Path) -> list[str]:
    corpus = ["--manifest", str(inputs / "speech" / "manifest.jsonl"), "--codec", str(inputs / "codec")]
    return ["tokenize", *corpus, "-o", str(out), "--clips-per-shard", "2", "--views", "3"]


def lm_train(inputs: Path, out: Path) -> list[str]:
    tokens = ["--data.tokens", f"[{inputs / 'tokens'}]", "--data.max_tokens", "64"]
    steps = ["--steps", "8", "--eval_every", "2", "--rows_per_batch", "1", "--bf16", "false", "--model.small", LM_SIZES]
    return ["lm", "train", *tokens, *steps, "-o", str(out)]


def sweep(inputs: Path, out: Path) -> list[str]:
    return ["sweep", str(inputs / "sweep.yaml"), "-o", str(out)]


def compare(inputs: Path, out: Path) -> list[str]:
    budget = [part for name, value in BUDGET.items() for part in (f"--measurement.{name}", str(value))]
    where = ["--manifest", str(inputs / "speech" / "manifest.jsonl"), "--cache", str(out / "cache")]
    return ["compare", str(inputs / "codec"), str(inputs / "other"), *where, "-o", str(out / "report.html"), *budget]


def lasting(value: Any) -> Any:
    """Nested values without those that tell when and how fast."""
    if isinstance(value, dict):
        if "made_from" in value:  # of the weights it holds their size and the time of their file
            value = value | {"made_from": {**value["made_from"], "weights": None}}
        return {key: lasting(one) for key, one in value.items() if not any(word in str(key) for word in TIMED)}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def files(folder: Path, *patterns: str) -> dict[str, Any]:
    """Path -> content of what matches; JSON without what tells the time."""
    found: dict[str, Any] = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        content: Any = path.read_bytes()
        if path.suffix == ".json":
            content = lasting(json.loads(content))
        elif path.suffix == ".jsonl":
            content = [lasting(json.loads(line)) for line in content.splitlines()]
        found[str(path.relative_to(folder))] = content
    return found


def tokens(folder: Path) -> dict[str, Any]:
    """Rows of shards by split and id: a kill may cut shards at other places."""
    from llmcodec.io.token_shards import open_token_shards

    found = {}
    for split in sorted(path for path in folder.iterdir() if path.is_dir()):
        provenance, rows = open_token_shards(split)
        found[split.name] = (provenance, {row.id: (row.codes.tolist(), row.text, row.num_samples) for row in rows})
    return found


COMMANDS = {
    "train": Command(train, lambda out: files(out, "codec/*", "checkpoints/*/*", "log.jsonl"), ("--resume",)),
    "encode": Command(encode, lambda out: files(out, "**/*"), ("--resume",)),
    "tokenize": Command(tokenize, tokens),
    "lm train": Command(lm_train, lambda out: files(out, "lm/*", "result.json", "log.jsonl"), ("--resume",)),
    "sweep": Command(sweep, lambda out: files(out, "table.md", "*.json", "*/codec/*", "*/log.jsonl")),
    "compare": Command(compare, lambda out: files(out, "report.json", "report.md", "cache/*")),
}


def start(
    arguments: list[str], log: Path, before: Callable[[], None] | None = None, after: Callable[[], None] | None = None
) -> int:
    """Fork off a process that runs `llmcodec ARGUMENTS`, and what is given before and after it; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        random.seed(0)  # forking draws a new state, which checkpoints hold
        from llmcodec.cli.main import main

        if before is not None:
            before()
        code = main(arguments)
        sys.stdout.flush()
        if after is not None:
            after()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(child: int, seconds: float) -> bool:
    """Whether the process was still running then."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return finish(child) == -signal.SIGKILL


def left_over(folder: Path) -> list[str]:
    from llmcodec.io.atomic import find_left_overs

    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    return [str(path.relative_to(folder)) for one in folders for path in find_left_overs(one)]


def undisturbed(command: Command, inputs: Path, out: Path) -> tuple[Any, float]:
    """Results and seconds of a run that nobody kills."""
    log, begun = out.with_suffix(".log"), time.monotonic()
    code = finish(start(command.arguments(inputs, out), log))
    assert code == 0, log.read_text()
    seconds, results = time.monotonic() - begun, command.results(out)
    shutil.rmtree(out)  # the killed runs take its place: names of folders are in results
    log.unlink()
    return results, seconds


def killed(command: Command, inputs: Path, out: Path, moments: list[float], right: Any) -> tuple[int, str]:
    """Run, kill at each of the moments (seconds after a start), then run to the end.

    Returns:
        How many kills came before the run was over, and what is wrong ('' if nothing is).
    """
    log, arguments, kills = out.with_suffix(".log"), command.arguments(inputs, out), 0
    for moment in moments:
        kills += kill_after(start(arguments, log), moment)
        arguments = [*command.arguments(inputs, out), *command.resumed]
    code = finish(start(arguments, log))
    said = " ".join(log.read_text(errors="replace").split())[-400:]
    if code:
        return kills, f"the run that goes on ends with {code}: {said}"
    if left := left_over(out):
        return kills, f"left over: {left[:5]}"
    found = command.results(out)
    different = [key for key in {*found, *right} if found.get(key) != right.get(key)]
    return kills, f"other results: {sorted(different)[:5]}" if different else ""


def kill_command(name: str, number: int, seed: int, inputs: Path, scratch: Path) -> list[str]:
    """Kill a command `number` times; gives a line for everything that is wrong, and prints a summary."""
    command, wrong, kills, late = COMMANDS[name], [], 0, 0
    right, seconds = undisturbed(command, inputs, scratch / "run")
    while kills < number:
        chance = random.Random(f"{seed} {name} {kills + late}")
        moments = [chance.uniform(0, seconds) for _ in range(2 if chance.random() < AGAIN else 1)]
        out = scratch / "run"
        hits, what = killed(command, inputs, out, moments, right)
        if what:
            wrong.append(
                f"WRONG {name}, seed {seed}, killed after {', '.join(f'{one:.3f}' for one in moments)} s: {what}"
            )
            print(wrong[-1], flush=True)
        kills, late = kills + hits, late + len(moments) - hits
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".log").unlink()
    print(f"{name}: {kills} kills ({late} came too late), a run takes {seconds:.1f} s, {len(wrong)} wrong", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill commands at random moments and let them go on.")
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="only these; default all")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills a command", flush=True)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        load_everything(inputs)
        for name in options.command or list(COMMANDS):
            scratch = Path(folder) / name.replace(" ", "_")
            scratch.mkdir()
            wrong += kill_command(name, options.kills, options.seed, inputs, scratch)
    print(f"{len(wrong)} wrong" if wrong else "nothing wrong")
    return int(bool(wrong))


def load_everything(inputs: Path) -> None:
    """Make the inputs and import what the commands import, so that forked processes start at once."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "LLMCODEC_NATIVE": "0"}
    import torch

    import llmcodec.experiments.comparison
    import llmcodec.experiments.sweep
    import llmcodec.lm.train
    import llmcodec.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    prepare(inputs)


if __name__ == "__main__":
    sys.exit(main())
