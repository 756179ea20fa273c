"""Training of a token LM as frozen dataclasses: the fields of `recipes/lm_*.yaml`, with the help of `lm train --help`.

Test: tests/lm/test_recipe.py parses every shipped recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from llmcodec.io.bad_rows import MaxBad, read_max_bad
from llmcodec.io.lm_card import check_template
from llmcodec.io.structured import check_choices
from llmcodec.lm.sequences import FORMATS, SPEAKS_TEXT
from llmcodec.lm.small_lm import SmallLMConfig


@dataclass(frozen=True)
class LMDataConfig:
    """Training tokens and sequence formats."""

    tokens: list[str] = field(default_factory=list)
    """Folders of token shards (`llmcodec tokenize`); empty: tokenise `manifest` with `codec` into the run folder."""
    valid_tokens: list[str] = field(default_factory=list)
    """Folders of held-out token shards; empty: the valid split of `manifest`, or no evaluation."""
    manifest: str = "bundled"
    """Manifest, or another source (data.md), to tokenise when `tokens` is empty; "bundled" is the 9-minute corpus
    inside the package."""
    codec: str = "bundled"
    """Codec to tokenise with: `bundled`, a folder or a hub id."""
    sources: list[str] | None = None
    """Keep clips of these sources of the manifest; tokens that are made already do not tell theirs."""
    languages: list[str] | None = None
    """Keep clips of these languages."""
    speakers: list[str] | None = None
    """Keep clips of these speakers."""
    max_bad: MaxBad = 0
    """Clips that may turn out unreadable while `manifest` is tokenised, 20 or 1%: each is named and left out."""
    formats: list[str] = field(default_factory=lambda: ["audio"])
    """audio, tts (text to audio), tts_stream (text and audio in turn, for speech that starts before the text is
    complete), tts_aligned (phoneme after phoneme with its audio; needs timed texts, see examples/align.py), asr (audio
    to text), interleaved (clips of one speaker, each as text or audio); or several of them."""
    text_template: str = "{text}"
    """Template of a transcript: {text}, {speaker}, {language} are filled in."""
    most_in_memory: int = 65_536
    """Clips in memory. The shards (Arrow) of a larger corpus stay on disk, memory-mapped, and about as many clips are
    shuffled at a time."""
    max_tokens: int = 1024
    """Longest sequence, and the length of a packed row."""
    packing: bool = True
    """Pack several sequences into a row, without attention between them. False: one sequence per row."""
    turns: tuple[int, int] = (7, 20)
    """Text tokens, then codes, of a turn of tts_stream. The text should stay a little ahead of the fastest speaker."""
    units_ahead: int = 2
    """Phonemes of tts_aligned that are read before their turn, besides the one to speak."""
    voice_seconds: float = 0.0
    """Speech of another clip of the speaker before a text to be spoken (zero-shot voice, 3 s); 0: none."""
    clips_per_sequence: int = 4
    """Clips in an interleaved sequence."""

    def __post_init__(self) -> None:
        unknown = set(self.formats) - set(FORMATS)
        if unknown or not self.formats:
            raise ValueError(f"recipe: data.formats: {sorted(unknown) or 'none'}; choose from {', '.join(FORMATS)}")
        if self.max_tokens < 8:
            raise ValueError(f"recipe: data.max_tokens must be at least 8, got {self.max_tokens}")
        if min(self.turns) < 1:
            raise ValueError(f"recipe: data.turns must be two numbers of at least 1, got {list(self.turns)}")
        if self.units_ahead < 0:
            raise ValueError(f"recipe: data.units_ahead cannot be negative, got {self.units_ahead}")
        if not 0 <= self.voice_seconds <= 30 or (self.voice_seconds and not SPEAKS_TEXT & set(self.formats)):
            raise ValueError(
                f"recipe: data.voice_seconds must be from 0 to 30, for formats that speak a text, got "
                f"{self.voice_seconds} and {self.formats}"
            )
        read_max_bad(self.max_bad)
        check_template(self.text_template, "recipe: data")


MOST_HEADS = 16


@dataclass(frozen=True)
class LMModelConfig:
    """Which language model, and which part of it is trained."""

    base: str | None = None
    """Hugging Face name or folder of a causal LM, or `smollm2`; null builds `small` from scratch."""
    small: SmallLMConfig = field(
        default_factory=lambda: SmallLMConfig(
            num_layers=4, hidden_size=256, intermediate_size=768, dropout=0.0, max_positions=2048
        )
    )
    """The model from scratch, with a byte tokenizer; works offline."""
    train: Literal["full", "lora", "embeddings", "heads"] = "full"
    """full: every weight. lora: adapters and the audio rows. embeddings: the audio rows only. heads: only the draft
    heads of a token LM, which `base` names."""
    heads: int = 0
    """Draft heads (Medusa) that train beside the LM, on its states and without changing them, for `lm sample
    --speculative`: head k predicts the k-th code after the next token."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Precision of frozen weights (lora, embeddings). Trained weights are always fp32."""
    lora_rank: int = 64
    """Rank of the adapters."""
    lora_alpha: int = 128
    """Scale of the adapters: alpha / rank."""
    lora_dropout: float = 0.0
    """Dropout inside the adapters."""
    lora_targets: str | list[str] = "all-linear"
    """Layers that get adapters: `all-linear`, or names such as [q_proj, v_proj]."""
    audio_rows: str | None = None
    """Start the codes' input rows from an adapted codec run (`audio_rows.safetensors`); null samples them from the text
    rows' mean and covariance, the same for every codec."""
    dropout: float = 0.0
    """Dropout on the input embeddings and on the last hidden state, in training only."""

    def __post_init__(self) -> None:
        check_choices(self, "recipe: model")
        if self.base is None and self.train != "full":
            raise ValueError(f"recipe: model.train is {self.train!r}, but a model from scratch trains in full")
        if self.base is None and (self.small.dropout or self.small.token_dropout):
            raise ValueError("recipe: model.small has a dropout of its own; `lm train` takes model.dropout")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"recipe: model.dropout must be in [0, 1), got {self.dropout}")
        if not 0 <= self.heads <= MOST_HEADS or (self.train == "heads" and not self.heads):
            low = 1 if self.train == "heads" else 0
            raise ValueError(f"recipe: model.heads must be from {low} to {MOST_HEADS}, got {self.heads}")
        if self.lora_rank < 1:
            raise ValueError(f"recipe: model.lora_rank must be at least 1, got {self.lora_rank}")


