"""assets/: the bundled speech is whole, attributed, and inside the wheel."""

from __future__ import annotations

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


def test_unknown_splits_and_a_broken_installation_are_said(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="no split 'dev'"):
        speech_manifest("dev")
    monkeypatch.setattr("llmcodec.assets.files", lambda name: tmp_path)
    with pytest.raises(ValueError, match="reinstall llmcodec"):
        speech_manifest()


def test_the_wheel_carries_speech_and_licences(tmp_path):
    """Built offline from a copy of what git has, so that stray files of a working folder do not help."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "recipes", copy / "recipes")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    speech = speech_manifest().parent
    expected = {
        f"llmcodec/assets/speech/{path.relative_to(speech).as_posix()}" for path in speech.rglob("*") if path.is_file()
    }
    assert len(expected) == 196 and expected <= names
    assert {"llmcodec/recipes/quickstart.yaml", "llmcodec/assets/codec_tiny/model.safetensors"} <= names
    assert {"llmcodec/py.typed", "llmcodec/io/audio.py", "llmcodec/codec/fast/cpu_kernels.c"} <= names
    assert "llmcodec/report/report.html.jinja" in names
    assert "License-Expression: Apache-2.0 AND CC-BY-SA-3.0 AND CC-BY-3.0 AND BSD-2-Clause" in metadata
    assert "License-File: src/llmcodec/assets/speech/LICENSES.md" in metadata
