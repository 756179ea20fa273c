"""One codec, everything measured: the row of a table. Used by `llmcodec compare`, the quickstart and the experiments.

Reconstruction and consistency are measured on held-out clips; a small token LM is trained on the codec's tokens of the
train clips and scored on the held-out ones (`likelihood`), and on a suite in SALMon's manner where one is given.
Test: tests/evaluation/test_devices.py, tests/integration/test_sweep.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.consistency import slice_consistency
from llmcodec.evaluation.predictability import LikelihoodConfig, measure_predictability
from llmcodec.evaluation.probe import measure_probe
from llmcodec.evaluation.reconstruction import evaluate_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.wer import wer_of
from llmcodec.io import audio
from llmcodec.lm.small_lm_scorer import SmallLMScorer
from llmcodec.metrics.token_statistics import code_statistics, flatten_codes
from llmcodec.protocol import Codec, device_of
from llmcodec.salmon.score import salmon_accuracy

Progress = Callable[[str, float], None]  # stage, share done


@dataclass(frozen=True)
class Corpus:
    """The clips of one evaluation; every system gets the same."""

    train: Sequence[Clip]
    """For the token LM."""
    valid: Sequence[Clip]
    """Held out; chooses the LM checkpoint that is scored on `test` (and the other way round)."""
    test: Sequence[Clip]
    """Held out."""

    @property
    def held_out(self) -> list[Clip]:
        return [*self.valid, *self.test]


@dataclass(frozen=True)
class MeasurementConfig:
    """What is measured; the same for every row of a table."""

    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """Token LM and its budget."""
    reconstruction_clips: int | None = None
    """Measure reconstruction on this many held-out clips, evenly spread; null takes all."""
    slow_metrics: bool = True
    """PESQ and STOI (needs the packages of the `metrics` extra)."""
    consistency_clips: int | None = 40
    """Clips for slice consistency; 0 leaves it out, null takes all."""
    workers: int | None = None
    """Processes for PESQ and STOI; null takes what is free, at most 2."""
    asr: str | None = None
    """Word error rate of the reconstructions by this recogniser (`faster-whisper`, or a Hugging Face speech model), on
    the held-out clips with a transcript in `asr_languages`; null leaves it out."""
    asr_languages: list[str] = field(default_factory=lambda: ["en"])
    """Languages of the recogniser."""
    probe: LikelihoodConfig | None = None
    """Budget of the matched probe (P-ACC, P-PPL); null leaves it out."""
    salmon: str | None = None
    """Suite in SALMon's layout that the token LM of the first seed is scored on; null leaves it out."""


def measure_system(
    name: str, codec: Codec, corpus: Corpus, config: MeasurementConfig, on_progress: Progress | None = None
) -> SystemRow:
    """Reconstruction, token statistics, LM bits per second and slice consistency of one codec.

    Raises:
        ValueError: no clips, unreadable audio, metric packages missing.
    """

    def report(stage: str) -> Callable[[float], None]:
        return lambda share: on_progress(stage, share) if on_progress is not None else None

    pieces = spread(corpus.held_out, config.reconstruction_clips)
    reconstruction = evaluate_reconstruction(
        codec, pieces, num_workers=config.workers, slow_metrics=config.slow_metrics, on_progress=report("reconstruct")
    )
    train, valid, test = (encode_all(codec, clips) for clips in (corpus.train, corpus.valid, corpus.test))
    scorers: list[SmallLMScorer] = []
    context = config.likelihood.max_tokens(codec.frame_rate * codec.num_codebooks)
    predictability = measure_predictability(
        train,
        valid,
        test,
        codec.codebook_size,
        codec.frame_rate,
        config.likelihood,
        num_codebooks=codec.num_codebooks,
        valid_ids=[clip.id for clip in corpus.valid],
        test_ids=[clip.id for clip in corpus.test],
        device=str(device_of(codec)),
        on_progress=report("token LM"),
        on_model=lambda _, model: scorers.append(SmallLMScorer(model.eval(), context)),
    )
    consistency = None
    if config.consistency_clips != 0:
        consistency = slice_consistency(codec, spread(corpus.held_out, config.consistency_clips))
    words = probe = salmon = None
    if config.asr is not None:
        words = wer_of(
            codec, corpus.held_out, asr=config.asr, languages=config.asr_languages, on_progress=report("recognise")
        )
    if config.probe is not None:
        splits = (corpus.train, corpus.valid, corpus.test)
        probe = measure_probe(codec, *splits, likelihood=config.probe, on_progress=report("probe"))
    if config.salmon is not None:
        salmon = salmon_accuracy(codec, scorers[0], config.salmon, on_progress=on_progress)
    return SystemRow(
        name,
        nominal_bits_per_second(codec),
        reconstruction,
        predictability,
        code_statistics([*valid, *test], codec.codebook_size, codec.num_codebooks),
        consistency,
        words,
        probe,
        salmon,
    )


def nominal_bits_per_second(codec: Codec) -> float:
    """What the codec says itself (`bitrate`: some send a code less often than its place in a frame), else all codes."""
    whole = codec.frame_rate * codec.num_codebooks * math.log2(codec.codebook_size)
    return float(getattr(codec, "bitrate", whole))


@torch.no_grad()
def encode_all(codec: Codec, clips: Sequence[Clip], batch_seconds: float = 60.0) -> list[Tensor]:
    """Flattened 1-D codes of every clip, encoded in padded batches of similar length."""
    order = sorted(range(len(clips)), key=lambda index: -clips[index].duration)
    out: list[Tensor] = [torch.empty(0)] * len(clips)
    while order:
        size = max(1, int(batch_seconds / max(clips[order[0]].duration, 1e-3)))
        batch, order = order[:size], order[size:]
        wavs = [torch.from_numpy(audio.load(clips[index].path, codec.sample_rate)) for index in batch]
        wav_BS = pad_sequence(wavs, batch_first=True)
        lengths_B = torch.tensor([wav_S.numel() for wav_S in wavs])
        mask_BS = torch.arange(wav_BS.shape[1]) < lengths_B[:, None]
        encoded = codec.encode(wav_BS[:, None].to(device_of(codec)), mask_BS.to(device_of(codec)))
        for row, index in enumerate(batch):
            real_T = encoded.audio_codes_mask[row, 0].bool()
            out[index] = flatten_codes(encoded.audio_codes[row][:, real_T].cpu(), codec.codebook_size)
    return out


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """`count` clips evenly spread over the sequence; all of them for None."""
    if count is None or count >= len(clips):
        return list(clips)
    return [clips[i * len(clips) // count] for i in range(count)]
