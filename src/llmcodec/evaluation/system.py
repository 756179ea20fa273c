"""All measurements of one codec: a row of a table. Used by `llmcodec compare`, the quickstart and the experiments.

    with EncodedCorpus(codec) as encoded:
        row = measure_system("mine", encoded, corpus, MeasurementConfig())

Reconstruction and consistency are measured on held-out clips; a small token LM is trained on the codec's tokens of the
train clips and scored on the held-out ones (`predictability`), and on a SALMon-style suite if one is given.
Test: tests/evaluation/test_encoded_corpus.py, tests/integration/test_sweep.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from llmcodec.data.manifest import Clip, audio_states, manifest_hash, spread
from llmcodec.evaluation.cache import kept, measurement_key, model_state
from llmcodec.evaluation.consistency import measure_consistency
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.predictability import PredictabilityResult, measure_predictability
from llmcodec.evaluation.probe import ProbeConfig, measure_probe
from llmcodec.evaluation.reconstruction import ReconstructionResult, measure_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.wer import check_spoken
from llmcodec.io.progress import OnProgress
from llmcodec.lm.ngrams import ngram_bits
from llmcodec.lm.small_lm import SmallLM
from llmcodec.lm.small_lm_scorer import SmallLMScorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.metrics.registry import FAST, SUPERB
from llmcodec.metrics.token_statistics import code_statistics
from llmcodec.protocol import Codec, can_decode, deduplicates, device_of, has_tokens
from llmcodec.salmon.score import CACHE, salmon_accuracy


@dataclass(frozen=True)
class Corpus:
    """The clips of one evaluation; every system gets the same."""

    train: Sequence[Clip]
    """For the token LM."""
    valid: Sequence[Clip]
    """Held out; chooses the LM checkpoint that is scored on `test` (and the other way round)."""
    test: Sequence[Clip]
    """Held out."""
    valid_only_selects: bool = False
    """Whether `valid` does nothing but choose the checkpoint: then all figures are of `test` alone."""

    @property
    def held_out(self) -> list[Clip]:
        """Clips that figures are of."""
        return list(self.test) if self.valid_only_selects else [*self.valid, *self.test]

    @property
    def hashes(self) -> list[str]:
        """One digest per split."""
        return [manifest_hash(split) for split in (self.train, self.valid, self.test)]

    @property
    def state(self) -> list[Any]:
        """Changes with every clip and with its audio file, by size and time. Raises ValueError as `audio_states`."""
        return [self.hashes, self.valid_only_selects, audio_states([*self.train, *self.valid, *self.test])]

    def budget(self, likelihood: LikelihoodConfig) -> LikelihoodConfig:
        """The protocol of a measuring LM as it is on this corpus."""
        return replace(likelihood, cross_select=False) if self.valid_only_selects else likelihood


@dataclass(frozen=True)
class MeasurementConfig:
    """What is measured; the same for every row of a table."""

    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Token LM and its budget."""
    reconstruction_clips: int | None = None
    """Measure reconstruction on this many held-out clips, evenly spread; 0 leaves it out, null takes all."""
    slow_metrics: bool = True
    """PESQ and STOI (needs the packages of the `metrics` extra)."""
    metrics: list[str] | None = None
    """Names of metrics; null takes Codec-SUPERB's six, or three fast ones (see `slow_metrics`)."""
    consistency_clips: int | None = 40
    """Clips for slice consistency; 0 leaves it out, null takes all."""
    workers: int | None = None
    """Processes for PESQ and STOI; null takes the free cores, at most 2."""
    ngrams: bool = False
    """Bits per token of 1- to 4-gram models."""
    asr: str | None = None
    """Word error rate of the reconstructions by this recogniser (`faster-whisper`, or a Hugging Face speech model), on
    the held-out clips with a transcript in `asr_languages`; null leaves it out."""
    asr_languages: list[str] = field(default_factory=lambda: ["en"])
    """Languages of the recogniser."""
    probe: LikelihoodConfig | None = None
    """Budget of the matched probe (P-ACC, P-PPL); null leaves it out."""
    probe_codebook: ProbeConfig = field(default_factory=ProbeConfig)
    """The matched probe's codebook."""
    salmon: str | None = None
    """Suite in SALMon's layout that the token LM of the first seed is scored on; null leaves it out."""


