"""Results of several systems as one table (terminal, Markdown, JSON) and as words: what improved, what it cost.

A system is one codec on one set of clips. Differences are called real only by the paired test of stats.py; every
sentence names its number of files and seeds. Test: `pytest tests/report/test_tables.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmcodec.evaluation.consistency import ConsistencyResult
from llmcodec.evaluation.predictability import PredictabilityResult, compare_predictability
from llmcodec.evaluation.probe import ProbeResult
from llmcodec.evaluation.reconstruction import ReconstructionResult, compare_reconstruction
from llmcodec.evaluation.wer import WordRow, compare_words, word_error_rate
from llmcodec.metrics.spectral import HIGHER_IS_BETTER
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_mean, compare_paired
from llmcodec.metrics.token_statistics import CodeStatistics
from llmcodec.salmon.score import SalmonResult

if TYPE_CHECKING:
    from rich.table import Table

COLLAPSE_FLOOR = 0.95
"""Used codes, unigram and within-utterance entropy below this share of the control's are warned about."""


@dataclass(frozen=True)
class Measure:
    """One line of the table."""

    key: str
    label: str
    digits: int
    higher_is_better: bool | None
    """None where neither direction is good in itself."""
    unit: str = ""

    @property
    def arrow(self) -> str:
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]


MEASURES = (
    Measure("mel", "Mel distance", 3, False),
    Measure("stft", "STFT distance", 3, False),
    Measure("pesq", "PESQ", 2, True),
    Measure("stoi", "STOI", 3, True),
    Measure("f0corr", "F0 correlation", 3, True),
    Measure("sdr", "SDR", 1, True, "dB"),
    Measure("logmel", "Log-mel distance", 3, False),
    Measure("dnsmos", "DNSMOS", 2, True),
    Measure("speaker", "Speaker similarity", 3, True),
    Measure("wer", "Word error rate", 3, False),
    Measure("lm_bits_per_second", "LM bits per second", 1, False, "bit/s"),
    Measure("lm_bits_per_token", "LM bits per token", 3, False, "bit"),
    Measure("unigram_bits", "Unigram bits per token", 3, None, "bit"),
    Measure("ngram_1", "1-gram bits per token", 3, None, "bit"),
    Measure("ngram_2", "2-gram bits per token", 3, None, "bit"),
    Measure("ngram_3", "3-gram bits per token", 3, None, "bit"),
    Measure("ngram_4", "4-gram bits per token", 3, None, "bit"),
    Measure("context_gain", "Context gain per token", 3, True, "bit"),
    Measure("accuracy", "Next-token accuracy", 3, True),
    Measure("probe_accuracy", "P-ACC", 3, True),
    Measure("probe_perplexity", "P-PPL", 0, False),
    Measure("probe_bits_per_second", "Probe bits per second", 1, False, "bit/s"),
    Measure("salmon", "SALMon-style accuracy", 3, True),
    Measure("within_utterance_bits", "Within-utterance entropy", 3, None, "bit"),
    Measure("used_codes", "Used codes", 0, None),
    Measure("repeat_rate", "Repeat rate", 3, None),
    Measure("slice_consistency", "Slice consistency", 3, True),
    Measure("zipf_exponent", "Zipf exponent", 2, None),
    Measure("nominal_bits_per_second", "Nominal bitrate", 0, None, "bit/s"),
    Measure("entropy_bits_per_second", "Unigram-entropy bitrate", 0, None, "bit/s"),
)
_RECONSTRUCTION = tuple(HIGHER_IS_BETTER)


@dataclass(frozen=True)
class SystemRow:
    """Everything measured about one system; None where it was not measured."""

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
            names = [name for name in _RECONSTRUCTION if name in self.reconstruction.metric_names]
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
        counted = {name: self.reconstruction.failures(name) for name in self.reconstruction.metric_names}
        return {name: reasons for name, reasons in counted.items() if reasons}


def _point(value: float, num: int) -> Interval:
    return Interval(float(value), math.nan, math.nan, num)


