"""SALMon: does a language model over a codec's tokens notice when speaker, background or room change mid-clip?

    result = salmon_accuracy(codec, scorer, "suite")
    print(result.parts["speaker_consistency"].mean.format())

Score of a part: share of pairs in which the consistent side has the higher log-likelihood, ties 0.5 (arXiv 2409.07437),
with the mean over tokens and with the sum. Codes are cached with the suite, for the next model.
Shapes: S samples, Q codebooks, T frames. Test: tests/salmon/test_score.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcodec import __version__
from llmcodec.io.digests import digest
from llmcodec.io.progress import OnProgress
from llmcodec.io.tensor_file import read_arrays, write_arrays
from llmcodec.metrics.statistics import Interval, PairedComparison, compare_paired, wilson_interval
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.protocol import Codec, TokenScorer
from llmcodec.runtime.base import encode_many
from llmcodec.runtime.torch_runtime import BATCH_SECONDS, TorchRuntime, fingerprint
from llmcodec.salmon.suite import SuitePair, open_suite

CACHE = ".codes"
MAX_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class PairScore:
    """Log-likelihoods in nats of the two sides of one pair."""

    index: int
    positive_sum: float
    negative_sum: float
    positive_tokens: int
    negative_tokens: int

    def outcome(self, mean: bool) -> float:
        """1 if the consistent side is more likely, 0.5 for a tie."""
        positive, negative = self.positive_sum, self.negative_sum
        if mean:
            positive, negative = positive / self.positive_tokens, negative / self.negative_tokens
        return 0.5 if positive == negative else float(positive > negative)


@dataclass(frozen=True)
class PartScore:
    """One task of a suite."""

    pairs: list[PairScore]

    def outcomes(self, mean: bool = True) -> list[float]:
        return [pair.outcome(mean) for pair in self.pairs]

    @property
    def mean(self) -> Interval:
        """Accuracy by mean log-likelihood per token (what the paper reports), 95 % Wilson interval."""
        return _accuracy(self.outcomes(True))

    @property
    def sum(self) -> Interval:
        """Accuracy by the clip's whole log-likelihood: the same where both sides have the same number of tokens."""
        return _accuracy(self.outcomes(False))

    @property
    def ties(self) -> int:
        return sum(outcome == 0.5 for outcome in self.outcomes())


@dataclass(frozen=True)
class SalmonResult:
    """All tasks."""

    parts: dict[str, PartScore]

    @property
    def overall(self) -> Interval:
        """All pairs pooled, by mean log-likelihood."""
        return _accuracy([outcome for part in self.parts.values() for outcome in part.outcomes()])

    @property
    def overall_sum(self) -> Interval:
        return _accuracy([outcome for part in self.parts.values() for outcome in part.outcomes(mean=False)])

    @property
    def average(self) -> float:
        """Unweighted mean over the tasks, the paper's single figure."""
        return sum(part.mean.value for part in self.parts.values()) / len(self.parts)

    def to_json(self) -> dict[str, Any]:
        """Values, intervals and the log-likelihoods of every pair, as plain JSON types."""
        parts = {
            name: {
                "mean": vars(part.mean),
                "sum": vars(part.sum),
                "ties": part.ties,
                "pairs": [vars(pair) for pair in part.pairs],
            }
            for name, part in self.parts.items()
        }
        overall = {"mean": vars(self.overall), "sum": vars(self.overall_sum), "average": self.average}
        return {"overall": overall, "parts": parts}


def _accuracy(outcomes: Sequence[float]) -> Interval:
    return wilson_interval(sum(outcomes), len(outcomes))


def compare_salmon(a: SalmonResult, b: SalmonResult) -> PairedComparison:
    """B against A on the same pairs. Raises ValueError unless both cover the same pairs."""

    def pairs(result: SalmonResult) -> list[tuple[str, int]]:
        return [(name, pair.index) for name, part in result.parts.items() for pair in part.pairs]

    if pairs(a) != pairs(b):
        raise ValueError("the two results cover different pairs: measure both on the same suite")
    values = [[o for part in result.parts.values() for o in part.outcomes()] for result in (a, b)]
    return compare_paired(values[0], values[1])


