"""Measure many pairs of signals in parallel processes.

A `Job` is one pair (arrays, or paths that the worker reads), a `ClipRow` its measurements. Workers import numpy, not
torch. Test: tests/evaluation/test_workers.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import Literal

import numpy as np

from llmcodec.evaluation import wer
from llmcodec.evaluation.wer import WordRow
from llmcodec.io import audio
from llmcodec.io.digests import digest
from llmcodec.metrics.base import Measured
from llmcodec.metrics.registry import measure_pair

MAX_TRIM_SECONDS = 0.25
"""Codecs may add or lose part of a frame: pairs that differ by at most this are cut to the shorter of the two."""

Lengths = Literal["cut", "superb"]
"""Pairs of unequal length: `cut` to the shorter signal, or zeros behind the shorter one, as Codec-SUPERB has it."""


@dataclass(frozen=True)
class ClipRow:
    """One file: its metrics by name and its tokens."""

    id: str
    seconds: float = 0.0
    """Length of the recording."""
    metrics: dict[str, Measured] = field(default_factory=dict)
    codes: tuple[int, ...] = ()
    """Flattened codes (`token_statistics.flatten_codes`); bytes of a codec without tokens; none for other audio."""
    domain: str = ""
    reference: str = ""
    """Path of the recording."""
    reconstruction: str = ""
    """Path of the reconstruction, if it is a file."""
    words: WordRow | None = None
    """Word errors, if a recogniser was requested and the clip has a transcript."""
    no_words: str = ""
    """Why there are none, where there should be."""


@dataclass(frozen=True)
class Job:
    """One pair to measure."""

    key: str
    """Names pair, codec and settings: equal keys have equal results."""
    row: ClipRow
    """The row before it is measured; metrics that it has already stay."""
    reference: np.ndarray | str
    """float32 (S,), or the path of a file."""
    reconstruction: np.ndarray | str
    sample_rate: int
    """Of the arrays; files are compared at the reference file's own rate."""
    metrics: tuple[str, ...]
    text: str = ""
    """Transcript; empty: no word errors."""
    language: str = "en"
    asr: str | None = None
    lengths: Lengths = "cut"


def job_key(*parts: object) -> str:
    """16 hex digits of everything that decides a row."""
    return digest(json.dumps([str(part) for part in parts]))


def run_job(job: Job) -> tuple[str, ClipRow]:
    """Measure one pair; a file that cannot be read, or lengths that do not fit, fail every metric by name."""
    try:
        recording_S, made_S, sample_rate = _signals(job)
    except ValueError as error:
        failed = {name: Measured(None, str(error)) for name in job.metrics}
        no_words = str(error) if job.asr is not None and job.text else ""
        return job.key, replace(job.row, metrics=failed | job.row.metrics, no_words=no_words)
    reference_S, reconstruction_S = equal_lengths(recording_S, made_S, job.lengths)
    words = None
    if job.asr is not None and job.text:
        spoken_S = audio.resample(reconstruction_S, sample_rate, wer.ASR_RATE)
        heard = wer.recognise(wer.load_transcriber(job.asr), spoken_S, job.language)
        words = wer.word_row(job.row.id, job.text, heard, job.language)
    metrics = measure_pair(reference_S, reconstruction_S, sample_rate, job.metrics) | job.row.metrics
    seconds = min(recording_S.size, reference_S.size) / sample_rate
    return job.key, replace(job.row, seconds=seconds, metrics=metrics, words=words)


def equal_lengths(first_S: np.ndarray, second_S: np.ndarray, lengths: Lengths) -> tuple[np.ndarray, np.ndarray]:
    """Two signals of one length: both cut to the shorter one, or zeros behind the shorter one."""
    if lengths == "cut":
        length = min(first_S.size, second_S.size)
        return first_S[:length], second_S[:length]
    length = max(first_S.size, second_S.size)
    padded = [np.pad(wav_S, (0, length - wav_S.size)) for wav_S in (first_S, second_S)]
    return padded[0], padded[1]


def _signals(job: Job) -> tuple[np.ndarray, np.ndarray, int]:
    """Both signals at one rate and of one length. Raises ValueError if that is impossible."""
    sample_rate = job.sample_rate
    reference, reconstruction = job.reference, job.reconstruction
    if isinstance(reference, str):
        reference, sample_rate = audio.read(reference)
    if isinstance(reconstruction, str):
        reconstruction = audio.load(reconstruction, sample_rate)
    if abs(reference.size - reconstruction.size) > MAX_TRIM_SECONDS * sample_rate:
        raise ValueError(
            f"the reference lasts {reference.size / sample_rate:.2f} s, the reconstruction "
            f"{reconstruction.size / sample_rate:.2f} s: not the same recording"
        )
    return reference, reconstruction, sample_rate


def measure_jobs(jobs: Iterable[Job], num_workers: int | None) -> Iterator[tuple[str, ClipRow]]:
    """Yield keys and rows as they are ready, in any order.

    Args:
        jobs: taken as workers become free, so it may be a generator that decodes audio.
        num_workers: processes; None takes as many as there are free cores, 0 measures in this process.
    """
    if num_workers is None:
        num_workers = free_cores()
    if num_workers < 1:
        yield from map(run_job, jobs)
        return
    # One thread each: the processes are the parallelism.
    with (
        _environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        ProcessPoolExecutor(num_workers, mp_context=_processes()) as pool,
    ):
        pending: set[Future[tuple[str, ClipRow]]] = set()
        for job in jobs:
            pending.add(pool.submit(run_job, job))
            if len(pending) >= 4 * num_workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _processes() -> BaseContext:
    """Processes from a fork server that has imported what a worker needs: here torch may hold threads."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    # Those not installed are skipped.
    context.set_forkserver_preload([__name__, "parselmouth", "scipy.fft"])
    return context


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_cores(limit: int = 8) -> int:
    """Cores that are idle now, at most `limit`; 0 if all are busy."""
    idle = (os.cpu_count() or 1) - os.getloadavg()[0] if hasattr(os, "getloadavg") else 1
    return max(0, min(limit, round(idle)))