def format_value(cell: Interval | None, digits: int, with_interval: bool = True) -> str:
    """`1.23 [1.20, 1.26]`, without brackets where there is no interval, `-` where there is no value."""
    if cell is None or not math.isfinite(cell.value):
        return "-"
    if not with_interval or not math.isfinite(cell.low):
        return f"{cell.value:,.{digits}f}"
    return f"{cell.value:,.{digits}f} [{cell.low:,.{digits}f}, {cell.high:,.{digits}f}]"


def compare(a: SystemRow, b: SystemRow, key: str) -> PairedComparison | None:
    """Paired comparison of B with A in one measure; None where it is missing or has no per-clip rows."""
    if key in _RECONSTRUCTION:
        if a.reconstruction is None or b.reconstruction is None or key not in b.reconstruction.metric_names:
            return None
        both = set(a.reconstruction.failed_ids(key)) | set(b.reconstruction.failed_ids(key))
        if len(both) == len(a.reconstruction.rows):
            return None
        return compare_reconstruction(a.reconstruction, b.reconstruction, key)
    if key == "lm_bits_per_second" and a.predictability is not None and b.predictability is not None:
        return compare_predictability(a.predictability, b.predictability)
    if key == "wer" and a.words and b.words:
        return compare_words(a.words, b.words)
    if key == "within_utterance_bits" and a.codes is not None and b.codes is not None:
        return compare_paired(a.codes.within_utterance_bits, b.codes.within_utterance_bits)
    return None


def used_measures(rows: Sequence[SystemRow]) -> list[Measure]:
    """The measures that at least one system has, in table order."""
    present = {key for row in rows for key in row.cells()}
    return [measure for measure in MEASURES if measure.key in present]


def _label(measure: Measure) -> str:
    return f"{measure.label} {measure.arrow}".strip() + (f" ({measure.unit})" if measure.unit else "")


def rich_table(rows: Sequence[SystemRow], title: str = "", with_interval: bool = False) -> Table:
    """Measures down, systems across, for `rich.print`."""
    from rich.table import Table

    cells = [row.cells() for row in rows]
    table = Table(title=title or None)
    table.add_column("")
    for row in rows:
        table.add_column(row.name, justify="right")
    for measure in used_measures(rows):
        values = (format_value(cell.get(measure.key), measure.digits, with_interval) for cell in cells)
        table.add_row(_label(measure), *values)
    return table


