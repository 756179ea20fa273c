"""From object storage, tars and a folder to an exported language model, as on a cluster: Ray, job arrays, torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcodec.cli.main import main
from llmcodec.cli.options import ClipOptions, CodecOptions
from llmcodec.cli.tokens import job_in_actor
from llmcodec.data.manifest import read_manifest
from llmcodec.io.token_shards import TokenRow, read_token_shards
from llmcodec.transcode.ray_parts import tokenize_on_ray
from llmcodec.transcode.tokenize import TokenJob

from ..data.corpora import as_folder, as_parquet, as_tars, some_clips
from ..miniature import miniature_codec
from ..s3_server import s3  # noqa: F401

pytest.importorskip("ray.data", reason="needs Ray: pip install 'llmcodec[ray]'")
CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
SMALL = "{num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 24, max_positions: 256}"


def dying_job(marker: Path, *arguments: Any) -> TokenJob:
    """The job; the first actor that makes it is killed when it is to encode something."""
    job = job_in_actor(*arguments)
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return job
    job.runtime.encode_batch = lambda wavs: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    return job


def rows_in(folder: Path) -> dict[str, TokenRow]:
    return {row.id: row for row in read_token_shards(folder / "train")}


def commands(folder: Path) -> dict[str, str]:
    """An environment with the programs that the scripts of examples/cluster call."""
    folder.mkdir()
    for name, body in {
        "llmcodec": f'exec {sys.executable} -m llmcodec "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "srun": 'shift; exec "$@"',
        "scontrol": "echo localhost",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONWARNINGS": "ignore"}


@pytest.mark.slow
def test_from_object_storage_to_an_exported_model(tmp_path, monkeypatch, s3, capfd):  # noqa: F811
    import ray

    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "cache"))
    codec, clips = tmp_path / "codec", some_clips()
    miniature_codec().save_pretrained(codec)
    folder, tars = as_folder(clips, tmp_path / "folder"), as_tars(clips, tmp_path / "tars")
    for path in as_parquet(clips, tmp_path / "parquet").iterdir():
        s3.put(f"speech/{path.name}", path.read_bytes())

    # The folder on one machine, as ever.
    common = ["--codec", str(codec), "--clips-per-shard", "2"]
    assert main(["tokenize", "--manifest", str(folder), *common, "-o", str(tmp_path / "one")]) == 0
    one = rows_in(tmp_path / "one")

    # Parquet in the store, on two actors of which one is killed.
    options = {"clips_per_shard": 2, "settings": {"precision": "auto", "runtime": "torch"}}
    corpus = ClipOptions(f"{s3.url}/speech", min_seconds=0.0)
    arguments = (CodecOptions(codec=str(codec), runtime="torch"), corpus, options, str(tmp_path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        make = partial(dying_job, tmp_path / "killed", *arguments)
        made = tokenize_on_ray(job_in_actor(*arguments), make, tmp_path / "ray", workers=2)
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").is_file() and sum(one.clips for one in made.values()) == len(clips)
    assert main(["tokenize", "--manifest", corpus.manifest, *common, "-o", str(tmp_path / "alone")]) == 0
    alone, together = (
        {path.relative_to(place): path.read_bytes() for path in [place / "index.json", *place.rglob("*.arrow")]}
        for place in (tmp_path / "alone", tmp_path / "ray")
    )
    assert alone == together and len(alone) == 4

    # Tars, by the tasks of an array.
    environment = commands(tmp_path / "bin")
    array = ["bash", str(CLUSTER / "tokenize.sbatch"), str(tars), str(codec), str(tmp_path / "array")]
    for task in range(2):
        more = {"SHARDS": "2", "SLURM_ARRAY_TASK_ID": str(task)}
        subprocess.run(array, check=True, env=environment | more, capture_output=True)
    assert main(["tokens", "verify", str(tmp_path / "array")]) == 0
    assert main(["tokens", "merge", str(tmp_path / "array"), "--remove-parts"]) == 0

    assert len(one) == len(clips) == len(read_manifest(folder))
    for rows in (rows_in(tmp_path / "ray"), rows_in(tmp_path / "array")):
        assert list(rows) == list(one)
        for name, row in rows.items():
            assert np.array_equal(row.codes, one[name].codes) and row.text == one[name].text

    # A language model of the merged shards on two processes, and its export.
    train = ["lm", "train", "--data.tokens", f"[{tmp_path / 'array'}]", "--output", str(tmp_path / "run")]
    train += ["--model.small", SMALL, "--steps", "2", "--eval_every", "2", "--data.max_tokens", "128"]
    train += ["--rows_per_batch", "1", "--bf16", "false"]
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here", "PROCESSES": "2", "PORT": "0"}
    done = subprocess.run(
        ["bash", str(CLUSTER / "train.sbatch"), *train], env=environment | job, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoint-2" / "shards.json").is_file()
    assert main(["lm", "export", str(tmp_path / "run"), "-o", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "model.safetensors").is_file()
