"""examples/cluster: what the scripts call; the calls themselves run in tests/integration/test_cluster.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmcodec.data.manifest import read_manifest
from llmcodec.transcode import ray_parts
from llmcodec.transcode.tokenize import TokenJob

from ..miniature import miniature_speech
from ..transcode.test_merge import Loudness, shards
from ..transcode.test_ray_parts import Cluster

PLACE = Path(__file__).parents[2] / "examples" / "cluster"
sys.path.insert(0, str(PLACE))
import ray_tokenize  # noqa: E402

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def called(script: str, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and the command that a script has started or what it said."""
    for name in ("llmcodec", "srun", "scontrol"):
        # More names than a pipe holds: a reader that leaves after the first one would be noticed.
        line = "seq -f node%g 20000" if name == "scontrol" else f'echo {name} "$@"; echo threads "$OMP_NUM_THREADS"'
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("SHARDS", "OMP_NUM_THREADS")}
    done = subprocess.run(
        ["bash", str(PLACE / script), *arguments],
        env=kept | {"PATH": f"{folder}:{os.environ['PATH']}"} | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip()


@needs_bash
def test_a_task_of_an_array_knows_the_number_of_all_shards(tmp_path):
    task = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_CPUS_PER_TASK": "4"}
    code, said = called("tokenize.sbatch", tmp_path, "m.arrow", "a codec", "out", SHARDS="64", **task)
    assert said.splitlines() == [
        "llmcodec tokenize --manifest m.arrow --codec a codec -o out --max-bad 0 --shard 3/64",
        "threads 4",
    ]
    code, said = called("tokenize.sbatch", tmp_path, "m.arrow", "codec", "out", **task)
    assert code and "SHARDS: the number of all shards" in said


@needs_bash
@pytest.mark.parametrize("restarts", ["0", "1"])
def test_a_job_that_slurm_starts_again_is_resumed(tmp_path, restarts):
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "8"}
    job |= {"SLURM_CPUS_PER_TASK": "32", "SLURM_RESTART_COUNT": restarts}
    code, said = called("train.sbatch", tmp_path, "lm", "train", "--output", "run", **job)
    assert code == 0 and said.splitlines() == [
        "srun --kill-on-bad-exit=1 torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 7 "
        f"--rdzv-endpoint node1:29500 -m llmcodec lm train --output run{' --resume' * int(restarts)}",
        "threads 4",
    ]


def test_ray_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray_parts, "import_ray", lambda: Cluster(CPU=2))
    monkeypatch.setattr(ray_tokenize, "open_runtime", lambda codec, only: Loudness())
    manifest = miniature_speech(tmp_path / "speech")
    monkeypatch.setattr(sys, "argv", ["ray_tokenize.py", "--manifest", str(manifest), "-o", str(tmp_path / "ray")])
    ray_tokenize.main()
    TokenJob.of(Loudness(), read_manifest(manifest, min_seconds=0.5)).run(tmp_path / "one")
    assert shards(tmp_path / "ray") == shards(tmp_path / "one") != {}
    assert capsys.readouterr().out == f"{tmp_path / 'ray' / 'train'}: 6 clips, 4 s of audio\n"
