"""benchmarks/part.py and all.sh: what is final and what is not, tables as JSON, limits, parts that run again."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import part

FOLDER = Path(part.__file__).parent
TABLE = "words\n| codec | speed |\n|---|---:|\n| tiny | 8.0 |\n| ours | 4.0 |\n\n| other |\n|---|\n| x |\n"


@pytest.fixture
def quiet(monkeypatch):
    """Processor seconds of the whole machine, as the test sets them."""
    used = [100.0]
    monkeypatch.setattr(part, "used_seconds", lambda: used[0])
    monkeypatch.delenv("MINIATURE", raising=False)
    return used


def test_a_quiet_run_is_final_and_holds_machine_versions_load_and_tables(quiet, tmp_path):
    script = f"import pathlib; print({TABLE!r}); pathlib.Path({str(tmp_path)!r}, 'a.figures.json').write_text('[7]')"
    part.run(tmp_path, "a", 60, [sys.executable, "-c", script])
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["state"] == "final" and found["figures"] == [7] and found["exit"] == 0
    rows = [{"codec": "tiny", "speed": "8.0"}, {"codec": "ours", "speed": "4.0"}]
    assert found["tables"] == [rows, [{"other": "x"}]]
    assert found["machine"]["cores"] >= 1 and found["versions"]["numpy"] and len(found["load"]["average_before"]) == 3
    assert part.is_final(tmp_path, "a") and not part.is_final(tmp_path, "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.log"]
    assert "Not for publication" not in part.summary(tmp_path) and "| tiny | 8.0 |" in part.summary(tmp_path)


def test_what_others_use_while_it_runs_makes_it_busy(quiet, monkeypatch, tmp_path):
    seen, own = iter([100.0, 200.0]), iter([1.0, 100.5])
    monkeypatch.setattr(part, "used_seconds", lambda: next(seen))
    monkeypatch.setattr(part, "own_seconds", lambda: next(own))
    found = part.run(tmp_path, "a", 60, [sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert found["state"] == "busy", "0.5 of the 100 seconds are not its own, and it took 0.3"
    assert 0.05 < found["load"]["others_cores"] < 1.7
    assert "**Not for publication.**" in part.summary(tmp_path) and not part.is_final(tmp_path, "a")


def test_failures_and_limits_are_never_final(quiet, monkeypatch, tmp_path):
    assert part.run(tmp_path, "a", 60, [sys.executable, "-c", "raise SystemExit(3)"])["state"] == "failed"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began = time.monotonic()
    assert part.run(tmp_path, "a", 1, [sys.executable, "-c", child])["state"] == "cut off"
    assert time.monotonic() - began < 30
    monkeypatch.setenv("MINIATURE", "1")
    assert part.run(tmp_path, "a", 60, [sys.executable, "-c", ""])["state"] == "miniature"


def test_the_counters_of_this_machine():
    before, own = part.used_seconds(), part.own_seconds()
    if before is None:
        pytest.skip("no /proc/stat")
    sum(range(3_000_000))
    assert part.used_seconds() >= before > 0 and part.own_seconds() > own > 0


def test_all_parts_fit_into_an_hour_and_run_again_one_by_one(tmp_path):
    text = (FOLDER / "all.sh").read_text()
    parts = re.findall(r"^part (\w+) (\d+) (\w+\.py)", text, re.M)
    assert len(parts) > 12 and sum(int(limit) for _, limit, _ in parts) <= 3600
    assert all((FOLDER / script).is_file() for *_, script in parts)
    assert text.count(" --small") - 1 == len(parts), "each has its miniature"
    command = ["bash", str(FOLDER / "all.sh"), str(tmp_path / "out"), "onnx", "lm"]
    said = {"PYTHON": "echo", "PATH": "/usr/bin:/bin"}
    wrong = subprocess.run([*command, "codecs"], env=said, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("no part codecs; there are: codec_10s ")
    for small, line in (("", "benchmarks/onnx_parity.py --int8"), ("1", "onnx_parity.py --int8 --clips 1 --repeats 1")):
        done = subprocess.run(command, env=said | {"MINIATURE": small}, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        assert (
            len(lines) == 3
            and lines[0].endswith(line)
            and " lm " in lines[1]
            and lines[2].endswith(str(tmp_path / "out"))
        )
