"""Encode and decode a set of clips and measure every reconstruction: rows per file, means with intervals, named
failures.

Shapes: S samples, Q codebooks, T frames. Worker processes measure while the codec encodes the next clips.
Test: `pytest tests/evaluation/test_reconstruction.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.workers import Job, Journal, Outcome, free_cores, in_order, job_key, measure_jobs
from llmcodec.io import audio
from llmcodec.metrics.base import Measured
from llmcodec.metrics.registry import FAST, SUPERB, check_metrics
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_mean, compare_paired
from llmcodec.metrics.token_statistics import encode_wav, flatten_codes
from llmcodec.protocol import Codec, device_of

if TYPE_CHECKING:
    from llmcodec.evaluation.wer import WordRow


@dataclass(frozen=True)
class ClipRow:
    """One file: its metrics by name and its tokens."""

    id: str
    seconds: float
    metrics: dict[str, Measured]
    codes: Tensor | None = None
    """Flattened codes, 1-D int64 (`codes.flatten_codes`); None for audio made elsewhere."""
    domain: str = ""
    reference: str = ""
    """Path of the recording."""
    reconstruction: str = ""
    """Path of the reconstruction, where it is a file."""
    words: WordRow | None = None
    """Word errors, where a recogniser was asked for and the clip has a transcript."""


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
    """B against A on the files where both could be measured. Errors: ValueError unless both have the same files."""
    if [row.id for row in a.rows] != [row.id for row in b.rows]:
        raise ValueError("the two results are about different files: measure both on the same manifest")
    pairs = [(x.metrics[metric].value, y.metrics[metric].value) for x, y in zip(a.rows, b.rows, strict=True)]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return compare_paired([x for x, _ in both], [y for _, y in both])


def reconstruct(codec: Codec, wav_S: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """One clip at the codec's sample rate -> reconstruction of the same length, and codes (Q, T)."""
    with torch.no_grad():
        encoded = codec.encode(torch.as_tensor(wav_S, dtype=torch.float32)[None, None].to(device_of(codec)))
        decoded = codec.decode(encoded.audio_codes, length=wav_S.size)
    wav = decoded.audio_values[0, 0].float().cpu().numpy()
    if wav.size != wav_S.size:
        raise ValueError(f"the codec decoded {wav.size} samples where length={wav_S.size} was asked for")
    return wav, encoded.audio_codes[0].cpu()


def encode_clip(codec: Codec, clip: Clip) -> Tensor:
    """Flattened codes of one recording, 1-D int64."""
    return flatten_codes(encode_wav(codec, audio.load(clip.path, codec.sample_rate)), codec.codebook_size)


def evaluate_reconstruction(
    codec: Codec,
    clips: Sequence[Clip],
    *,
    num_workers: int | None = None,
    slow_metrics: bool = True,
    metrics: Sequence[str] | None = None,
    asr: str | None = None,
    asr_languages: Sequence[str] = ("en",),
    journal: Journal | None = None,
    fingerprint: str = "",
    domain: str = "source",
    on_progress: Callable[[float], None] | None = None,
) -> ReconstructionResult:
    """Reconstruct and measure every clip, in the order given.

    Signals are compared at the recording's own sample rate, as Codec-SUPERB does; a codec with another rate gets a
    resampled copy, and its output is resampled back.

    Args:
        num_workers: processes that measure; None takes as many as there are free cores, 0 measures in this process.
        slow_metrics: False takes only Mel, STFT and SDR, which need no packages.
        metrics: names from `metrics.registry.METRICS`; None takes Codec-SUPERB's six.
        asr: recogniser for word errors (`wer.load_transcriber`); None: none.
        journal: where outcomes are kept and looked up; `fingerprint` names the codec's weights in it.
        domain: field of the manifest by which tables are split.

    Errors: ValueError for no clips, unreadable audio, unknown metrics, or packages that are not installed.
    """
    if not clips:
        raise ValueError("no clips to reconstruct: the manifest or the filter left none")
    names = tuple(metrics or (SUPERB if slow_metrics else FAST))
    check_metrics(names)
    spoken: set[str] = set()
    if asr is not None:
        from llmcodec.evaluation.wer import load_transcriber, spoken_clips

        load_transcriber(asr)
        spoken = {clip.id for clip in spoken_clips(clips, asr_languages)}
    journal = journal or Journal()
    keys = [job_key(fingerprint, clip.id, *_state(clip), clip.text, names, asr, asr_languages) for clip in clips]
    waiting = [(clip, key) for clip, key in zip(clips, keys, strict=True) if key not in journal.known]

    def jobs() -> Iterator[Job]:
        for clip, key in waiting:
            text = clip.text if clip.id in spoken else ""
            yield _reconstruction_job(codec, clip, key, names, text, asr, clip.language or asr_languages[0])

    done = len(clips) - len(waiting)
    for outcome in measure_jobs(jobs(), free_cores() if num_workers is None else num_workers):
        journal.add(outcome)
        done += 1
        if on_progress is not None:
            on_progress(done / len(clips))
    outcomes = in_order(keys, journal)
    return ReconstructionResult([_row(clip, outcome, domain) for clip, outcome in zip(clips, outcomes, strict=True)])


def _state(clip: Clip) -> tuple[str, int, int]:
    """Path, size and time of change of a recording: another file gets another key. Raises ValueError if it is gone."""
    try:
        status = clip.path.stat()
    except OSError as error:
        raise ValueError(f"{clip.path}: no such audio file (clip {clip.id!r})") from error
    return str(clip.path.resolve()), status.st_size, status.st_mtime_ns


def _reconstruction_job(
    codec: Codec, clip: Clip, key: str, names: tuple[str, ...], text: str, asr: str | None, language: str
) -> Job:
    wav_S, rate = audio.read(clip.path)
    decoded_S, codes_QT = reconstruct(codec, audio.resample(wav_S, rate, codec.sample_rate))
    decoded_S = audio.resample(decoded_S, codec.sample_rate, rate)
    if abs(decoded_S.size - wav_S.size) <= 2:  # rounding of two resamplings
        decoded_S = np.pad(decoded_S, (0, max(0, wav_S.size - decoded_S.size)))[: wav_S.size]
    codes = tuple(flatten_codes(codes_QT, codec.codebook_size).tolist())
    return Job(key, clip.id, wav_S, decoded_S, rate, names, text, language, asr, codes)


def _row(clip: Clip, outcome: Outcome, domain: str) -> ClipRow:
    codes = torch.tensor(outcome.codes, dtype=torch.int64)
    label = str(getattr(clip, domain, "") or "")
    return ClipRow(clip.id, outcome.seconds, outcome.metrics, codes, label, str(clip.path), "", outcome.words)