def salmon_accuracy(
    codec: Codec,
    scorer: TokenScorer,
    suite_folder: str | Path,
    parts: Sequence[str] | None = None,
    *,
    max_pairs: int | None = None,
    cache: str | Path | None = None,
    batch_seconds: float = BATCH_SECONDS,
    on_progress: OnProgress | None = None,
) -> SalmonResult:
    """Encode a suite and score it.

    suite_folder: official layout, a saved data set, or a hub id (`slprl/SALMon`). max_pairs: the first N of each part.
    cache: folder for the codes; default `.codes` inside a suite folder, none for a hub data set. Codes are looked up
    by the codec's weights, the suite's files and llmcodec's version: what has changed is encoded again.
    scorer: any model with `token_log_likelihoods`.

    Raises:
        ValueError: no such suite or part, unreadable audio, or a scorer that does not give one value per token.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"salmon: max_pairs must be at least 1, got {max_pairs}")
    suite = {part: pairs[:max_pairs] for part, pairs in open_suite(suite_folder, parts).items()}
    if cache is None and Path(suite_folder).is_dir():
        cache = Path(suite_folder) / CACHE
    result = {}
    for number, (part, pairs) in enumerate(suite.items()):

        def report(start: float, length: float, share: float, number: int = number, part: str = part) -> None:
            if on_progress is not None:
                on_progress(part, (number + start + length * share) / len(suite))

        codes = suite_codes(codec, pairs, cache, batch_seconds, partial(report, 0.0, 0.7))
        result[part] = PartScore(_score(scorer, pairs, codes, partial(report, 0.7, 0.3)))
    return SalmonResult(result)


def _score(
    scorer: TokenScorer, pairs: Sequence[SuitePair], codes: Sequence[Tensor], report: Callable[[float], None]
) -> list[PairScore]:
    """Log-likelihoods in groups of clips, so that progress can be shown."""
    nats: list[Tensor] = []
    for start in range(0, len(codes), 64):
        group = list(codes[start : start + 64])
        for clip, row in zip(group, scorer.token_log_likelihoods(group), strict=True):
            if row.numel() != clip.numel():
                raise ValueError(f"the language model gave {row.numel()} log-likelihoods for {clip.numel()} tokens")
            nats.append(row.double())
        report(min(1.0, (start + 64) / len(codes)))
    return [
        PairScore(pair.index, float(positive.sum()), float(negative.sum()), positive.numel(), negative.numel())
        for pair, positive, negative in zip(pairs, nats[::2], nats[1::2], strict=True)
    ]


def suite_codes(
    codec: Codec,
    pairs: Sequence[SuitePair],
    cache: str | Path | None = None,
    batch_seconds: float = BATCH_SECONDS,
    report: Callable[[float], None] = lambda share: None,
) -> list[Tensor]:
    """Flattened codes (1-D int64) of positive, negative, positive, ... of all pairs, from the cache if there."""
    place = _place(codec, pairs, cache)
    if place is not None and (known := _load(place, 2 * len(pairs))) is not None:
        report(1.0)
        return known
    runtime = TorchRuntime(codec, type(codec).__name__, batch_seconds=batch_seconds)
    clips = ((pair, wav_S) for pair in pairs for wav_S in pair.read(codec.sample_rate))
    codes = []
    for _, codes_QT in encode_many(runtime, clips):
        codes.append(flatten_codes(torch.from_numpy(codes_QT), codec.codebook_size))
        report(len(codes) / (2 * len(pairs)))
    if place is not None:
        with contextlib.suppress(OSError):  # a suite on a read-only disk is encoded every time
            _save(place, codes)
    return codes


def _place(codec: Codec, pairs: Sequence[SuitePair], cache: str | Path | None) -> Path | None:
    """File of the cached codes; None without a cache, or if the codec's weights cannot be fingerprinted."""
    weights = fingerprint(codec) if cache is not None else None
    if cache is None or weights is None:
        return None
    name = digest(__version__, weights, *(pair.fingerprint() for pair in pairs), size=12)
    return Path(cache) / f"{pairs[0].part if pairs else 'empty'}-{name}.safetensors"


def _save(place: Path, codes: Sequence[Tensor]) -> None:
    arrays = {"codes": torch.cat(list(codes)).int().numpy(), "lengths": np.array([len(row) for row in codes])}
    place.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(place, arrays, {}, durable=False)


def _load(place: Path, num_clips: int) -> list[Tensor] | None:
    """Codes of an earlier run; None if there are none or the file is damaged."""
    try:
        arrays, _ = read_arrays(place, MAX_CACHE_BYTES)
        codes, lengths = torch.tensor(arrays["codes"]).long(), arrays["lengths"]
    except (ValueError, KeyError):
        return None
    if len(lengths) != num_clips or int(lengths.sum()) != len(codes):
        return None
    return list(codes.split(lengths.tolist()))
