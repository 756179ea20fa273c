"""The matched probe: how predictable are a codec's latents, before its own quantiser turns them into tokens?

Every codec's continuous latents are quantised by the same kind of probe codebook (k-means with the same number of
codes, the same seed and the same number of rounds, on standardised latents of the train clips), and the same token LM
is trained on the result. P-ACC is its next-token accuracy, P-PPL its perplexity: vocabulary and number of codebooks are
equal for all codecs, so these two may be compared where tokens may not. After ReLMCodec (arXiv 2608.08286).

Frame rates: latents faster than `max_frame_rate` are averaged down to it (each output frame is the mean over its time
span); slower ones stay, because repeated frames would be trivial to predict. Perplexities at different rates are not
comparable; `bits_per_second` of the result takes the rate into account.
Shapes: N rows, T frames, D latent width, K probe codes. Test: tests/evaluation/test_probe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcodec.adapters.features.kmeans import fit_codes, nearest
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.predictability import PredictabilityResult, measure_predictability
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.protocol import device_of


@dataclass(frozen=True)
class ProbeConfig:
    """The probe codebook; the same for every codec that is compared."""

    num_codes: int = 8192
    """Codes of the probe codebook. Small corpora need fewer: about 30 train frames per code or more."""
    rounds: int = 10
    """Rounds of k-means."""
    max_rows: int = 120_000
    """Train frames that k-means sees, drawn by the seed; all frames are assigned afterwards."""
    max_frame_rate: float = 50.0
    """Faster latents are averaged down to this many frames per second."""
    seed: int = 0
    """Seed of the initial codes, the drawn rows and the replacement of empty codes."""

    def __post_init__(self) -> None:
        if self.num_codes < 2 or self.rounds < 0:
            raise ValueError(f"probe: at least 2 codes and 0 rounds, not {self.num_codes} and {self.rounds}")


MINI_PROBE = ProbeConfig(num_codes=512)
"""For the ten bundled minutes: 24,000 train frames at 50 Hz."""


@dataclass(frozen=True)
class ProbeQuantizer:
    """Standardisation and codes, fitted on train latents."""

    mean_D: Tensor
    scale_D: Tensor
    """1 / standard deviation; 0 for dimensions that never change."""
    codes_KD: Tensor
    distortion: float
    """Mean squared distance per dimension from the fitted rows to their code (1: the codes explain nothing)."""
    used_codes: int
    """Codes with at least one of the fitted rows."""

    def __call__(self, latent_TD: Tensor) -> Tensor:
        """Latents (T, D) -> probe tokens (T,), int64."""
        return nearest((latent_TD - self.mean_D) * self.scale_D, self.codes_KD)[0]


@dataclass(frozen=True)
class ProbeResult:
    """Results of the token LM for probe tokens."""

    predictability: PredictabilityResult
    quantizer: ProbeQuantizer
    config: ProbeConfig
    frame_rate: float

    @property
    def accuracy(self) -> float:
        """P-ACC."""
        return self.predictability.accuracy

    @property
    def perplexity(self) -> float:
        """P-PPL."""
        return self.predictability.perplexity

    @property
    def bits_per_second(self) -> float:
        return self.predictability.bits_per_second


def measure_probe(
    encoded: EncodedCorpus,
    train: Sequence[Clip],
    valid: Sequence[Clip],
    test: Sequence[Clip],
    likelihood: LikelihoodConfig | None = None,
    config: ProbeConfig | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> ProbeResult:
    """Fit the probe on the train clips, tokenise all clips, train the token LM, score valid and test.

    Runs on the codec's device.

    Raises:
        ValueError: a codec that does not expose its latents (`protocol.HasFeatures`), or fewer train frames than probe
            codes.
    """
    config = config or ProbeConfig()
    rate = min(encoded.codec.frame_rate, config.max_frame_rate)

    def latents(clips: Sequence[Clip]) -> list[Tensor]:
        return [pooled(one, encoded.codec.frame_rate, config.max_frame_rate) for one in encoded.latents(clips)]

    train_latents = latents(train)
    quantizer = fit_probe(torch.cat(train_latents), config)
    result = measure_predictability(
        [quantizer(latent_TD) for latent_TD in train_latents],
        [quantizer(latent_TD) for latent_TD in latents(valid)],
        [quantizer(latent_TD) for latent_TD in latents(test)],
        config.num_codes,
        rate,
        likelihood,
        ids=[clip.id for clip in (*valid, *test)],
        device=str(device_of(encoded.codec)),
        on_progress=on_progress,
    )
    return ProbeResult(result, quantizer, config, rate)


def pooled(latent_TD: Tensor, frame_rate: float, max_frame_rate: float) -> Tensor:
    """Mean over time spans of 1 / max_frame_rate seconds, frames that straddle a border counting by their share."""
    if frame_rate <= max_frame_rate or latent_TD.shape[0] == 0:
        return latent_TD
    span = frame_rate / max_frame_rate  # input frames per output frame
    total = latent_TD.shape[0]
    count = max(1, round(total / span))
    edges = (torch.arange(count + 1, dtype=torch.float64) * span).clamp(max=total)
    edges[-1] = total
    sums = torch.cat([torch.zeros(1, latent_TD.shape[1], dtype=torch.float64), latent_TD.double().cumsum(0)])
    whole = edges.floor().long().clamp(max=total - 1)
    at_edges = sums[whole] + (edges - whole)[:, None] * latent_TD.double()[whole]  # integral of the latents up to there
    return ((at_edges[1:] - at_edges[:-1]) / (edges[1:] - edges[:-1])[:, None]).float()


def fit_probe(latent_ND: Tensor, config: ProbeConfig) -> ProbeQuantizer:
    """Standardise, then k-means (Lloyd 1982); a code that loses all its rows moves to a random row.

    The same rows and seed give the same codes. Raises ValueError for fewer rows than codes, or non-finite latents.
    """
    if latent_ND.shape[0] < config.num_codes:
        raise ValueError(
            f"probe: {latent_ND.shape[0]} train frames are too few for {config.num_codes} codes; "
            "use more speech or a smaller probe (num_codes)"
        )
    if not bool(torch.isfinite(latent_ND).all()):
        raise ValueError("probe: the codec's latents are not finite")
    mean_D, std_D = latent_ND.mean(0), latent_ND.std(0)
    scale_D = torch.where(std_D > 1e-6 * std_D.max().clamp(min=1e-12), 1 / std_D.clamp(min=1e-30), 0.0)
    generator = torch.Generator().manual_seed(config.seed)
    picked = torch.randperm(latent_ND.shape[0], generator=generator)[: max(config.max_rows, config.num_codes)]
    rows_ND = (latent_ND[picked] - mean_D) * scale_D
    codes_KD = fit_codes(rows_ND, config.num_codes, config.rounds, generator)
    assigned_N, squared_N = nearest(rows_ND, codes_KD)
    varying = int((scale_D > 0).sum())
    return ProbeQuantizer(
        mean_D, scale_D, codes_KD, float(squared_N.mean()) / max(1, varying), int(torch.unique(assigned_N).numel())
    )
