"""Robustness of a codec to speech from outside a studio: other levels, silence, telephone bands, noise.

    result = measure_robustness(encoded, clips, [Condition("level", -40.0), Condition("pause", 1.0)])
    print(result.mean(Condition("level", -40.0), "level_error").format())

Every clip is scaled to a peak of -6 dBFS, changed by the condition, coded, decoded, and compared with the input, at the
recording's own rate. Signals without speech (zeros, dither, white noise) have one measure: the level of the output.
Shapes: S samples. Test: tests/evaluation/test_robustness.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmcodec.data.augmentation import DITHER, band_passed
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.consistency import noisy
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.workers import ClipRow, Job, measure_jobs
from llmcodec.io import audio
from llmcodec.io.digests import digest_number
from llmcodec.metrics.base import Measured
from llmcodec.metrics.registry import check_metrics
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_mean, compare_shared

PEAK = 10 ** (-6 / 20)
FLOOR_DB = -140.0
"""Level assigned to digital silence, dBFS."""
EDGE_SECONDS = 0.05
"""Left out at both ends of a pause: a codec's window reaches into the speech."""
TELEPHONE_HZ = (300.0, 3400.0)
SILENT_SECONDS = 2.0
SILENT_DRAWS = 3
LABELS = {
    "level": "level {:+g} dB",
    "telephone": "telephone band",
    "noise": "noise at {:g} dB",
    "pause": "pause of {:g} s",
    "zeros": "zeros",
    "dither": "1-bit dither",
    "white": "white noise at {:g} dBFS",
}


@dataclass(frozen=True)
class Condition:
    """One way in which a recording differs from a studio's."""

    kind: str
    """`level` (amount: gain in dB), `telephone` (300 to 3,400 Hz), `noise` (white noise, signal-to-noise ratio in dB),
    `pause` (seconds of digital zeros put into the middle of the speech); without speech: `zeros`, `dither` (1 bit of
    16), `white` (noise, root mean square in dBFS)."""
    amount: float = 0.0

    @property
    def label(self) -> str:
        return LABELS[self.kind].format(self.amount)

    @property
    def silent(self) -> bool:
        """Whether the signal has no speech."""
        return self.kind in ("zeros", "dither", "white")


CONDITIONS = (
    *(Condition("level", gain) for gain in (0.0, -40.0, -30.0, -20.0, -10.0, 6.0)),
    Condition("telephone"),
    Condition("noise", 20.0),
    Condition("pause", 1.0),
    Condition("zeros"),
    Condition("dither"),
    Condition("white", -70.0),
)


@dataclass(frozen=True)
class RobustnessRow:
    """One clip (or one draw of a signal without speech) under one condition."""

    id: str
    condition: Condition
    metrics: dict[str, Measured]
    """`level_error` in dB and the requested metrics; `silence` (output level in dBFS for zeros, dither or faint noise)
    for pauses and signals without speech."""


@dataclass(frozen=True)
class RobustnessResult:
    """Rows of all clips and conditions."""

    rows: list[RobustnessRow]

    @property
    def conditions(self) -> list[Condition]:
        return list(dict.fromkeys(row.condition for row in self.rows))

    def measured(self, condition: Condition, metric: str) -> dict[str, Measured]:
        """Values and failures by clip; empty where this condition has no such measure."""
        rows = [row for row in self.rows if row.condition == condition and metric in row.metrics]
        return {row.id: row.metrics[metric] for row in rows}

    def values(self, condition: Condition, metric: str) -> dict[str, float]:
        """The values that could be measured, by clip."""
        found = self.measured(condition, metric).items()
        return {name: measured.value for name, measured in found if measured.value is not None}

    def mean(self, condition: Condition, metric: str) -> Interval:
        """Mean over the clips with a 95 % bootstrap interval."""
        return bootstrap_mean(list(self.values(condition, metric).values()))

    def loudest(self, condition: Condition) -> float:
        """The loudest output for silent input, dBFS."""
        return max(self.values(condition, "silence").values())


def compare_robustness(a: RobustnessResult, b: RobustnessResult, condition: Condition, metric: str) -> PairedComparison:
    """B against A on the clips that both have. Raises ValueError without any."""
    return compare_shared(a.values(condition, metric), b.values(condition, metric))


