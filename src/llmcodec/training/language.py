"""The language side of the objective: bridge, frozen LM, future-token prediction, alignment, rate, for one batch.

    codes -> bridge -> [start, e_0 .. e_(T-1)] -> frozen LM -> heads (FTP, rate) and pooled states (alignment)

Shapes: B batch, T frames, V audio vocabulary, H LM width. Test: tests/training/test_language.py.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from llmcodec import assets
from llmcodec.data.clips import ClipBatch
from llmcodec.data.sampler import clip_seed
from llmcodec.io.structured import check_choices
from llmcodec.lm.backbone import BackboneConfig, BackboneOutput, FrozenCausalLM, sa_layers, text_key
from llmcodec.lm.embeddings import load_module, save_tensors
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.small_lm import SmallLM
from llmcodec.lm.vocabulary import AudioVocabulary
from llmcodec.metrics.token_statistics import UnigramModel
from llmcodec.objectives.alignment import AlignmentConfig, SemanticAlignment, pool_last
from llmcodec.objectives.bridge import Bridge, BridgeConfig
from llmcodec.objectives.prediction import PredictionConfig, prediction_terms
from llmcodec.objectives.rate import RateConfig, rate_term, small_lm_rate
from llmcodec.protocol import CodecEncoding
from llmcodec.schedule import Schedule

ALIGNMENT_TERMS = frozenset({"align/cosine", "align/contrast"})
STATE_TERMS = ALIGNMENT_TERMS | {"lm/ftp"}
"""Terms that read states of the frozen LM; `lm/rate` does too where it has no small LM of its own."""
BACKBONE_TERMS = STATE_TERMS | {"bridge/ce"}


@dataclass(frozen=True)
class LanguageConfig:
    """Which language model the codec is adapted through, and how."""

    backbone: BackboneConfig | None = field(default_factory=BackboneConfig)
    """The frozen causal LM; null runs without one (only the rate term of a small audio LM)."""
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    """Codec to LM, differentiable."""
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    """Future-token prediction heads."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Audio and text states, memory bank."""
    rate: RateConfig = field(default_factory=RateConfig)
    """Rate term: whose probabilities, at which temperature."""
    rate_to_codec: Schedule | float = 1.0
    """Share of the rate term's gradient that reaches the codec; raised from 0, the LM trains before it affects the
    codec."""
    audio_rows: str | None = None
    """Start from the rows of an adapted run (`audio_rows.safetensors`); null starts as `rows_start` says."""
    rows_start: Literal["random", "cooccurrence"] = "random"
    """random: audio rows sampled like the text rows. cooccurrence: of the same mean and scale, but similar for codes
    that have similar neighbours in the starting codec's tokens."""
    start_clips: int | None = 2000
    """`rows_start` and `prediction.start` read the tokens of at most this many training clips; null reads all."""
    warmup_steps: int = 0
    """Steps before the recipe's `steps` in which the codec is frozen and only rows, heads, bridge, alignment bank and
    small audio LM learn, from the language terms alone. Schedules count the steps after them; in warm-up a schedule
    rises to its `value` (its `end` where that is 0) and stays there. A recipe without a language term takes none."""
    audio_lm: str | None = None
    """Start from the small audio LM of another run (`audio_lm.safetensors`) or from the `bundled` codec's; null starts
    from the co-occurrence of a pretrained codec's tokens (`rate.small_lm.start_clips`), else from random rows."""
    released_no_start: bool = False
    """As in the released code: no start embedding, so head 1 reads a state that has already seen its target."""
    released_crops: bool = False
    """As in the released code: align a crop with the transcript of the whole utterance (otherwise an error)."""

    def __post_init__(self) -> None:
        check_choices(self, "recipe: language")
        if self.audio_rows is not None and self.rows_start != "random":
            raise ValueError("recipe: language.audio_rows and rows_start cooccurrence are two starts; take one of them")
        if self.start_clips is not None and self.start_clips < 1:
            raise ValueError(f"recipe: language.start_clips must be at least 1, got {self.start_clips}; null reads all")
        if self.warmup_steps < 0:
            raise ValueError(f"recipe: language.warmup_steps cannot be negative, got {self.warmup_steps}")


