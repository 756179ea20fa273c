"""Writes tests/golden/artefacts: what the commands of one commit leave on disk, for test_artefacts.py to read.

Made at commit f9f99d7, from the root of the repository, by

    OMP_NUM_THREADS=1 python -m tests.golden.make_artefacts

Made again, they prove nothing about what earlier versions wrote: a later format gets a folder of its own beside them.
All paths are relative to a temporary working directory, so that nothing of the machine is in the files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from llmcodec import LLMCodec
from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, write_manifest
from llmcodec.io import audio
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import read_token_shards
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.runtime.opening import open_runtime
from llmcodec.training import trainer as trainer_module
from llmcodec.training.checkpoint import list_checkpoints, load_checkpoint
from llmcodec.training.recipe import TERMS, Recipe
from llmcodec.training.tracking import read_log
from llmcodec.training.trainer import Trainer

from ..miniature import NUM_CODES, SAMPLE_RATE, everything_on, miniature_codec, miniature_lm, miniature_speech

TERMS_THEN = [
    "bridge_ce",
    "codebook",
    "commit",
    "complex_stft",
    "contrast",
    "cosine",
    "feature",
    "ftp",
    "generator",
    "marginal_entropy",
    "mel",
    "mrstft",
    "multi_mel",
    "rate",
    "view",
]
"""Fields of `Weights` when the run was made; terms that are younger have weight 0 in it."""
ARTEFACTS = Path(__file__).parent / "artefacts"
RESULTS = "results.json"
STATE_KEYS = "state_keys.json"
SAVED_STEP, LAST_STEP = 3, 6
SAVED_LM_STEP, LAST_LM_STEP = 2, 4
LM_SIZES = "{num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 24, max_positions: 128}"

COMMANDS = {
    "tokens": ["encode", "speech/mono.wav", "speech/stereo.wav", "-o", "tokens"],
    "tokens_split": ["encode", "speech/stereo.wav", "-o", "tokens_split", "--channels", "split"],
    "shards_arrow": ["encode", "speech/mono.wav", "speech/stereo.wav", "-o", "shards_arrow", "--format", "arrow"],
    "shards_parquet": ["encode", "speech/mono.wav", "speech/stereo.wav", "-o", "shards_parquet", "--format", "parquet"],
    "tokenized_arrow": ["tokenize", "--manifest", "speech/manifest.jsonl", "-o", "tokenized_arrow", "--views", "2"],
    "tokenized_parquet": ["tokenize", "--manifest", "speech/manifest.jsonl", "-o", "tokenized_parquet"]
    + ["--format", "parquet"],
    "tokenized_slamkit": ["tokenize", "--manifest", "speech/manifest.jsonl", "-o", "tokenized_slamkit"]
    + ["--format", "slamkit"],
}
"""Folder of artefacts -> the command that writes it, but for the codec's name and the precision of `encode`."""


def run_command(name: str) -> None:
    """One of `COMMANDS` with the codec of the run, in the working directory."""
    arguments = [*COMMANDS[name], "--codec", "run/codec"]
    if arguments[0] == "encode":
        arguments += ["--precision", "fp32", "--workers", "1"]
    call(*arguments)


def call(*arguments: str) -> None:
    """`llmcodec ...` in this process, silently."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(list(arguments))
    assert code == 0, said.getvalue()


def signal(seconds: float, seed: int = 0) -> np.ndarray:
    """Stretches of 50 ms, each a tone, noise of a colour of its own, or both, rounded to 16 bits."""
    random = np.random.RandomState(seed)  # its streams are frozen over NumPy versions
    time = np.arange(SAMPLE_RATE // 20) / SAMPLE_RATE
    parts = []
    for number in range(round(seconds * 20)):
        tone = np.sin(2 * np.pi * random.uniform(100, 4000) * time)
        noise = np.convolve(random.uniform(-1, 1, len(time)), [1, random.uniform(-1, 1)], mode="same")
        parts.append(10 ** random.uniform(-3, -0.5) * (tone * (number % 3 != 1) + noise * (number % 3 != 0)))
    return np.round(20000 * np.concatenate(parts)).astype(np.int16)


def write_speech(folder: Path) -> None:
    """A mono and a stereo recording, and a manifest with both."""
    folder.mkdir()
    soundfile.write(folder / "mono.wav", signal(0.6), SAMPLE_RATE)
    soundfile.write(folder / "stereo.wav", np.stack([signal(0.4, 1), signal(0.4, 2)], axis=1), SAMPLE_RATE)
    clips = [
        Clip("mono", "mono.wav", 0.6, "one voice", speaker="ann", language="en", split="train"),
        Clip("stereo", "stereo.wav", 0.4, "zwei Stimmen", speaker="bob", language="de", split="valid"),
    ]
    write_manifest(folder / "manifest.jsonl", clips)


def run_recipe(run: str, steps: int) -> Recipe:
    """recipes/paper.yaml of that time, whose bridge is ablations/cosine_tau's now, with every term on, in float64, for
    a codec of a few thousand weights; all below `start`."""
    start = Path("start")
    if not (start / "codec").exists():
        miniature_codec(hidden_size=8, head_dim=4, n_fft=160, hop_samples=80).save_pretrained(start / "codec")
    if not (start / "lm").exists():
        miniature_lm(start / "lm", layers=2)
        miniature_speech(start / "speech")
    younger = {f"weights__{name}": 0.0 for name in set(TERMS.values()) - set(TERMS_THEN)}
    recipe = everything_on(
        "paper+ablations/cosine_tau",
        start,
        run,
        steps=steps,
        precision="fp64",
        language__backbone__num_layers=2,
        accumulate=1,
        teacher="null",
        bigram="null",
        **younger,
    )
    return replace(recipe, name="paper")


def train(run: str, steps: int, resume: bool = False) -> Trainer:
    """`llmcodec train` without the picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "plot_curves", lambda *_: None)
        trainer = Trainer(run_recipe(run, steps), resume=resume, show_progress=False)
        trainer.run()
    return trainer


