"""The README's Python example and its shell lines for coding run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from llmcodec import assets
from llmcodec.cli.main import main
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.io.token_file import load_token_file

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def speech(tmp_path, monkeypatch) -> np.ndarray:
    """speech.wav, 1.3 s at 44.1 kHz, in the current folder."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    clip = next(one for one in read_manifest(assets.speech_manifest("test")) if one.duration > 1.3)
    wav = audio.load(clip.path, 44100)[: round(1.3 * 44100)]
    audio.write("speech.wav", wav, 44100)
    return wav


def test_the_python_example(speech, tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    statements = [line for line in example.splitlines() if line.strip() and "import" not in line]
    assert len(statements) <= 6
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    again, rate = audio.read(tmp_path / "again.wav")
    expected = audio.resample(speech, 44100, rate)
    assert rate == names["codec"].sample_rate and len(again) == len(expected)
    assert names["codes"].shape == (1, 1, -(-len(expected) // 320))
    assert np.corrcoef(spectrum(again), spectrum(expected))[0, 1] > 0.8  # it is that speech, not noise


def test_the_shell_lines(speech, tmp_path, monkeypatch):
    section = README.partition("## Encode and decode")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith(("llmcodec encode", "llmcodec decode"))]
    assert len(lines) >= 2
    Path("speech").mkdir()
    Path("speech.wav").rename("speech/one.wav")
    for line in lines:
        assert main(shlex.split(line.partition("#")[0])[1:]) == 0
    clip, _ = load_token_file("tokens/one.safetensors")
    assert clip.original_num_samples == len(speech) and clip.codes.shape[2] == 65
    again, rate = audio.read("again/one.wav")
    assert rate == 44100 and len(again) == len(speech)
    assert np.corrcoef(spectrum(again), spectrum(speech))[0, 1] > 0.8


def spectrum(wav: np.ndarray) -> np.ndarray:
    """Log power in 40 equal parts of the band below 4 kHz over 20 stretches of time."""
    parts = np.array_split(wav, 20)
    power = [np.abs(np.fft.rfft(part)) ** 2 for part in parts]
    return np.log([[band.mean() + 1e-6 for band in np.array_split(one[: len(one) // 2], 40)] for one in power]).ravel()
