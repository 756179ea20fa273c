"""docs/tutorials/first_hour.md from the built wheel, in an empty folder: each line as it stands there, made small."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from llmcodec import assets
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio

ROOT = Path(__file__).parents[2]
SMALL = {
    "train": "--steps 2 --data.clips_per_batch 2",
    "lm train": "--steps 2 --model.small.hidden_size 32 --model.small.num_layers 1",
    "lm sample": "--seconds 1",
    "data salmon": "--pairs 10 --parts rir_consistency",
    "evaluate salmon": "--max-pairs 2",
    "compare": "--recordings 1 --measurement.likelihood.audio_seconds 40 --measurement.likelihood.num_evaluations 1 "
    "--measurement.reconstruction_clips 1 --measurement.slow_metrics false --measurement.consistency_clips 1",
}
"""What is added to a line of the page; everything that the page prints stays."""
SPEAKERS, CLIPS_OF_EACH = ("ana", "ben", "cleo", "dan"), 12


def lines_of_the_page() -> list[str]:
    (block,) = re.findall(
        r"```bash\n(.*?)```", (ROOT / "docs/tutorials/first_hour.md").read_text(encoding="utf-8"), re.DOTALL
    )
    return [line for line in block.splitlines() if line]


def record(folder: Path) -> None:
    """Somebody's speech: bundled clips under other names."""
    spoken: dict[str, list[Clip]] = defaultdict(list)
    for clip in read_manifest(assets.speech_manifest()):
        spoken[clip.speaker or ""].append(clip)
    for name, clips in zip(SPEAKERS, spoken.values(), strict=False):
        (folder / name).mkdir(parents=True)
        for number, clip in enumerate(sorted(clips, key=lambda one: -one.duration)[:CLIPS_OF_EACH]):
            audio.write(folder / name / f"{number}.wav", clip.load(16000), 16000)


@pytest.mark.slow
def test_the_page_runs_from_the_wheel_as_it_stands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    home = tmp_path / "empty"
    record(home / "speech")
    spoken = sorted(home.glob("speech/*/*.wav"))
    places = {"PYTHONPATH": str(tmp_path / "site"), "LLMCODEC_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    for line in lines_of_the_page():
        assert "--codec" not in line.partition("lm train")[2]
        words = shlex.split(line)[1:]
        name = next((known for known in SMALL if words[: len(known.split())] == known.split()), "")
        done = subprocess.run(
            [sys.executable, "-m", "llmcodec", *words, *shlex.split(SMALL.get(name, ""))],
            cwd=home,
            env=os.environ | places,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
    assert len(read_manifest(home / "corpus")) == len(spoken)
    run = json.loads((home / "runs/mine/run.json").read_text())
    assert Path(run["recipe"]["data"]["manifest"]).name == "corpus" and run["recipe"]["weights"]["rate"]
    with open(home / "scores.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["nats_per_token"]) < 12
    (sample,) = home.glob("samples/*.wav")
    assert audio.info(sample).seconds > audio.info(home / "speech/ana/0.wav").seconds + 0.9
    (result,) = json.loads((home / "salmon.json").read_text())["codecs"].values()
    assert result
    assert list(json.loads((home / "report.json").read_text())) == ["bundled", "mine"]
    assert "<audio" in (home / "report.html").read_text(encoding="utf-8")
    assert len(list(home.glob("codes/*/*.safetensors"))) == len(spoken)
    written = "corpus runs tokens scores.csv samples suite exported codes"
    reports = ("salmon.json", "salmon.md", "report.html", "report.json", "report.md")
    left = {path.name for path in home.iterdir()}
    assert left == {"speech", *written.split(" "), *reports}, "nothing that the page does not name"
