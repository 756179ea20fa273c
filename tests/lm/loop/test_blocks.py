"""Blocks of a corpus on disk: the rows of each once, planned without a token, in memory that does not grow."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from llmcodec.io.token_shards import TokenRow, TokenShardWriter
from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.loop.blocks import BlockedRows, Blocks
from llmcodec.lm.loop.ranks import RankBatches
from llmcodec.lm.prepare import prepare_rows
from llmcodec.lm.recipe import LMDataConfig, LMModelConfig, TokenLMRecipe
from llmcodec.lm.sequences import SequenceBuilder
from llmcodec.lm.small_lm import SmallLMConfig
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.lm.train import train_token_lm
from llmcodec.transcode.flat_rows import read_rows
from llmcodec.transcode.mapped_rows import MappedRows

from ..small_token_lm import CODEC, NUM_CODES


def builder() -> SequenceBuilder:
    tokenizer = byte_tokenizer()
    return SequenceBuilder(tokenizer, add_audio_tokens(tokenizer, NUM_CODES), 48)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    random = np.random.default_rng(0)
    with TokenShardWriter(folder / "train", CODEC, clips_per_shard=9) as shards:
        for number in range(50):
            codes = random.integers(0, NUM_CODES, (1, 1, int(random.integers(4, 70))))
            shards.add(
                TokenRow(codes, codes.size * 320, id=f"c{number}", text=f"text {number}", speaker=f"s{number % 2}")
            )
    return folder


@pytest.mark.parametrize("formats", [["audio"], ["tts", "asr"], ["interleaved", "audio"]])
@pytest.mark.parametrize("packed", [48, None])
def test_blocks_hold_the_sequences_of_their_clips(tokens, formats, packed):
    mapped = MappedRows([tokens / "train"])
    blocks = Blocks(mapped, builder(), formats, packed, seed=3, block_clips=16)
    data = BlockedRows(blocks, seed=3, mixed=2)
    found = [[part.ids.tolist() for part in blocks.load(n).sequences] for n in range(4)]
    rows = read_rows([tokens / "train"])[0]
    expected = [builder().build(rows[at : at + 16], formats) for at in range(0, 50, 16)]
    assert found == [[one.ids.tolist() for one in built.sequences] for built in expected]
    assert blocks.num_sequences == sum(map(len, found)) and sum(blocks.num_rows) == len(data)
    assert blocks.num_tokens == sum(len(ids) for block in found for ids in block)
    assert blocks.built.left_out == sum((one.left_out for one in expected[1:]), expected[0].left_out)
    ids = sorted(token for place in range(len(data)) for token in data[place]["input_ids"].tolist())
    assert ids == sorted(token for block in found for sequence in block for token in sequence)


def test_planning_reads_no_token(tokens, monkeypatch):
    mapped = MappedRows([tokens / "train"])
    monkeypatch.setattr(MappedRows, "read", lambda *_: pytest.fail("tokens were read"))
    assert len(BlockedRows(Blocks(mapped, builder(), ["audio"], 48, 0, block_clips=16))) > 20


def test_every_epoch_has_every_row_once_and_few_blocks_at_a_time(tokens):
    data = BlockedRows(Blocks(MappedRows([tokens / "train"]), builder(), ["audio"], 48, 0, block_clips=4), 5, mixed=3)
    first, second = list(data.order(0)), list(data.order(1))
    assert sorted(first) == sorted(second) == list(range(len(data))) and first != second
    assert first == list(data.order(0)) and first != sorted(first)
    ends = np.cumsum(data.blocks.num_rows)
    block = [int(np.searchsorted(ends, place, side="right")) for place in first]
    switches = [set(block[at : at + 8]) for at in range(len(block) - 8)]
    assert max(map(len, switches)) <= 6  # at the border of two groups of three
    loads = []
    load = data.blocks.load
    data.blocks.load = lambda number: loads.append(number) or load(number)
    for place in first:
        data[place]
    assert sorted(loads) == list(range(13)), "every block is read once an epoch"
    filler = data[-1]
    assert (filler["labels"] == -100).all()
    each = [RankBatches(len(data), 2, 5, rank, 2, data.order) for rank in range(2)]
    steps = [sum(batch, []) for batch in zip(*each, strict=True)]
    assert [place for step in steps for place in step if place >= 0] == first


def test_a_corpus_on_disk_trains_resumes_and_is_known_again(tokens, tmp_path):
    small = SmallLMConfig(1, 16, 2, 24, dropout=0.0, max_positions=128)
    data = LMDataConfig(tokens=[str(tokens)], max_tokens=48, most_in_memory=20)

    def train(run: str, steps: int, resume: bool = False, data: LMDataConfig = data) -> dict[str, object]:
        settings = dict(eval_every=2, log_every=1, rows_per_batch=2, lr=1e-2, bf16=False, keep_best=False)
        steady = dict(schedule="constant_with_warmup", warmup_share=0.0)
        recipe = TokenLMRecipe(
            run=str(tmp_path / run), steps=steps, data=data, model=LMModelConfig(small=small), **settings, **steady
        )
        rows, valid, codec = prepare_rows(data, tmp_path / run)
        assert isinstance(rows, MappedRows) == (data.most_in_memory < 50)
        folder = train_token_lm(recipe, rows, valid, codec, resume=resume, say=lambda line: None)
        return load_token_lm(str(folder)).model.state_dict()

    whole = train("whole", 6)
    train("cut", 2)
    resumed = train("cut", 6, resume=True)
    assert all((whole[name] == resumed[name]).all() for name in whole)
    in_memory = train("memory", 6, data=LMDataConfig(tokens=[str(tokens)], max_tokens=48))
    assert all((whole[name] == in_memory[name]).all() for name in whole)  # a single block is all rows in memory
    log = json.loads((tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in log if "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0]


MEMORY = """
import sys
from pathlib import Path
from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.loop.blocks import BlockedRows, Blocks
from llmcodec.lm.sequences import SequenceBuilder
from llmcodec.transcode.mapped_rows import MappedRows

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

tokenizer = byte_tokenizer()
builder = SequenceBuilder(tokenizer, add_audio_tokens(tokenizer, 4096), 2048)
for folder in sys.argv[1:]:
    rows = MappedRows([Path(folder)])
    data = BlockedRows(Blocks(rows, builder, ["audio"], 2048, 0, block_clips=16), mixed=2)
    for place in data.order(0):
        data[place]
    print(len(rows), private())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_private_memory_does_not_grow_with_the_corpus(tmp_path):
    from dataclasses import replace

    codec = replace(CODEC, codebook_size=4096)
    codes = np.random.default_rng(0).integers(0, 4096, (1, 1, 20_000))
    for clips in (100, 1000):
        with TokenShardWriter(tmp_path / str(clips), codec, clips_per_shard=50) as shards:
            for number in range(clips):
                shards.add(TokenRow(codes, codes.size * 320, id=f"c{number}"))
    folders = [str(tmp_path / "100"), str(tmp_path / "1000")]
    done = subprocess.run([sys.executable, "-c", MEMORY, *folders], capture_output=True, text=True, check=True)
    found = [[float(value) for value in line.split()] for line in done.stdout.splitlines()]
    assert [count for count, _ in found] == [100, 1000]
    grown = found[1][1] - found[0][1]
    tokens = 900 * codes.size * np.dtype(np.int64).itemsize / 2**20
    assert tokens > 130 and grown < 25, f"{grown:.0f} MB more for tokens that take {tokens:.0f} MB as int64"
