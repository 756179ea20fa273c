"""data/hub.py: Hugging Face data sets, saved and streamed, with audio inside or on disk; all of it local."""

from __future__ import annotations

import sys

import datasets
import numpy as np
import pytest

from llmcodec.data.hub import make_hub_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio


def content(tmp_path, number: int, ending: str = "wav") -> bytes:
    path = tmp_path / f"source.{ending}"
    audio.write(path, np.full((1600, 2), number / 10, np.float32), 16000)
    return path.read_bytes()


@pytest.fixture
def data(tmp_path) -> datasets.Dataset:
    """A data set with audio bytes inside, as most on the Hub are; one row is broken."""
    audio_rows = [
        {"bytes": content(tmp_path, 1), "path": "x.wav"},
        {"bytes": content(tmp_path, 2, "flac"), "path": None},
        {"bytes": b"no audio", "path": None},
    ]
    rows = {
        "id": ["one", "t/w o", "bad"],
        "audio": audio_rows,
        "text": ["first", " second\n line", None],
        "speaker_id": [0, 1, 2],
    }
    return datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio())


@pytest.fixture(params=["saved", "parquet"])
def stored(request, data, tmp_path) -> str:
    """The same data set as save_to_disk leaves it, and as the Hub serves it."""
    folder = tmp_path / request.param
    if request.param == "saved":
        datasets.DatasetDict({"validation": data}).save_to_disk(folder)
    else:
        folder.mkdir()
        data.to_parquet(folder / "validation-00000-of-00001.parquet")
    return str(folder)


def test_bytes_become_flac_beside_the_manifest(stored, tmp_path):
    output = tmp_path / "out" / "manifest.jsonl"
    summary = make_hub_manifest(stored, str(output), split="validation", language="en", license="CC0-1.0")
    first, second = read_manifest(output)
    assert (first.id, first.text, first.speaker, first.split) == ("one", "first", "0", "valid")
    assert (second.id, second.text, second.speaker) == ("t/w o", "second line", "1")
    assert first.language == "en" and first.license == "CC0-1.0" and first.duration == 0.1
    for clip, level in ((first, 0.1), (second, 0.2)):
        wav, rate = audio.read(clip.path)
        assert rate == 16000 and clip.path.suffix == ".flac" and clip.path.is_relative_to(output.parent)
        np.testing.assert_allclose(wav, level, atol=1e-4)
    assert list(summary.skipped) == ["bad"] and "not an audio file" in summary.skipped["bad"]


def test_more_bad_rows_than_allowed_write_no_manifest(stored, tmp_path):
    output = tmp_path / "out.jsonl"
    rows = 3  # one of them is bad
    with pytest.raises(ValueError, match=r"^bad: its audio: not an audio file.*--max-bad 1% leaves out bad rows"):
        make_hub_manifest(stored, str(output), split="validation", max_bad=0)
    with pytest.raises(ValueError, match=f"1 of {rows} rows are bad, and --max-bad 50% allows 1: bad|--max-bad 1%"):
        make_hub_manifest(stored, str(output), split="validation", max_bad="1%")
    assert not output.exists()
    assert make_hub_manifest(stored, str(output), split="validation", max_bad="34%").num_clips == rows - 1


def test_limit_and_missing_columns(stored, tmp_path):
    output = str(tmp_path / "out.jsonl")
    summary = make_hub_manifest(stored, output, split="validation", limit=1, id_column="nope", text_column="nope")
    (clip,) = read_manifest(output)
    assert summary.num_clips == 1 and clip.id == "validation-00000000" and clip.text == ""
    with pytest.raises(ValueError, match="no column 'sound'; there is id, audio"):
        make_hub_manifest(stored, output, split="validation", audio_column="sound")
    with pytest.raises(ValueError, match="no usable audio .*neither audio bytes nor a file at 'first'"):
        make_hub_manifest(stored, output, split="validation", audio_column="text", limit=2)


def test_files_on_disk_are_used_in_place(tmp_path):
    paths = [tmp_path / "folder" / f"{number}.wav" for number in (1, 2)]
    for path in paths:
        audio.write(path, np.full(800, 0.1, np.float32), 8000)
    rows = {"audio": [{"bytes": None, "path": str(path)} for path in paths], "text": ["one", "two"]}
    (tmp_path / "lists").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "lists" / "train.parquet")
    output = tmp_path / "lists" / "manifest.jsonl"
    make_hub_manifest(str(tmp_path / "lists"), str(output))
    clips = read_manifest(output)
    assert [clip.text for clip in clips] == ["one", "two"] and {clip.split for clip in clips} == {"train"}
    assert [clip.path for clip in clips] == paths and not (output.parent / "audio").exists()


def test_a_folder_of_audio_files_is_sent_to_the_other_builder(tmp_path):
    audio.write(tmp_path / "folder" / "a.wav", np.full(800, 0.1, np.float32), 8000)
    with pytest.raises(ValueError, match="llmcodec data manifest FOLDER"):
        make_hub_manifest(str(tmp_path / "folder"), str(tmp_path / "m.jsonl"))


def test_wrong_splits_and_repeated_ids_are_refused(data, tmp_path):
    datasets.DatasetDict({"validation": data}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="no split 'train'; there is validation"):
        make_hub_manifest(str(tmp_path / "saved"), str(tmp_path / "m.jsonl"))
    data.remove_columns("speaker_id").add_column("speaker_id", ["s", "s", "s"]).save_to_disk(tmp_path / "single")
    with pytest.raises(ValueError, match="id 's' in column 'speaker_id' occurs twice"):
        make_hub_manifest(str(tmp_path / "single"), str(tmp_path / "m.jsonl"), id_column="speaker_id")


