"""A training run as frozen dataclasses: the fields of `recipes/*.yaml`, with the help of `llmcodec train --help`.

A run is a recipe, a manifest and a commit. Test: tests/training/test_recipe.py parses every shipped recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llmcodec.assets import BUNDLED
from llmcodec.data.augmentation import Augmentation
from llmcodec.io.bad_rows import MaxBad, read_max_bad
from llmcodec.io.structured import check_choices
from llmcodec.objectives.adversary import AdversaryConfig
from llmcodec.objectives.bigram import BigramConfig
from llmcodec.objectives.collapse import CollapseFloors
from llmcodec.objectives.distillation import TeacherConfig
from llmcodec.objectives.spectral import SpectralConfig
from llmcodec.objectives.views import ViewConfig
from llmcodec.schedule import Schedule
from llmcodec.training.language import LanguageConfig


@dataclass(frozen=True)
class DataConfig:
    """Training clips and how they are batched."""

    manifest: str = BUNDLED
    """JSONL manifest of the training clips, or Parquet, Arrow, WebDataset tars or lhotse shar (data.md, "Sources");
    "bundled" is the 9-minute corpus inside the package."""
    split: str | None = "train"
    """Keep clips of this split; null keeps all."""
    sources: list[str] | None = None
    """Keep clips of these sources only (field `source` of the manifest)."""
    languages: list[str] | None = None
    """Keep clips of these languages only."""
    min_seconds: float = 0.5
    """Drop shorter clips."""
    max_seconds: float | None = 20.0
    """Drop longer clips; null keeps all."""
    max_bad: MaxBad = 0
    """Limit of bad clips (missing, damaged, NaN), e.g. 20 or 1%: each is named, and the next shorter readable clip
    takes its place. One more stops the run."""
    clips_per_batch: int = 8
    """Clips in one micro-batch on one process."""
    crop_seconds: float | None = None
    """Read a random crop of this length instead of the whole utterance. LM terms need whole utterances (null)."""
    bucket_batches: int = 8
    """Whole utterances of similar length share a batch: sorted within pools of this many batches; 1 does not sort.
    Without effect where `crop_seconds` is set."""
    prefetch: int = 2
    """Batches read ahead by a background thread; 0 reads in the main thread."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation: level, silence, speed, filters, noise, rooms, lossy codecs; all off by default."""

    def __post_init__(self) -> None:
        for name in ("clips_per_batch", "bucket_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: data.{name} must be at least 1, got {getattr(self, name)}")
        if self.crop_seconds is not None and not self.crop_seconds > 0:
            raise ValueError(f"recipe: data.crop_seconds must be positive, got {self.crop_seconds}")
        read_max_bad(self.max_bad)


@dataclass(frozen=True)
class CodecConfig:
    """Where the codec comes from and what stays fixed in it."""

    start: str = BUNDLED
    """`tiny`, `causal_tiny`, `auv`: that architecture from scratch; `bundled`: the codec in the package; else a folder
    or hub id, also of EnCodec, DAC, Mimi or BigCodec (`facebook/encodec_24khz:4`: with four codebooks)."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Changes to the architecture when training from scratch, e.g. {codebook_size: 512}; of a pretrained codec only
    what it sees: {causal: true, attention_window: 64}."""
    freeze_batch_norm: bool = True
    """Keep the batch-norm statistics of the starting codec (adaptation); false updates them (base training)."""
    gradient_checkpointing: bool = False
    """Recompute the codec's layers in the backward pass: less memory for long or many clips, more time."""
    audio_kind: str | None = None
    """Codebook partition to use ("speech", ...); null uses all codes."""
    smaller_codebook: int | None = None
    """Keep only this many codes, the most used on the training data: the simple baseline of every rate objective."""
    revive_below: float = 0.0
    """A code used less than this share of the average is moved onto a latent of the batch; 0 turns this off."""
    revive_every: int = 10
    """Steps between revivals."""
    revive_until: int = 0
    """No revival from this step on (codes must settle before the end); 0 means no limit."""
    usage_decay: float = 0.99
    """Decay of the running usage of codes."""

    def __post_init__(self) -> None:
        if self.revive_every < 1:
            raise ValueError(f"recipe: codec.revive_every must be at least 1, got {self.revive_every}")
        if not 0 <= self.usage_decay < 1:
            raise ValueError(f"recipe: codec.usage_decay must be in [0, 1), got {self.usage_decay}")


