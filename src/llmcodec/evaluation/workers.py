"""Measure many pairs in parallel processes, keep every result as it comes, and go on where a killed run stopped.

A `Job` is one pair of signals (arrays, or paths that the worker reads), an `Outcome` what was measured. A `Journal` is
a JSONL file with one outcome per line, looked up by the job's key. Workers import numpy, not torch.
Test: `pytest tests/evaluation/test_workers.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcodec.io import audio
from llmcodec.io.digests import digest
from llmcodec.io.structured import parse_json
from llmcodec.metrics.base import Measured
from llmcodec.metrics.registry import measure_pair

if TYPE_CHECKING:
    from llmcodec.evaluation.wer import WordRow

MAX_TRIM_SECONDS = 0.25
"""Codecs may add or lose part of a frame: pairs that differ by at most this are cut to the shorter of the two."""


@dataclass(frozen=True)
class Job:
    """One pair to measure."""

    key: str
    """Names pair, codec and settings: equal keys have equal outcomes."""
    id: str
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
    codes: tuple[int, ...] = ()
    """Carried along into the outcome."""


@dataclass(frozen=True)
class Outcome:
    """What was measured of one job."""

    key: str
    id: str
    seconds: float
    """Length of the reference."""
    metrics: dict[str, Measured]
    words: WordRow | None = None
    codes: tuple[int, ...] = ()


def job_key(*parts: object) -> str:
    """16 hex digits of everything that decides an outcome."""
    return digest(json.dumps([str(part) for part in parts]))


def run_job(job: Job) -> Outcome:
    """Measure one pair; a file that cannot be read, or lengths that do not fit, fail every metric by name."""
    try:
        reference_S, reconstruction_S, sample_rate = _signals(job)
    except ValueError as error:
        return Outcome(
            job.key, job.id, 0.0, {name: Measured(None, str(error)) for name in job.metrics}, None, job.codes
        )
    words = None
    if job.asr is not None and job.text:
        from llmcodec.evaluation.wer import ASR_RATE, load_transcriber, word_row

        heard = load_transcriber(job.asr)(audio.resample(reconstruction_S, sample_rate, ASR_RATE))
        words = word_row(job.id, job.text, heard, job.language)
    metrics = measure_pair(reference_S, reconstruction_S, sample_rate, job.metrics)
    return Outcome(job.key, job.id, reference_S.size / sample_rate, metrics, words, job.codes)


def _signals(job: Job) -> tuple[np.ndarray, np.ndarray, int]:
    """Both signals at one rate and of one length. Raises ValueError where that cannot be had."""
    sample_rate = job.sample_rate
    reference, reconstruction = job.reference, job.reconstruction
    if isinstance(reference, str):
        reference, sample_rate = audio.read(reference)
    if isinstance(reconstruction, str):
        reconstruction = audio.load(reconstruction, sample_rate)
    length = min(reference.size, reconstruction.size)
    if abs(reference.size - reconstruction.size) > MAX_TRIM_SECONDS * sample_rate:
        raise ValueError(
            f"the reference lasts {reference.size / sample_rate:.2f} s, the reconstruction "
            f"{reconstruction.size / sample_rate:.2f} s: not the same recording"
        )
    return reference[:length], reconstruction[:length], sample_rate


def measure_jobs(jobs: Iterable[Job], num_workers: int) -> Iterator[Outcome]:
    """Outcomes as they are ready, in any order. num_workers: 0 measures in this process.

    Jobs are taken from the iterable as workers become free, so it may be a generator that decodes audio.
    """
    if num_workers < 1:
        yield from map(run_job, jobs)
        return
    # One thread each: the processes are the parallelism.
    with (
        _environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        ProcessPoolExecutor(num_workers, mp_context=_processes()) as pool,
    ):
        pending: set[Future[Outcome]] = set()
        for job in jobs:
            pending.add(pool.submit(run_job, job))
            if len(pending) >= 4 * num_workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def _processes() -> BaseContext:
    """Never forked from here, where torch may hold threads; from a server that has imported what a worker needs."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    # Those not installed are passed over.
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
    """Cores that nobody uses now, at most `limit`; 0 where all are busy."""
    idle = (os.cpu_count() or 1) - os.getloadavg()[0] if hasattr(os, "getloadavg") else 1
    return max(0, min(limit, round(idle)))


@dataclass
class Journal:
    """Outcomes on disk, appended as they come; `path=None` keeps them in memory alone."""

    path: Path | None = None
    known: dict[str, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            outcome = _parse(line)
            if outcome is not None:
                self.known[outcome.key] = outcome

    def add(self, outcome: Outcome) -> None:
        """Remember an outcome; it is on disk when this returns (a crash of the machine may lose the last ones)."""
        self.known[outcome.key] = outcome
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")  # a line cut by a kill stays alone
            file.write(json.dumps(_row(outcome), ensure_ascii=False).encode() + b"\n")


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"key": outcome.key, "id": outcome.id, "seconds": outcome.seconds}
    row["metrics"] = {name: m.value if m.ok else {"failure": m.failure} for name, m in outcome.metrics.items()}
    if outcome.words is not None:
        row["words"] = vars(outcome.words)
    if outcome.codes:
        row["codes"] = list(outcome.codes)
    return row


def _parse(line: str) -> Outcome | None:
    """A line of the journal, or None for one that was cut short or is something else."""
    from llmcodec.evaluation.wer import WordRow

    try:
        row = parse_json(line, "")
        metrics = {
            name: Measured(None, value["failure"]) if isinstance(value, Mapping) else Measured(float(value))
            for name, value in row["metrics"].items()
        }
        words = WordRow(**row["words"]) if "words" in row else None
        codes = tuple(int(code) for code in row.get("codes", ()))
        return Outcome(row["key"], row["id"], float(row["seconds"]), metrics, words, codes)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        return None


def in_order(keys: Sequence[str], journal: Journal) -> list[Outcome]:
    """The outcomes of these jobs. All of them must be known."""
    return [journal.known[key] for key in keys]