class LanguageObjective(nn.Module):
    """Trainable audio rows, heads and bridge around a frozen LM; returns raw terms and logged figures.

    Args:
        config: see there. codebook_size: V. latent_dim: codec width D. seed: of initial rows and noise.
        backbone: an already loaded LM (tests); by default `config.backbone` is loaded.
    """

    def __init__(
        self,
        config: LanguageConfig,
        codebook_size: int,
        latent_dim: int,
        seed: int = 0,
        terms: Set[str] = BACKBONE_TERMS | {"lm/rate"},
        backbone: FrozenCausalLM | None = None,
    ):
        super().__init__()
        self.config, self.seed = config, seed
        needs_backbone = bool(BACKBONE_TERMS & terms) or ("lm/rate" in terms and config.rate.model == "backbone")
        if needs_backbone and backbone is None:
            if config.backbone is None:
                raise ValueError(
                    f"recipe: language.backbone is null, but {sorted(BACKBONE_TERMS & terms)} need a language model"
                )
            backbone = FrozenCausalLM.from_pretrained(config.backbone)
        self.backbone = backbone if needs_backbone else None
        self.bridge = self.vocabulary = self.prediction = self.alignment = self.audio_lm = None
        if self.backbone is not None:
            self.bridge = Bridge(config.bridge, codebook_size, latent_dim)
            self.vocabulary = AudioVocabulary.from_backbone(self.backbone, codebook_size, seed)
            if config.audio_rows is not None:
                load_module(self.vocabulary, config.audio_rows, "audio rows")
            if "lm/ftp" in terms or "lm/rate" in terms:
                heads = config.prediction
                self.prediction = PredictionHeads.from_backbone(
                    self.backbone, heads.num_heads, heads.kind, codebook_size, seed, heads.start == "unigram"
                )
            if ALIGNMENT_TERMS & terms:
                self.layers = sa_layers(self.backbone.num_layers)
                self.alignment = SemanticAlignment(self.layers, self.backbone.hidden_size, config.alignment)
        if "lm/rate" in terms and config.rate.model == "small_lm":
            self.audio_lm = SmallLM(config.rate.small_lm, codebook_size, seed)
            if config.audio_lm is not None:
                load_module(self.audio_lm, audio_lm_path(config.audio_lm), "recipe: language.audio_lm")

    @property
    def starts_from_clips(self) -> bool:
        """Whether `start_from` has anything to do."""
        heads = self.prediction is not None and self.config.prediction.start == "unigram"
        return heads or (self.vocabulary is not None and self.config.rows_start == "cooccurrence")

    def start_from(self, clips: Sequence[Tensor]) -> None:
        """Start rows and heads from codes of training clips (1-D int64 each), where the configuration says so."""
        if self.prediction is not None and self.config.prediction.start == "unigram":
            self.prediction.start_from(UnigramModel.fit(clips, len(self.prediction.rows[0])).log_prob_V)
        if self.vocabulary is not None and self.backbone is not None and self.config.rows_start == "cooccurrence":
            self.vocabulary.start_from(self.backbone, clips, self.seed)

    def parameter_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Optimizer group -> named parameters."""
        members: dict[str, list[nn.Module | None]] = {
            "bridge": [self.bridge],
            "audio": [self.vocabulary, self.prediction],
            "audio_lm": [self.audio_lm],
        }
        groups: dict[str, dict[str, nn.Parameter]] = {group: {} for group in members}
        for group, modules in members.items():
            for index, module in enumerate(modules):
                for name, parameter in module.named_parameters() if module is not None else ():
                    groups[group][f"{index}.{name}"] = parameter
        return groups

    def save_parts(self, folder: Path) -> None:
        """Write files that another run may start from: `audio_rows.safetensors`, `audio_lm.safetensors`; and
        `prediction_heads.safetensors`, which read the backbone's states."""
        if self.vocabulary is not None:
            save_tensors(folder / "audio_rows.safetensors", self.vocabulary.state_dict())
        if self.prediction is not None:
            save_tensors(folder / "prediction_heads.safetensors", self.prediction.state_dict())
        if self.audio_lm is not None:
            save_tensors(folder / "audio_lm.safetensors", self.audio_lm.state_dict())

    def forward(
        self, encoding: CodecEncoding, codebook_VC: Tensor, batch: ClipBatch, step: int, active: Set[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Raw terms among `active`, and figures that are only logged."""
        terms: dict[str, Tensor] = {}
        if "lm/rate" in active and self.audio_lm is not None:
            share = self.config.rate_to_codec
            share = share(step) if isinstance(share, Schedule) else share
            rate = self.config.rate
            terms |= small_lm_rate(
                self.audio_lm, encoding, codebook_VC, rate.tau(step), codec_scale=share, bf16=rate.bf16
            )
        if BACKBONE_TERMS & active or ("lm/rate" in active and self.audio_lm is None):
            terms |= self._through_backbone(encoding, codebook_VC, batch, step, active)
        return (
            {name: value for name, value in terms.items() if name in active},
            {name: value.detach() for name, value in terms.items() if name not in active},
        )

    def _through_backbone(
        self, encoding: CodecEncoding, codebook_VC: Tensor, batch: ClipBatch, step: int, active: Set[str]
    ) -> dict[str, Tensor]:
        assert self.backbone is not None and self.bridge is not None and self.vocabulary is not None
        seeds_B = [clip_seed(self.seed, step, clip_id, "gumbel") for clip_id in batch.ids]
        bridged = self.bridge(
            encoding, codebook_VC, self.vocabulary.embedding_VH, tau=self.config.bridge.tau(step), seeds_B=seeds_B
        )
        terms = dict(bridged.terms)
        if not (STATE_TERMS & active or ("lm/rate" in active and self.audio_lm is None)):
            return terms  # the bridge alone: nothing reads the LM, whose pass would be most of the step
        inputs = self.vocabulary.inputs(bridged.embeds_BTH, encoding.mask_BT, start=not self.config.released_no_start)
        layers = self.layers if ALIGNMENT_TERMS & active else ()
        states = self.backbone(inputs.embeds_BLH, inputs.mask_BL, layers)
        if "lm/ftp" in active:
            assert self.prediction is not None
            terms |= prediction_terms(
                self.prediction,
                states.last_BLH,
                encoding.codes_BT,
                encoding.mask_BT,
                self.config.prediction,
                encoding.lengths,
            )
        if "lm/rate" in active and self.audio_lm is None:
            assert self.prediction is not None
            head_states, rows_VH = self.prediction.head(1, states.last_BLH)
            rate = self.config.rate
            terms |= rate_term(head_states, rows_VH, encoding, codebook_VC, rate.tau(step), bf16=rate.bf16)
        if ALIGNMENT_TERMS & active:
            terms |= self._align(states, inputs.last_B, batch)
        return terms

    def _align(self, states: BackboneOutput, last_B: Tensor, batch: ClipBatch) -> dict[str, Tensor]:
        """Pooled audio states against cached text states; clips without text take part with key -1."""
        assert self.alignment is not None and self.backbone is not None
        keys = [text_key(text) for text in batch.texts]
        audio = {layer: pool_last(hidden, last_B) for layer, hidden in states.layers.items()}
        text = {layer: torch.zeros_like(pooled) for layer, pooled in audio.items()}
        with_text = [i for i, key in enumerate(keys) if key >= 0]
        if with_text:
            known = self.backbone.text_states([batch.texts[i] for i in with_text], self.layers)
            for layer, rows_BH in text.items():
                for place, state_H in zip(with_text, known[layer], strict=True):
                    rows_BH[place] = state_H.to(rows_BH.dtype)
        keys_B = torch.tensor(keys).to(last_B.device, non_blocking=True)
        return self.alignment(audio, text, keys_B)  # type: ignore[no-any-return]


def audio_lm_path(name: str) -> Path:
    return assets.codec_folder() / "audio_lm.safetensors" if name == "bundled" else Path(name)
