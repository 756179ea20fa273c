"""How faithful a codec's reconstructions are: rows per file, means with intervals, named failures.

    result = measure_reconstruction(encoded, clips)
    print(result.mean("mel").format(), result.failures("pesq"))

Worker processes measure while the codec decodes the next clips. Shapes: S samples, Q codebooks, T frames.
Test: tests/evaluation/test_reconstruction.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec._compat import forward
from llmcodec.adapters.features.clap import load_clap
from llmcodec.data.manifest import Clip
from llmcodec.data.member import AudioPath
from llmcodec.evaluation import wer
from llmcodec.evaluation.cache import Journal, model_state
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.wer import WordRow
from llmcodec.evaluation.workers import ClipRow, Job, Lengths, job_key, measure_jobs
from llmcodec.io import audio
from llmcodec.io.remote.paths import look_for, shown
from llmcodec.metrics.base import Measured
from llmcodec.metrics.registry import CLAP, SUPERB, check_metrics
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_mean, compare_paired
from llmcodec.protocol import device_of
from llmcodec.runtime.torch_runtime import fingerprint

__getattr__ = forward(__name__, dict.fromkeys(("encode_clip", "evaluate_reconstruction"), "llmcodec._compat"))


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
        """Mean over the files for which the metric could be measured, with a 95 % bootstrap interval."""
        return bootstrap_mean(self.values(metric))

    def failures(self, metric: str) -> dict[str, int]:
        """How many files failed, by reason; `wer`: of those that have a transcript."""
        if metric == "wer":
            return dict(Counter(row.no_words for row in self.rows if row.no_words))
        return dict(Counter(row.metrics[metric].failure for row in self.rows if not row.metrics[metric].ok))

    def failed_ids(self, metric: str) -> list[str]:
        """Of files that failed."""
        return [row.id for row in self.rows if (row.no_words if metric == "wer" else not row.metrics[metric].ok)]

    @property
    def words(self) -> list[WordRow]:
        """Word errors of the clips that were recognised."""
        return [row.words for row in self.rows if row.words is not None]

    @property
    def domains(self) -> list[str]:
        return sorted({row.domain for row in self.rows})

    def of_domain(self, domain: str) -> ReconstructionResult:
        """The rows of one domain."""
        return ReconstructionResult([row for row in self.rows if row.domain == domain])


def compare_reconstruction(a: ReconstructionResult, b: ReconstructionResult, metric: str) -> PairedComparison:
    """B against A on the files for which both could be measured. Raises ValueError unless both have the same files."""
    if [row.id for row in a.rows] != [row.id for row in b.rows]:
        raise ValueError("the two results cover different files: measure both on the same manifest")
    pairs = [(x.metrics[metric].value, y.metrics[metric].value) for x, y in zip(a.rows, b.rows, strict=True)]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return compare_paired([x for x, _ in both], [y for _, y in both])


def measure_reconstruction(
    encoded: EncodedCorpus,
    clips: Sequence[Clip],
    *,
    metrics: Sequence[str] = SUPERB,
    asr: str | None = None,
    asr_languages: Sequence[str] = ("en",),
    clap: str | None = None,
    num_workers: int | None = None,
    journal: Journal | None = None,
    domain: str = "source",
    lengths: Lengths = "cut",
    on_progress: Callable[[float], None] | None = None,
) -> ReconstructionResult:
    """Measure the reconstruction of every clip, in the order given.

    Signals are compared at the recording's own sample rate, as Codec-SUPERB does; a codec with another rate gets a
    resampled copy, and its output is resampled back.

    Args:
        encoded: the codec and its earlier results.
        clips: those that the journal does not know are decoded.
        metrics: names from `registry.METRICS`.
        asr: recogniser for word errors (`wer.load_transcriber`); None leaves them out.
        asr_languages: languages of the recogniser.
        clap: hub id or folder of a CLAP for the similarity of recording and reconstruction; it runs in this process, on
            the codec's device.
        num_workers: processes that measure; None takes as many as there are free cores, 0 measures in this process.
        journal: rows kept from earlier, looked up by the codec's weights.
        domain: field of the manifest by which tables are split.
        lengths: what happens to reconstructions that are longer or shorter than their recording.

    Raises:
        ValueError: no clips, unreadable audio, unknown metrics, packages that are not installed, or a recogniser and no
            clip for it (`wer.check_spoken`).
    """
    if not clips:
        raise ValueError("no clips to reconstruct: the manifest or the filter left none")
    names = tuple(metrics)
    spoken, more = _heard(clips, asr, asr_languages)
    weights = fingerprint(encoded.codec)
    heard = () if clap is None else (f"clap {model_state(clap)}",)
    settings = (names, model_state(asr), asr_languages, *length_key(lengths), *heard)
    listener = None if clap is None else load_clap(clap, str(device_of(encoded.codec)))
    keys = [
        job_key(weights, clip.id, *_state(clip), clip.text, clip.language, *settings, *language)
        for clip, language in zip(clips, more, strict=True)
    ]

    def jobs(waiting: Sequence[int]) -> Iterator[Job]:
        decoded = encoded.reconstructions(clips[i] for i in waiting)
        for i, (clip, decoded_S) in zip(waiting, decoded, strict=True):
            reference_S, rate = encoded.recording(clip)
            decoded_S = audio.resample(decoded_S, encoded.codec.sample_rate, rate)
            if abs(decoded_S.size - reference_S.size) <= 2:  # rounding of two resamplings
                decoded_S = np.pad(decoded_S, (0, max(0, reference_S.size - decoded_S.size)))[: reference_S.size]
            row = ClipRow(clip.id, codes=encoded.sent(clip), reference=str(clip.path))
            if listener is not None:
                alike = listener.similarity(reference_S, decoded_S, rate)
                row = replace(row, metrics={CLAP.key: Measured.of(alike, CLAP.label)})
            text, language = clip.text if clip in spoken else "", clip.language or asr_languages[0]
            yield Job(keys[i], row, reference_S, decoded_S, rate, names, text, language, asr, lengths)

    known = journal if weights is not None else None  # without a fingerprint nothing can be looked up
    rows = measure_missing(keys, jobs, names, asr, num_workers, known, on_progress)
    domains = [str(getattr(clip, domain, "") or "") for clip in clips]
    return ReconstructionResult([replace(row, domain=name) for row, name in zip(rows, domains, strict=True)])


def _heard(clips: Sequence[Clip], asr: str | None, languages: Sequence[str]) -> tuple[set[Clip], list[tuple[str, ...]]]:
    """Clips to be recognised, and what their languages add to the keys of all. Raises ValueError where none is."""
    if asr is None:
        return set(), [()] * len(clips)
    spoken, recogniser = set(wer.check_spoken(clips, languages)), wer.load_transcriber(asr)
    wer.check_languages(recogniser, [clip.language or languages[0] for clip in spoken])
    return spoken, [
        wer.language_key(recogniser, clip.text, clip.language, wer.language_of(clip.language, languages))
        for clip in clips
    ]


def measure_missing(
    keys: Sequence[str],
    jobs: Callable[[Sequence[int]], Iterable[Job]],
    metrics: Sequence[str],
    asr: str | None,
    num_workers: int | None,
    journal: Journal | None,
    on_progress: Callable[[float], None] | None,
) -> list[ClipRow]:
    """Rows by their keys, in order; `jobs` makes those that are not in the journal, by their indices.

    Raises:
        ValueError: unknown metrics, or packages that are not installed; before the first job is made.
    """
    check_metrics(tuple(metrics))
    if asr is not None:
        wer.load_transcriber(asr)
    journal = journal or Journal()
    waiting = journal.missing(keys)
    measured = measure_jobs(jobs(waiting), num_workers)
    for done, (key, row) in enumerate(measured, start=len(keys) - len(waiting) + 1):
        journal.add(key, row)
        if on_progress is not None:
            on_progress(done / len(keys))
    return [journal.known[key] for key in keys]


def length_key(lengths: Lengths) -> tuple[str, ...]:
    """What it adds to a key: nothing for `cut`, so that rows of earlier versions are found."""
    return () if lengths == "cut" else (lengths,)


def file_state(path: AudioPath) -> tuple[str, int, int]:
    """Path, size and time of change: another file gets another key."""
    look_for([path if isinstance(path, Path) else path.file])
    status = path.stat()
    return shown(path.resolve()), status.st_size, status.st_mtime_ns


def _state(clip: Clip) -> tuple[Any, ...]:
    try:
        return file_state(clip.path) + (() if clip.start is None else (clip.start, clip.duration))
    except OSError as error:
        raise ValueError(f"{clip.path}: no such audio file (clip {clip.id!r})") from error
