"""Encode and decode a set of clips and measure every reconstruction: rows per file, means with intervals, named
failures.

Shapes: S samples, Q codebooks, T frames. PESQ and STOI run in worker processes while the codec encodes the next clips.
Test: `pytest tests/unit/evaluation/test_reconstruction.py`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from llmcodec import audio
from llmcodec.codecs.protocol import Codec
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.codes import flatten_codes
from llmcodec.evaluation.metrics import (
    SAMPLE_RATE,
    SLOW_METRICS,
    Measured,
    load_metric_package,
    measure_fast,
    measure_slow,
)
from llmcodec.evaluation.stats import Interval, PairedComparison, bootstrap_mean, compare_paired


@dataclass(frozen=True)
class ClipRow:
    """One file: its metrics by name and its tokens."""

    id: str
    seconds: float
    metrics: dict[str, Measured]
    codes: Tensor
    """Flattened codes, 1-D int64 (`codes.flatten_codes`)."""


@dataclass(frozen=True)
class ReconstructionResult:
    """All rows of one codec."""

    rows: list[ClipRow]

    @property
    def metric_names(self) -> list[str]:
        return list(self.rows[0].metrics) if self.rows else []

    def values(self, metric: str) -> list[float]:
        """The measured values of one metric, failures left out."""
        measured = (row.metrics[metric].value for row in self.rows)
        return [value for value in measured if value is not None]

    def mean(self, metric: str) -> Interval:
        """Mean over the files where the metric could be measured, with a 95 % bootstrap interval."""
        return bootstrap_mean(self.values(metric))

    def failures(self, metric: str) -> dict[str, int]:
        """How many files failed, by reason."""
        return dict(Counter(row.metrics[metric].failure for row in self.rows if not row.metrics[metric].ok))

    def failed_ids(self, metric: str) -> list[str]:
        return [row.id for row in self.rows if not row.metrics[metric].ok]


def compare_reconstruction(a: ReconstructionResult, b: ReconstructionResult, metric: str) -> PairedComparison:
    """B against A on the files where both could be measured. Errors: ValueError unless both have the same files."""
    if [row.id for row in a.rows] != [row.id for row in b.rows]:
        raise ValueError("the two results are about different files: measure both on the same manifest")
    pairs = [(x.metrics[metric].value, y.metrics[metric].value) for x, y in zip(a.rows, b.rows, strict=True)]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return compare_paired([x for x, _ in both], [y for _, y in both])


def reconstruct(codec: Codec, wav_S: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """One clip at the codec's sample rate -> reconstruction of the same length, and codes (Q, T)."""
    with torch.no_grad():
        encoded = codec.encode(torch.as_tensor(wav_S, dtype=torch.float32)[None, None])
        decoded = codec.decode(encoded.audio_codes, length=wav_S.size)
    wav = decoded.audio_values[0, 0].float().cpu().numpy()
    if wav.size != wav_S.size:
        raise ValueError(f"the codec decoded {wav.size} samples where length={wav_S.size} was asked for")
    return wav, encoded.audio_codes[0].cpu()


def encode_clip(codec: Codec, clip: Clip) -> Tensor:
    """Flattened codes of one recording, 1-D int64."""
    wav_S = audio.load(clip.path, codec.sample_rate)
    with torch.no_grad():
        codes_QT = codec.encode(torch.as_tensor(wav_S, dtype=torch.float32)[None, None]).audio_codes[0].cpu()
    return flatten_codes(codes_QT, codec.codebook_size)


def evaluate_reconstruction(
    codec: Codec,
    clips: Sequence[Clip],
    *,
    num_workers: int | None = None,
    slow_metrics: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> ReconstructionResult:
    """Reconstruct and measure every clip, in the order given.

    Metrics compare 16 kHz signals; codecs with another rate are resampled on both sides. num_workers: processes for
    PESQ and STOI; None takes as many as there are free cores, at most 2; 0 measures in this process.
    slow_metrics=False leaves PESQ and STOI out. Errors: ValueError for no clips, unreadable audio, or metric packages
    that are not installed.
    """
    if not clips:
        raise ValueError("no clips to reconstruct: the manifest or the filter left none")
    if slow_metrics:
        for name in SLOW_METRICS:
            load_metric_package({"stoi": "pystoi"}.get(name, name))
    slow: list[Future[dict[str, Measured]] | dict[str, Measured]] = []
    fast: list[tuple[Clip, float, dict[str, Measured], Tensor]] = []
    with _workers(num_workers if slow_metrics else 0) as pool:
        for number, clip in enumerate(clips, start=1):
            wav_S = audio.load(clip.path, codec.sample_rate)
            decoded_S, codes_QT = reconstruct(codec, wav_S)
            pair = (_at_metric_rate(wav_S, codec.sample_rate), _at_metric_rate(decoded_S, codec.sample_rate))
            codes = flatten_codes(codes_QT, codec.codebook_size)
            fast.append((clip, wav_S.size / codec.sample_rate, measure_fast(*pair), codes))
            if not slow_metrics:
                slow.append({})
            else:
                slow.append(measure_slow(pair) if pool is None else pool.submit(measure_slow, pair))
            if on_progress is not None:
                on_progress(number / len(clips))
        measured = [item if isinstance(item, dict) else item.result() for item in slow]
    rows = [
        ClipRow(clip.id, seconds, {**quick, **late}, codes)
        for (clip, seconds, quick, codes), late in zip(fast, measured, strict=True)
    ]
    return ReconstructionResult(rows)


def _at_metric_rate(wav_S: np.ndarray, sample_rate: int) -> np.ndarray:
    return wav_S if sample_rate == SAMPLE_RATE else audio.resample(wav_S, sample_rate, SAMPLE_RATE)


@contextmanager
def _workers(num_workers: int | None) -> Iterator[Executor | None]:
    """A pool of processes, or None for none. Spawned, not forked: the parent may hold threads of torch."""
    if num_workers is None:
        idle = (os.cpu_count() or 1) - os.getloadavg()[0] if hasattr(os, "getloadavg") else 1
        num_workers = max(0, min(2, round(idle)))
    if num_workers < 1:
        yield None
        return
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        yield pool
