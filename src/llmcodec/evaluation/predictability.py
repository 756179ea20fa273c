"""LM bits per second: how predictable a codec's tokens are, measured the same way for every codec.

One small causal transformer is trained from scratch on audio tokens only (token_model.py), with the same
initialisation seed, the same data and the same budget in seconds of audio for every codec; its cross-entropy on
unseen clips, times the token rate, is the bitrate an ideal coder driven by it would need. Source of the protocol:
docs/evaluation.md.
Codes are 1-D int64 tensors, one per clip. Test: `pytest tests/evaluation/test_predictability.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llmcodec.lm.small_lm import SmallLM
from llmcodec.lm.small_lm_scorer import score_clips
from llmcodec.lm.small_lm_training import LikelihoodConfig, train_small_lm
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_ratio, compare_paired
from llmcodec.metrics.token_statistics import UnigramModel, check_codes

LN2 = math.log(2)
# Pairing by clip does not cover the variance between training runs. On the same tokens three seeds differ by .14 %
# (full corpus) and by 1.0 % (bundled ten minutes), on tokens of three trainings of one recipe by .2 to .6 %
# (docs/results). Differences up to this share, over the root of the number of LM seeds, are not called real.
SEED_LUCK = 0.01


@dataclass(frozen=True)
class ClipBits:
    """One scored clip: a row of every paired test. Bits are means over seeds."""

    id: str
    seconds: float
    num_tokens: int
    bits: float
    unigram_bits: float
    correct: float


@dataclass(frozen=True)
class CurvePoint:
    """Bits per token on the two held-out sets after `audio_seconds` of training with one seed."""

    seed: int
    audio_seconds: float
    valid_bits: float
    test_bits: float


@dataclass(frozen=True)
class PredictabilityResult:
    """Results of the token language model for one codec."""

    clips: list[ClipBits]
    curve: list[CurvePoint]
    seed_bits_per_second: dict[int, float]
    token_rate: float
    """Tokens per second of audio, all codebooks counted."""
    vocabulary: int
    config: LikelihoodConfig
    surprisal: dict[str, list[float]] = field(default_factory=dict)
    """Clip id -> bits of every token to a hundredth, under the LM of the first seed: what report pages draw."""

    def _per_token(self, total: float) -> float:
        return total / sum(clip.num_tokens for clip in self.clips)

    @property
    def bits_per_token(self) -> float:
        return self._per_token(sum(clip.bits for clip in self.clips))

    @property
    def bits_per_second(self) -> float:
        """LM bits per second of audio: the number to compare between codecs."""
        return self.bits_per_token * self.token_rate

    @property
    def unigram_bits_per_token(self) -> float:
        """Cross-entropy of the smoothed unigram model fitted on the training clips; of several codebooks, one each."""
        return self._per_token(sum(clip.unigram_bits for clip in self.clips))

    @property
    def context_gain(self) -> float:
        """Bits per token that context saves: unigram cross-entropy minus LM cross-entropy."""
        return self.unigram_bits_per_token - self.bits_per_token

    @property
    def accuracy(self) -> float:
        """Share of tokens that are the model's first guess."""
        return self._per_token(sum(clip.correct for clip in self.clips))

    @property
    def perplexity(self) -> float:
        return float(2.0**self.bits_per_token)

    @property
    def seed_spread(self) -> float:
        """(largest - smallest) / mean of bits per second over the seeds; 0 with one seed."""
        values = list(self.seed_bits_per_second.values())
        return (max(values) - min(values)) / (sum(values) / len(values))

    def interval(self) -> Interval:
        """Bits per second with a 95 % bootstrap interval over clips."""
        return bootstrap_ratio([clip.bits for clip in self.clips], [clip.seconds for clip in self.clips])


def compare_predictability(a: PredictabilityResult, b: PredictabilityResult) -> PairedComparison:
    """Bits per second of B against A, paired by clip. Raises ValueError unless clips and protocol are the same."""
    if [clip.id for clip in a.clips] != [clip.id for clip in b.clips]:
        raise ValueError("the two results were scored on different clips: measure both on the same manifest")
    if a.config != b.config:
        raise ValueError(
            "the two results were made with different settings: measure both with the same LikelihoodConfig"
        )
    seconds = [clip.seconds for clip in a.clips]
    paired = compare_paired([clip.bits for clip in a.clips], [clip.bits for clip in b.clips], weights=seconds)
    return replace(paired, margin=SEED_LUCK / math.sqrt(len(a.config.seeds)))