def measure_robustness(
    encoded: EncodedCorpus,
    clips: Sequence[Clip],
    conditions: Sequence[Condition] = CONDITIONS,
    metrics: Sequence[str] = ("stoi", "pesq"),
    seed: int = 0,
    num_workers: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> RobustnessResult:
    """Measure every clip under every condition.

    Noise depends only on the seed, the clip's id and its length, so every codec gets the same.

    Args:
        encoded: the codec.
        clips: speech; a clip of zeros has no level and is rejected.
        conditions: applied to every clip.
        metrics: names from `metrics.registry.METRICS`.
        seed: of noise and dither.
        num_workers: processes that measure; None takes as many as there are free cores, 0 measures in this process.
        on_progress: called with the share that is done.

    Raises:
        ValueError: no clips, a silent clip, an unknown condition or metric, or packages that are not installed.
    """
    if not clips:
        raise ValueError("no clips: the manifest or the filter left none")
    for condition in conditions:
        if condition.kind not in LABELS:
            raise ValueError(f"no condition {condition.kind!r}: choose {', '.join(LABELS)}")
        if not math.isfinite(condition.amount):
            raise ValueError(f"{condition.label}: not a finite number")
        if condition.kind == "pause" and condition.amount <= 2 * EDGE_SECONDS:
            raise ValueError(f"{condition.label}: nothing of it is measured; take more than {2 * EDGE_SECONDS:g} s")
    check_metrics(tuple(metrics))
    spoken = [condition for condition in conditions if not condition.silent]
    rows: dict[tuple[str, Condition], RobustnessRow] = {}

    def copies() -> Iterator[tuple[tuple[str, Condition, np.ndarray, int], np.ndarray]]:
        for number, clip in enumerate(clips):
            if on_progress is not None:
                on_progress(number / len(clips))
            wav_S, rate = encoded.recording(clip, keep=False)
            peak = float(np.abs(wav_S).max())
            if peak == 0.0:
                raise ValueError(f"{clip.path}: digital silence as a whole (clip {clip.id!r}): leave it out")
            for condition in spoken:
                sent_S = altered(wav_S * (PEAK / peak), rate, condition, clip.id, seed)
                yield (clip.id, condition, sent_S, rate), audio.resample(sent_S, rate, encoded.codec.sample_rate)

    def jobs() -> Iterator[Job]:
        for (name, condition, sent_S, rate), came_S in encoded.reconstruct_copies(copies()):
            came_S = audio.resample(came_S, encoded.codec.sample_rate, rate)
            came_S = np.pad(came_S, (0, max(0, sent_S.size - came_S.size)))[: sent_S.size]
            known = {"level_error": Measured(level_error(sent_S, came_S, rate))}
            if condition.kind == "pause":
                known["silence"] = Measured(level_db(came_S[_inside_pause(sent_S.size, rate, condition.amount)]))
            rows[name, condition] = RobustnessRow(name, condition, known)
            # At one level: the measure is the damage to the speech, not whether a metric has a threshold.
            gain = PEAK / max(float(np.abs(sent_S).max()), 1e-9) if condition.kind == "level" else 1.0
            places[str(len(places))] = name, condition
            yield Job(str(len(places) - 1), ClipRow(name), gain * sent_S, gain * came_S, rate, tuple(metrics))

    places: dict[str, tuple[str, Condition]] = {}
    for key, measured in measure_jobs(jobs(), num_workers):
        rows[places[key]].metrics.update(measured.metrics)
    unspoken = [condition for condition in conditions if condition.silent]
    silent = [_silent_row(encoded, condition, draw, seed) for condition in unspoken for draw in range(SILENT_DRAWS)]
    if on_progress is not None:
        on_progress(1.0)
    order = {condition: place for place, condition in enumerate(conditions)}
    return RobustnessResult(sorted([*rows.values(), *silent], key=lambda row: order[row.condition]))


def _silent_row(encoded: EncodedCorpus, condition: Condition, draw: int, seed: int) -> RobustnessRow:
    rate = encoded.codec.sample_rate
    sent_S = silent_signal(condition, round(SILENT_SECONDS * rate), draw, seed)
    name = f"draw {draw}"
    ((_, came_S),) = encoded.reconstruct_copies([(name, sent_S)])
    return RobustnessRow(name, condition, {"silence": Measured(level_db(came_S))})


def silent_signal(condition: Condition, size: int, draw: int, seed: int) -> np.ndarray:
    """A signal without speech, float32 (size,)."""
    generator = np.random.default_rng(digest_number(seed, condition.kind, draw))
    if condition.kind == "zeros":
        return np.zeros(size, np.float32)
    if condition.kind == "dither":
        return np.asarray(DITHER * generator.integers(-1, 2, size), np.float32)
    return np.asarray(10 ** (condition.amount / 20) * generator.standard_normal(size), np.float32)


def altered(wav_S: np.ndarray, rate: int, condition: Condition, clip_id: str, seed: int) -> np.ndarray:
    """Speech (S,) under a condition, float32; longer by the pause, else of the same length."""
    if condition.kind == "level":
        changed_S = wav_S * 10 ** (condition.amount / 20)
    elif condition.kind == "telephone":
        changed_S = band_passed(wav_S, rate, *TELEPHONE_HZ)
    elif condition.kind == "noise":
        changed_S = noisy(wav_S, condition.amount, seed, clip_id)
    else:
        middle = wav_S.size // 2
        changed_S = np.insert(wav_S, middle, np.zeros(round(condition.amount * rate), wav_S.dtype))
    return np.asarray(changed_S, dtype=np.float32)


def _inside_pause(size: int, rate: int, seconds: float) -> slice:
    """The pause without its edges, in a signal of `size` samples including the pause."""
    start, edge = (size - round(seconds * rate)) // 2, round(EDGE_SECONDS * rate)
    return slice(start + edge, start + round(seconds * rate) - edge)


def level_db(wav_S: np.ndarray) -> float:
    """Root mean square in dBFS, at least `FLOOR_DB`."""
    power = float(np.mean(np.square(wav_S, dtype=np.float64)))
    return max(FLOOR_DB, float(10 * np.log10(max(power, 1e-30))))


def level_error(sent_S: np.ndarray, came_S: np.ndarray, rate: int) -> float:
    """Level of the output speech relative to the input speech, dB.

    Over the 20 ms pieces in which the input is in its louder half, so that pauses do not count.
    """
    size = max(1, min(rate // 50, sent_S.size))
    sent, came = (
        np.mean(np.square(wav_S[: wav_S.size // size * size].reshape(-1, size), dtype=np.float64), axis=1)
        for wav_S in (sent_S, came_S)
    )
    speech = sent >= np.median(sent)
    return float(10 * np.log10(max(came[speech].sum(), 1e-30) / max(sent[speech].sum(), 1e-30)))
