"""corpus.py: manifests from plain folders and from LibriSpeech's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmcodec.data.corpus import make_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.data.splits import hashed_split
from llmcodec.io import audio


def speak(path, seconds: float = 0.5, rate: int = 16000, num_channels: int = 1) -> None:
    wav = 0.1 * np.random.default_rng(len(str(path))).standard_normal((round(seconds * rate), num_channels))
    audio.write(path, wav.astype(np.float32), rate)


@pytest.fixture
def libri(tmp_path):
    root = tmp_path / "LibriSpeech"
    for subset, speaker in (("train-clean-100", 103), ("dev-clean", 84), ("test-other", 367)):
        folder = root / subset / str(speaker) / "1240"
        lines = []
        for number in range(3):
            name = f"{speaker}-1240-{number:04d}"
            speak(folder / f"{name}.flac")
            lines.append(f"{name} WORDS OF  NUMBER {number}\n")
        (folder / f"{speaker}-1240.trans.txt").write_text("".join(lines))
    return root


def test_librispeech_layout_is_recognised(libri):
    summary = make_manifest(str(libri), language="en", license="CC-BY-4.0")
    clips = {clip.id: clip for clip in read_manifest(libri)}
    assert summary.path == (libri / "manifest.jsonl").resolve() and summary.num_clips == len(clips) == 9
    assert summary.splits == {"train": 3, "valid": 3, "test": 3} and summary.num_with_text == 9 and not summary.skipped
    clip = clips["84-1240-0002"]
    assert clip.text == "WORDS OF NUMBER 2" and clip.speaker == "84" and clip.split == "valid"
    assert clip.audio == "dev-clean/84/1240/84-1240-0002.flac" and clip.path.is_file()
    assert (clip.language, clip.license, clip.source, clip.duration) == ("en", "CC-BY-4.0", "LibriSpeech", 0.5)
    assert "9 clips" in str(summary) and "train 3" in str(summary)


def test_a_single_subset_is_one_split_even_as_the_root(libri):
    make_manifest(str(libri / "train-clean-100"), str(libri / "lists" / "train.jsonl"))
    clips = read_manifest(libri / "lists" / "train.jsonl")
    assert {clip.split for clip in clips} == {"train"} and all(clip.path.is_file() for clip in clips)
    assert clips[0].audio.startswith("../train-clean-100/")


@pytest.mark.parametrize("output", ["corpus", "corpus/", "corpus.v2"])
def test_a_folder_as_output_gets_a_manifest_that_is_read_by_its_name(libri, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    Path("corpus.v2").mkdir()
    summary = make_manifest(str(libri), output)
    assert summary.path == (tmp_path / output / "manifest.jsonl").resolve()
    assert len(read_manifest(output)) == 9 and all(clip.path.is_file() for clip in read_manifest(output))


def test_plain_folder_with_transcripts_beside(tmp_path):
    root = tmp_path / "speech of Zoë"
    speak(root / "anna" / "eins.wav", 1.0, 8000)
    (root / "anna" / "eins.txt").write_text("  some\n text ", encoding="utf-8-sig")
    speak(root / "anna" / "zwei.ogg", 0.25, 48000, 2)
    (root / "anna" / "zwei.normalized.txt").write_text("normalised")
    (root / "anna" / "zwei.txt").write_text("raw")
    speak(root / "ünï.MP3", 0.7)
    (root / "ünï.lab").write_text("größer")
    speak(root / "ünï.flac", 0.7)
    speak(root / ".hidden" / "no.wav")
    speak(root / "._no.wav")
    (root / "anna" / "broken.wav").write_text("text")
    (root / "anna" / "empty.flac").touch()
    (root / "loop").symlink_to(root)
    summary = make_manifest(str(root), str(tmp_path / "out.jsonl"), max_seconds=0.9)
    clips = {clip.id: clip for clip in read_manifest(tmp_path / "out.jsonl")}
    assert set(clips) == {"anna/zwei", "ünï", "ünï.flac"}
    assert clips["anna/zwei"].text == "normalised" and clips["ünï"].text == "größer"
    assert clips["anna/zwei"].speaker == "anna" and clips["ünï"].speaker == "" and clips["ünï"].source == root.name
    assert clips["anna/zwei"].duration == 0.25 and all(clip.path.is_file() for clip in clips.values())
    assert set(summary.skipped) == {"anna/broken.wav", "anna/empty.flac", "anna/eins.wav", str(root / "loop")}
    assert "4 files skipped" in str(summary) and "broken.wav" in str(summary) and "a loop" in str(summary)


def test_hashed_splits_are_stable_and_can_keep_speakers_apart(tmp_path):
    root = tmp_path / "mine"  # pytest's own folder is named test_*, which would decide
    for speaker in range(12):
        for number in range(2):
            speak(root / f"s{speaker}" / f"{number}.wav", 0.05)
    make_manifest(str(root), valid_share=0.3, test_share=0.3, split_by="speaker")
    clips = read_manifest(root)
    assert {clip.split for clip in clips} == {"train", "valid", "test"}
    assert len({(clip.speaker, clip.split) for clip in clips}) == 12
    shares = [hashed_split(f"id {number}", 0.1, 0.2) for number in range(5000)]
    assert shares.count("valid") / 5000 == pytest.approx(0.1, abs=0.02)
    assert shares.count("test") / 5000 == pytest.approx(0.2, abs=0.02)
    assert [hashed_split(f"id {number}", 0.05, 0.2) for number in range(5000)].count("test") == shares.count("test")


def test_what_cannot_work_is_said(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        make_manifest(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no file ends in"):
        make_manifest(str(tmp_path))
    (tmp_path / "bad.wav").write_text("text")
    with pytest.raises(ValueError, match=r"no usable audio .*bad\.wav"):
        make_manifest(str(tmp_path))
    with pytest.raises(ValueError, match="leave clips to train on"):
        make_manifest(str(tmp_path), valid_share=0.6, test_share=0.6)
    speak(tmp_path / "good.wav")
    (tmp_path / "good.txt").write_bytes(b"\xff\xfe\xfa")
    summary = make_manifest(str(tmp_path))
    assert summary.num_clips == 1 and summary.num_with_text == 0  # its text is lost, not the corpus
    assert "good.txt: not UTF-8" in str(summary) and "bad.wav" in str(summary)


def test_own_results_are_no_recordings_and_empty_splits_are_said(tmp_path):
    tmp_path = tmp_path / "speech"  # pytest's own name says test, which is a split
    tmp_path.mkdir()
    for name in ("a.wav", "a.reconstructed.wav", "a.decoded.flac", "none.wav"):
        speak(tmp_path / name, 0.0 if name == "none.wav" else 0.5)
    said = str(make_manifest(str(tmp_path)))
    assert [clip.id for clip in read_manifest(tmp_path / "manifest.jsonl")] == ["a"]
    assert said.count("a result of llmcodec, not a recording") == 2 and "none.wav: no samples (empty" in said
    assert "no clip is in valid, which `llmcodec compare` needs: give a larger --valid-share" in said
    with pytest.raises(ValueError, match="no clip is left .*'train'; larger shares fill a split: .* --test-share 0.1"):
        read_manifest(tmp_path / "manifest.jsonl", "test")