def measure_predictability(
    train_codes: Sequence[Tensor],
    valid_codes: Sequence[Tensor],
    test_codes: Sequence[Tensor],
    codebook_size: int,
    frame_rate: float,
    config: LikelihoodConfig | None = None,
    *,
    num_codebooks: int = 1,
    seconds: Sequence[float] | None = None,
    ids: Sequence[str] | None = None,
    device: str = "cpu",
    on_progress: Callable[[float], None] | None = None,
    on_model: Callable[[int, SmallLM], None] | None = None,
) -> PredictabilityResult:
    """Train the token LM on the train clips and score unseen clips.

    The test clips are scored at the checkpoint selected on the valid clips, and with `cross_select` the other way
    round, so no clip is scored at a checkpoint selected on itself. The same seed gives the same numbers on the same
    machine.

    Args:
        train_codes, valid_codes, test_codes: 1-D per clip; several codebooks are flattened by
            `token_statistics.flatten_codes`.
        codebook_size: codes of each codebook.
        frame_rate: frames per second; one frame is `num_codebooks` tokens.
        config: the protocol.
        num_codebooks: of the codec.
        seconds: of the valid and the test clips, where tokens have no fixed rate; `frame_rate` is then the mean one of
            the training clips.
        ids: of the valid and the test clips, in this order; by default `valid-0`, ..., `test-0`, ...
        device: where the language model is trained.
        on_progress: called with the share done, 0 to 1.
        on_model: called with the seed and the trained model of its last step, to score other clips with it.

    Raises:
        ValueError: empty splits, codes out of range, or another number of ids or seconds.
    """
    config = config or LikelihoodConfig()
    vocabulary = codebook_size * num_codebooks
    for name, codes in (("train_codes", train_codes), ("valid_codes", valid_codes), ("test_codes", test_codes)):
        check_codes(codes, vocabulary, name)
    token_rate = frame_rate * num_codebooks
    unigram = UnigramModel.fit(train_codes, vocabulary)
    held_out = [*valid_codes, *test_codes]
    splits = (("valid", valid_codes), ("test", test_codes))
    ids = ids or [f"{split}-{index}" for split, codes in splits for index in range(len(codes))]
    if len(ids) != len(held_out):
        raise ValueError(f"{len(ids)} clip ids for {len(held_out)} valid and test clips: give one id per clip")
    lengths = [clip.numel() / token_rate for clip in held_out] if seconds is None else list(seconds)
    if len(lengths) != len(held_out):
        raise ValueError(f"{len(lengths)} lengths for {len(held_out)} valid and test clips: give one per clip")
    is_valid = torch.arange(len(held_out)) < len(valid_codes)
    tokens = torch.tensor([clip.numel() for clip in held_out])
    curve: list[CurvePoint] = []
    by_seed: list[tuple[Tensor, Tensor]] = []
    surprisal: list[Tensor] = []
    for number, seed in enumerate(config.seeds):

        def report(share: float, number: int = number) -> None:
            if on_progress is not None:
                on_progress((number + share) / len(config.seeds))

        checkpoints, by_token = [], []
        for heard, model in train_small_lm(
            train_codes, vocabulary, token_rate, config, seed, device=device, on_progress=report
        ):
            each: list[Tensor] = []
            scores = score_clips(model, held_out, config.max_tokens(token_rate), tokens=each if number == 0 else None)
            checkpoints.append((heard, *scores))
            by_token.append(each)
        if on_model is not None:
            on_model(seed, model)
        for heard, nats, _ in checkpoints:
            per_split = [float(nats[part].sum() / tokens[part].sum() / LN2) for part in (is_valid, ~is_valid)]
            curve.append(CurvePoint(seed, heard, *per_split))
        for_valid, for_test = _best(checkpoints, is_valid)
        if number == 0:
            surprisal = [
                by_token[for_valid if valid else for_test][clip] for clip, valid in enumerate(is_valid.tolist())
            ]
        by_seed.append(_select(checkpoints, for_valid, for_test, is_valid))
    scored = torch.arange(len(held_out)) if config.cross_select else torch.nonzero(~is_valid)[:, 0]
    if seconds is not None:
        token_rate = int(tokens[scored].sum()) / sum(lengths[i] for i in scored.tolist())
    bits = torch.stack([nats for nats, _ in by_seed]).mean(0) / LN2
    correct = torch.stack([hits.double() for _, hits in by_seed]).mean(0)
    rows = [
        ClipBits(
            id=ids[i],
            seconds=lengths[i],
            num_tokens=held_out[i].numel(),
            bits=float(bits[i]),
            unigram_bits=unigram.clip_bits(held_out[i]) - held_out[i].numel() * math.log2(num_codebooks),
            correct=float(correct[i]),
        )
        for i in scored.tolist()
    ]
    rates = {
        seed: float(nats[scored].sum() / LN2 / tokens[scored].sum()) * token_rate
        for seed, (nats, _) in zip(config.seeds, by_seed, strict=True)
    }
    told = {ids[i]: [round(nats / LN2, 2) for nats in surprisal[i].tolist()] for i in scored.tolist()}
    return PredictabilityResult(rows, curve, rates, token_rate, vocabulary, config, told)


def _best(checkpoints: list[tuple[float, Tensor, Tensor]], is_valid: Tensor) -> tuple[int, int]:
    """The checkpoint that valid clips are scored at, which is the best for the test clips, and the other way round."""
    numbers = range(len(checkpoints))
    for_valid = min(numbers, key=lambda number: float(checkpoints[number][1][~is_valid].sum()))
    return for_valid, min(numbers, key=lambda number: float(checkpoints[number][1][is_valid].sum()))


def _select(
    checkpoints: list[tuple[float, Tensor, Tensor]], for_valid: int, for_test: int, is_valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Per-clip nats and hits, of valid and test clips each at their checkpoint."""
    (_, *valid), (_, *test) = checkpoints[for_valid], checkpoints[for_test]
    return torch.where(is_valid, valid[0], test[0]), torch.where(is_valid, valid[1], test[1])
