"""io/token_shards.py: a corpus comes back from its shards, Arrow or Parquet; what does not add up is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcodec.io.known_rows import said_number
from llmcodec.io.token_file import CLIP_FACTS, TokenProvenance
from llmcodec.io.token_shards import TokenRow, TokenShardWriter, open_token_shards, read_token_shards, shards_in

PROVENANCE = TokenProvenance("rate/codec", "ab" * 32, 16000, 320, 1, 4096, "c0ffee")
both_formats = pytest.mark.parametrize("format", ["arrow", "parquet"])


def provenance(num_codebooks: int = 1, codebook_size: int = 4096) -> TokenProvenance:
    return dataclasses.replace(PROVENANCE, num_codebooks=num_codebooks, codebook_size=codebook_size)


def write(path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)


def read_back(path) -> pa.Table:
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).read_all()


def rows(number: int, seed: int = 0) -> list[TokenRow]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, number)
    return [
        TokenRow(
            generator.integers(0, 1024, (1 + i % 2, 2, frames)),
            int(frames) * 320,
            16000,
            int(frames) * 320,
            1 + i % 2,
            id=f"speaker/{i}",
            text=f"Nr. {i} ü",
            speaker="s",
            language="de",
        )
        for i, frames in enumerate(lengths)
    ]


def same(left: TokenRow, right: TokenRow) -> bool:
    return np.array_equal(left.codes, right.codes) and dataclasses.replace(left, codes=right.codes) == right


@both_formats
@pytest.mark.parametrize("size", [1024, 200_000])
def test_a_corpus_comes_back_in_order_from_its_shards(tmp_path, format, size):
    source, clips = provenance(2, size), rows(10)
    with TokenShardWriter(tmp_path / "t", source, clips_per_shard=4, format=format) as shards:
        for row in clips:
            shards.add(row)
    assert sorted(p.name for p in (tmp_path / "t").iterdir()) == [f"shard-0000{i}.{format}" for i in range(3)]
    found, back = open_token_shards(tmp_path / "t")
    assert found == source and all(same(*pair) for pair in zip(back, clips, strict=True))
    assert [row.id for row in read_token_shards(tmp_path / "t" / f"shard-00002.{format}")] == ["speaker/8", "speaker/9"]


@pytest.mark.parametrize("formats", [("arrow", "arrow"), ("parquet", "parquet"), ("arrow", "parquet")])
def test_a_killed_run_goes_on_behind_its_last_shard(tmp_path, formats):
    source, clips = provenance(2, 1024), rows(10)
    killed = TokenShardWriter(tmp_path, source, clips_per_shard=4, format=formats[0])
    for row in clips[:7]:  # three rows are in no shard yet
        killed.add(row)
    del killed  # as the end of its process does
    with TokenShardWriter(tmp_path, source, resume=True, clips_per_shard=4, format=formats[1]) as shards:
        assert [row.id in shards.done for row in clips] == [number < 4 for number in range(10)]
        said = [said_number(row.text, row.speaker, row.language) for row in clips[:4]]
        assert [shards.done.facts(row.id).said for row in clips[:4]] == said
        assert len(shards.done) == 4
        for row in clips:
            if row.id not in shards.done:
                shards.add(row)
    assert all(same(*pair) for pair in zip(read_token_shards(tmp_path), clips, strict=True))
    with pytest.raises(ValueError, match="holds token shards already"):
        TokenShardWriter(tmp_path, source)
    other = dataclasses.replace(source, weights_sha256="cd" * 32)
    with pytest.raises(ValueError, match="made by another codec"):
        TokenShardWriter(tmp_path, other, resume=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError, MemoryError, OSError])
def test_a_run_that_is_interrupted_or_fails_keeps_what_is_done_but_for_a_full_disk(tmp_path, error):
    with pytest.raises(error), TokenShardWriter(tmp_path, provenance(2, 1024)) as shards:
        for row in rows(3):
            shards.add(row)
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ([] if error is OSError else ["shard-00000.arrow"])
    assert error is OSError or len(list(read_token_shards(tmp_path))) == 3


def test_rows_that_do_not_fit_are_refused(tmp_path):
    with TokenShardWriter(tmp_path, PROVENANCE) as shards:
        shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id="a"))
        with pytest.raises(ValueError, match="two clips have the id 'a'"):
            shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id="a"))
        with pytest.raises(ValueError, match="code 9999"):
            shards.add(TokenRow(np.full((1, 1, 2), 9999), 640, id="b"))
        with pytest.raises(ValueError, match="channels, codebooks, frames"):
            shards.add(TokenRow(np.zeros(2, int), 640, id="c"))
        good = TokenRow(np.zeros((1, 1, 2), int), 640, id="d")
        for changes, said in (
            ({"num_samples": 961}, "961 samples claimed"),
            ({"num_samples": 0}, "num_samples in its metadata is '0'"),
            ({"original_sample_rate": 7}, "original sample rate of 7 Hz"),
            ({"original_sample_rate": 16000, "original_num_samples": 64000}, "64000 original samples"),
            ({"original_num_samples": -1}, "original_num_samples in its metadata is '-1'"),
            ({"id": "d\udcff"}, r"'d\\udcff': its id is no text"),
            ({"text": "\ud800"}, "'d': its text is no text"),
            ({"speaker": "\ud800"}, "'d': its speaker is no text"),
            ({"language": "\ud800"}, "'d': its language is no text"),
        ):
            with pytest.raises(ValueError, match=said):
                shards.add(dataclasses.replace(good, **changes))
        shards.add(good)
    assert [row.id for row in read_token_shards(tmp_path)] == ["a", "d"]


def test_rows_that_could_not_be_written_are_written_with_the_next_ones(tmp_path, monkeypatch):
    with TokenShardWriter(tmp_path, provenance(2, 1024), clips_per_shard=2) as shards:
        first, second, third = rows(3)
        shards.add(first)
        with monkeypatch.context() as broken:
            broken.setattr(pa, "table", lambda columns: pa.array(["a"], pa.int64()))
            with pytest.raises(pa.ArrowInvalid):
                shards.add(second)
        assert shards_in(tmp_path) == []
        shards.add(third)
    assert [row.id for row in read_token_shards(tmp_path)] == ["speaker/0", "speaker/1", "speaker/2"]


WRITER = """
import sys, time
from llmcodec.io.token_shards import TokenShardWriter
from llmcodec.io.token_file import TokenProvenance
writer = TokenShardWriter(sys.argv[1], TokenProvenance("rate/codec", "ab" * 32, 16000, 320, 1, 4096))
print("open", flush=True)
time.sleep(60)
"""


def test_a_folder_has_one_writer_at_a_time_and_a_killed_one_has_none(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"open\n"
    try:
        with pytest.raises(ValueError, match="another run writes shards there"):
            TokenShardWriter(tmp_path, PROVENANCE, resume=True)
    finally:
        other.kill()
        other.communicate()
    for i in range(2):
        with TokenShardWriter(tmp_path, PROVENANCE, resume=True) as shards:
            shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id=str(i)))
    assert [row.id for row in read_token_shards(tmp_path)] == ["0", "1"]


def test_a_folder_that_was_made_for_nothing_goes_and_others_stay(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with TokenShardWriter(tmp_path / name, PROVENANCE):
            assert (tmp_path / name).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_shards_with_other_names_are_read_but_have_no_number(tmp_path):
    for name in ("shard-old.arrow", "shard-00004.arrow"):
        with TokenShardWriter(tmp_path, PROVENANCE, resume=True) as shards:
            shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id=name))
        (tmp_path / "shard-00000.arrow").rename(tmp_path / name)
    with TokenShardWriter(tmp_path, PROVENANCE, resume=True) as shards:
        assert "shard-old.arrow" in shards.done and "shard-00004.arrow" in shards.done and len(shards.done) == 2
        shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id="new"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard-00004.arrow",
        "shard-00005.arrow",
        "shard-old.arrow",
    ]


@both_formats
def test_shards_of_two_codecs_do_not_mix(tmp_path, format):
    for i, sha in enumerate(("ab", "cd")):
        source = dataclasses.replace(PROVENANCE, weights_sha256=sha * 32)
        with TokenShardWriter(tmp_path / sha, source, format=format) as shards:
            shards.add(TokenRow(np.zeros((1, 1, 2), int), 640, id=sha))
        (tmp_path / sha / f"shard-00000.{format}").rename(tmp_path / f"{i}.{format}")
    with pytest.raises(ValueError, match=f"1.{format}: made by another codec than 0.{format}"):
        list(read_token_shards(tmp_path))


@both_formats
def test_what_is_no_shard_is_refused(tmp_path, format):
    def place(name: str):
        return tmp_path / f"{name}.{format}"

    place("text").write_text("no shard, but text " * 10)
    place("nothing at all").touch()
    columns = ("id", "text", "speaker", "language", "codes", "channels", *CLIP_FACTS)
    for name, table in (
        ("strange", pa.table({"a": [1]})),
        ("missing", pa.table({"a": [1]}).replace_schema_metadata(PROVENANCE.metadata())),
        ("texts", pa.table({name: ["1"] for name in columns}).replace_schema_metadata(PROVENANCE.metadata())),
    ):
        write(place(name), table)
    for name, said in (
        ("text", f"not a {format.title()} file"),
        ("nothing at all", f"not a {format.title()} file"),
        ("nothing", "no such token shard"),
        ("strange", "names no format"),
        ("missing", "no column"),
        ("texts", "codes are string"),
    ):
        with pytest.raises(ValueError, match=said) as failure:
            list(read_token_shards(place(name)))
        assert "\n" not in str(failure.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no token shards \(\*.arrow, \*.parquet\)"):
        list(read_token_shards(tmp_path / "empty"))


def change(table: pa.Table, column: str, values: list) -> pa.Table:
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))


@both_formats
def test_a_shard_that_was_tampered_with_is_refused(tmp_path, format):
    with TokenShardWriter(tmp_path, provenance(2, 1024), format=format) as shards:
        for row in rows(2):
            shards.add(row)
    path = tmp_path / f"shard-00000.{format}"
    good, whole = read_back(path), path.read_bytes()
    codes = good["codes"].to_pylist()
    for table, said in (
        (change(good, "codes", [[[5000] * len(line) for line in clip] for clip in codes]), "code 5000 is outside"),
        (change(good, "codes", [codes[0], [codes[1][0], codes[1][1][:-1]]]), "do not fit 2 channels of equal length"),
        (change(good, "codes", [None, codes[1]]), "a field is empty"),
        (change(good, "num_samples", [10**9, 640]), "samples claimed"),
        (change(good, "channels", [0, 2]), "channels in its metadata is '0'"),
        (good.replace_schema_metadata(provenance(2, 1024).metadata() | {"weights_sha256": "ab"}), "64 hex digits"),
        (good.replace_schema_metadata(provenance(3, 1024).metadata()), "the codec has 3 codebooks"),
    ):
        write(path, table)
        with pytest.raises(ValueError, match=said) as failure:
            list(read_token_shards(path))
        assert "\n" not in str(failure.value) and len(str(failure.value)) < 400
    for length in (len(whole) // 2, len(whole) - 1, 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"not a {format.title()} file, or damaged"):
            list(read_token_shards(path))


def test_a_changed_byte_of_parquet_is_noticed_by_its_checksum(tmp_path):
    with TokenShardWriter(tmp_path, PROVENANCE, format="parquet") as shards:
        codes = np.random.default_rng(0).integers(0, 4096, (1, 1, 5000))
        shards.add(TokenRow(codes, 320 * 5000, id="a"))
    path = tmp_path / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # among the codes
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        list(read_token_shards(path))


def test_parquet_that_would_unpack_to_far_more_is_refused_before_that(tmp_path):
    silence = TokenRow(np.zeros((1, 1, 2_000_000), int), 320 * 2_000_000, id="one code, 11 hours")
    for folder, row in (("long", silence), ("bomb", dataclasses.replace(silence, text="a" * 50_000_000))):
        with TokenShardWriter(tmp_path / folder, PROVENANCE, format="parquet") as shards:
            shards.add(row)
    assert next(read_token_shards(tmp_path / "long")).codes.shape == (1, 1, 2_000_000)
    with pytest.raises(ValueError, match="rows or bytes claimed by a file of"):
        next(read_token_shards(tmp_path / "bomb"))


@both_formats
def test_shards_load_with_the_datasets_library(tmp_path, format):
    datasets = pytest.importorskip("datasets")
    with TokenShardWriter(tmp_path / "t", provenance(2, 1024), clips_per_shard=2, format=format) as shards:
        for row in rows(3):
            shards.add(row)
    files = sorted(str(path) for path in (tmp_path / "t").iterdir())
    table = datasets.load_dataset(format, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert table["id"][:] == ["speaker/0", "speaker/1", "speaker/2"]
    assert table[1]["codes"] == rows(3)[1].codes.reshape(4, -1).tolist() and table[1]["channels"] == 2


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'llmcodec\[datasets\]'"):
        TokenShardWriter(tmp_path, PROVENANCE)


def test_what_a_killed_writer_left_goes_unless_another_one_writes(tmp_path):
    """Found by `make soak`: a killed tokenize left its temporary shard for ever."""
    left = tmp_path / ".shard-00000.arrow.0123abcd.tmp"
    left.write_bytes(b"half a shard")
    with TokenShardWriter(tmp_path, PROVENANCE):
        assert not left.exists()
        left.write_bytes(b"of the writer above")
        with pytest.raises(ValueError, match="another run writes shards there"):
            TokenShardWriter(tmp_path, PROVENANCE, resume=True)
        assert left.exists()


def test_tokens_of_another_search_are_not_added(tmp_path):
    fast = dataclasses.replace(provenance(1, 64), codec="search@0.1:c?effort=fast")
    with TokenShardWriter(tmp_path, fast) as shards:
        shards.add(TokenRow(np.ones((1, 1, 4), np.int64), 4 * 320, id="x"))
    for other in ("c", "search@0.1:c?effort=thorough", "search@0.2:c?effort=fast", "search@0.1:c?effort=fast,lm"):
        with pytest.raises(ValueError, match=r"chosen by 'search@0\.1:c\?effort=fast', not by"):
            TokenShardWriter(tmp_path, dataclasses.replace(fast, codec=other), resume=True)
    for same in ("search@0.1:elsewhere/c?effort=fast", "search:c"):  # the second: before 0.2 names said no more
        TokenShardWriter(tmp_path, dataclasses.replace(fast, codec=same), resume=True)


def test_tokens_of_other_codebooks_of_the_same_weights_are_not_added(tmp_path):
    two = provenance(2, 64)
    with TokenShardWriter(tmp_path, two) as shards:
        shards.add(TokenRow(np.ones((1, 2, 4), np.int64), 4 * 320, id="x"))
    with pytest.raises(ValueError, match="num_codebooks 2, not 8; choose another folder"):
        TokenShardWriter(tmp_path, dataclasses.replace(two, num_codebooks=8), resume=True)
