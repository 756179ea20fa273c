"""Growing a causal LM by audio tokens: where the new rows start, and how they train alone.

    grow_embeddings(model, tokens, seed=0)            # rows drawn from the text rows, the same for every codec
    rows = attach_rows(model, tokens)                  # only these rows train (with LoRA, or by themselves)
    merge_rows(model)                                  # written back: a plain model again

Shapes: N = V + 2 audio rows (begin, end, codes), H width. Test: `pytest tests/lm/test_growth.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.lm.audio_tokens import AudioTokens
from llmcodec.lm.embeddings import load_tensors, row_statistics, sample_rows

_MARKER_SEED = 104_729
"""Begin and end of audio are drawn apart from the codes, so that row i of the codes depends on seed and i alone."""


def is_tied(model: Any) -> bool:
    """True where input and output rows are one matrix."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"language model: {type(model).__name__} has no output rows; use a causal LM")
    return head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@torch.no_grad()
def grow_embeddings(model: Any, tokens: AudioTokens, seed: int = 0, audio_rows: str | None = None) -> None:
    """Give every audio token an input and an output row, in place.

    Rows are drawn from mean and covariance of the text rows, separately for input and output where the model does not
    tie them: every codec starts from the same distribution, and code i of every codec from the same row.

    Args:
        audio_rows: take the input rows of the codes from an adapted run (`audio_rows.safetensors`), and its start
            embedding for the begin token. Output rows that are not tied are still drawn.

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
    """The trainable rows (N, H) in full precision; `output_NH` is None where the LM ties its rows."""

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
        """Rows that predict."""
        return self.input_NH if self.output_NH is None else self.output_NH


class _Reader(nn.Module):
    """Stands in for the input embedding: text rows frozen, audio rows from `AudioRows`."""

    def __init__(self, frozen: nn.Module, rows: AudioRows):
        super().__init__()
        self.frozen = frozen
        self._rows = [rows]  # the rows are registered once, beside the model

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight  # type: ignore[return-value]

    def forward(self, ids: Tensor) -> Tensor:
        rows = self._rows[0]
        text = self.frozen(ids)
        place = rows.place_V[ids]
        audio = F.embedding(place.clamp_min(0), rows.input_NH).to(text.dtype)
        return torch.where((place >= 0).unsqueeze(-1), audio, text)


class _Head(nn.Module):
    """Stands in for the output layer."""

    def __init__(self, frozen: nn.Module, rows: AudioRows):
        super().__init__()
        self.frozen = frozen
        self._rows = [rows]

    @property
    def weight(self) -> Tensor:
        return self.frozen.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        return getattr(self.frozen, "bias", None)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = self._rows[0]
        logits = self.frozen(hidden)
        audio = F.linear(hidden, rows.head_NH.to(hidden.dtype))
        if self.bias is not None:
            audio = audio + self.bias[rows.ids_N].to(audio.dtype)
        return logits.index_copy(-1, rows.ids_N, audio.to(logits.dtype))


def attach_rows(model: Any, tokens: AudioTokens) -> AudioRows:
    """Put trainable audio rows over a grown model whose own matrices stay frozen; returns the rows.

    The rows are not registered inside `model`: whoever trains them holds them.
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
def merge_rows(model: Any) -> None:
    """Write attached rows into the model's own matrices and take the stand-ins away; does nothing without them."""
    reader, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(reader, _Reader) or not isinstance(head, _Head):
        return
    rows = reader._rows[0]
    reader.frozen.weight[rows.ids_N] = rows.input_NH.to(reader.weight)  # type: ignore[index,operator]
    if rows.output_NH is not None:
        head.frozen.weight[rows.ids_N] = rows.output_NH.to(head.weight)  # type: ignore[index,operator]
    model.set_input_embeddings(reader.frozen)
    model.set_output_embeddings(head.frozen)


def attached_rows(model: Any) -> AudioRows | None:
    """The rows that `attach_rows` put over a model, if any."""
    reader = model.get_input_embeddings()
    return reader._rows[0] if isinstance(reader, _Reader) else None
