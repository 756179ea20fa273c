"""Parts of a corpus: they cover it, they last equally long, and everybody cuts them at the same clips."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from llmcodec.io.token_file import TokenProvenance
from llmcodec.transcode.index import Plan
from llmcodec.transcode.sharding import RECORD, Part, Shard, in_milliseconds, is_merged, parts_in, refuse_parts

CODEC = TokenProvenance("toy", "0" * 64, 16_000, 320, 1, 40)
PLAN = Plan.of({"format": "arrow"}, CODEC, 10, "abcd")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("clips", [1, 5, 1000])
def test_spans_cover_the_corpus_and_last_equally_long(count, clips):
    lengths = np.random.default_rng(clips).integers(200, 20_000, clips)
    spans = [Shard(number, count).span(lengths) for number in range(count)]
    assert [clip for span in spans for clip in span] == list(range(clips))
    shares = [int(lengths[span.start : span.stop].sum()) for span in spans]
    assert max(abs(share - lengths.sum() / count) for share in shares) <= lengths.max()


def test_clips_of_unknown_length_are_in_a_part_too():
    spans = [Shard(number, 3).span([0] * 9) for number in range(3)]
    assert [list(span) for span in spans] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert in_milliseconds(1.2345) == 1234 and in_milliseconds(float("inf")) == 0


@pytest.mark.parametrize("written", ["8/8", "-1/8", "1", "1/0", "a/b", "1/8 ", "0/1000000"])
def test_what_is_no_shard(written):
    with pytest.raises(ValueError, match="shards are counted from 0, for example 0/"):
        Shard.read(written)
    assert str(Shard.read("3/8")) == "3/8"


def test_a_part_goes_on_with_its_own_plan_alone(tmp_path):
    part = Part.begin(tmp_path, Shard(1, 2), PLAN, range(5, 10))
    assert parts_in(tmp_path) == [part.folder] and part.folder.name == "part-00001-of-00002"
    again = Part.begin(tmp_path, Shard(1, 2), PLAN, range(5, 10))
    assert again == part and again.folders is None
    done = again.finish({".": {"clips": 5}}, {"b": "why", "a": "why"})
    assert Part.load(part.folder) == done and list(done.left_out) == ["a", "b"]
    for plan, words in (
        (Plan.of({"format": "parquet"}, CODEC, 10, "abcd"), "setting format: 'parquet', not 'arrow'"),
        (Plan.of({"format": "arrow"}, CODEC, 10, "efgh"), "corpus digest: 'efgh', not 'abcd'"),
        (Plan.of({"format": "arrow"}, replace(CODEC, weights_sha256="1" * 64), 10, "abcd"), "weights_sha256 1111"),
    ):
        with pytest.raises(ValueError, match=f"part-00001-of-00002: begun with another plan .now .*{words}"):
            Part.begin(tmp_path, Shard(1, 2), plan, range(5, 10))
    named = Plan.of({"format": "arrow"}, replace(CODEC, codec="/elsewhere/toy"), 10, "abcd")
    assert Part.begin(tmp_path, Shard(1, 2), named, range(5, 10)) == done  # the same weights under another path
    with pytest.raises(ValueError, match="holds 1 parts of a sharded run.*llmcodec tokens merge"):
        refuse_parts(tmp_path)
    assert not is_merged(tmp_path, PLAN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "not the record of a part"),
        ({"shard": "2/2"}, "counted from 0"),
        ({"shard": 1}, "a damaged record"),
        ({"clips": [1]}, "a damaged record"),
        ({"folders": 3}, "a damaged record"),
        ({"codec": None}, "does not say what it was made of"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, change, words):
    folder = Part.begin(tmp_path, Shard(0, 2), PLAN, range(5)).folder
    found = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(found | change))
    with pytest.raises(ValueError, match=words):
        Part.load(folder)