def test_without_the_package_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'llmcodec\[datasets\]'"):
        make_hub_manifest("any/thing", str(tmp_path / "m.jsonl"))


def test_rows_of_every_shape_and_the_bad_ones_by_name(tmp_path):
    tone = (0.1 * np.sin(np.arange(8000) / 10)).astype(np.float32)
    rows = [
        {"audio": {"array": tone.tolist(), "sampling_rate": 16000}, "text": "good", "id": "0"},
        {"audio": {"array": tone.tolist(), "sampling_rate": 0}, "text": "no rate", "id": "1"},
        {"audio": {"array": [float("nan")] * 10, "sampling_rate": 16000}, "text": "nan", "id": "2"},
        {"audio": None, "text": "nothing", "id": "3"},
        {"audio": {"array": tone.tolist(), "sampling_rate": 8000}, "text": "long", "id": "x" * 300},
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    summary = make_hub_manifest(str(tmp_path / "set"), str(tmp_path / "out" / "manifest.jsonl"))
    clips = {clip.id: clip for clip in read_manifest(tmp_path / "out")}
    assert set(clips) == {"0", "x" * 300} and clips["0"].duration == 0.5 and clips["x" * 300].duration == 1.0
    np.testing.assert_allclose(clips["0"].load(16000), tone, atol=1e-4)
    lines = str(summary)
    assert "3 files skipped" in lines and all(f"{name}: " in lines for name in ("1", "2", "3"))
    assert "sampling rate 0" in lines and "NaN" in lines and "no audio in this row" in lines


def test_data_sets_in_one_folder_keep_their_audio(tmp_path):
    def made(name: str, output: str, level: float, **options) -> None:
        rows = [{"audio": {"array": [level] * 800, "sampling_rate": 8000}}]
        datasets.DatasetDict(dict.fromkeys(("train", "clean"), datasets.Dataset.from_list(rows))).save_to_disk(
            tmp_path / name
        )
        make_hub_manifest(str(tmp_path / name), str(tmp_path / "out" / output), **options)

    made("a", "first.jsonl", 0.1)
    made("b", "second.jsonl", 0.2)
    made("b", "third.jsonl", 0.3, split="clean")
    for name, level in (("first", 0.1), ("second", 0.2), ("third", 0.3)):
        [clip] = read_manifest(tmp_path / "out" / f"{name}.jsonl")
        np.testing.assert_allclose(audio.read(clip.path)[0], level, atol=1e-4)
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 3


def test_channels_first_are_channels_and_loud_audio_is_not_clipped(tmp_path):
    tone = (1.8 * np.sin(np.arange(1600) / 10)).astype(np.float32)
    rows = [
        {"audio": {"array": wav.tolist(), "sampling_rate": 16000}, "id": f"{n}"}
        for n, wav in enumerate((np.stack([tone, tone]), np.stack([tone, tone], 1)))
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "set")
    make_hub_manifest(str(tmp_path / "set"), str(tmp_path / "out"))
    for clip in read_manifest(tmp_path / "out"):
        np.testing.assert_allclose(audio.read(clip.path)[0], tone, atol=1e-6)
    deep = [{"audio": {"array": [[[0.1] * 4] * 3] * 2, "sampling_rate": 16000}}]
    datasets.Dataset.from_list(deep).save_to_disk(tmp_path / "deep")
    with pytest.raises(ValueError, match=r"no usable audio .*samples of shape \(2, 3, 4\)"):
        make_hub_manifest(str(tmp_path / "deep"), str(tmp_path / "none"))


def test_an_id_of_zero_is_an_id_and_lists_without_a_rate_are_refused(tmp_path):
    tone = (0.1 * np.sin(np.arange(800) / 10)).astype(np.float32).tolist()
    rows = [{"audio": {"array": tone, "sampling_rate": 8000}, "id": number} for number in (0, 1)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "numbers")
    make_hub_manifest(str(tmp_path / "numbers"), str(tmp_path / "out.jsonl"))
    assert [clip.id for clip in read_manifest(tmp_path / "out.jsonl")] == ["0", "1"]
    datasets.Dataset.from_list([{"audio": tone}]).save_to_disk(tmp_path / "lists")
    with pytest.raises(ValueError, match="no usable audio .*a list of samples without their sampling rate"):
        make_hub_manifest(str(tmp_path / "lists"), str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.json", lambda content: b"[]"),
        ("state.json", lambda content: content.replace(b"_fingerprint", b"fingerprint")),
        ("dataset_info.json", lambda content: content.replace(b'"dtype"', b'"type"')),
        ("dataset_info.json", lambda content: content.replace(b'"id"', b'"is"')),
        ("data-00000-of-00001.arrow", lambda content: content[:-200]),
        ("data-00000-of-00001.arrow", lambda content: content[:40] + b"damage" + content[46:]),
    ],
)
def test_a_damaged_data_set_is_one_line(data, tmp_path, name, damage):
    """Found by `make soak`: TypeError, KeyError and messages of many lines from below."""
    data.save_to_disk(tmp_path / "set")
    path = tmp_path / "set" / name
    changed = damage(path.read_bytes())
    path.unlink()  # it is mapped
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="the data set cannot be loaded") as caught:
        make_hub_manifest(str(tmp_path / "set"), str(tmp_path / "m.jsonl"))
    assert str(tmp_path / "set") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("split", "meant"), [("train.clean.100", "train"), ("dev_clean", "valid"), ("val", "valid")])
def test_a_split_of_another_spelling_keeps_its_meaning(data, tmp_path, split, meant):
    datasets.DatasetDict({split: data}).save_to_disk(tmp_path / "saved")
    make_hub_manifest(str(tmp_path / "saved"), str(tmp_path / "m.jsonl"), split=split)
    assert {clip.split for clip in read_manifest(tmp_path / "m.jsonl")} == {meant}