def logged(run: Path, after: int) -> list[dict[str, float]]:
    """Rows of a log behind a step, without what the clock says."""
    rows = [row for row in read_log(run / "log.jsonl") if row["step"] > after]
    return [{name: value for name, value in row.items() if name != "seconds_per_step"} for row in rows]


def train_lm(run: str, steps: int, *more: str) -> None:
    """`llmcodec lm train` on the shards of `tokenize`, two steps a checkpoint."""
    options = {
        "run": run,
        "data.tokens": "[tokenized_arrow]",
        "data.formats": "[audio, tts]",
        "data.max_tokens": "96",
        "model.small": LM_SIZES,
        "steps": str(steps),
        "eval_every": "2",
        "log_every": "1",
        "rows_per_batch": "1",
        "schedule": "constant_with_warmup",
        "warmup_share": "0",
        "lr": "1e-2",
        "bf16": "false",
        "keep_best": "false",
    }
    with contextlib.redirect_stdout(io.StringIO()):
        call("lm", "train", *(f"--{name}={value}" for name, value in options.items()), *more)


def scored(folder: Path) -> list[float]:
    """Log-likelihoods of a fixed sequence of codes under the LM of a folder."""
    codes = torch.tensor([(7 * place * place + 3) % NUM_CODES for place in range(40)])
    return load_token_lm(str(folder)).token_log_likelihoods([codes])[0].tolist()


def coded(folder: Path, runtime: str) -> tuple[list[int], list[float]]:
    """Codes of mono.wav and every 97th sample of what they decode to; `folder` is that of a codec or of its graphs."""
    loaded = open_runtime(str(folder), runtime, "cpu", "fp32")  # type: ignore[arg-type]
    codes_QT = loaded.encode_batch([audio.load("speech/mono.wav", SAMPLE_RATE)])[0]
    return codes_QT[0].tolist(), loaded.decode_batch([codes_QT])[0][::97].tolist()


def token_codes(folder: Path) -> dict[str, Any]:
    """Every clip of a folder of token files, shards or slamkit lines -> its codes and what else is known of it."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            clip, provenance = load_token_file(path)
            found[where] = {**vars(clip), "codes": clip.codes.tolist(), "codec": vars(provenance)}
        elif path.suffix in (".arrow", ".parquet"):
            found |= {
                f"{where}:{row.id}": {**vars(row), "codes": row.codes.tolist()} for row in read_token_shards(path)
            }
        elif path.suffix == ".jsonl":
            found[where] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def nested_keys(value: Any, path: str = "") -> list[str]:
    """Paths of a nested state, with type and shape of tensors; lists without tensors or dicts inside are leaves."""
    if isinstance(value, torch.Tensor):
        return [f"{path} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"]
    if isinstance(value, Mapping):
        return [line for name in value for line in nested_keys(value[name], f"{path}/{name}")]
    if isinstance(value, Sequence) and any(isinstance(one, (Mapping, torch.Tensor)) for one in value):
        return [line for place, one in enumerate(value) for line in nested_keys(one, f"{path}/{place}")]
    return [path]


def state_keys(training_state: dict[str, Any], codec: Path, lm: Path) -> dict[str, list[str]]:
    """Names in the state of a training run, of a codec and of a token LM in their folders."""
    return {
        "training state": nested_keys(training_state),
        "codec": nested_keys(LLMCodec.from_pretrained(codec).state_dict()),
        "token LM": nested_keys(load_token_lm(str(lm)).model.state_dict()),
    }


def fill(place: Path) -> None:
    """Make everything in the working directory and put it into `place`."""
    write_speech(Path("speech"))
    train("whole", LAST_STEP)
    train("run", SAVED_STEP)
    shutil.copytree("start/run", "run")
    for name in COMMANDS:
        run_command(name)
    train_lm("lm_whole", LAST_LM_STEP)
    train_lm("lm_run", SAVED_LM_STEP)
    call("export", "run/codec", "-o", "onnx", "--format", "onnx")

    codes, decoded = coded(Path("run/codec"), "torch")
    onnx_codes, onnx_decoded = coded(Path("onnx"), "onnx")
    results = {
        "codes": codes,
        "decoded": decoded,
        "onnx_codes": onnx_codes,
        "onnx_decoded": onnx_decoded,
        "continuation": logged(Path("start/whole"), SAVED_STEP),
        "lm_scores": scored(Path("lm_run/lm")),
        "lm_continuation": logged(Path("lm_whole"), SAVED_LM_STEP),
        "tokens": {name: token_codes(Path(name)) for name in COMMANDS},
        "pyarrow": metadata.version("pyarrow"),
    }
    keep: dict[str, Callable[[Path], bool]] = {name: lambda path: True for name in ("speech", "run", "onnx", *COMMANDS)}
    keep["lm_run"] = lambda path: path.suffix != ".png"
    shutil.rmtree(place, ignore_errors=True)
    for name, wanted in keep.items():
        for path in sorted(Path(name).rglob("*")):
            if path.is_file() and wanted(path):
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / path)
    state = load_checkpoint(list_checkpoints(Path("run/checkpoints"))[-1])
    keys = state_keys(state, Path("run/codec"), Path("lm_run/lm"))
    for name, facts in ((RESULTS, results), (STATE_KEYS, keys)):
        (place / name).write_text(json.dumps(facts, indent=None if name == RESULTS else 0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        fill(ARTEFACTS)