def markdown_table(rows: Sequence[SystemRow], with_interval: bool = True) -> str:
    """The same table in Markdown."""
    cells = [row.cells() for row in rows]
    lines = ["| | " + " | ".join(row.name.replace("|", "\\|") for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    for measure in used_measures(rows):
        values = [format_value(cell.get(measure.key), measure.digits, with_interval) for cell in cells]
        lines.append(f"| {_label(measure)} | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def to_json(rows: Sequence[SystemRow]) -> dict[str, Any]:
    """Values, intervals, failures and per-clip rows as plain JSON types (NaN becomes null)."""
    return {row.name: _row_json(row) for row in rows}


def _row_json(row: SystemRow) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    cells = {
        key: {"value": number(cell.value), "low": number(cell.low), "high": number(cell.high), "num": cell.num}
        for key, cell in row.cells().items()
    }
    out: dict[str, Any] = {"measures": cells, "failures": row.failures()}
    if row.reconstruction is not None:
        out["files"] = [
            {"id": r.id, "seconds": r.seconds, **{name: number(m.value) for name, m in r.metrics.items()}}
            for r in row.reconstruction.rows
        ]
    if row.words is not None:
        out["words"] = [{"id": r.id, "words": r.num_words, "errors": r.errors, "heard": r.heard} for r in row.words]
    if row.salmon is not None:
        out["salmon"] = row.salmon.to_json()
    if row.predictability is not None:
        out["lm_clips"] = [vars(clip) for clip in row.predictability.clips]
        out["lm_seeds"] = {str(seed): rate for seed, rate in row.predictability.seed_bits_per_second.items()}
    return out


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict."""

    kind: Literal["better", "worse", "same", "warning"]
    text: str


VERDICT_KEYS = ("lm_bits_per_second", "mel", "stft", "pesq", "stoi")


def verdict(
    control: SystemRow, adapted: SystemRow, num_training_seeds: int = 1, keys: Sequence[str] = VERDICT_KEYS
) -> list[Statement]:
    """What `adapted` changed against `control`, in words, in the order: predictability, quality, token health, caveat.

    A difference is called real only where the paired bootstrap interval and the paired t-test both exclude 0.
    """
    statements = []
    for key in keys:
        measure = next(m for m in MEASURES if m.key == key)
        comparison = compare(control, adapted, key)
        if comparison is not None:
            statements.append(_sentence(measure, comparison, control, adapted))
    statements.extend(_health(control, adapted))
    lm = adapted.predictability
    seeds = f", {_count(len(lm.config.seeds), 'language-model seed')} each" if lm is not None else ""
    plural = "One training run" if num_training_seeds == 1 else f"{num_training_seeds} training runs"
    caveat = f"{plural} of each system{seeds}: the intervals cover the choice of files"
    caveat += ", not the luck of a training run." if num_training_seeds == 1 else "; compare the seeds for the rest."
    return [*statements, Statement("same", caveat)]


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _sentence(measure: Measure, result: PairedComparison, control: SystemRow, adapted: SystemRow) -> Statement:
    unit = f" {measure.unit}" if measure.unit else ""
    numbers = f"{result.mean_b:.{measure.digits}f} against {result.mean_a:.{measure.digits}f}{unit}"
    if math.isfinite(result.ratio.value):
        percent = [100 * (x - 1) for x in (result.ratio.value, result.ratio.low, result.ratio.high)]
        change = f"{percent[0]:+.1f} %"
        interval = f"paired 95 % interval {percent[1]:+.1f} % to {percent[2]:+.1f} %"
    else:
        d = result.difference
        change = f"{d.value:+.{measure.digits}f}{unit}"
        interval = f"paired 95 % interval {d.low:+.{measure.digits}f} to {d.high:+.{measure.digits}f}"
    evidence = f"({numbers}; {interval}, {_count(result.num, 'file')})"
    if not result.real:
        if result.margin and result.difference.excludes(0.0):
            evidence += f", within the {result.margin:.1%} that the luck of a language-model seed may explain"
        text = f"{measure.label}: no difference shown between {adapted.name} and {control.name}, {change} {evidence}."
        return Statement("same", text)
    kind: Literal["better", "worse"] = (
        "better" if (result.difference.value > 0) == measure.higher_is_better else "worse"
    )
    return Statement(kind, f"{measure.label}: {adapted.name} is {kind} than {control.name}, {change} {evidence}.")


def _health(control: SystemRow, adapted: SystemRow) -> list[Statement]:
    """Collapse watch: predictable tokens are worthless if they say less."""
    if control.codes is None or adapted.codes is None:
        return []
    pairs = (
        ("used codes", control.codes.used_codes, adapted.codes.used_codes),
        ("unigram entropy", control.codes.unigram_entropy_bits, adapted.codes.unigram_entropy_bits),
        ("within-utterance entropy", control.codes.within_utterance_entropy, adapted.codes.within_utterance_entropy),
    )
    low = [f"{name} {new / old:.0%}" for name, old, new in pairs if old > 0 and new < COLLAPSE_FLOOR * old]
    if low:
        text = f"Tokens are poorer: {', '.join(low)} of {control.name} (floor {COLLAPSE_FLOOR:.0%}); "
        text += "part of any gain in bits is this loss."
        return [Statement("warning", text)]
    shares = ", ".join(f"{name} {new / old:.0%}" for name, old, new in pairs if old > 0)
    return [Statement("same", f"Tokens stay rich: {shares} of {control.name}.")]
