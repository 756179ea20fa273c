"""Packing of sequences into one row without attention between them, and scoring of long clips in windows.

Each sequence of a row counts its positions from 0. Hugging Face's attention starts a new block wherever the positions
do, so a packed row needs no padding and gives every sequence the loss it has alone (`check_packing` verifies this).
Shapes: B rows, L positions. Test: `pytest tests/lm/test_packing.py`.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from llmcodec.lm.logits import evaluating, hidden_states
from llmcodec.lm.sequences import TokenSequence
from llmcodec.runtime.base import length_batches

IGNORE = -100
Row = dict[str, Tensor]


def plan_rows(lengths: Sequence[int], max_tokens: int, seed: int, pool: int = 512) -> list[list[int]]:
    """Indices of the sequences that share a row of at most `max_tokens`: best fit, longest first, in random pools.

    Raises:
        ValueError: a sequence that is longer than a row.
    """
    if lengths and max(lengths) > max_tokens:
        raise ValueError(f"packing: a sequence of {max(lengths)} tokens does not fit a row of {max_tokens}")
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    rows: list[list[int]] = []
    for start in range(0, len(order), pool):
        room: list[tuple[int, int]] = []  # (tokens left, row), sorted
        for place in sorted(order[start : start + pool], key=lambda i: -lengths[i]):
            at = bisect.bisect_left(room, (lengths[place], -1))
            if at == len(room):
                rows.append([place])
                bisect.insort(room, (max_tokens - lengths[place], len(rows) - 1))
                continue
            left, row = room.pop(at)
            rows[row].append(place)
            bisect.insort(room, (left - lengths[place], row))
    return rows


class RowDataset(Dataset[Row]):
    """Rows of one or several sequences, as `input_ids`, `position_ids` and `labels` (L,)."""

    def __init__(self, sequences: Sequence[TokenSequence], plan: Sequence[Sequence[int]]):
        self.sequences, self.plan = sequences, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Row:
        if index < 0:  # a filler for a rank without a row (loop.ranks.FILLER): no target
            row = self[0]
            return row | {"labels": torch.full_like(row["labels"], IGNORE)}
        parts = [self.sequences[place] for place in self.plan[index]]
        ids = torch.cat([part.ids for part in parts])
        target = torch.cat([part.is_target for part in parts])
        positions = torch.cat([torch.arange(len(part)) for part in parts])
        return {"input_ids": ids, "position_ids": positions, "labels": ids.masked_fill(~target, IGNORE)}


def collate(rows: Sequence[Row]) -> Row:
    """Rows -> (B, L), right-padded; positions continue in the padding, so that it starts no block of its own.

    With causal attention no real position sees the padding after it, and its labels are ignored.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    batch: Row = {
        "input_ids": torch.zeros(len(rows), longest, dtype=torch.int64),
        "position_ids": torch.zeros(len(rows), longest, dtype=torch.int64),
        "labels": torch.full((len(rows), longest), IGNORE),
    }
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        for name, values in row.items():
            batch[name][number, :length] = values
        first = int(row["position_ids"][-1]) + 1
        batch["position_ids"][number, length:] = torch.arange(first, first + longest - length)
    return batch


def check_packing(model: Any, vocabulary: int) -> None:
    """Check that two short sequences in one row have the same states as alone.

    Raises:
        ValueError: this model's attention ignores positions; train it with `packing: false`.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, vocabulary, (length,), generator=generator) for length in (5, 7)]
    ids = torch.cat(parts)[None].to(model.device)
    positions = torch.cat([torch.arange(len(part)) for part in parts])[None].to(model.device)
    with evaluating(model):
        packed = hidden_states(model, input_ids=ids, position_ids=positions)[0].float()
        alone = torch.cat([hidden_states(model, input_ids=part[None].to(model.device))[0] for part in parts]).float()
    difference = float((packed - alone).abs().max() / alone.abs().max().clamp_min(1e-6))
    if difference > 2e-2:
        raise ValueError(
            f"packing: in {type(model).__name__} packed sequences see each other (states differ by {difference:.1%}); "
            "set packing to false"
        )


class Window(NamedTuple):
    """Tokens [start, stop) of a clip; those from `first` on count."""

    clip: int
    start: int
    stop: int
    first: int


def plan_windows(lengths: Sequence[int], most: int) -> list[Window]:
    """Windows of at most `most` tokens that overlap by half: each token counts once, where it has most context."""
    planned = []
    for clip, length in enumerate(lengths):
        first = 0
        for start in range(0, length, max(1, most // 2)):
            stop = min(start + most, length)
            if stop > first:
                planned.append(Window(clip, start, stop, first))
                first = stop
    return planned


def score_in_windows(
    clips: Sequence[Tensor],
    most: int,
    batch_tokens: int,
    score: Callable[[list[Tensor], list[int]], list[Tensor]],
    start_tokens: int = 0,
) -> list[Tensor]:
    """One score per token of every clip; clips longer than `most` are read in windows (`plan_windows`).

    Args:
        batch_tokens: padded tokens of a batch, each piece with its `start_tokens`.
        score: pieces and how many tokens to leave out in front of each -> scores of the others.
    """
    planned = plan_windows([len(clip) for clip in clips], most)
    parts: dict[int, Tensor] = {}
    lengths = [start_tokens + one.stop - one.start for one in planned]
    for batch in length_batches(lengths, batch_tokens, max_clips=len(lengths)):
        chosen = [planned[place] for place in batch]
        pieces = [clips[one.clip][one.start : one.stop] for one in chosen]
        parts |= zip(batch, score(pieces, [one.first - one.start for one in chosen]), strict=True)
    rows: list[list[Tensor]] = [[] for _ in clips]
    for place, one in enumerate(planned):
        rows[one.clip].append(parts[place])
    return [torch.cat(row) for row in rows]