def measure_system(
    name: str,
    encoded: EncodedCorpus,
    corpus: Corpus,
    config: MeasurementConfig,
    on_progress: OnProgress | None = None,
) -> SystemRow:
    """Measure one codec as configured, in one pass over the clips.

    Args:
        name: of the row.
        encoded: the codec; its earlier results are reused.
        corpus: the token LM trains on `train`, everything else is measured on the held-out clips.
        config: the protocol.
        on_progress: called with a stage and the share of it that is done.

    Raises:
        ValueError: no clips, unreadable audio, metric packages missing.
    """

    def report(stage: str) -> Callable[[float], None]:
        return lambda share: on_progress(stage, share) if on_progress is not None else None

    codec, held_out = encoded.codec, corpus.held_out
    if not has_tokens(codec):
        return _sound_alone(name, encoded, held_out, config, report("reconstruct"))
    train = encoded.tokens(corpus.train, report("encode"), keep=config.probe is not None)
    for clips in (corpus.valid, corpus.test):
        encoded.tokens(clips, report("encode"))
    measured_codes = encoded.tokens(held_out)
    plays = can_decode(codec)
    measured = spread(held_out, config.reconstruction_clips) if plays else []
    spoken = check_spoken(held_out, config.asr_languages) if config.asr is not None and plays else []
    names = _metrics(config)
    heard = set(spoken)
    only_spoken = [clip for clip in spoken if clip not in measured]
    results = [
        measure_reconstruction(
            encoded,
            clips,
            metrics=metrics,
            asr=config.asr if heard.intersection(clips) else None,
            asr_languages=config.asr_languages,
            num_workers=config.workers,
            on_progress=report("reconstruct"),
        )
        for clips, metrics in ((measured, names), (only_spoken, ()))
        if clips
    ]
    more = {}
    if config.ngrams:
        bits = ngram_bits(train, measured_codes, codec.codebook_size * codec.num_codebooks)
        more = {f"ngram_{order}": value for order, value in bits.items()}
    scorers: list[SmallLMScorer] = []
    context = config.likelihood.max_tokens(codec.frame_rate * codec.num_codebooks)
    predictability = measure_bits(
        encoded,
        corpus,
        config.likelihood,
        report("token LM"),
        lambda _, model: scorers.append(SmallLMScorer(model.eval(), context)),
    )
    consistency = probe = salmon = None
    if config.consistency_clips != 0:
        clips = spread(held_out, config.consistency_clips)
        consistency = measure_consistency(encoded, clips, on_progress=report("consistency"))
    if config.probe is not None:
        splits = (corpus.train, corpus.valid, corpus.test)
        probe = measure_probe(encoded, *splits, corpus.budget(config.probe), config.probe_codebook, report("probe"))
    if config.salmon is not None and not deduplicates(codec):  # its pairs are scored on all frames
        salmon = salmon_accuracy(codec, scorers[0], config.salmon, on_progress=on_progress)
    return SystemRow(
        name,
        nominal_bits_per_second(codec),
        results[0] if measured else None,
        predictability,
        code_statistics(measured_codes, codec.codebook_size, codec.num_codebooks),
        consistency,
        [row for result in results for row in result.words] if spoken else None,
        probe,
        salmon,
        more,
    )


def _sound_alone(
    name: str,
    encoded: EncodedCorpus,
    held_out: Sequence[Clip],
    config: MeasurementConfig,
    on_progress: Callable[[float], None],
) -> SystemRow:
    """The row of a codec without tokens: fidelity, words on the clips of other codecs' words, and bits as sent."""
    clips = spread(held_out, config.reconstruction_clips)
    if not clips:
        raise ValueError(f"{name}: a codec without tokens, and no clips to reconstruct: nothing to measure")
    spoken = check_spoken(held_out, config.asr_languages) if config.asr is not None else []
    settings = {"asr_languages": config.asr_languages, "num_workers": config.workers}
    result = measure_reconstruction(
        encoded,
        clips,
        metrics=_metrics(config),
        asr=config.asr if set(spoken).intersection(clips) else None,
        on_progress=on_progress,
        **settings,  # type: ignore[arg-type]
    )
    row, words = reconstruction_row(name, encoded, result), list(result.words)
    if only_spoken := [clip for clip in spoken if clip not in clips]:
        heard = measure_reconstruction(encoded, only_spoken, metrics=(), asr=config.asr, **settings)  # type: ignore[arg-type]
        words += heard.words
    return replace(row, words=words)


def _metrics(config: MeasurementConfig) -> Sequence[str]:
    """Names of the metrics of sound."""
    if config.metrics is not None:
        return config.metrics
    return SUPERB if config.slow_metrics else FAST


