"""A small corpus of made-up talkers for the suite builder: every person has a pitch, every clip its own syllables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from llmcodec.io import audio

RATE = 16_000


def talk(pitch: float, seconds: float, seed: int) -> np.ndarray:
    """Syllables of a harmonic tone with pauses between them, a little noise, silence at both ends."""
    rng = np.random.default_rng(seed)
    num = int(seconds * RATE)
    t = np.arange(num) / RATE
    tone = sum(np.sin(2 * np.pi * k * pitch * t + rng.uniform(0, 6)) / k for k in range(1, 9))
    gates = np.repeat(rng.random(int(seconds * 8) + 1) > 0.3, RATE // 8)[:num].astype(float)
    gates[: RATE // 10] = gates[-RATE // 10 :] = 0
    smooth = np.convolve(gates, np.hanning(801) / np.hanning(801).sum(), "same")
    return (0.1 * smooth * tone + 0.0005 * rng.standard_normal(num)).astype(np.float32)


def make_corpus(folder: Path, people: dict[str, tuple[str, float]], clips_each: int = 24) -> Path:
    """people: speaker label -> (language, pitch). Half of the clips are test, half train. Returns the manifest."""
    rows = []
    for person, (label, (language, pitch)) in enumerate(people.items()):
        for number in range(clips_each):
            name = f"{label}-{number}"
            seconds = 2.6 + 0.1 * (number % 6)
            audio.write(folder / "audio" / f"{name}.flac", talk(pitch, seconds, 100 * person + number), RATE)
            rows.append(
                {
                    "id": name,
                    "audio": f"audio/{name}.flac",
                    "duration": seconds,
                    "speaker": label,
                    "language": language,
                    "source": "made-up",
                    "split": "test" if number % 2 else "train",
                }
            )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
