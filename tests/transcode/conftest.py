"""Recordings to transcode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmcodec.io import audio

from ..pcm import speech_like


@pytest.fixture
def clip(tmp_path) -> Callable[..., Path]:
    """Writes a recording: clip("a.wav", 16000) -> its path."""

    def write(name: str, num_samples: int = 8000, rate: int = 16000, channels: int = 1, seed: int = 0, **how) -> Path:
        path = tmp_path / name
        audio.write(path, speech_like(num_samples, rate, channels, seed), rate, **how)
        return path

    return write


def read(path: Path) -> tuple[np.ndarray, int]:
    """(S,) for one channel, (S, C) for several, and the sample rate."""
    wav, rate = audio.read(path, mono=False)
    return (wav[:, 0] if wav.shape[1] == 1 else wav), rate
