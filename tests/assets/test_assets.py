"""assets/: the bundled speech is whole, attributed, and inside the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from llmcodec.assets import SPEECH_SPLITS, speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

ROOT = Path(__file__).parents[2]


def test_every_clip_is_there_as_its_manifest_says():
    clips = read_manifest(speech_manifest())
    for clip in clips:
        header = audio.info(clip.path)
        assert (header.sample_rate, header.num_channels, header.format) == (16000, 1, "FLAC")
        assert header.seconds == pytest.approx(clip.duration, abs=1e-3)
    assert len(clips) == 191 and all(clip.text and clip.speaker and clip.license for clip in clips)
    parts = [read_manifest(speech_manifest(split)) for split in SPEECH_SPLITS]
    assert sorted(clip.id for part in parts for clip in part) == [clip.id for clip in clips]
    for name, part in zip(SPEECH_SPLITS, parts, strict=True):
        assert {clip.split for clip in part} == {name}


def test_no_sentence_is_in_train_and_test():
    texts = {split: {clip.text for clip in read_manifest(speech_manifest(split))} for split in SPEECH_SPLITS}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["valid"]


def test_every_source_is_credited_and_may_be_bundled():
    licences = (speech_manifest().parent / "LICENSES.md").read_text(encoding="utf-8")
    sources = Counter((clip.source, clip.language, clip.license) for clip in read_manifest(speech_manifest()))
    for source, language, licence in sources:
        assert f"- {source} ({language}): {licence}" in licences
        assert licence.startswith(("CC-BY-3.0", "CC-BY-SA-3.0", "BSD-2-Clause"))
    assert "Carnegie Mellon University. All rights reserved." in licences, "BSD: binary forms reproduce the notice"
    assert "THIS SOFTWARE IS PROVIDED BY CARNEGIE MELLON" in licences and "2. Redistributions in binary" in licences


def test_unknown_splits_and_a_broken_installation_are_said(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no split 'dev'"):
        speech_manifest("dev")
    monkeypatch.setattr("llmcodec.assets.files", lambda name: tmp_path)
    with pytest.raises(ValueError, match="reinstall llmcodec"):
        speech_manifest()


def build_wheel(folder: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has, so that stray files of a working folder do not help."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "recipes", copy / "recipes")
    shutil.copytree(ROOT / "packaging", copy / "packaging")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return copy


def test_the_wheel_carries_speech_graphs_and_licences_in_60_mb(tree: Path, tmp_path: Path):
    """Built offline. Prints its parts: `pytest -s`."""
    wheel = build_wheel(tree, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        parts: Counter[str] = Counter()
        for one in archive.infolist():
            parts["/".join(one.filename.split("/")[1:3])] += one.compress_size
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    for part, size in parts.most_common(8):
        print(f"{size / 1e6:6.2f} MB  {part}")
    print(f"{wheel.stat().st_size / 1e6:6.2f} MB  {wheel.name}")
    assert wheel.stat().st_size < 60e6
    speech = speech_manifest().parent
    expected = {
        f"llmcodec/assets/speech/{path.relative_to(speech).as_posix()}" for path in speech.rglob("*") if path.is_file()
    }
    assert len(expected) == 196 and expected <= names
    graphs = {f"llmcodec/assets/codec_base/{name}" for name in ("encoder.onnx", "decoder.onnx", "digests.json")}
    assert {"llmcodec/cli/help.json", *graphs} <= names and "Requires-Dist: onnxruntime" in metadata
    assert {"llmcodec/recipes/quickstart.yaml", "llmcodec/assets/codec_base/model.safetensors"} <= names
    assert {"llmcodec/py.typed", "llmcodec/io/audio.py", "llmcodec/codec/fast/cpu_kernels.c"} <= names
    assert "llmcodec/report/report.html.jinja" in names
    assert "License-Expression: Apache-2.0 AND CC-BY-SA-3.0 AND CC-BY-3.0 AND BSD-2-Clause" in metadata
    assert "License-File: src/llmcodec/assets/speech/LICENSES.md" in metadata


WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "accelerate", "matplotlib", "jinja2", "huggingface_hub"):
    sys.modules[name] = None
from llmcodec.cli.main import main
sys.exit(main())
"""


def test_the_runtime_wheel_codes_without_torch(tree: Path, tmp_path: Path):
    """Its content alone is imported; commands that it lacks end in one line."""
    wheel = build_wheel(tree / "packaging/runtime", tmp_path / "dist")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert "Requires-Dist: onnxruntime" in metadata
    assert "Name: llmcodec-runtime" in metadata and "Requires-Dist: torch" not in metadata
    assert wheel.stat().st_size < 20e6

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
        return subprocess.run(code, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    clip = read_manifest(speech_manifest())[0].path
    for arguments in (
        ["encode", clip, "-o", "a.safetensors"],
        ["decode", "a.safetensors", "-o", "a.wav"],
        ["reconstruct", clip, "-o", "b.wav"],
    ):
        done = run(*map(str, arguments))
        assert done.returncode == 0 and "by ONNX Runtime: " in done.stderr, done.stderr
    assert audio.info(tmp_path / "a.wav").seconds == audio.info(clip).seconds
    for command in (["train"], ["compare", "bundled"], ["export", "bundled", "-o", "x"], ["lm", "score", "a", "b"]):
        done = run(*command)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "llmcodec-runtime has no such part, `pip install llmcodec` does" in done.stderr
