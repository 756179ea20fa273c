"""Decoding to 16 kHz mono float32 and trimming of silence. S samples."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import resample_poly

SAMPLE_RATE = 16000


def read_file(path: Path) -> np.ndarray:
    """(S,) of a file that libsndfile knows."""
    wav, sample_rate = sf.read(path, dtype="float32", always_2d=True)
    return _to_16k(wav.mean(1), sample_rate)


def read_container(content: bytes, container: str) -> np.ndarray:
    """(S,) of bytes that FFmpeg knows, such as headerless G.722 (`g722`)."""
    import av

    with av.open(io.BytesIO(content), "r", format=container) as file:
        parts = []
        for frame in file.decode(audio=0):
            wav = frame.to_ndarray()
            if wav.dtype == np.int16:
                wav = wav.astype(np.float32) / 32768.0
            parts.append(wav.reshape(-1) if wav.shape[0] == 1 else wav.mean(0))
        wav = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return _to_16k(wav, file.streams.audio[0].rate)


def _to_16k(wav_S: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate != SAMPLE_RATE and len(wav_S):
        common = math.gcd(sample_rate, SAMPLE_RATE)
        wav_S = resample_poly(wav_S, SAMPLE_RATE // common, sample_rate // common)
    return wav_S.astype(np.float32)


def trim(wav_S: np.ndarray, keep_seconds: float = 0.10, floor_db: float = -45.0, hop: int = 160) -> np.ndarray:
    """Cut silence at both ends, leaving `keep_seconds` of it; silence is `floor_db` below the loudest 10 ms."""
    num_hops = len(wav_S) // hop
    if num_hops < 5:
        return wav_S
    level = 10 * np.log10(np.square(wav_S[: num_hops * hop].reshape(num_hops, hop)).mean(1) + 1e-12)
    loud = np.where(level > max(level.max() + floor_db, -60.0))[0]
    if len(loud) == 0:
        return wav_S[:0]
    keep = int(keep_seconds * SAMPLE_RATE)
    return wav_S[max(0, loud[0] * hop - keep) : min(len(wav_S), (loud[-1] + 1) * hop + keep)]
