"""Shared pieces of the evaluation tests: a codec without weights and a few short recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from llmcodec.data.manifest import Clip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Harmonics under a syllable-rate envelope plus a little noise: enough for PESQ and STOI to find speech."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16_000)) / 16_000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 3.1 * t + seed), 0, None)
    return (0.1 * envelope * tone + 0.001 * rng.standard_normal(t.size)).astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Four recordings of 1 to 2.5 s."""
    made = []
    for index, seconds in enumerate((1.0, 1.5, 2.0, 2.5)):
        soundfile.write(tmp_path / f"{index}.flac", speech_like(seconds, index), 16_000)
        made.append(Clip(id=f"clip-{index}", audio=f"{index}.flac", duration=seconds, folder=str(tmp_path)))
    return made
