"""All measures, and the results of one codec: the rows of every table.

    row = measure_system("mine", encoded, corpus, config)
    row.cells()["lm_bits_per_second"].format()

A system is one codec on one set of clips. `compare` pairs two systems by clip. Test: tests/evaluation/test_results.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmcodec.evaluation.consistency import ConsistencyResult
from llmcodec.evaluation.predictability import PredictabilityResult, compare_predictability
from llmcodec.evaluation.probe import ProbeResult
from llmcodec.evaluation.reconstruction import ReconstructionResult, compare_reconstruction
from llmcodec.evaluation.wer import WordRow, compare_words, word_error_rate
from llmcodec.metrics.base import Measure
from llmcodec.metrics.registry import CLAP, METRICS
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_mean, compare_paired
from llmcodec.metrics.token_statistics import CodeStatistics
from llmcodec.salmon.score import SalmonResult

OF_SOUND = {**METRICS, CLAP.key: CLAP}
MEASURES = (
    *OF_SOUND.values(),
    Measure("wer", "Word error rate", 3, False, hint="words that a recogniser gets wrong"),
    Measure(
        "lm_bits_per_second",
        "LM bits per second",
        1,
        False,
        "bit/s",
        "bits that a small language model needs for the tokens of one second",
    ),
    Measure("lm_bits_per_token", "LM bits per token", 3, False, "bit", "the same for one token"),
    Measure("unigram_bits", "Unigram bits per token", 3, None, "bit", "cost without any context"),
    *(Measure(f"ngram_{n}", f"{n}-gram bits per token", 3, None, "bit") for n in (1, 2, 3, 4)),
    Measure("context_gain", "Context gain per token", 3, True, "bit", "what context saves"),
    Measure("accuracy", "Next-token accuracy", 3, True, hint="how often the model's first guess is right"),
    Measure("probe_accuracy", "P-ACC", 3, True, hint="the same after a common 8,192-code quantiser of the latents"),
    Measure("probe_perplexity", "P-PPL", 0, False, hint="its perplexity"),
    Measure("probe_bits_per_second", "Probe bits per second", 1, False, "bit/s"),
    Measure(
        "salmon", "SALMon-style accuracy", 3, True, hint="pairs whose consistent side the token LM finds more likely"
    ),
    Measure(
        "within_utterance_bits", "Within-utterance entropy", 3, None, "bit", "variety of tokens inside an utterance"
    ),
    Measure("used_codes", "Used codes", 0, None, hint="codes that occur at all"),
    Measure("repeat_rate", "Repeat rate", 3, None, hint="tokens equal to the one before"),
    Measure("slice_consistency", "Slice consistency", 3, True, hint="tokens unchanged when a slice is encoded alone"),
    Measure("zipf_exponent", "Zipf exponent", 2, None),
    Measure(
        "nominal_bits_per_second", "Nominal bitrate", 0, None, "bit/s", "frames times the log of the codebook size"
    ),
    Measure("entropy_bits_per_second", "Unigram-entropy bitrate", 0, None, "bit/s"),
)


@dataclass(frozen=True)
class SystemRow:
    """All results of one system; None if not measured."""

    name: str
    nominal_bits_per_second: float
    reconstruction: ReconstructionResult | None = None
    predictability: PredictabilityResult | None = None
    codes: CodeStatistics | None = None
    consistency: ConsistencyResult | None = None
    words: list[WordRow] | None = None
    probe: ProbeResult | None = None
    salmon: SalmonResult | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    """Further values by `Measure.key`, without intervals."""

    def cells(self) -> dict[str, Interval]:
        """Measured values by `Measure.key`; numbers without an interval have NaN bounds."""
        cells: dict[str, Interval] = {}
        if self.reconstruction is not None:
            names = [name for name in OF_SOUND if name in self.reconstruction.metric_names]
            cells.update({name: self.reconstruction.mean(name) for name in names})
        if (lm := self.predictability) is not None:
            bits, clips = lm.interval(), len(lm.clips)
            rate = lm.token_rate
            cells["lm_bits_per_second"] = bits
            cells["lm_bits_per_token"] = Interval(bits.value / rate, bits.low / rate, bits.high / rate, clips)
            cells["unigram_bits"] = _point(lm.unigram_bits_per_token, clips)
            cells["context_gain"] = _point(lm.context_gain, clips)
            cells["accuracy"] = _point(lm.accuracy, clips)
        if self.codes is not None:
            cells["within_utterance_bits"] = bootstrap_mean(self.codes.within_utterance_bits)
            cells["used_codes"] = _point(self.codes.used_codes, self.codes.num_clips)
            cells["repeat_rate"] = _point(self.codes.repeat_rate, self.codes.num_clips)
        if self.consistency is not None:
            cells["slice_consistency"] = self.consistency.share()
        if self.words:
            cells["wer"] = word_error_rate(self.words)
        if self.probe is not None:
            clips = len(self.probe.predictability.clips)
            cells["probe_accuracy"] = _point(self.probe.accuracy, clips)
            cells["probe_perplexity"] = _point(self.probe.perplexity, clips)
        if self.salmon is not None:
            cells["salmon"] = self.salmon.overall
        if math.isfinite(self.nominal_bits_per_second):
            cells["nominal_bits_per_second"] = _point(self.nominal_bits_per_second, 0)
        cells.update({key: _point(value, 0) for key, value in self.more.items()})
        return cells

    def failures(self) -> dict[str, dict[str, int]]:
        """Failed files by metric and reason, metrics without failures left out."""
        if self.reconstruction is None:
            return {}
        counted = {name: self.reconstruction.failures(name) for name in (*self.reconstruction.metric_names, "wer")}
        return {name: reasons for name, reasons in counted.items() if reasons}


def _point(value: float, num: int) -> Interval:
    return Interval(float(value), math.nan, math.nan, num)


def compare(a: SystemRow, b: SystemRow, key: str) -> PairedComparison | None:
    """Paired comparison of B with A in one measure; None if it is missing or has no per-clip rows."""
    if key in OF_SOUND:
        if a.reconstruction is None or b.reconstruction is None or key not in b.reconstruction.metric_names:
            return None
        both = set(a.reconstruction.failed_ids(key)) | set(b.reconstruction.failed_ids(key))
        if len(both) == len(a.reconstruction.rows):
            return None
        return compare_reconstruction(a.reconstruction, b.reconstruction, key)
    if key == "lm_bits_per_second" and a.predictability is not None and b.predictability is not None:
        return compare_predictability(a.predictability, b.predictability)
    if key == "wer" and a.words and b.words:
        theirs = {row.id: row for row in b.words}
        ours = [row for row in a.words if row.id in theirs]
        return compare_words(ours, [theirs[row.id] for row in ours]) if ours else None
    if key == "within_utterance_bits" and a.codes is not None and b.codes is not None:
        return compare_paired(a.codes.within_utterance_bits, b.codes.within_utterance_bits)
    return None


def table_cells(rows: Sequence[SystemRow]) -> list[tuple[Measure, list[Interval | None]]]:
    """The measures that at least one system has, in table order, each with one cell per system."""
    cells = [row.cells() for row in rows]
    used = [measure for measure in MEASURES if any(measure.key in cell for cell in cells)]
    return [(measure, [cell.get(measure.key) for cell in cells]) for measure in used]