Weight = Schedule | float


def as_schedule(value: Weight) -> Schedule:
    """A plain number is a constant schedule."""
    return value if isinstance(value, Schedule) else Schedule(float(value))


@dataclass(frozen=True)
class Weights:
    """Weight of each loss term: a number, or a schedule (delay, warm-up, decay). A term of weight 0 is not computed."""

    mel: Weight = 0.0
    """recon/mel: log-mel L1 after RMS normalisation."""
    multi_mel: Weight = 0.0
    """recon/multi_mel: multi-scale log-mel L1."""
    mrstft: Weight = 0.0
    """recon/mrstft: multi-resolution STFT (convergence, log-magnitude, phase)."""
    complex_stft: Weight = 0.0
    """recon/complex_stft: L1 of real and imaginary parts, relative to the clip's level."""
    generator: Weight = 0.0
    """adv/generator: fool the discriminators (which train from the step on at which this weight is not 0)."""
    feature: Weight = 0.0
    """adv/feature: match the discriminators' features."""
    distill_l1: Weight = 0.0
    """distill/l1: a decoder layer, linearly projected, towards the teacher's features: mean absolute difference."""
    distill_cosine: Weight = 0.0
    """distill/cosine: the same, 1 - cosine similarity."""
    commit: Weight = 1.0
    """vq/commit: encoder towards its code (already scaled by the codec's `commitment`)."""
    codebook: Weight = 1.0
    """vq/codebook: code towards the encoder."""
    marginal_entropy: Weight = 0.0
    """codes/marginal_entropy: log V minus the entropy of the batch's soft code usage (against collapse)."""
    bigram: Weight = 0.0
    """codes/bigram: expected nats of a code beside its neighbours, under the fixed counts of `bigram.prior`."""
    view: Weight = 0.0
    """codes/view: the codes of a slightly perturbed copy of the audio should be those of the original."""
    ftp: Weight = 0.0
    """lm/ftp: future-token prediction by the heads on the frozen LM."""
    rate: Weight = 0.0
    """lm/rate: nats per token under the LM, with gradient into contexts and targets."""
    cosine: Weight = 0.0
    """align/cosine: audio states towards text states of the frozen LM."""
    contrast: Weight = 0.0
    """align/contrast: audio against the memory bank of text states."""
    bridge_ce: Weight = 0.0
    """bridge/ce: projected bridge towards the codec's own token."""

    def at(self, step: int) -> dict[str, float]:
        """Term name -> weight at a step, terms of weight 0 left out."""
        values = {term: as_schedule(getattr(self, name))(step) for term, name in TERMS.items()}
        return {term: value for term, value in values.items() if value != 0.0}

    def ever(self) -> list[str]:
        """Terms whose weight is not 0 throughout."""
        schedules = {term: as_schedule(getattr(self, name)) for term, name in TERMS.items()}
        return [term for term, schedule in schedules.items() if schedule.value or schedule.end]


WAVEFORM_TERMS = {
    "recon/mel": "mel",
    "recon/multi_mel": "multi_mel",
    "recon/mrstft": "mrstft",
    "recon/complex_stft": "complex_stft",
    "adv/generator": "generator",
    "adv/feature": "feature",
}
TEACHER_TERMS = {
    "distill/l1": "distill_l1",
    "distill/cosine": "distill_cosine",
}
CODEBOOK_TERMS = {
    "vq/commit": "commit",
    "vq/codebook": "codebook",
    "codes/marginal_entropy": "marginal_entropy",
    "codes/bigram": "bigram",
    "codes/view": "view",
}
LANGUAGE_TERMS = {
    "lm/ftp": "ftp",
    "lm/rate": "rate",
    "align/cosine": "cosine",
    "align/contrast": "contrast",
    "bridge/ce": "bridge_ce",
}
TERMS = WAVEFORM_TERMS | TEACHER_TERMS | CODEBOOK_TERMS | LANGUAGE_TERMS


