"""Parts put together are what one run writes; what is missing, doubled, foreign or damaged is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.token_file import TokenProvenance, load_token_file
from llmcodec.io.token_shards import TokenRow, TokenShardWriter, read_token_shards
from llmcodec.transcode.files import Transcoder
from llmcodec.transcode.index import INDEX, check_index, read_index
from llmcodec.transcode.merge import check_parts, find_parts, merge_parts, totals
from llmcodec.transcode.sharding import RECORD, Shard
from llmcodec.transcode.tokenize import tokenize_splits

from ..miniature import miniature_speech


class Loudness:
    """A runtime whose code of a frame is its loudness; `gain` makes it another codec."""

    def __init__(self, gain: int = 200) -> None:
        self.gain = gain
        self.identity = TokenProvenance("loud", f"{gain:064x}", 16_000, 320, 1, 40)

    def encode_batch(self, wavs):
        codes = []
        for wav in wavs:
            frames = np.pad(wav, (0, -len(wav) % 320)).reshape(-1, 320)
            codes.append((np.sqrt((frames**2).mean(1)) * self.gain).astype(np.int64).clip(0, 39)[None])
        return codes


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """Eleven clips in two splits, of different lengths."""
    lengths = (0.9, 0.62, 0.75, 0.5, 0.83, 0.7, 2.0, 0.4, 0.55, 1.1, 0.3)
    found = read_manifest(miniature_speech(tmp_path_factory.mktemp("speech"), lengths))
    return [Clip(**{**vars(clip), "split": "valid" if n % 4 == 3 else "train"}) for n, clip in enumerate(found)]


def tokenize(clips, output, shard=None, runtime=None, **options):
    part = None if shard is None else Shard.read(shard)
    return tokenize_splits(runtime or Loudness(), clips, output, shard=part, **{"clips_per_shard": 3} | options)


def shards(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("shard-*[!d]") if "part-" not in str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("format", ["arrow", "parquet"])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_merged_parts_have_the_bytes_and_the_index_of_one_run(clips, tmp_path, count, format):
    tokenize(clips, tmp_path / "one", views=2, format=format)
    for number in reversed(range(count)):  # in any order
        tokenize(clips, tmp_path / "parts", f"{number}/{count}", views=2, format=format)
    assert not shards(tmp_path / "parts")
    assert merge_parts([tmp_path / "parts"], tmp_path / "parts") == tmp_path / "parts" / INDEX
    assert shards(tmp_path / "parts") == shards(tmp_path / "one") and len(shards(tmp_path / "one")) == 7
    assert (tmp_path / "parts" / INDEX).read_bytes() == (tmp_path / "one" / INDEX).read_bytes()
    assert not any(is_damaged for place in ("one", "parts") for _, _, is_damaged in check_index(tmp_path / place))
    index = read_index(tmp_path / "one")
    assert index["folders"]["train"]["clips"] == 18 and index["folders"]["valid"]["clips"] == 2
    rows = list(read_token_shards(tmp_path / "parts" / "train"))
    assert index["folders"]["train"]["tokens"] == sum(row.codes.size for row in rows)
    assert totals(tmp_path / "one" / INDEX)[0].endswith(
        f"18 clips, {sum(r.num_samples for r in rows) / 16000:.0f} s, {sum(r.codes.size for r in rows)} tokens"
    )


def test_a_part_made_twice_and_a_merge_made_twice_change_nothing(clips, tmp_path):
    for number in range(2):
        for _ in range(2):
            done = tokenize(clips, tmp_path, f"{number}/2")
        assert all(not result.clips and result.known for result in done.values())
    index = merge_parts([tmp_path], tmp_path, remove_parts=False).read_bytes()
    assert merge_parts([tmp_path], tmp_path, remove_parts=True).read_bytes() == index
    assert not list(tmp_path.glob("part-*"))
    assert merge_parts([tmp_path], tmp_path).read_bytes() == index
    assert merge_parts([tmp_path / "part-00000-of-00002"], tmp_path).read_bytes() == index
    with pytest.raises(ValueError, match="typo: no such folder"):
        merge_parts([tmp_path / "typo"], tmp_path)
    assert tokenize(clips, tmp_path, "0/2") == {}  # a task of the array that was started once more
    with pytest.raises(ValueError, match="holds tokens of another plan .now corpus clips: 3, not 11"):
        tokenize(clips[:3], tmp_path, "0/2")


def test_a_kill_while_parts_are_removed_is_gone_on_with(clips, tmp_path, monkeypatch):
    for number in range(3):
        tokenize(clips, tmp_path, f"{number}/3")
    index = merge_parts([tmp_path], tmp_path).read_bytes()
    shutil.rmtree(tmp_path / "part-00000-of-00003")
    with monkeypatch.context() as killed:
        killed.setattr(shutil, "rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge_parts([tmp_path], tmp_path, remove_parts=True)
    assert [path.name for path in (tmp_path / "part-00001-of-00003").iterdir()] == [RECORD]
    assert merge_parts([tmp_path], tmp_path).read_bytes() == index and len(list(tmp_path.glob("part-*"))) == 2
    assert merge_parts([tmp_path], tmp_path, remove_parts=True).read_bytes() == index
    assert not list(tmp_path.glob("part-*")) and len(list(read_token_shards(tmp_path / "train"))) == 9
    tokenize(clips[:3], tmp_path / "others", "0/2")
    with pytest.raises(ValueError, match="shard 1/2 is missing"):  # parts of something else
        merge_parts([tmp_path / "others"], tmp_path, remove_parts=True)
    assert list((tmp_path / "others").glob("part-*"))


def test_audio_that_has_changed_since_its_part_was_made_is_newer_than_merged_and_rewritten_shards(clips, tmp_path):
    for number in range(2):
        tokenize(clips, tmp_path, f"{number}/2")
    for age, path in enumerate(sorted(tmp_path.glob("part-*/train/shard-*"))):
        os.utime(path, ns=(10**18 + age, 10**18 + age))
    changed = [clip for clip in clips if clip.split == "train"]
    for clip in (changed[0], changed[4]):
        os.utime(clip.path, ns=(10**18 + 10**9, 10**18 + 10**9))
    kept = [clip for clip in clips if clip not in (changed[0], changed[4])]
    for clip in kept:
        os.utime(clip.path, ns=(10**17, 10**17))
    merge_parts([tmp_path], tmp_path, remove_parts=True)
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "train").glob("shard-*"))]
    assert made == [10**18, 10**18 + 1, 10**18 + 2]
    os.utime(changed[0].path, ns=(10**17, 10**17))
    [again] = [done.again for done in tokenize(clips, tmp_path).values() if done.again]
    assert len(again) == 1 and again[0].startswith(f"{changed[4].id}: ")
    assert (tmp_path / "train" / "shard-00001.arrow").stat().st_mtime_ns == 10**18 + 1  # its other rows are as old


def test_a_merge_that_was_killed_is_made_again(clips, tmp_path):
    for number in range(2):
        tokenize(clips, tmp_path, f"{number}/2")
    merge_parts([tmp_path], tmp_path)
    whole = shards(tmp_path)
    (tmp_path / INDEX).unlink()
    (tmp_path / "train" / "shard-00001.arrow").write_bytes(b"half")
    merge_parts([tmp_path], tmp_path)
    assert shards(tmp_path) == whole
    assert (tmp_path / "train" / "shard-00001.arrow.damaged").read_bytes() == b"half"
    (tmp_path / "elsewhere" / "train").mkdir(parents=True)
    shutil.copy(tmp_path / "train" / "shard-00000.arrow", tmp_path / "elsewhere" / "train")
    with pytest.raises(ValueError, match="elsewhere: holds token shards already"):
        merge_parts([tmp_path], tmp_path / "elsewhere")


def test_a_merge_deletes_nothing_but_what_it_writes_again(clips, tmp_path):
    for number in range(2):
        tokenize(clips, tmp_path, f"{number}/2")
        tokenize(clips, tmp_path / "parts", f"{number}/2")
    train = tmp_path / "train"
    train.mkdir()
    for name in ("a.wav", "notes.arrow", "shard-00000.arrow.txt"):
        (train / name).write_bytes(b"dear")
        for places in ([tmp_path], [tmp_path / "parts"]):
            with pytest.raises(ValueError, match=f"{name}: is no token shard, but .*train is a folder that the merge"):
                merge_parts(places, tmp_path)
        assert (train / name).read_bytes() == b"dear" and not (tmp_path / "valid").exists()
        (train / name).unlink()
    (tmp_path / "valid").write_text("a list")
    with pytest.raises(ValueError, match="valid: is no token shard"):
        merge_parts([tmp_path], tmp_path)
    (tmp_path / "valid").unlink()
    for row, codec in (("other", Loudness()), (clips[0].id, Loudness(100))):  # of a run that was killed before
        with TokenShardWriter(train, codec.identity) as lost:
            lost.add(TokenRow(np.zeros((1, 1, 2), np.int64), 640, id=row))
        with pytest.raises(ValueError, match="shard-00000.arrow: holds tokens that are in none of the parts"):
            merge_parts([tmp_path], tmp_path)
        assert [one.id for one in read_token_shards(train)] == [row]
        (train / "shard-00000.arrow").unlink()
    merge_parts([tmp_path], tmp_path)
    (tmp_path / INDEX).unlink()
    damaged = tmp_path / "part-00001-of-00002" / "train" / "shard-00000.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    whole = shards(tmp_path)
    with pytest.raises(ValueError, match="damaged"):
        merge_parts([tmp_path], tmp_path)
    assert shards(tmp_path) == whole  # the parts are read before anything goes


def test_missing_unfinished_doubled_and_foreign_parts_are_named(clips, tmp_path):
    place = tmp_path / "parts"
    for number in (0, 2):
        tokenize(clips, place, f"{number}/4")
    with pytest.raises(ValueError, match=r"shards 1/4, 3/4 are missing in .*parts; run with --shard 1/4"):
        merge_parts([place], place)
    assert [said for _, said, is_damaged in check_parts([place]) if is_damaged][0].startswith("shards 1/4, 3/4 are")
    for number in (1, 3):
        tokenize(clips, place, f"{number}/4")
    record = place / "part-00001-of-00004" / RECORD
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"folders": None}))
    with pytest.raises(ValueError, match="shard 1/4 is unfinished; run again with --shard 1/4"):
        merge_parts([place], place)
    record.write_text(whole)
    shutil.copytree(place / "part-00001-of-00004", tmp_path / "copy" / "part-00001-of-00004")
    with pytest.raises(ValueError, match=r"copy/part-00001-of-00004: shard 1/4 is in .*parts/part-00001-of-00004 too"):
        merge_parts([place, tmp_path / "copy"], place)
    others = {
        "codec": (clips, {"runtime": Loudness(100)}, "codec 'loud', weights_sha256 0000"),
        "corpus": ([*clips[:-1], Clip(**{**vars(clips[-1]), "text": "other"})], {}, "corpus digest: "),
        "views": (clips, {"views": 2}, "setting views: 2, not 1"),
        "settings": (clips, {"settings": {"precision": "bf16"}}, "setting precision: 'bf16', not None"),
    }
    for name, (members, options, words) in others.items():
        tokenize(members, tmp_path / name, "1/4", **options)
        with pytest.raises(ValueError, match=f"{name}/part-00001-of-00004: not of the same run as .*: {words}"):
            find_parts([*(place / f"part-0000{n}-of-00004" for n in (0, 2, 3)), tmp_path / name])
    tokenize(clips, tmp_path / "halves", "1/2")
    with pytest.raises(ValueError, match="halves/part-00001-of-00002: shard 1/2, but .* is shard 0/4"):
        find_parts([place, tmp_path / "halves"])
    with pytest.raises(ValueError, match="no parts of a sharded run"):
        find_parts([tmp_path])
    assert not list(place.glob("train")) and not (place / INDEX).exists()
    merge_parts([place], place)


def test_shards_that_are_missing_doubled_or_foreign_inside_a_part_are_named(clips, tmp_path):
    for number in range(2):
        tokenize(clips, tmp_path, f"{number}/2", clips_per_shard=2)
    folder = tmp_path / "part-00000-of-00002" / "train"
    first, second, *_ = sorted(folder.glob("shard-*"))
    kept, other = first.read_bytes(), second.read_bytes()
    first.unlink()
    with pytest.raises(ValueError, match=r"part-00000-of-00002/train: its \d clips are not those of its record"):
        merge_parts([tmp_path], tmp_path)
    first.write_bytes(kept)
    (folder / "shard-00009.arrow").write_bytes(other)
    with pytest.raises(ValueError, match="are not those of its record"):
        merge_parts([tmp_path], tmp_path)
    with TokenShardWriter(tmp_path / "foreign", Loudness(100).identity) as writer:
        writer.add(TokenRow(np.ones((1, 1, 4), np.int64), 1000, id="x"))
    (folder / "shard-00009.arrow").write_bytes((tmp_path / "foreign" / "shard-00000.arrow").read_bytes())
    with pytest.raises(ValueError, match=r"shard-00009.arrow: made by another codec"):
        merge_parts([tmp_path], tmp_path)
    (folder / "shard-00009.arrow").unlink()
    shutil.copy(folder.parent / "train" / first.name, tmp_path / "part-00001-of-00002" / "train" / "shard-00007.arrow")
    with pytest.raises(ValueError, match="holds 2 clips that are not of this part; delete them"):
        tokenize(clips, tmp_path, "1/2", clips_per_shard=2)
    assert not (tmp_path / INDEX).exists() and not (tmp_path / "train").exists()


def test_two_clips_with_one_id_in_two_parts(clips, tmp_path):
    """A view may have the id of a clip that another machine encodes; a part cannot know."""
    named = [Clip(**{**vars(clips[n]), "id": name}) for n, name in ((0, "a"), (1, "b"), (2, "a#160"), (4, "c"))]
    for number in range(2):
        tokenize(named, tmp_path, f"{number}/2", views=2)
    with pytest.raises(ValueError, match="the clip 'a#160' is there twice"):
        merge_parts([tmp_path], tmp_path)


def test_the_index_sees_every_change(clips, tmp_path):
    tokenize(clips, tmp_path, clips_per_shard=2)
    first = tmp_path / "train" / "shard-00000.arrow"
    kept = first.read_bytes()

    def wrong() -> list[str]:
        return [said for _, said, is_damaged in check_index(tmp_path) if is_damaged]

    assert not wrong()
    first.write_bytes(kept[:-1])
    assert "is not the file of the index" in wrong()[0]
    first.unlink()
    assert wrong() == [f"{first}: is missing"]
    first.write_bytes(kept)
    shutil.copy(first, first.with_name("shard-00009.arrow"))
    assert wrong() == [f"{first.with_name('shard-00009.arrow')}: a shard that is not in the index"]
    first.with_name("shard-00009.arrow").unlink()
    shutil.copytree(tmp_path / "valid", tmp_path / "copied")
    assert wrong() == [f"{tmp_path / 'copied'}: its shards are not in the index"]
    (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text().replace('"train"', '"../train"'))
    with pytest.raises(ValueError, match="its entry '../train' is damaged"):
        wrong()


def test_clips_that_cannot_be_read_are_in_the_index(clips, tmp_path):
    bad = Clip("bad", str(tmp_path / "bad.wav"), 1.0, split="train")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    corpus = [*clips[:2], bad, *clips[2:]]
    for number in range(2):
        tokenize(corpus, tmp_path / "parts", f"{number}/2", bad=BadRows(1))
    merge_parts([tmp_path / "parts"], tmp_path / "parts")
    tokenize(corpus, tmp_path / "one", bad=BadRows(1))
    index = read_index(tmp_path / "parts")
    assert index == read_index(tmp_path / "one") and list(index["left_out"]) == ["bad"]
    assert "not an audio file" in index["left_out"]["bad"]
    corpus = [bad, *clips[:2]]
    for number in range(3):  # one of them has nothing but the bad clip
        tokenize(corpus, tmp_path / "thirds", f"{number}/3", bad=BadRows(1))
    merge_parts([tmp_path / "thirds"], tmp_path / "thirds")
    tokenize(corpus, tmp_path / "whole", bad=BadRows(1))
    assert read_index(tmp_path / "thirds") == read_index(tmp_path / "whole")
    for number in range(2):
        tokenize([bad, Clip(**vars(bad) | {"id": "worse"})], tmp_path / "none", f"{number}/2", bad=BadRows(2))
    with pytest.raises(ValueError, match="no clip of this or any other part could be read"):
        merge_parts([tmp_path / "none"], tmp_path / "none")


def encode(folder: Path, output: Path, shard: str | None = None, format: str | None = None, **options) -> Transcoder:
    part = None if shard is None else Shard.read(shard)
    one = Transcoder(lambda side: CodingLoudness(), output=str(output), shard=part, workers=1, **options)
    one.encode([str(folder)]) if format is None else one.encode_corpus([str(folder)], format)
    return one


class CodingLoudness(Loudness):
    """As the pipeline wants it."""

    @property
    def coders(self):
        from llmcodec.runtime.base import one_coder

        return one_coder

    def encode_stream(self, blocks):
        yield from self.encode_batch([np.concatenate(list(blocks))])


@pytest.mark.parametrize("format", [None, "arrow"])
def test_parts_of_a_folder_are_the_folder(clips, tmp_path, format):
    folder = clips[0].path.parent
    encode(folder, tmp_path / "one", format=format)
    for number in (1, 0, 2):
        for _ in range(2):
            part = encode(folder, tmp_path / "parts", f"{number}/3", format)
        assert part.report.skipped > 1 and not part.report.done
    if format is None:
        merge_parts([tmp_path / "parts"], tmp_path / "parts")
        names = [path.name for path in sorted((tmp_path / "one").glob("*.safetensors"))]
        assert len(names) == 11 and names == [p.name for p in sorted((tmp_path / "parts").glob("*.safetensors"))]
        for name in names:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
        assert not any(is_damaged for _, _, is_damaged in check_index(tmp_path / "parts"))
        (tmp_path / "parts" / names[4]).unlink()
        assert [said for _, said, is_damaged in check_index(tmp_path / "parts") if is_damaged]
        return
    with pytest.raises(ValueError, match="holds 3 parts of a sharded run"):
        encode(folder, tmp_path / "parts", format=format, resume=True)
    merge_parts([tmp_path / "parts"], tmp_path / "parts", remove_parts=True)
    found, expected = read_index(tmp_path / "parts"), read_index(tmp_path / "one")
    for entry in (found["folders"]["."], expected["folders"]["."]):
        entry.pop("shards")  # rows of one run come in the order in which they were coded
    assert found == expected and found["folders"]["."]["clips"] == 11
    assert encode(folder, tmp_path / "parts", "1/3", format).report.done == 0


def test_token_files_of_a_part_are_checked_when_they_are_merged(clips, tmp_path):
    folder = clips[0].path.parent
    for number in range(2):
        encode(folder, tmp_path, f"{number}/2")
    one = tmp_path / "3.safetensors"
    kept = one.read_bytes()
    shutil.copy(tmp_path / "4.safetensors", one)
    with pytest.raises(ValueError, match=r"3.safetensors: not what part 0/2 wrote; run again with --shard 0/2"):
        merge_parts([tmp_path], tmp_path)
    one.unlink()
    with pytest.raises((ValueError, OSError), match="3.safetensors"):
        merge_parts([tmp_path], tmp_path)
    one.write_bytes(kept)
    merge_parts([tmp_path], tmp_path)
    assert load_token_file(one)[0].num_samples == 8000
    with pytest.raises(ValueError, match="merge there, without --output"):
        merge_parts([tmp_path], tmp_path / "other")
