"""data/sources: every form of a corpus gives the same clips and batches; what is damaged is said, never lost."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import re
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from llmcodec.data.clip import Clip
from llmcodec.data.clip_table import ClipTable
from llmcodec.data.clips import ClipDataset
from llmcodec.data.loader import ClipLoader
from llmcodec.data.manifest import (
    audio_sizes,
    audio_states,
    find_blocks,
    find_missing,
    leave_out_unreadable,
    manifest_hash,
    read_manifest,
    total_seconds,
    write_manifest,
)
from llmcodec.data.member import without_mark
from llmcodec.data.sampler import ResumableSampler
from llmcodec.io.bad_rows import BadRows, TooManyBad
from llmcodec.io.remote.paths import forget

from .corpora import FORMS, some_clips, write_jsonl

PLACE = {"audio": "", "inside": "", "folder": "", "source": "", "license": ""}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    clips = some_clips()
    return {name: make(clips, tmp_path_factory.mktemp(name) / "speech") for name, make in FORMS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_clips(corpora, form):
    clips, expected = read_manifest(corpora[form], "train"), read_manifest(corpora["folder"])
    assert isinstance(clips, ClipTable) == (form != "folder")
    assert [dataclasses.replace(clip, **PLACE) for clip in clips] == [
        dataclasses.replace(clip, **PLACE) for clip in expected
    ]
    for clip, one in zip(clips, expected, strict=True):
        assert np.array_equal(clip.load(16_000), one.load(16_000))
        assert np.array_equal(clip.load(22_050, 300, 4000), one.load(22_050, 300, 4000))
        assert clip.num_samples(8000) == one.num_samples(8000)
        assert clip.path.is_file() and clip.id in str(clip.path)
    bad = BadRows()
    find_missing(clips, bad)
    assert not len(bad)


def batches(clips, count: int, start: dict | None = None, **sampling) -> list:
    dataset = ClipDataset(clips, 16_000)
    sampler = ResumableSampler(dataset.durations, batch_clips=2, seed=3, bucket_batches=2, **sampling)
    with ClipLoader(dataset, sampler) as loader:
        if start is not None:
            loader.load_state_dict(start)
        found = [next(loader) for _ in range(count)]
        return [*found, loader.state_dict()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches_and_goes_on_where_it_stopped(corpora, form):
    clips = read_manifest(corpora[form], "train")
    *expected, _ = batches(read_manifest(corpora["folder"], "train"), 5)
    *found, _ = batches(clips, 5, blocks=find_blocks(clips))
    for one, other in zip(found, expected, strict=True):
        assert one.ids == other.ids and one.texts == other.texts
        assert one.wav_BS.equal(other.wav_BS) and one.lengths_B.equal(other.lengths_B)
    *first, position = batches(clips, 2)
    *rest, _ = batches(read_manifest(corpora[form], "train"), 3, start=position)
    assert [one.ids for one in (*first, *rest)] == [one.ids for one in expected]


def test_row_groups_are_found_and_shuffled_by_windows(corpora):
    clips = read_manifest(corpora["parquet"], "train")
    assert find_blocks(clips).tolist() == [0, 2, 3, 5]  # two files of three rows, two rows a group
    assert find_blocks(read_manifest(corpora["tars"])) is None
    blocks = np.arange(0, 1000, 10)
    sampler = ResumableSampler(np.ones(1000), batch_clips=80, seed=1, blocks=blocks)
    order = [index for _ in range(12) for index in next(sampler)]
    assert sorted(order[:960]) == sorted(set(order[:960])) and order[:80] != sorted(order[:80])
    for at in range(0, 960, 80):  # a batch is a window: eight whole row groups
        assert len({index // 10 for index in order[at : at + 80]}) == 8
    again = ResumableSampler(np.ones(1000), batch_clips=80, seed=1, blocks=blocks)
    saved = sampler.state_dict()
    again.load_state_dict(saved)
    assert next(again) == next(sampler)
    with pytest.raises(ValueError, match="blocks"):
        ResumableSampler(np.ones(1000), batch_clips=80, seed=1, blocks=blocks[:50]).load_state_dict(saved)
    few = ResumableSampler(np.ones(1000), batch_clips=80, seed=1, blocks=blocks[:8])
    assert next(few) == next(ResumableSampler(np.ones(1000), batch_clips=80, seed=1))


def test_an_exported_manifest_points_into_the_tars(corpora, tmp_path):
    clips = read_manifest(corpora["tars"])
    for name in ("out/list.jsonl", "out/list.arrow"):
        path = write_manifest(tmp_path / name, clips)
        again = read_manifest(path)
        assert [clip.inside for clip in again] == [clip.inside for clip in clips] and all(clip.inside for clip in again)
        assert all(np.array_equal(a.read()[0], b.read()[0]) for a, b in zip(again, clips, strict=True))
    assert again[0].audio.endswith(".tar") and again[0].audio.startswith("..")
    assert isinstance(again, ClipTable) and not list((tmp_path / "cache").rglob("*.jsonl"))


@pytest.mark.parametrize("form", ["parquet", "known", "arrow", "tar"])
def test_an_exported_manifest_notices_that_rows_changed_places(tmp_path: Path, form: str) -> None:
    """Also where places and sizes are as they were; a manifest without marks is read as ever."""
    rows = [(name, pcm(0.1 * number)) for number, name in enumerate(("a", "b", "c", "d"), start=1)]
    path = tmp_path / ("t.tar" if form == "tar" else "t.arrow" if form == "arrow" else "t.parquet")

    def write() -> None:
        columns: dict[str, Any] = {"id": [name for name, _ in rows], "audio": [content for _, content in rows]}
        columns |= {"duration": [0.5] * len(rows)} if form == "known" else {}
        if form == "tar":
            tar_of(path, {f"{name}.wav": content for name, content in rows})
        elif form == "arrow":
            written = pa.table(columns)
            with pa.ipc.new_file(str(path), written.schema) as writer:
                writer.write_table(written)
        else:
            table(path, row_group_size=4, **columns)

    write()
    clips = read_manifest(path)
    listed = write_manifest(tmp_path / "list.jsonl", clips)
    unmarked = [replace(clip, inside=without_mark(clip.inside)) for clip in clips]
    assert all(one.inside != clip.inside for one, clip in zip(unmarked, clips, strict=True))
    assert manifest_hash(unmarked) == manifest_hash(clips) == manifest_hash(read_manifest(listed))
    old = write_manifest(tmp_path / "old.jsonl", unmarked)
    before = [clip.read()[0] for clip in read_manifest(listed)]
    assert all(np.array_equal(clip.read()[0], wav) for clip, wav in zip(read_manifest(old), before, strict=True))
    write()
    assert not problems(read_manifest(listed))  # the same again, at another time
    size = path.stat().st_size
    rows.sort(reverse=True)
    write()
    assert path.stat().st_size == size
    assert len(reasons := problems(read_manifest(listed))) == 4
    assert all(f"{path}[{name}]: " in reason for name, reason in reasons.items())
    assert all("if the file has changed, make its manifest again" in reason for reason in reasons.values())
    now = {clip.id: clip for clip in read_manifest(path)}
    assert all(np.array_equal(now[name].read()[0], wav) for name, wav in zip("abcd", before, strict=True))


def pcm(level: float) -> bytes:
    """Half a second as a WAV file: all have one size."""
    file = io.BytesIO()
    sf.write(file, np.full(8000, level, np.float32), 16_000, format="WAV")
    return file.getvalue()


def tar_of(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content) * (kind == tarfile.REGTYPE), kind
            tar.addfile(member, io.BytesIO(content))
    return path


def sound(rate: int = 16_000, seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    sf.write(file, np.sin(np.arange(round(rate * seconds)) / 9).astype(np.float32) * 0.3, rate, format="FLAC")
    return file.getvalue()


def table(path: Path, row_group_size: int = 2, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size, compression="none", use_dictionary=False)
    return path


def first_byte(clip: Clip) -> int:
    """Of a member of a tar."""
    return int(clip.inside.rpartition(":")[2].partition("+")[0])


def problems(clips) -> dict[str, str]:
    """Ids and reasons of clips that cannot be read, as a command with `--max-bad` lists them."""
    bad = BadRows("100%", len(clips))
    readable = leave_out_unreadable(clips, bad)
    assert len(readable) + len(bad) == len(clips)
    return bad.reasons


def test_a_tar_that_is_cut_short_keeps_what_is_there_and_says_so(tmp_path):
    whole = tar_of(tmp_path / "a.tar", {f"{name}.flac": sound() for name in "abc"})
    content = whole.read_bytes()
    start = {clip.id: first_byte(clip) for clip in read_manifest(whole)}
    for cut, words in (
        (start["c"] + 100, r"\[c.flac\]: the tar ends after 100 of its \d+ bytes"),
        (start["c"] - 512, r"ends at byte \d+ without a tar's last block; what may have followed 'b.flac' is lost"),
        (start["c"] - 300, r"what may have followed 'b.flac' is lost"),
    ):
        whole.write_bytes(content[:cut])
        clips = read_manifest(whole)
        assert [clip.id for clip in clips[:2]] == ["a", "b"] and len(clips) == 3
        (reason,) = problems(clips).values()
        assert re.search(words, reason) and "a.tar" in reason
        with pytest.raises(TooManyBad, match="1 of 3 audio files cannot be read:\n  .*a.tar"):
            find_missing(clips, BadRows(0, 3))
    damaged = bytearray(content)
    damaged[start["c"] - 512 : start["c"] - 400] = b"x" * 112
    whole.write_bytes(damaged)
    (reason,) = problems(read_manifest(whole)).values()
    assert re.search(r"damaged at byte \d+ of \d+; what may have followed 'b.flac' is lost", reason)
    whole.write_bytes(b"no tar" * 1000)
    with pytest.raises(ValueError, match="a.tar: not a tar, or damaged"):
        read_manifest(whole)


def test_nothing_of_a_tar_leads_out_of_it(tmp_path):
    path = tar_of(tmp_path / "a.tar", {"../../out.flac": sound(), "/etc/out.flac": sound(), "in/a.flac": sound()})
    clips = read_manifest(path)
    assert [clip.id for clip in clips if not clip.problem] == ["in/a"]
    assert all("its name leaves the folder" in reason for reason in problems(clips).values())
    link = tar_of(tmp_path / "b.tar", {"a.flac": b""}, tarfile.SYMTYPE)
    assert "a link or a special file" in problems(read_manifest(link))["a"]
    assert not list(tmp_path.rglob("out*"))


def test_samples_of_webdataset(tmp_path):
    path = tar_of(
        tmp_path / "train.tar",
        {
            "x/a.b.flac": sound(),  # the key ends at the first dot: members a.b.flac and a.txt are one sample
            "x/a.txt": b" two\n words ",
            "c.wav.flac": sound(),
            "c.json": b'{"text": "said", "speaker": "ann", "duration": 99}',
            "d.txt": b"no audio",
            "e.flac": sound(),
            "e.noisy.flac": sound(),
            "f.flac": b"no sound",
            "._g.flac": b"of another system",
        },
    )
    clips = {clip.id: clip for clip in read_manifest(path)}
    assert clips["x/a"].text == "two words" and clips["c"].text == "said" and clips["c"].speaker == "ann"
    assert clips["c"].duration == 0.5 and {clip.split for clip in clips.values()} == {"train"}
    reasons = problems(list(clips.values()))
    assert "no member with audio; there is .txt" in reasons["d"] and reasons.keys() == {"d", "e", "f"}
    assert "several members with audio; there is .flac, .noisy.flac" in reasons["e"]
    assert "train.tar[f]: not an audio file" in reasons["f"]
    named = read_manifest(f"{path}?audio=noisy.flac")
    assert [clip.id for clip in named if not clip.problem] == ["e"]


def test_options_of_a_tar_hold(tmp_path: Path) -> None:
    said = json.dumps({"utt": "u1", "text": "json", "words": "more", "id": "x"}).encode()
    path = tar_of(tmp_path / "a.tar", {"a.flac": sound(), "a.txt": b"txt", "a.json": said})
    for option, name, text in (
        ("", "a", "json"),
        ("?id=utt", "u1", "json"),
        ("?id=", "a", "json"),
        ("?id=utt&ids=file", "a/u1", "json"),
        ("?text=", "a", ""),
        ("?text=txt", "a", "txt"),
        ("?text=words", "a", "more"),
    ):
        (clip,) = read_manifest(f"{path}{option}")
        assert (clip.id, clip.text, clip.problem) == (name, text, "")
    (clip,) = read_manifest(f"{path}?speaker=txt")
    assert clip.speaker == "txt"
    assert "no column 'nobody' for speaker; there is id, text" in read_manifest(f"{path}?speaker=nobody")[0].problem


@pytest.mark.parametrize(
    ("form", "option", "words"),
    [
        ("folder", "text=words", "no option 'text' behind the . for a JSONL manifest; there is none"),
        ("folder", "ids=file", "no option 'ids' behind the . for a JSONL manifest; there is none"),
        ("tars", "duration=seconds", "no option 'duration' behind the . for WebDataset; there is only audio, text, "),
        ("shar", "text=", "no option 'text' behind the . for lhotse shar; there is only ids"),
        ("shar", "speaker=nobody", "no option 'speaker' behind the . for lhotse shar; there is only ids"),
    ],
)
def test_options_that_a_source_does_not_know_are_refused(
    corpora: dict[str, Path], form: str, option: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(f"{corpora[form]}?{option}")
    assert "\n" not in str(caught.value) and str(corpora[form]) in str(caught.value)


def test_rows_without_audio_are_bad_rows(tmp_path):
    cells = [{"bytes": sound(), "path": None}, {"bytes": None, "path": None}, None, {"bytes": b"xyz", "path": "a.wav"}]
    clips = read_manifest(table(tmp_path / "t.parquet", audio=cells, id=["a", "b", "c", None]), min_seconds=0.2)
    assert [clip.id for clip in clips] == ["a", "b", "c", "t-00000003"]
    reasons = problems(clips)
    assert "t.parquet[b]: no audio in this row" in reasons["b"] and "no audio in this row" in reasons["c"]
    assert "t.parquet[t-00000003]: not an audio file" in reasons["t-00000003"]
    dataset = ClipDataset(clips, 16_000, bad=BadRows(3, 4))
    assert dataset.batch([2, 1]).ids == ["a", "a"]  # another clip stands in, as for a damaged file
    with pytest.raises(TooManyBad, match="no audio in this row"):
        ClipDataset(clips, 16_000).batch([2])


def test_filters_keep_what_is_damaged_in_its_place(tmp_path: Path) -> None:
    """Or `--languages de` takes a corpus with holes for a whole one, and a bad row changes its split."""
    languages = ["en", "de"] * 3
    columns: dict[str, Any] = dict.fromkeys(("language", "speaker_id", "source"), languages)
    columns |= {"id": list("abcdef"), "split": ["train", "test"] * 3, "text": ["said"] * 6}
    cells = [sound(), sound(seconds=0.6), b"broken", None, sound(), sound(seconds=0.7)]
    path = table(tmp_path / "t.parquet", audio=cells, **columns)
    content = bytearray(path.read_bytes())
    where = pq.ParquetFile(path).metadata.row_group(2).column(0)
    content[where.data_page_offset : where.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    facts = {name: {"language": language, "speaker": language, "source": language, "split": split, "text": "said"}
             for name, language, split in zip("abcdef", languages, columns["split"], strict=True)}  # fmt: skip
    members: dict[str, bytes] = {}
    for name, cell in zip("abcdef", (sound(), sound(seconds=0.6), b"broken", b"", b"broken", b""), strict=True):
        members |= {f"{name}.flac": cell, f"{name}.json": json.dumps(facts[name]).encode()}
    for source in (path, tar_of(tmp_path / "t.tar", members)):
        for filters in ({"split": "test"}, {"languages": ["de"]}, {"speakers": ["de"]}, {"sources": ["de"]}):
            clips = read_manifest(source, **filters, with_text=True)
            assert [clip.id for clip in clips] == ["b", "d", "f"] and set(problems(clips)) == {"d", "f"}


def test_what_is_unknown_of_a_damaged_row_passes_every_filter(tmp_path: Path) -> None:
    path = table(tmp_path / "train.parquet", audio=[sound()] * 4, id=list("abcd"), language=["de"] * 4)
    content = bytearray(path.read_bytes())
    for column in (0, 1, 2):
        where = pq.ParquetFile(path).metadata.row_group(1).column(column)
        content[where.data_page_offset : where.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(content)
    clips = read_manifest(path, "train", languages=["de"])
    assert [clip.id for clip in clips] == ["a", "b", "train-00000002", "train-00000003"] and len(problems(clips)) == 2
    assert len(problems(read_manifest(path, speakers=["ann"], sources=["x"], licenses=["y"], with_text=True))) == 2


def test_a_recording_of_a_shar_that_is_cut_short_is_its_cut(corpora: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(corpora["shar"], tmp_path / "shar")
    expected = list(read_manifest(tmp_path / "shar"))
    path = sorted((tmp_path / "shar" / "train").glob("recording.*"))[1]
    path.write_bytes(path.read_bytes()[: first_byte(expected[-1]) + 100])
    clips = read_manifest(tmp_path / "shar", speakers=[expected[-1].speaker])
    assert list(problems(clips)) == [expected[-1].id]
    assert replace(clips[-1], duration=0, problem="") == replace(expected[-1], duration=0, inside="")


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path):
    path = table(tmp_path / "t.parquet", audio=[sound(seconds=0.3 + i / 10) for i in range(6)], id=list("abcdef"))
    content = bytearray(path.read_bytes())
    at = content.find(sound(seconds=0.5)) + 50  # inside the first sound of the second group
    where = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content[where.data_page_offset : where.data_page_offset + 20] = b"\xff" * 20
    assert where.data_page_offset < at
    path.write_bytes(content)
    clips = read_manifest(path)
    assert [clip.id for clip in clips if not clip.problem] == ["a", "b", "e", "f"]
    assert set(problems(clips)) == {"c", "d"}  # their other columns are there
    assert all("group 1 cannot be read" in reason for reason in problems(clips).values())
    path.write_bytes(content[:-30])
    with pytest.raises(ValueError, match="t.parquet: not a Parquet file, or damaged"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ({"wav": ["x"], "text": ["y"]}, "", "no column 'audio' with audio bytes; there is wav, text"),
        ({"audio": [1.5]}, "", "column 'audio' is double, not bytes"),
        ({"a": [b"x"], "b": [b"y"]}, "", "there is a, b .name it"),
        (
            {"audio": [b"x"], "words": ["y"]},
            "?text=transcript",
            "no column 'transcript' for text; there is audio, words",
        ),
        ({"audio": [b"x"]}, "?audio=wav", "no column 'wav' with audio bytes; there is audio"),
        ({"audio": [b"x"]}, "?column=wav", "no option 'column' behind the .; there is audio, text"),
        ({"audio": [b"x"]}, "?ids=row", "ids=row is not known"),
    ],
)
def test_wrong_columns_name_those_that_are_there(tmp_path, columns, options, words):
    path = table(tmp_path / "t.parquet", **columns)
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(f"{path}{options}")
    assert "t.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_columns_by_name_and_lengths_by_column(tmp_path):
    sounds = [sound(rate, 0.5) for rate in (16_000, 8000, 44_100)]
    path = table(tmp_path / "t.parquet", wav=sounds, words=["a", "b", "c"], utt=[7, 8, 9], duration=[0.5, 0.51, 0.5])
    clips = read_manifest(f"{path}?text=words&id=utt&audio=wav")
    assert [(clip.id, clip.text, clip.duration) for clip in clips] == [
        ("7", "a", 0.5),
        ("8", "b", 0.51),
        ("9", "c", 0.5),
    ]
    assert [len(clip.load(16_000)) for clip in clips] == [8000, 8000, 8000]  # rates may be mixed
    assert [clip.duration for clip in read_manifest(f"{path}?duration=")] == [0.5, 0.5, 0.5]
    table(path, wav=sounds, duration=[500.0, 500.0, 500.0])
    with pytest.raises(ValueError, match=r"duration says 500 seconds, its audio lasts 0.500; name another column"):
        read_manifest(path)


def test_tables_of_paths(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in "ab":
        (tmp_path / "audio" / f"{name}.flac").write_bytes(sound())
    path = table(tmp_path / "t.parquet", audio=["audio/a.flac", "audio/b.flac", "audio/c.flac"], id=list("abc"))
    clips = read_manifest(path)
    assert [clip.audio for clip in clips[:2]] == ["audio/a.flac", "audio/b.flac"] and not clips[0].inside
    assert "c.flac: no such audio file" in problems(clips)["c"]
    (tmp_path / "audio" / "c.flac").write_bytes(sound())
    assert not problems(read_manifest(path))  # what lay outside of the table is looked for again


def test_an_id_that_stands_twice_is_refused(tmp_path):
    for name in ("x", "y"):
        tar_of(tmp_path / "tars" / f"{name}.tar", {"0.flac": sound(), f"{name}1.flac": sound()})
    with pytest.raises(ValueError, match=r"id '0' stands twice: clip 1 \(x.tar\) and clip 3 \(y.tar\)"):
        read_manifest(tmp_path / "tars")
    assert [clip.id for clip in read_manifest(f"{tmp_path / 'tars'}?ids=file")] == ["x/0", "x/x1", "y/0", "y/y1"]
    with pytest.raises(ValueError, match="id 'a' stands twice"):
        read_manifest(table(tmp_path / "t.parquet", audio=[sound(), sound()], id=["a", "a"]))


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "empty")
    with pytest.raises(ValueError, match="no clips in 1 Parquet or Arrow files"):
        read_manifest(table(tmp_path / "t.parquet", audio=pa.array([], pa.binary())))
    with pytest.raises(ValueError, match="no clips in 1 WebDataset files"):
        read_manifest(tar_of(tmp_path / "t.tar", {}))
    with pytest.raises(ValueError, match="holds Parquet or Arrow and WebDataset files; name one kind"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match="no file has such a name"):
        read_manifest(tmp_path / "x-*.tar")
    with pytest.raises(ValueError, match="not a Arrow file, or damaged|not an Arrow file"):
        (tmp_path / "bad.arrow").write_bytes(b"ARROW1 and no more")
        read_manifest(tmp_path / "bad.arrow")


def test_an_index_is_made_once_and_again_after_a_change(tmp_path, monkeypatch, capsys):
    path = tar_of(tmp_path / "tars" / "a.tar", {"a.flac": sound()})
    assert len(read_manifest(tmp_path / "tars")) == 1
    with monkeypatch.context() as patch:
        patch.setattr("llmcodec.data.sources.tars.seconds_of", None)  # nothing is read a second time
        assert len(read_manifest(f"{tmp_path}/tars/*.tar")) == 1 == len(read_manifest(tmp_path / "tars"))
    old = read_manifest(tmp_path / "tars")
    tar_of(path, {"b.flac": sound(), "c.flac": sound()})
    assert [clip.id for clip in read_manifest(tmp_path / "tars")] == ["b", "c"]
    listed = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "audio": "tars/a.tar", "duration": 1, "inside": "900+77"}])
    with pytest.raises(
        ValueError, match=r"a.tar\[a\]: no member of the tar begins at byte 900 .*make its manifest again"
    ):
        read_manifest(listed)[0].read()
    assert without_mark(old[0].inside) == without_mark(read_manifest(tmp_path / "tars")[0].inside)
    with pytest.raises(ValueError, match=r"a.tar\[a\]: another member of the tar is there; .*make its manifest again"):
        old[0].read()
    for inside in ("1+", "../x", "1/2", "-1+5"):
        write_jsonl(listed, [{"id": "a", "audio": "a.tar", "duration": 1, "inside": inside}])
        with pytest.raises(ValueError, match="m.jsonl:1: inside is FIRST_BYTE"):
            read_manifest(listed)


def test_mended_cuts_of_a_shar_are_read(corpora: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(corpora["shar"], tmp_path / "shar")
    before = read_manifest(tmp_path / "shar")
    for path in (tmp_path / "shar" / "train").glob("cuts.*"):
        cuts = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for cut in cuts:
            cut["supervisions"][0]["text"] += " mended"
        path.write_bytes(gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode()))
    assert [clip.text for clip in read_manifest(tmp_path / "shar")] == [f"{clip.text} mended" for clip in before]


def test_a_shar_whose_cuts_are_of_another_tar(corpora, tmp_path):
    shutil.copytree(corpora["shar"], tmp_path / "shar")
    first, second = sorted((tmp_path / "shar" / "train").glob("cuts.*"))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match="has the cut .* in its place: it is not of this tar"):
        read_manifest(tmp_path / "shar")
    first.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ValueError, match="cuts.000000.jsonl.gz: damaged after line"):
        read_manifest(tmp_path / "shar")
    first.unlink()
    with pytest.raises(ValueError, match="cuts.000000.jsonl.gz: the cuts of a lhotse shar are missing"):
        read_manifest(tmp_path / "shar")


def test_a_large_manifest_becomes_a_table_of_the_same_clips(corpora, monkeypatch):
    few = read_manifest(corpora["folder"], "train", min_seconds=0.9, with_text=True)
    monkeypatch.setattr("llmcodec.data.sources.LARGE_JSONL", 1)
    many = read_manifest(corpora["folder"], "train", min_seconds=0.9, with_text=True)
    assert isinstance(many, ClipTable) and list(many) == few and manifest_hash(many) == manifest_hash(few)
    assert audio_states(many) == audio_states(few) and list(audio_sizes(many)) == list(audio_sizes(few))
    assert total_seconds(many) == total_seconds(few) and find_blocks(many) is None
    with pytest.raises(ValueError, match=r"no clip is left after split=\['x'\] \(6 before\): there is 'train'"):
        read_manifest(corpora["folder"], "x")


@pytest.mark.parametrize("form", FORMS)
def test_sources_behind_urls(corpora, tmp_path, monkeypatch, form):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    store = fsspec.filesystem("memory")
    folder = corpora[form].parent if form == "folder" else corpora[form]
    store.put(f"{folder}/", f"/{form}/", recursive=True)
    try:
        for _ in range(2):  # in the second process the index is there
            clips, expected = read_manifest(f"memory://{form}", "train"), read_manifest(corpora[form], "train")
            assert [replace(clip, folder="") for clip in clips] == [
                replace(clip, folder="", source=form if clip.inside else clip.source) for clip in expected
            ]
            find_missing(clips, BadRows())
            for clip, one in zip(clips, expected, strict=True):
                assert np.array_equal(clip.load(16_000), one.load(16_000))
            forget()
        assert len(list((tmp_path / "cache" / "sources").glob("*.arrow"))) == (0 if form == "folder" else 2)
    finally:
        store.rm(f"/{form}", recursive=True)


@pytest.mark.parametrize("url", ["gs://bucket/speech", "hf://datasets/me/speech/data"])
def test_schemes_of_other_drivers(corpora, tmp_path, monkeypatch, url):
    """A store in memory in the place of gcsfs and huggingface_hub: our side of them."""
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        protocol, store, pseudo_dirs = url.partition(":")[0], {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.replace(f"{cls.protocol}://", "memory://"))

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, Store.protocol, Store)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    fsspec.filesystem(Store.protocol).put(f"{corpora['parquet']}/", f"{url}/", recursive=True)
    clips, expected = read_manifest(url, "train"), read_manifest(corpora["parquet"], "train")
    assert [clip.id for clip in clips] == [clip.id for clip in expected] and len(clips) == 6
    for clip, one in zip(clips, expected, strict=True):
        assert np.array_equal(clip.load(16_000), one.load(16_000))
    forget()