@dataclass(frozen=True)
class GroupConfig:
    """Optimizer of one group of parameters."""

    kind: Literal["adamw", "sgd", "muon"] = "adamw"
    """muon: matrices inside the conformers by Muon, everything else of the group by AdamW."""
    lr: Weight = 1e-4
    """Learning rate, a number or a schedule over the steps; 0 leaves the group untouched (its momentum too)."""
    adamw_ratio: float = 0.33
    """With muon: learning rate of the AdamW part as a share of `lr`."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW."""
    momentum: float = 0.9
    """SGD and Muon."""
    weight_decay: float = 0.0
    """Decoupled (AdamW, Muon) or L2 (SGD)."""
    clip: float = 15.0
    """Largest gradient norm of the group."""

    def __post_init__(self) -> None:
        check_choices(self, "recipe: an optimizer")
        if not self.clip > 0:
            raise ValueError(f"recipe: an optimizer's clip must be positive, got {self.clip}; use 1e9 for no clipping")
        if min(as_schedule(self.lr).value, as_schedule(self.lr).end or 0.0) < 0:
            raise ValueError(f"recipe: a learning rate cannot be negative, got {self.lr}")


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer per group of parameters; the discriminators have theirs in `adversary`."""

    codec: GroupConfig = field(default_factory=GroupConfig)
    """Encoder, quantiser, decoder."""
    bridge: GroupConfig = field(default_factory=GroupConfig)
    """The projected bridge (pitfall: at the codec's learning rate it never learns)."""
    audio: GroupConfig = field(default_factory=GroupConfig)
    """Audio embedding rows, start embedding, prediction heads."""
    audio_lm: GroupConfig = field(default_factory=lambda: GroupConfig(lr=1e-3))
    """The small audio LM of the rate term, if there is one."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    name: str = "run"
    """Name shown in logs and reports."""
    run: str = "runs/run"
    """Folder of the run: resolved recipe, log, checkpoints, final codec, curves."""
    seed: int = 0
    """Seed of initialisation, data order, crops, noise."""
    steps: int = 1000
    """Optimizer steps; those of `language.warmup_steps` come before them."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    precision: Literal["bf16", "fp32", "fp64"] = "bf16"
    """bf16: autocast around conformers and LM (losses, STFT, look-up stay fp32). fp64 is for tests."""
    window_seconds: float | None = None
    """Decode a random window of this length for the waveform terms; null decodes all that was read."""
    adversary_seconds: float | None = None
    """Show the discriminators only a random stretch of this length of the decoded window; null shows all of it."""
    data: DataConfig = field(default_factory=DataConfig)
    """Speech."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Starting point."""
    weights: Weights = field(default_factory=Weights)
    """Weight of each loss term over the steps."""
    spectral: SpectralConfig = field(default_factory=SpectralConfig)
    """Windows of the spectral losses."""
    bigram: BigramConfig | None = None
    """Counts of pairs of codes for codes/bigram; null trains without."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """How the copy of codes/view differs from the original."""
    adversary: AdversaryConfig | None = None
    """Discriminators; null trains without."""
    teacher: TeacherConfig | None = None
    """Frozen speech encoder whose features a decoder layer learns; null trains without."""
    language: LanguageConfig | None = None
    """Frozen LM, bridge, prediction, alignment, rate; null trains without a language model."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates and clipping."""
    ema_decay: float | None = None
    """Exponential average of the codec's weights; if set, that average is what is exported."""
    floors: CollapseFloors = field(default_factory=CollapseFloors)
    """Token statistics below which training warns or stops."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of checkpoints kept on disk."""
    log_every: int = 10
    """Steps between lines of the log."""
    max_bad_steps: int = 5
    """The run stops after this many non-finite steps in a row."""
    trackers: list[str] = field(default_factory=list)
    """accelerate trackers besides the JSONL log: tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        check_choices(self, "recipe")
        for name in ("steps", "accumulate", "checkpoint_every", "log_every", "keep_checkpoints", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("window_seconds", "adversary_seconds"):
            if (seconds := getattr(self, name)) is not None and not seconds > 0:
                raise ValueError(f"recipe: {name} must be positive, got {seconds}; null takes all there is")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"recipe: ema_decay must be in [0, 1), got {self.ema_decay}; null keeps no average")
        if not self.run:
            raise ValueError("recipe: run must name a folder, it is empty")
        for name in TERMS.values():
            weight = as_schedule(getattr(self.weights, name))
            if not (weight.value >= 0 and (weight.end is None or weight.end >= 0)):
                raise ValueError(f"recipe: weights.{name} cannot be negative, which would train the opposite")
        self._check_terms()
        self._check_steps()

    @property
    def warmup_steps(self) -> int:
        """Steps with a frozen codec before the others; 0 without a language term, for then nothing would learn."""
        learning = any(term in LANGUAGE_TERMS for term in self.weights.ever())
        return self.language.warmup_steps if self.language is not None and learning else 0

    @property
    def total_steps(self) -> int:
        """Steps of warm-up and joint training together."""
        return self.warmup_steps + self.steps

    def logs(self, step: int) -> bool:
        """Whether a step, counted from 1 through the warm-up, is logged: its figures are then of all processes."""
        return step % self.log_every == 0 or step == self.total_steps

    def rate_lines(self) -> list[str]:
        """A line for each learning rate that is 0 before the last step, or not at its end then."""
        language = self.language is not None and any(term in LANGUAGE_TERMS for term in self.weights.ever())
        lines = []
        for group in ("codec", *(("bridge", "audio", "audio_lm") if language else ())):
            lr, option = as_schedule(getattr(self.optimizer, group).lr), f"optimizer.{group}.lr"
            before = lr.delay + lr.warmup
            if lr.end is None or before + lr.steps == self.steps:
                continue
            if before + lr.steps > self.steps:
                what = f"is still {lr(self.steps - 1):.2g} at the last of {self.steps} steps, its curve takes more"
            elif lr.end == 0:
                what = f"is 0 from step {before + lr.steps} of {self.steps} on: nothing is learnt in the rest"
            else:
                continue
            fit = f"{option}.steps {self.steps - before}" if self.steps > before else f"{option}.warmup and .steps"
            lines.append(f"{option} {what}; set {fit}")
        return lines

    def _check_terms(self) -> None:
        """Check that every term with a weight has what it needs."""
        language = self.language
        for term in self.weights.ever():
            if term.startswith("adv/") and self.adversary is None:
                raise ValueError(f"recipe: weights.{TERMS[term]} needs an `adversary` section")
            if term == "adv/feature" and "adv/generator" not in self.weights.ever():
                raise ValueError(
                    "recipe: weights.feature needs weights.generator too: without it the discriminators never train"
                )
            if term == "codes/bigram" and self.bigram is None:
                raise ValueError("recipe: weights.bigram needs a `bigram` section (bigram.prior: a file of its counts)")
            if term in TEACHER_TERMS and self.teacher is None:
                raise ValueError(f"recipe: weights.{TERMS[term]} needs a `teacher` section")
            if term not in LANGUAGE_TERMS:
                continue
            if language is None:
                raise ValueError(f"recipe: weights.{TERMS[term]} needs a `language` section")
            if term.startswith("align/") and self.data.crop_seconds is not None and not language.released_crops:
                raise ValueError(
                    "recipe: data.crop_seconds cuts utterances, but alignment needs audio of its whole text; "
                    "set crop_seconds to null (or language.released_crops to reproduce the released code)"
                )
            if term == "bridge/ce" and language.bridge.kind != "projected":
                raise ValueError(
                    f"recipe: weights.bridge_ce teaches a projected bridge, but language.bridge.kind is "
                    f"{language.bridge.kind!r}, which agrees by construction; set the weight to 0"
                )
            if term == "lm/rate" and language.rate.model == "backbone" and language.released_no_start:
                raise ValueError(
                    "recipe: with language.released_no_start the LM has read each code before it predicts it, which "
                    "makes the rate of the backbone meaningless; take language.rate.model small_lm"
                )

    def _check_steps(self) -> None:
        """Check that some term has a weight at every step. Stretches without one begin where a schedule turns."""
        schedules = {name: as_schedule(getattr(self.weights, name)) for name in TERMS.values()}
        turns = {0}
        for one in schedules.values():
            turns |= {one.delay, one.delay + one.warmup, one.delay + one.warmup + one.steps}
        idle = next((step for step in sorted(turns) if step < self.steps and not self.weights.at(step)), None)
        if idle is not None:
            named = ", ".join(f"weights.{name}" for name, one in schedules.items() if one.value or one.end)
            raise ValueError(
                f"recipe: nothing to train at step {idle}: {named or 'every weight'} is 0 there; let a weight of "
                "another term (weights.commit, weights.codebook) be above 0 at that step"
            )