@dataclass(frozen=True)
class TokenLMRecipe:
    """Everything that decides the training of a token LM."""

    name: str = "lm"
    """Name shown in logs."""
    run: str = "runs/lm"
    """Folder of the run: run.json, log.jsonl, curves.png, checkpoint-N/, and lm/, the trained LM."""
    seed: int = 0
    """Seed of initial weights, audio rows, order, dropout."""
    data: LMDataConfig = field(default_factory=LMDataConfig)
    """Tokens."""
    model: LMModelConfig = field(default_factory=LMModelConfig)
    """Language model."""
    loss_over: Literal["audio", "full"] = "audio"
    """Softmax of the loss: over the codes and end of audio only, or over the LM's whole vocabulary. Formats with text
    targets need `full`."""
    everywhere: bool = False
    """Loss at every position; false takes it on the target modality of the format (tts: audio, asr: text)."""
    epochs: float = 3.0
    """Passes over the data; `steps` wins if set."""
    steps: int | None = None
    """Optimizer steps."""
    rows_per_batch: int = 4
    """Rows (packed, or one sequence each) in a micro-batch."""
    accumulate: int = 1
    """Micro-batches per optimizer step."""
    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    rows_lr: float | None = None
    """Peak learning rate of the audio rows with lora and embeddings; null: the same."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    warmup_share: float = 0.1
    """Share of the steps used for warm-up."""
    weight_decay: float = 0.0
    """AdamW weight decay of matrices; rows of embeddings, gains and biases have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    bf16: bool = True
    """Autocast in bf16, on CPUs too; losses, optimizer and trained weights stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, about a third more time."""
    eval_every: int = 200
    """Steps between evaluations (LM bits per second on the held-out clips) and checkpoints."""
    max_eval_clips: int = 200
    """Held-out clips used for evaluation during training."""
    keep_best: bool = True
    """Keep the weights with the fewest held-out bits per second (or nats per target); false keeps the last."""
    log_every: int = 10
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        check_choices(self, "recipe")
        for name in ("rows_per_batch", "accumulate", "eval_every", "log_every", "max_eval_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"recipe: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"recipe: warmup_share must be in [0, 1), got {self.warmup_share}")
        if not 0 < self.epochs < float("inf"):
            raise ValueError(f"recipe: epochs must be above 0, got {self.epochs}")
        for name in ("lr", "rows_lr", "weight_decay", "clip_norm"):
            if (value := getattr(self, name)) is not None and not 0 <= value < float("inf"):
                raise ValueError(f"recipe: {name} must be 0 or more, got {value}")
        if not self.run or not 0 <= self.seed < 1 << 32:
            raise ValueError(
                f"recipe: run must name a folder and seed lie in [0, 2**32), got {self.run!r}, {self.seed}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"recipe: steps must be at least 1, got {self.steps}")
        if self.loss_over == "audio" and not self.targets_are_audio:
            raise ValueError(
                "recipe: loss_over is audio, but "
                + ("everywhere asks for text too" if self.everywhere else f"{self.data.formats} have text as targets")
                + "; set loss_over to full"
            )

    @property
    def targets_are_audio(self) -> bool:
        """True if no text is ever predicted."""
        if self.everywhere and set(self.data.formats) != {"audio"}:
            return False
        return set(self.data.formats) <= {"audio"} | SPEAKS_TEXT

    def last_step(self, rows: int, processes: int) -> int:
        """Optimizer steps of a whole training on so many rows, as Hugging Face's trainer counts them."""
        batches = math.ceil(rows / (self.rows_per_batch * processes))
        return self.steps or math.ceil(self.epochs * math.ceil(batches / self.accumulate))

    def loss_in_words(self) -> str:
        """For the card and the log."""
        what = "every position" if self.everywhere else "the positions that the formats ask for"
        over = "the codes and end of audio" if self.loss_over == "audio" else "the whole vocabulary, text included"
        return f"cross-entropy at {what}, softmax over {over}"
