"""data/manifest.py: round trip, filters, and errors that name file and line."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import Clip, audio_states, manifest_hash, read_manifest, total_seconds, write_manifest

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
clips_lists = st.lists(
    st.builds(
        Clip,
        id=words.filter(bool),
        audio=words.filter(lambda text: text and "\\" not in text and "\0" not in text).map(
            lambda text: "a/" + text.replace("/", "_")
        ),
        duration=st.floats(0.01, 1e4),
        text=words,
        speaker=words,
        language=words,
        source=words,
        license=words,
        split=st.sampled_from(["train", "valid", "test", ""]),
        bandwidth_hz=st.none() | st.integers(1, 24000),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda clip: clip.id,
)


@given(clips_lists)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_is_read(tmp_path, clips):
    path = write_manifest(tmp_path / "m.jsonl", clips)
    assert [dataclasses.replace(clip, folder="") for clip in read_manifest(path)] == clips
    assert {clip.folder for clip in read_manifest(path)} == {str(tmp_path)}


def test_relative_audio_paths_follow_the_manifest(tmp_path):
    (tmp_path / "corpus").mkdir()
    write_manifest(
        tmp_path / "corpus" / "manifest.jsonl", [Clip("a", "audio/a.wav", 1.0), Clip("b", "/far/b.wav", 2.0)]
    )
    clips = read_manifest(tmp_path / "corpus")
    assert clips[0].path == tmp_path / "corpus" / "audio" / "a.wav"
    write_manifest(tmp_path / "lists" / "short.jsonl", clips)
    moved = read_manifest(tmp_path / "lists" / "short.jsonl")
    assert moved[0].audio == "../corpus/audio/a.wav" and moved[1].audio == "/far/b.wav"
    assert moved[0].path.resolve() == clips[0].path


def test_filters():
    path = speech_manifest()
    everything = read_manifest(path)
    assert len(everything) == 191 and total_seconds(everything) == pytest.approx(571, abs=5)
    per_split = [len(read_manifest(path, split)) for split in ("train", "valid", "test")]
    assert per_split == [160, 15, 16]
    assert len(read_manifest(path, ["valid", "test"])) == 31
    assert {clip.language for clip in read_manifest(path, languages=["it", "ru"])} == {"it", "ru"}
    assert {clip.source for clip in read_manifest(path, sources=["pocketsphinx-testdata"])} == {"pocketsphinx-testdata"}
    assert {clip.license for clip in read_manifest(path, licenses=["CC-BY-3.0"])} == {"CC-BY-3.0"}
    assert len(read_manifest(path, speakers=["ast_fr_june"])) == 14
    durations = [clip.duration for clip in read_manifest(path, min_seconds=2.0, max_seconds=3.0)]
    assert durations and all(2.0 <= seconds <= 3.0 for seconds in durations)


def test_without_text_is_dropped_only_on_request(tmp_path):
    path = write_manifest(
        tmp_path / "m.jsonl", [Clip("a", "a.wav", 1.0, text=" "), Clip("b", "b.wav", 1.0, text="word")]
    )
    assert len(read_manifest(path)) == 2
    assert [clip.id for clip in read_manifest(path, with_text=True)] == ["b"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "dev"}, r"split=\['dev'\].*there is 'test', 'train', 'valid'"),
        ({"split": "train", "languages": ["xx"]}, r"languages=\['xx'\].*\(160 before\).*'en', 'es'"),
        ({"min_seconds": 100.0}, r"100\.0 <= seconds.*durations there are"),
        ({"languages": "en"}, "a list of names"),
    ],
)
def test_an_empty_result_says_which_filter_emptied_it(options, words):
    with pytest.raises(ValueError, match=words):
        read_manifest(speech_manifest(), **options)


GOOD = {"id": "a", "audio": "a.wav", "duration": 1.5}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'id': 'b'}", "not JSON"),
        ("[1, 2]", "not list"),
        (json.dumps({"id": "b", "duration": 1}), "audio missing"),
        (json.dumps({**GOOD, "id": "b", "duration": 0}), "positive number of seconds, not 0"),
        (json.dumps({**GOOD, "id": "b", "duration": True}), "positive number of seconds"),
        (json.dumps({**GOOD, "id": "b", "duration": "1.5"}), "positive number of seconds"),
        ('{"id": "b", "audio": "b.wav", "duration": NaN}', "positive number of seconds"),
        ('{"id": "b", "audio": "b.wav", "duration": Infinity}', "positive number of seconds"),
        (json.dumps({**GOOD, "id": "b", "text": 7}), "text has the wrong type int"),
        (json.dumps({**GOOD, "id": 7}), "id has the wrong type int"),
        (json.dumps({**GOOD, "id": ""}), "must not be empty"),
        (json.dumps(GOOD), "'a' stands in line 1"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, line, words):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(path)
    assert "broken.jsonl:3:" in str(caught.value)


def test_missing_empty_and_binary_manifests(tmp_path):
    with pytest.raises(ValueError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="is empty"):
        read_manifest(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="UTF-8"):
        read_manifest(tmp_path / "binary.jsonl")


def test_hash_changes_with_anything_but_the_folder():
    clips = [Clip("a", "a.wav", 1.0, text="x", folder="/one"), Clip("b", "b.wav", 2.0)]
    base = manifest_hash(clips)
    assert len(base) == 16
    assert manifest_hash([dataclasses.replace(clip, folder="/two") for clip in clips]) == base
    assert manifest_hash(clips[::-1]) != base
    assert manifest_hash(clips[:1]) != base
    for change in ({"text": "y"}, {"duration": 1.1}, {"audio": "c.wav"}, {"split": "test"}, {"bandwidth_hz": 7000}):
        assert manifest_hash([dataclasses.replace(clips[0], **change), clips[1]]) != base


def test_missing_and_empty_audio_is_named_ten_at_most(tmp_path):
    (tmp_path / "there.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()

    def clips(*names: str) -> list[Clip]:
        return [Clip(f"{i}", name, 1.0, folder=str(tmp_path)) for i, name in enumerate(names)]

    first, second = audio_states(clips("there.wav", "there.wav"))
    assert first == second == (4, (tmp_path / "there.wav").stat().st_mtime_ns)
    with pytest.raises(ValueError, match="2 of 3 audio files") as error:
        audio_states(clips("there.wav", "empty.wav", "folder.wav", "empty.wav"))
    assert "empty.wav: the file is empty" in str(error.value) and "folder.wav: no file" in str(error.value)
    with pytest.raises(ValueError, match="12 of 12 audio files") as error:
        audio_states(clips(*(f"{i}.wav" for i in range(12))))
    assert "9.wav: No such file" in str(error.value) and "10.wav" not in str(error.value)
    assert "and 2 more" in str(error.value)
