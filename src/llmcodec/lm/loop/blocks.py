"""Rows of a corpus that does not fit in memory: sequences are built and packed a block of clips at a time.

    blocks = Blocks(MappedRows(folders), builder, ["audio"], max_tokens=1024, seed=0, block_clips=4096)
    data = BlockedRows(blocks)                  # data[17] builds the block of row 17, and keeps the last few
    for place in data.order(epoch=0): ...       # blocks in random order, the rows of a few of them mixed

How many rows a block gives is known without its tokens: the builder packs zeros in their place. What is remembered is a
number for each block. Test: tests/lm/loop/test_blocks.py.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch.utils.data import Dataset

from llmcodec.lm.packing import Row, RowDataset, plan_rows
from llmcodec.lm.sequences import Built, SequenceBuilder
from llmcodec.transcode.flat_rows import FlatRow

BLOCK_CLIPS = 8192
MIXED_BLOCKS = 8
"""Blocks whose rows are in memory, and in random order, together."""
MOST_UNIT_CODES = 1_000_000
"""Units whose lengths are kept for the card, which names their 99th percentile."""


class StoredRows(Protocol):
    """What `transcode.mapped_rows.MappedRows` offers."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> list[FlatRow]: ...

    def shapes(self, start: int, stop: int) -> list[FlatRow]: ...


class Blocks:
    """Blocks of clips, as packed rows.

    Args:
        rows: of the corpus.
        builder: of sequences.
        formats: of the sequences.
        max_tokens: in a packed row; None packs nothing, a sequence is a row.
        seed: of packing.
        block_clips: clips in a block.
    """

    def __init__(
        self,
        rows: StoredRows,
        builder: SequenceBuilder,
        formats: Sequence[str],
        max_tokens: int | None,
        seed: int,
        block_clips: int = BLOCK_CLIPS,
    ) -> None:
        self.rows, self.builder, self.formats = rows, builder, list(formats)
        self.max_tokens, self.seed, self.block_clips = max_tokens, seed, block_clips
        self.built = Built()
        """What the card and the log say of all blocks; without sequences."""
        self.num_sequences = self.num_tokens = 0
        self.num_rows: list[int] = []
        """Of every block."""
        for start in range(0, len(rows), block_clips):
            built = self._build(rows.shapes(start, min(start + block_clips, len(rows))))
            lengths = [len(one) for one in built.sequences]
            self.num_rows.append(len(self._plan(lengths, len(self.num_rows))))
            self.num_sequences += len(lengths)
            self.num_tokens += sum(lengths)
            self.built.left_out += built.left_out
            self.built.unit_codes += built.unit_codes[: MOST_UNIT_CODES - len(self.built.unit_codes)]
            self.built.units |= built.units
        if not self.num_sequences:
            raise ValueError(f"no sequence for {', '.join(formats)} from {len(rows)} clips: {self.built.report()}")

    def _build(self, rows: list[FlatRow]) -> Built:
        return self.builder.build_some(rows, self.formats)

    def _plan(self, lengths: Sequence[int], number: int) -> list[list[int]]:
        if self.max_tokens is None:
            return [[place] for place in range(len(lengths))]
        return plan_rows(lengths, self.max_tokens, self.seed + number)

    def load(self, number: int) -> RowDataset:
        """The packed rows of a block."""
        start = number * self.block_clips
        built = self._build(self.rows.read(start, min(start + self.block_clips, len(self.rows))))
        plan = self._plan([len(one) for one in built.sequences], number)
        assert len(plan) == self.num_rows[number], "lengths do not depend on the tokens"
        return RowDataset(built.sequences, plan)


class BlockedRows(Dataset[Row]):
    """The packed rows of all blocks, of which the last few stay in memory."""

    def __init__(self, blocks: Blocks, seed: int = 0, mixed: int = MIXED_BLOCKS) -> None:
        self.blocks, self.seed, self.mixed = blocks, seed, mixed
        self._ends = list(accumulate(blocks.num_rows))
        self._loaded: OrderedDict[int, RowDataset] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        if index < 0:  # a filler for a rank without a row; a block that is there gives it
            return (next(iter(self._loaded.values())) if self._loaded else self._block(0))[index]
        number = bisect.bisect_right(self._ends, index)
        return self._block(number)[index - (self._ends[number - 1] if number else 0)]

    def _block(self, number: int) -> RowDataset:
        if number in self._loaded:
            self._loaded.move_to_end(number)
        else:
            self._loaded[number] = self.blocks.load(number)
            while len(self._loaded) > self.mixed + 1:
                self._loaded.popitem(last=False)
        return self._loaded[number]

    def order(self, epoch: int) -> Iterator[int]:
        """Every row once: the blocks in random order, the rows of `mixed` neighbours in random order."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        blocks = torch.randperm(len(self.blocks.num_rows), generator=generator).tolist()
        for start in range(0, len(blocks), self.mixed):
            places = torch.cat(
                [
                    torch.arange(self._ends[number] - self.blocks.num_rows[number], self._ends[number])
                    for number in blocks[start : start + self.mixed]
                ]
            )
            yield from places[torch.randperm(len(places), generator=generator)].tolist()
