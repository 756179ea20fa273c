"""benchmarks/gpu_proof.sh: its time, and its training step in miniature."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_all_parts_take_less_than_nine_minutes_together():
    script = (BENCHMARKS / "gpu_proof.sh").read_text(encoding="utf-8")
    parts = {
        name: int(limit)
        for name, limit in re.findall(r"^ *part (\w+) (\d+) ", script.split("exit $failed\nfi")[1], re.M)
    }
    assert set(parts) == {"device", "step", "tests", "codecs", "lm", "reference"}
    assert sum(parts.values()) < 9 * 60
    for path in re.findall(r"(?:benchmarks|tests)/[\w/]+\.py", script):
        assert (BENCHMARKS.parent / path).is_file(), path


@pytest.mark.slow
def test_the_training_step_in_miniature(tmp_path):
    figures = tmp_path / "step.json"
    command = [sys.executable, "gpu_step.py", "--miniature", "--clips", "2", "--repeats", "1", "--json", figures]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(figures.read_text())
    assert found["seconds"][0] > 0 and found["peak_bf16_tflops"] > 0 and found["tflop_a_step"] > 0
    assert found["share_of_peak"] > 0
    assert {"lm/ftp", "recon/mel"} <= set(found["resume"])
    assert all(before == after for before, after in found["resume"].values()), "the resumed step differs"
