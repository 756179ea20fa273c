"""Add audio tokens to a causal LM: initial values of the new rows, and how to train only these.

    grow_embeddings(model, tokens, seed=0)            # rows sampled like the text rows, the same for every codec
    rows = attach_rows(model, tokens)                  # only these rows train (with or without LoRA)
    write_rows(model, tokens, dict(rows.named_parameters()))      # into a model of the same size: a plain one

Shapes: N = V + 2 audio rows (begin, end, codes), H width. Test: `pytest tests/lm/test_growth.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.lm.audio_tokens import AudioTokens
from llmcodec.lm.embeddings import load_tensors, row_statistics, sample_rows

_MARKER_SEED = 104_729
"""Begin and end of audio are sampled apart from the codes, so that row i of the codes depends on seed and i only."""


def is_tied(model: Any) -> bool:
    """True where input and output rows are one matrix."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"language model: {type(model).__name__} has no output rows; use a causal LM")
    return bool(head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr())


@torch.no_grad()
def grow_embeddings(model: Any, tokens: AudioTokens, seed: int = 0, audio_rows: str | None = None) -> None:
    """Give every audio token an input and an output row, in place.

    Rows are sampled from mean and covariance of the text rows, separately for input and output if the model does not
    tie them: every codec starts from the same distribution, and code i of every codec from the same row.

    Args:
        audio_rows: take the input rows of the codes from an adapted run (`audio_rows.safetensors`), and its start
            embedding for the begin token. Output rows that are not tied are still sampled.

    Raises:
        ValueError: the file is missing or of another codec or LM.
    """
    vocabulary = int(max(tokens.all_ids)) + 1
    tied = is_tied(model)
    text_rows = min(int(min(tokens.all_ids)), model.get_input_embeddings().weight.shape[0])
    matrices = [model.get_input_embeddings().weight]
    if not tied:
        matrices.append(model.get_output_embeddings().weight)
    statistics = [row_statistics(matrix[:text_rows]) for matrix in matrices]
    if vocabulary > matrices[0].shape[0]:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    width = matrices[0].shape[1]
    shapes = {"embedding_VH": (tokens.num_codes, width), "start_H": (width,)}
    adapted = load_tensors(audio_rows, shapes, "audio rows") if audio_rows else None
    heads = [model.get_input_embeddings()] + ([] if tied else [model.get_output_embeddings()])
    for number, (module, statistic) in enumerate(zip(heads, statistics, strict=True)):
        codes = sample_rows(statistic, tokens.num_codes, seed)
        markers = sample_rows(statistic, 2, seed + _MARKER_SEED)
        if adapted is not None and number == 0:
            codes, markers[0] = adapted["embedding_VH"], adapted["start_H"]
        rows = torch.cat([markers, codes]).to(module.weight)
        module.weight[tokens.all_ids.to(module.weight.device)] = rows
    if not tied and getattr(model.get_output_embeddings(), "bias", None) is not None:
        model.get_output_embeddings().bias[tokens.all_ids] = 0.0


class AudioRows(nn.Module):
    """The trainable rows (N, H) in full precision; `output_NH` is None if the LM ties its rows."""

    def __init__(self, input_NH: Tensor, output_NH: Tensor | None, ids_N: Tensor, vocabulary: int):
        super().__init__()
        self.input_NH = nn.Parameter(input_NH.detach().float().clone())
        self.output_NH = None if output_NH is None else nn.Parameter(output_NH.detach().float().clone())
        place = torch.full((vocabulary,), -1, dtype=torch.int64)
        place[ids_N] = torch.arange(len(ids_N))
        self.ids_N: Tensor
        self.place_V: Tensor
        self.register_buffer("ids_N", ids_N.clone(), persistent=False)
        self.register_buffer("place_V", place, persistent=False)

    @property
    def head_NH(self) -> Tensor:
        """Output rows."""
        return self.input_NH if self.output_NH is None else self.output_NH


class _StandIn(nn.Module):
    """Stands in for a frozen module of the LM, whose audio rows are those of `AudioRows`."""

    def __init__(self, frozen: nn.Module, rows: AudioRows):
        super().__init__()
        self.frozen = frozen
        self._rows = [rows]  # the rows are registered once, outside the model

    @property
    def rows(self) -> AudioRows:
        return self._rows[0]

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.frozen, "bias", None)


class _Reader(_StandIn):
    """Replaces the input embedding."""

    def forward(self, ids: Tensor) -> Tensor:
        text = self.frozen(ids)
        place = self.rows.place_V[ids]
        audio = F.embedding(place.clamp_min(0), self.rows.input_NH).to(text.dtype)
        return torch.where((place >= 0).unsqueeze(-1), audio, text)


class _Head(_StandIn):
    """Replaces the output layer."""

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.frozen(hidden)
        audio = F.linear(hidden, self.rows.head_NH.to(hidden.dtype))
        if self.bias is not None:
            audio = audio + self.bias[self.rows.ids_N].to(audio.dtype)
        return logits.index_copy(-1, self.rows.ids_N, audio.to(logits.dtype))


def attach_rows(model: Any, tokens: AudioTokens) -> AudioRows:
    """Put trainable audio rows over a grown model whose own matrices stay frozen; returns the rows.

    The rows are not registered inside `model`: the caller owns and trains them.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied, ids_N = is_tied(model), tokens.all_ids
    output = None if tied else head.weight[ids_N]
    rows = AudioRows(embedding.weight[ids_N], output, ids_N, embedding.weight.shape[0]).to(embedding.weight.device)
    embedding.weight.requires_grad_(False)
    head.weight.requires_grad_(False)
    model.set_input_embeddings(_Reader(embedding, rows))
    model.set_output_embeddings(_Head(head, rows))
    return rows


@torch.no_grad()
def write_rows(model: Any, tokens: AudioTokens, rows: Mapping[str, Tensor]) -> None:
    """Write trained rows, the parameters of `AudioRows` by name, into a grown model's own matrices."""
    for name, module in (("input_NH", model.get_input_embeddings()), ("output_NH", model.get_output_embeddings())):
        if name in rows:
            module.weight[tokens.all_ids] = rows[name].to(module.weight)


def attached_rows(model: Any) -> AudioRows | None:
    """The rows that `attach_rows` put over a model, if any."""
    reader = model.get_input_embeddings()
    return reader.rows if isinstance(reader, _Reader) else None