def measure_bits(
    encoded: EncodedCorpus,
    corpus: Corpus,
    likelihood: LikelihoodConfig,
    on_progress: Callable[[float], None] | None = None,
    on_model: Callable[[int, SmallLM], None] | None = None,
) -> PredictabilityResult:
    """LM bits of one codec, by one LM; see `measure_predictability`."""
    codec, train, frame_rate, seconds = encoded.codec, encoded.tokens(corpus.train), encoded.codec.frame_rate, None
    if deduplicates(codec):
        frame_rate *= sum(map(len, train)) / sum(codes_QT.shape[1] for codes_QT in encoded.codes(corpus.train))
        held_out = encoded.codes([*corpus.valid, *corpus.test])
        seconds = [codes_QT.shape[1] / codec.frame_rate for codes_QT in held_out]
    return measure_predictability(
        train,
        encoded.tokens(corpus.valid),
        encoded.tokens(corpus.test),
        codec.codebook_size,
        frame_rate,
        corpus.budget(likelihood),
        num_codebooks=codec.num_codebooks,
        seconds=seconds,
        ids=[clip.id for clip in (*corpus.valid, *corpus.test)],
        device=str(device_of(codec)),
        on_progress=on_progress,
        on_model=on_model,
    )


def look_up_system(
    name: str,
    encoded: EncodedCorpus,
    corpus: Corpus,
    config: MeasurementConfig,
    cache: Path | None,
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> SystemRow:
    """`measure_system`, or its cached result.

    Args:
        cache: folder of cached rows; None turns caching off.
        fresh: measure again instead of using the cache.
    """
    key = None
    if cache is not None:
        states = _suite_state(config.salmon), model_state(config.asr)
        key = measurement_key(encoded.codec, corpus.state, config, *states)
    row = kept(cache, key, lambda: measure_system(name, encoded, corpus, config, on_progress), fresh)
    return replace(row, name=name)


def _suite_state(suite: str | None) -> list[Any]:
    """Files of a suite with sizes and times, without the codes kept in it; empty for none, or one of the hub."""
    if suite is None or not Path(suite).is_dir():
        return []
    files = [path for path in sorted(Path(suite).rglob("*")) if path.is_file() and path.parent.name != CACHE]
    return [[str(path.relative_to(suite)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def reconstruction_row(name: str, encoded: EncodedCorpus, result: ReconstructionResult) -> SystemRow:
    """A row with fidelity, bitrates and codebook use only; of a codec without tokens, bits as they were sent."""
    if not has_tokens(encoded.codec):
        heard = [row for row in result.rows if row.seconds]  # not those that failed
        sent = 8 * sum(len(row.codes) for row in heard) / max(1e-9, sum(row.seconds for row in heard))
        return SystemRow(name, sent, result, words=result.words)
    codec, codes = encoded.codec, [torch.tensor(row.codes) for row in result.rows]
    statistics = code_statistics(codes, codec.codebook_size, codec.num_codebooks)
    more = {"entropy_bits_per_second": codec.frame_rate * codec.num_codebooks * statistics.unigram_entropy_bits}
    return SystemRow(name, nominal_bits_per_second(codec), result, codes=statistics, words=result.words, more=more)


def add_token_details(row: SystemRow, encoded: EncodedCorpus) -> SystemRow:
    """Zipf exponent, and the bitrate of an ideal coder of single tokens."""
    assert row.codes is not None
    rate = encoded.codec.frame_rate * encoded.codec.num_codebooks
    rate = rate if row.predictability is None else row.predictability.token_rate
    more = {
        "zipf_exponent": row.codes.zipf_exponent,
        "entropy_bits_per_second": rate * row.codes.unigram_entropy_bits,
    }
    return replace(row, more={**row.more, **more})


def add_probe(
    row: SystemRow,
    encoded: EncodedCorpus,
    corpus: Corpus,
    likelihood: LikelihoodConfig,
    codebook: ProbeConfig,
    cache: Path | None = None,
    on_progress: OnProgress | None = None,
) -> SystemRow:
    """The matched probe, measured or from the cache, and its bits per second."""
    splits = (corpus.train, corpus.valid, corpus.test)
    report = None if on_progress is None else partial(on_progress, "probe")
    key = measurement_key(encoded.codec, corpus.state, likelihood, codebook) if cache is not None else None
    found = kept(cache, key, lambda: measure_probe(encoded, *splits, likelihood, codebook, report))
    return replace(row, probe=found, more={**row.more, "probe_bits_per_second": found.bits_per_second})


def nominal_bits_per_second(codec: Codec) -> float:
    """The codec's own `bitrate` (some codecs send a code less often than once per frame), else that of all codes."""
    whole = codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size)
    return float(getattr(codec, "bitrate", whole))
