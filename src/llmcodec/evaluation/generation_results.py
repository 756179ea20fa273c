"""Figures of generated speech: rows per draw, means over seeds and passages, paired comparisons.

Shapes: K seeds, N passages, M columns. Test: tests/evaluation/test_generation.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmcodec.evaluation.wer import WordRow
from llmcodec.metrics.base import Measure, Measured
from llmcodec.metrics.statistics import Interval, two_level_interval, two_level_p

FIGURES = {
    "wer": Measure("wer", "Word error rate", 3, False, hint="words that a recogniser gets wrong"),
    "cer": Measure("cer", "Character error rate", 3, False, hint="characters that it gets wrong"),
    "speaker": Measure("speaker", "Speaker similarity", 3, True, hint="cosine of voices, to the recording"),
    "margin": Measure("margin", "Voice margin", 3, True, hint="speaker similarity less that to other speakers"),
    "dnsmos": Measure("dnsmos", "DNSMOS", 2, True, hint="predicted opinion of the sound, 1 to 5"),
    "loops": Measure("loops", "Share in loops", 3, False, hint="share of the codes in stretches that repeat"),
    "silence": Measure("silence", "Share of silence", 3, None, hint="share of frames far below the speech"),
    "seconds": Measure("seconds", "Length", 2, None, "s"),
    "ended": Measure("ended", "Ended by itself", 3, True, hint="share of draws that the LM ended before the limit"),
}
METRICS = ("wer", "cer", "speaker", "dnsmos")
"""Figures that need a package each; the others are always there. `margin` comes with `speaker`."""
PACKAGES = {"wer": "jiwer", "cer": "jiwer", "speaker": "resemblyzer", "dnsmos": "speechmos.dnsmos"}


@dataclass(frozen=True)
class GeneratedRow:
    """One draw."""

    id: str
    """Of the passage."""
    draw: int
    seconds: float
    ended: bool | None
    """None for continuations, whose length is fixed."""
    loops: float
    silence: float
    words: WordRow | None = None
    characters: tuple[int, int] | None = None
    """Errors, and characters of the text."""
    measured: dict[str, Measured] = field(default_factory=dict)
    """speaker, margin, dnsmos."""

    def columns(self, key: str) -> tuple[float, float]:
        """Numerator and denominator of a figure; 0, 0 where it has no value."""
        if key == "wer" and self.words is not None:
            return self.words.errors, self.words.num_words
        if key == "cer" and self.characters is not None:
            return self.characters
        if key == "ended" and self.ended is not None:
            return float(self.ended), 1.0
        if key in ("seconds", "loops", "silence"):
            return float(getattr(self, key)), 1.0
        value = self.measured.get(key, Measured(None, "not measured")).value
        return (0.0, 0.0) if value is None else (value, 1.0)


def _sums(seeds: Sequence[Sequence[GeneratedRow]], key: str) -> tuple[list[str], np.ndarray]:
    """Passages, and sums over their draws (K, N, 2)."""
    per_seed: list[Mapping[str, np.ndarray]] = []
    for rows in seeds:
        found: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for row in rows:
            found[row.id] = found[row.id] + row.columns(key)
        per_seed.append(found)
    ids = list(per_seed[0])
    if any(list(found) != ids for found in per_seed):
        raise ValueError("generation: the models were measured on other passages; measure them again together")
    return ids, np.stack([[found[name] for name in ids] for found in per_seed])


def figure(seeds: Sequence[Sequence[GeneratedRow]], key: str) -> Interval | None:
    """A figure of K trainings with its 95 % interval over seeds and passages; None where nothing has a value."""
    _, sums_KNM = _sums(seeds, key)
    if (sums_KNM[..., 1].sum(1) == 0).any():
        return None
    return two_level_interval(sums_KNM, _mean)


def _mean(sums_M: np.ndarray) -> np.ndarray:
    """NaN where a single passage had a value and was left out: such a figure gets no interval."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = sums_M[..., 0] / sums_M[..., 1]
    return mean


@dataclass(frozen=True)
class GenerationDifference:
    """B less A, paired by passage and seed."""

    key: str
    interval: Interval
    p: float
    """Two-sided; not adjusted for being one of several."""


def compare_generation(
    a: Sequence[Sequence[GeneratedRow]], b: Sequence[Sequence[GeneratedRow]], key: str
) -> GenerationDifference | None:
    """B less A, on the passages where both have a value with every seed; None where there is none.

    Raises:
        ValueError: another number of seeds, or other passages.
    """
    if len(a) != len(b):
        raise ValueError(f"generation: {len(a)} models against {len(b)}; give each name the same number of seeds")
    (ids, of_a), (others, of_b) = _sums(a, key), _sums(b, key)
    if ids != others:
        raise ValueError("generation: the models were measured on other passages; measure them again together")
    sums_KNM = np.concatenate([of_a, of_b], axis=-1)
    # Paired: a model that drops its hardest passages (too little voice) must not win by that.
    sums_KNM = sums_KNM[:, (sums_KNM[..., 1::2] > 0).all((0, 2))]
    if not sums_KNM.shape[1]:
        return None

    def difference(sums: np.ndarray) -> np.ndarray:
        return _mean(sums[..., 2:]) - _mean(sums[..., :2])  # type: ignore[no-any-return]

    return GenerationDifference(key, two_level_interval(sums_KNM, difference), two_level_p(sums_KNM, difference))
