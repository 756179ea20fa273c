"""The small language model: one configuration and one class for every LM over audio tokens trained from scratch.

    lm = SmallLM(SmallLMConfig(), vocabulary=4096, seed=0)
    lm.start_from(train_codes)                                  # rows by co-occurrence, bias by frequency
    logits_NV, targets_N = lm(*pad_batch(clips, lm.vocabulary))

It evaluates codecs (small_lm_training.py, small_lm_scorer.py), gives the rate term its probabilities while it trains
along with the codec (objectives/rate.py), and `llmcodec lm train` builds it with text tokens as a plain Hugging Face
model (`small_causal_lm`). Attention is causal and clips are padded on the right, so no token ever sees padding.

Shapes: B clips, T tokens, N real tokens of a batch, H width, V audio vocabulary (all codebooks).
Test: tests/lm/test_small_lm.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.io.structured import check_choices
from llmcodec.lm.embeddings import cooccurrence_embedding
from llmcodec.lm.logits import append_bias
from llmcodec.lm.packing import IGNORE


@dataclass(frozen=True)
class SmallLMConfig:
    """Architecture and starting point of the small language model."""

    num_layers: int = 2
    """Transformer layers (RMSNorm, rotary attention, SwiGLU)."""
    hidden_size: int = 128
    """Width of embeddings and layers."""
    num_heads: int | None = 4
    """Attention heads; null: hidden_size / head_dim."""
    intermediate_size: int = 384
    """Width inside the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout on the token embeddings and on the last hidden state, in training only."""
    token_dropout: float = 0.0
    """Share of input tokens whose embedding is zeroed in training."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights, and of the noise on the initial embeddings."""
    start_window: int = 2
    """Initial embeddings factorise co-occurrence within this distance in the training clips (lm/embeddings.py); 0 draws
    them at random, and then the seed decides when the model learns to repeat."""
    start_rms: float = 0.2
    """Root mean square of those embeddings."""
    start_clips: int | None = None
    """Take the initial embeddings from at most this many training clips; null from all, 0 draws them at random."""
    head_dim: int | None = None
    """Width of one attention head; null: hidden_size / num_heads."""
    family: Literal["llama", "qwen3"] = "llama"
    """Transformer blocks of Hugging Face; qwen3 also normalises queries and keys."""
    max_positions: int = 4096
    """Longest sequence that the model reads (rotary positions; costs no memory)."""
    ffn_size: InitVar[int | None] = None
    """Old name of intermediate_size."""
    max_frames: InitVar[int | None] = None
    """Old name of max_positions."""
    cooccurrence: InitVar[bool | None] = None
    """Old spelling of start_window: true is 2, false is 0."""

    def __post_init__(self, ffn_size: int | None, max_frames: int | None, cooccurrence: bool | None) -> None:
        window = None if cooccurrence is None else 2 * cooccurrence
        old = {"intermediate_size": "ffn_size", "max_positions": "max_frames", "start_window": "cooccurrence"}
        for name, value in zip(old, (ffn_size, max_frames, window), strict=True):
            if value is not None:
                warnings.warn(f"{old[name]} is {name} now; it wins over {name} where both are given", stacklevel=3)
                object.__setattr__(self, name, value)
        check_choices(self, "small language model")
        if self.num_heads is None and self.head_dim is None:
            raise ValueError("small language model: num_heads or head_dim must be a number, both are null")
        if min(one for one in (self.num_heads, self.head_dim, self.num_layers) if one is not None) < 1:
            raise ValueError(
                "small language model: num_layers, num_heads and head_dim must be at least 1, got "
                f"{self.num_layers}, {self.num_heads} and {self.head_dim}"
            )
        missing = self.num_heads or self.head_dim
        if None in (self.num_heads, self.head_dim) and self.hidden_size % (missing or 1) or self.head_width % 2:
            raise ValueError(
                f"small language model: hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads} "
                f"or head_dim {self.head_dim} into heads of even width"
            )

    @property
    def head_width(self) -> int:
        """Numbers of a query in one head."""
        return self.head_dim or self.hidden_size // (self.num_heads or 1)

    def transformer(self, vocabulary: int, **options: Any) -> Any:
        """The configuration of Hugging Face."""
        from transformers import AutoConfig

        heads = self.num_heads or self.hidden_size // self.head_width
        return AutoConfig.for_model(
            self.family,
            vocab_size=vocabulary,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=self.head_width,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_positions,
            initializer_range=self.initializer_range,
            **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | options,
        )

    def start_rows(self, clips: Sequence[Tensor], vocabulary: int) -> Tensor | None:
        """Rows to add to the random embeddings (V, H), the same for every seed; None for none."""
        most = len(clips) if self.start_clips is None else min(self.start_clips, len(clips))
        if self.start_window == 0 or most == 0:
            return None
        spread = [clips[place * len(clips) // most] for place in range(most)]
        return cooccurrence_embedding(
            spread, vocabulary, self.hidden_size, window=self.start_window, rms=self.start_rms
        )


class SmallLM(nn.Module):
    """Causal transformer over audio tokens with tied rows: logits = (hidden * gain) @ embedding^T + bias.

    Args:
        config: sizes.
        vocabulary: V.
        seed: of the initial weights; the global generator is left as it was.
        start_in_table: the start token is row V of the embedding, for callers that read token ids (`forward`); else it
            is a parameter of its own, for callers that read embeddings (`hidden_states`).
    """

    def __init__(self, config: SmallLMConfig, vocabulary: int, seed: int = 0, *, start_in_table: bool = False) -> None:
        from transformers import AutoModel

        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers first: their initial weights do not depend on the vocabulary
            model = AutoModel.from_config(config.transformer(1), trust_remote_code=False)
            rows_VH = torch.randn(vocabulary + start_in_table, config.hidden_size) * config.initializer_range
            start_H = torch.randn(config.hidden_size) * config.initializer_range
        # Tokens arrive as embeddings, and a parameter without gradient would stop DDP.
        model.register_module("embed_tokens", None)
        self.embedding_VH = nn.Parameter(rows_VH)
        self.gain_H = nn.Parameter(torch.ones(config.hidden_size))
        self.bias_V = nn.Parameter(torch.zeros(vocabulary))
        self.start_H = None if start_in_table else nn.Parameter(start_H)
        self.model = model

    @torch.no_grad()
    def start_from(self, clips: Sequence[Tensor], log_prob_V: Tensor | None = None, gain: float = 0.1) -> None:
        """Initialise as a unigram model with similar rows for similar codes.

        Args:
            clips: codes of training clips, 1-D int64 each.
            log_prob_V: of the unigram model; None: add-one-half smoothed frequencies of the clips.
            gain: of the hidden states; with 0 the model *is* the unigram model, whatever the vocabulary.
        """
        if log_prob_V is None:
            counts_V = torch.bincount(torch.cat(list(clips)), minlength=self.vocabulary).double() + 0.5
            log_prob_V = (counts_V / counts_V.sum()).log()
        self.bias_V.copy_(log_prob_V)
        rows_VH = self.config.start_rows(clips, self.vocabulary)
        if rows_VH is not None:
            self.embedding_VH[: self.vocabulary].add_(rows_VH.to(self.embedding_VH))
        self.gain_H.fill_(gain)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, V) and targets (N,) of the positions whose target is not IGNORE."""
        real_BT = targets_BT != IGNORE
        return self.logits(self.hidden(inputs_BT)[real_BT]), targets_BT[real_BT]

    def hidden(self, inputs_BT: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of token ids: state t has read the start token and the t tokens before it."""
        return self._read(F.embedding(inputs_BT, self.embedding_VH))

    def hidden_states(self, embeds_BTH: Tensor) -> Tensor:
        """Last hidden states (B, T, H) of the inputs [start, e_0, .., e_(T-2)]."""
        assert self.start_H is not None
        start = self.start_H.to(embeds_BTH.dtype).expand(embeds_BTH.shape[0], 1, -1)
        return self._read(torch.cat([start, embeds_BTH[:, :-1]], dim=1))

    def _read(self, embeds_BTH: Tensor) -> Tensor:
        config = self.config
        if self.training and config.token_dropout > 0:
            kept_BT = torch.rand(embeds_BTH.shape[:2], device=embeds_BTH.device) >= config.token_dropout
            embeds_BTH = embeds_BTH * kept_BT.unsqueeze(-1)
        embeds_BTH = F.dropout(embeds_BTH, config.dropout, self.training)
        hidden_BTH = self.model(inputs_embeds=embeds_BTH, use_cache=False).last_hidden_state
        return F.dropout(hidden_BTH, config.dropout, self.training)

    def logits(self, hidden_NH: Tensor) -> Tensor:
        """(N, H) hidden states -> (N, V) logits."""
        scores_NV = F.linear(hidden_NH * self.gain_H, self.embedding_VH[: self.vocabulary])
        return scores_NV.to(self.bias_V.dtype) + self.bias_V  # the bias stays exact under autocast

    def output(self, hidden_BTH: Tensor) -> tuple[Tensor, Tensor]:
        """States and output rows, whose product gives the logits, for losses that never hold all logits."""
        scaled = hidden_BTH * self.gain_H.to(hidden_BTH.dtype)
        return append_bias(scaled, self.embedding_VH[: self.vocabulary], self.bias_V)


def small_causal_lm(config: SmallLMConfig, vocabulary: int, seed: int, **options: Any) -> Any:
    """The same architecture as a Hugging Face causal LM with random weights and tied rows, for text and audio tokens.

    Args:
        options: further settings of its configuration, such as eos_token_id.
    """
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        described = config.transformer(vocabulary, tie_word_embeddings=True, **options)
        return AutoModelForCausalLM.from_config(described, trust_remote_code=False)


@torch.no_grad()
def start_causal_lm(model: Any, config: SmallLMConfig, clips: Sequence[Tensor], first: int, num_codes: int) -> None:
    """Add `config.start_rows` to the rows of the codes, tokens `first` and following, of a `small_causal_lm`.

    The final norm's gain starts small, so that the larger rows do not start with confident wrong guesses.
    """
    rows_VH = config.start_rows(clips, num_codes)
    if rows_VH is not None:
        weight = model.get_input_embeddings().weight
        weight[first : first + num_codes] += rows_VH.to(weight)
        model.base_model.norm.weight.fill_(0.1)


def pad_batch(clips: Sequence[Tensor], start_token: int) -> tuple[Tensor, Tensor]:
    """Clips -> inputs (start token, then all but the last token) and targets (the clip), right-padded, both (B, T)."""
    length = max(clip.numel() for clip in clips)
    inputs_BT = torch.full((len(clips), length), start_token)
    targets_BT = torch.full((len(clips), length), IGNORE)
    for row, clip in enumerate(clips):
        inputs_BT[row, 1 : clip.numel()] = clip[:-1]
        targets_BT[row, : clip.numel()] = clip
    return inputs_BT, targets_BT
