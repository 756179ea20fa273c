"""Rows of shards that stay on disk: the rows that reading all gives, whichever stretch is asked for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmcodec.io.digests import digest_all
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import DamagedShard, ShardFormat, TokenRow, TokenShardWriter
from llmcodec.transcode.flat_rows import FlatRow, read_rows
from llmcodec.transcode.index import HERE, INDEX, Plan, describe_shards, write_index
from llmcodec.transcode.mapped_rows import MappedRows, count_rows

CODEC = TokenProvenance("toy", "0" * 64, 16_000, 320, 2, 100)


def write(folder: Path, clips: int, per_shard: int = 7, format: ShardFormat = "arrow", first: int = 0, codec=CODEC):
    random = np.random.default_rng(first)
    with TokenShardWriter(folder, codec, clips_per_shard=per_shard, format=format) as shards:
        for number in range(first, first + clips):
            frames = int(random.integers(1, 9))
            codes = random.integers(0, codec.codebook_size, (1 + number % 2, codec.num_codebooks, frames))
            row = {"text": f"clip {number}", "speaker": f"s{number % 3}", "language": "en"}
            shards.add(TokenRow(codes, frames * 320, id=f"c{number}", **row))
    return folder


def plain(rows: list[FlatRow]) -> list[dict[str, object]]:
    return [vars(row) | {"codes": row.codes.tolist()} for row in rows]


@pytest.mark.parametrize("speakers", [None, ["s0", "s2"]])
def test_any_stretch_is_that_of_all_rows(tmp_path, speakers):
    folders = [write(tmp_path / "a", 30), write(tmp_path / "b", 11, per_shard=4, first=30)]
    every = plain(read_rows(folders, speakers)[0])
    rows = MappedRows(folders, speakers)
    assert len(rows) == len(every) == (41 if speakers is None else 27) and count_rows(folders) == 41
    for start, stop in ((0, len(rows)), (3, 4), (5, 25), (26, 27), (len(rows) - 1, len(rows)), (4, 4)):
        assert plain(rows.read(start, stop)) == every[start:stop]
        shapes = rows.shapes(start, stop)
        for shape, row in zip(shapes, every[start:stop], strict=True):
            assert not shape.codes.any() and len(shape.codes) == len(row["codes"]) and shape.codes.strides == (0,)
            assert vars(shape) | {"codes": 0} == row | {"codes": 0}
    assert plain(rows[::10]) == every[::10] and plain([rows[-1]]) == every[-1:]
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_codes_are_held_in_the_smallest_integers(tmp_path):
    assert MappedRows([write(tmp_path / "a", 3)])[0].codes.dtype == np.uint8  # two codebooks of 100
    large = dataclasses.replace(CODEC, codebook_size=40_000)
    assert read_rows([write(tmp_path / "b", 3, codec=large)])[0][0].codes.dtype == np.uint32  # two of 40,000
    assert MappedRows([write(tmp_path / "c", 3, codec=dataclasses.replace(CODEC, codebook_size=9000))])[
        0
    ].codes.dtype == np.dtype(np.uint16)


def test_what_all_reading_leaves_out_or_mixes_is_said(tmp_path):
    folders = [
        write(tmp_path / weight, 4, per_shard=1, codec=dataclasses.replace(CODEC, codec=f"search@{weight}:toy"))
        for weight in ("0.1", "0.2")
    ]
    for read in (lambda: read_rows(folders), lambda: MappedRows(folders)[:]):
        with pytest.warns(UserWarning) as said:
            read()
        lines = [str(one.message) for one in said]
        assert sum("learns a mixture" in line for line in lines) == 1
        assert any("of which a language model reads the first alone" in line for line in lines)


def test_what_cannot_be_mapped_is_named(tmp_path):
    folder = write(tmp_path / "a", 10, per_shard=5)
    with pytest.raises(ValueError, match="a: named twice"):
        MappedRows([folder, tmp_path / "." / "a"])
    with pytest.raises(ValueError, match="no token shards"):
        MappedRows([tmp_path])
    other = write(tmp_path / "b", 3, codec=dataclasses.replace(CODEC, weights_sha256="1" * 64))
    with pytest.raises(ValueError, match="b/shard-00000.arrow: tokens of codec 'toy' .1{12}., the others are of"):
        MappedRows([folder, other])
    fewer = write(tmp_path / "fewer", 3, codec=dataclasses.replace(CODEC, num_codebooks=1))
    for read in (read_rows, MappedRows):
        with pytest.raises(ValueError, match="fewer.*: tokens of num_codebooks 1, not 2 as in the others;"):
            read([folder, fewer])
    parquet = write(tmp_path / "p", 3, format="parquet")
    with pytest.raises(ValueError, match="Parquet cannot be memory-mapped; tokenize as arrow"):
        MappedRows([parquet])
    assert count_rows([parquet]) == 0
    shutil.copy(folder / "shard-00000.arrow", folder / "shard-00009.arrow")
    with pytest.raises(ValueError, match="a clip stands there twice"):
        MappedRows([folder])
    (folder / "shard-00009.arrow").unlink()
    shard = folder / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    place = len(content) // 2
    content[place : place + 64] = b"\xff" * 64
    shard.write_bytes(content)
    with pytest.raises(DamagedShard, match="shard-00001.arrow"):
        MappedRows([folder]).read(0, 10)


@pytest.mark.parametrize("inside", [True, False])
def test_an_index_counts_while_it_is_of_the_shards_that_are_there(tmp_path, inside):
    folder = write(tmp_path / "train", 10, per_shard=5)
    plan = Plan.of({}, CODEC, 10, "abcd")
    write_index(folder if inside else tmp_path, plan, {HERE if inside else "train": describe_shards(folder)}, {})
    indexed = MappedRows([folder]).digest()
    (index,) = tmp_path.rglob(INDEX)
    assert indexed == digest_all(["train", index.read_bytes(), "None"])  # as runs have it that are resumed
    shutil.copy(folder / "shard-00001.arrow", folder / "shard-00002.arrow")
    with pytest.raises(ValueError, match="a clip stands there twice"):
        MappedRows([folder])
    (folder / "shard-00002.arrow").unlink()
    assert MappedRows([folder]).digest() == indexed
    write(tmp_path / "more", 3, first=10)
    shutil.copy(tmp_path / "more" / "shard-00000.arrow", folder / "shard-00002.arrow")  # of a run that was killed
    rows, stale = MappedRows([folder]), MappedRows([folder]).digest()
    assert len(rows) == 13 and stale != indexed
    index.write_text("damaged")
    assert MappedRows([folder]).digest() == stale
