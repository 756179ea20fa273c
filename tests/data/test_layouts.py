"""layouts/: a miniature tree of every corpus layout; speaker, split and text of each, and what is left out by name."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from llmcodec.data.corpus import ManifestSummary, make_manifest, utterances_of
from llmcodec.data.layouts.base import Report
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio


def speak(path: Path, seconds: float = 0.2, rate: int = 16000) -> None:
    wav = 0.1 * np.random.default_rng(len(str(path))).standard_normal(round(seconds * rate))
    audio.write(path, wav.astype(np.float32), rate)


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def build(root: Path, **options: object) -> tuple[dict[str, Clip], ManifestSummary]:
    summary = make_manifest(str(root), str(root.parent / "out.jsonl"), **options)  # type: ignore[arg-type]
    return {clip.id: clip for clip in read_manifest(root.parent / "out.jsonl")}, summary


def facts(clips: dict[str, Clip]) -> dict[str, tuple[str, str, str]]:
    return {name: (clip.speaker, clip.split, clip.text) for name, clip in clips.items()}


def test_librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for name in ("84-121123-0000", "84-121123-0001"):
        speak(root / "dev-clean" / "84" / "121123" / f"{name}.flac")
    put(
        root / "dev-clean" / "84" / "121123" / "84-121123.trans.txt",
        "84-121123-0000 GO DO\u2028YOU HEAR\n84-121123-0001\tWITH\x85A TAB\n",
    )
    clips, summary = build(root)
    assert facts(clips) == {
        "84-121123-0000": ("84", "valid", "GO DO YOU HEAR"),
        "84-121123-0001": ("84", "valid", "WITH A TAB"),
    }
    assert "dev-clean: LibriSpeech, 2 clips; valid 2 (by folder dev-clean); 2 with text from *.trans.txt" in str(
        summary
    )


def test_libritts_and_mls_have_the_speaker_in_the_name(tmp_path):
    root = tmp_path / "LibriTTS"
    folder = root / "train-clean-100" / "84" / "121123"
    speak(folder / "84_121123_000007_000001.wav")
    put(folder / "84_121123_000007_000001.normalized.txt", "One. Two.")
    put(folder / "84_121123_000007_000001.original.txt", "1. 2.")
    assert facts(build(root)[0]) == {"84_121123_000007_000001": ("84", "train", "One. Two.")}
    root = tmp_path / "mls_polish"
    speak(root / "test" / "audio" / "6892" / "10349" / "6892_10349_000000.flac")
    put(root / "test" / "transcripts.txt", "6892_10349_000000\tjeden dwa\n")
    put(root / "test" / "segments.txt", "6892_10349_000000\thttp://x\t0\t1\n")
    clips, summary = build(root)
    assert facts(clips) == {"6892_10349_000000": ("6892", "test", "jeden dwa")} and "transcripts.txt" in str(summary)


def test_recordings_named_by_date_are_no_librispeech(tmp_path):
    speak(tmp_path / "mine" / "anna" / "2024-01-15.wav")
    clips, summary = build(tmp_path / "mine")
    assert clips["anna/2024-01-15"].speaker == "anna" and "LibriSpeech" not in str(summary)


def test_ljspeech(tmp_path):
    root = tmp_path / "LJSpeech-1.1"
    speak(root / "wavs" / "LJ001-0001.wav", rate=22050)
    speak(root / "wavs" / "LJ001-0002.wav", rate=22050)
    put(root / "metadata.csv", 'LJ001-0001|"Printing, 1455|"Printing, fourteen\nLJ001-0002|In being|\nLJ001-0003|x|y\n')
    clips, summary = build(root)
    assert {name: (clip.speaker, clip.text) for name, clip in clips.items()} == {
        "LJ001-0001": ("LJ", '"Printing, fourteen'),
        "LJ001-0002": ("LJ", "In being"),
    }
    assert "LJ001-0003 has no recording" in str(summary)


def test_common_voice(tmp_path):
    root = tmp_path / "cv" / "en"
    for number in range(6):
        speak(root / "clips" / f"common_voice_en_{number}.mp3", 0.5, 48000)
    head = "client_id\tpath\tsentence\tlocale\n"
    rows = [f"speaker{n}\tcommon_voice_en_{n}.mp3\t{text}\ten\n" for n, text in enumerate('ab"cdef')]
    put(root / "train.tsv", head + rows[0])
    put(root / "dev.tsv", head + rows[1])
    put(root / "test.tsv", head + rows[2])
    put(root / "validated.tsv", head + "".join(rows[:4]))
    put(root / "invalidated.tsv", head + rows[4] + "s\tcommon_voice_en_9.mp3\tgone\ten\n")
    put(root / "other.tsv", head + "s\tcommon_voice_en_8.mp3\tgone\ten\n")
    clips, summary = build(root)
    assert {name[-1]: (clip.speaker, clip.text) for name, clip in clips.items()} == {
        "0": ("speaker0", "a"),
        "1": ("speaker1", "b"),
        "2": ("speaker2", '"'),
        "3": ("speaker3", "c"),
        "5": ("", ""),
    }
    splits = {name[-1]: clip.split for name, clip in clips.items()}
    assert (splits["0"], splits["1"], splits["2"]) == ("train", "valid", "test") and clips[next(iter(clips))].language
    assert "2 clips that invalidated.tsv names are left out" in str(summary) and "en_8.mp3' is not in clips" in str(
        summary
    )


def test_vctk_takes_one_microphone(tmp_path):
    root = tmp_path / "VCTK"
    for name in ("p225_001_mic1", "p225_001_mic2", "p225_002_mic2"):
        speak(root / "wav48_silence_trimmed" / "p225" / f"{name}.flac", rate=48000)
    put(root / "txt" / "p225" / "p225_001.txt", "Please call Stella.\n")
    clips, summary = build(root)
    assert {name: (clip.speaker, clip.text) for name, clip in clips.items()} == {
        "p225_001": ("p225", "Please call Stella."),
        "p225_002": ("p225", ""),
    }
    assert clips["p225_001"].audio.endswith("mic1.flac") and clips["p225_002"].audio.endswith("mic2.flac")
    assert "1 second microphones of an utterance are left out" in str(summary)


def test_timit(tmp_path):
    root = tmp_path / "timit"
    folder = root / "TRAIN" / "DR1" / "FCJF0"
    speak(folder / "SA1.WAV.wav")
    (folder / "SA1.WAV.wav").rename(folder / "SA2.WAV")
    speak(folder / "SA1.WAV.wav")
    for stem in ("SA1", "SA2"):
        put(folder / f"{stem}.PHN", "0 100 h#\n")
        put(folder / f"{stem}.TXT", f"0 46797 She had {stem}.\n")
    speak(root / "TEST" / "DR2" / "MABC0" / "SX1.wav")
    put(root / "TEST" / "DR2" / "MABC0" / "SX1.PHN", "0 100 h#\n")
    speak(folder / "SA2.WAV.wav")
    clips, summary = build(root)
    assert facts(clips) == {
        "FCJF0_SA1": ("FCJF0", "train", "She had SA1."),
        "FCJF0_SA2": ("FCJF0", "train", "She had SA2."),
        "MABC0_SX1": ("MABC0", "test", ""),
    }
    assert "1 copies with a second ending" in str(summary)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_audiofolder(tmp_path, kind):
    root = tmp_path / "af"
    speak(root / "train" / "1.wav")
    speak(root / "train" / "2.wav")
    speak(root / "3.wav")
    rows = [
        {"file_name": "train/1.wav", "text": "hello,\nyou" if kind != "csv" else "hello, you", "speaker_id": "s1"},
        {"file_name": "train/2.wav", "text": "", "speaker_id": "s2"},
        {"file_name": "gone.wav", "text": "x", "speaker_id": "s2"},
    ]
    if kind == "csv":
        lines = ["file_name,text,speaker_id"] + [f'{r["file_name"]},"{r["text"]}",{r["speaker_id"]}' for r in rows]
        put(root / "metadata.csv", "\n".join(lines) + "\n")
    elif kind == "jsonl":
        put(root / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")
    clips, summary = build(root)
    assert clips["train/1"].text == "hello, you" and clips["train/1"].speaker == "s1"
    assert clips["train/1"].split == "train" and clips["3"].text == "" and len(clips) == 3
    assert "no file 'gone.wav'" in str(summary) and f"3.wav: not in metadata.{kind}" in str(summary)


def test_nemo_manifests_and_stretches(tmp_path):
    root = tmp_path / "nemo"
    speak(root / "wav" / "a.wav", 2.0)
    rows = [
        {"audio_filepath": "wav/a.wav", "duration": 0.5, "offset": 1.0, "text": "one", "speaker": "s"},
        {"audio_filepath": "wav/a.wav", "duration": 9.0, "offset": 1.0, "text": "too long"},
        {"audio_filepath": "wav/gone.wav", "duration": 1.0, "text": "two"},
    ]
    put(root / "dev_manifest.json", "\n".join(map(json.dumps, rows)) + "\nno json\n")
    for place in (root, root / "dev_manifest.json"):
        summary = make_manifest(str(place), str(tmp_path / "out.jsonl"))
        (clip,) = read_manifest(tmp_path / "out.jsonl")
        assert (clip.start, clip.duration, clip.text, clip.speaker, clip.split) == (1.0, 0.5, "one", "s", "valid")
        np.testing.assert_array_equal(clip.load(16000), audio.load(root / "wav" / "a.wav", 16000, 16000, 8000))
        assert len(clip.read()[0]) == clip.num_samples(16000) == 8000
        lines = str(summary)
        assert "1 to 10 s is asked for" in lines and "gone.wav" in lines and "not a JSON object" in lines


def test_the_first_segment_of_a_nemo_recording_is_a_stretch_too(tmp_path):
    root = tmp_path / "nemo"
    speak(root / "long.wav", 3.0)
    speak(root / "whole.wav", 1.0)
    rows = [
        {"audio_filepath": "long.wav", "offset": 0.0, "duration": 1.0, "text": "one"},
        {"audio_filepath": "long.wav", "offset": 1.0, "duration": 2.0, "text": "two"},
        {"audio_filepath": "whole.wav", "offset": 0, "duration": 1.01, "text": "three"},
    ]
    put(root / "train.json", "\n".join(map(json.dumps, rows)))
    clips, _ = build(root)
    found = sorted((clip.text, clip.start, clip.duration) for clip in clips.values())
    assert found == [("one", 0.0, 1.0), ("three", None, 1.0), ("two", 1.0, 2.0)]


def test_a_file_that_is_listed_twice_is_one_clip(tmp_path):
    root = tmp_path / "nemo"
    speak(root / "a.wav")
    put(root / "train.json", (json.dumps({"audio_filepath": "a.wav", "duration": 0.2, "text": "x"}) + "\n") * 5)
    clips, summary = build(root)
    assert set(clips) == {"a"} and len(summary.skipped) == 4 and "a.wav: listed twice" in str(summary)


def test_kaldi_runs_no_commands(tmp_path):
    root = tmp_path / "data" / "test"
    speak(root / "a.wav", 2.0)
    speak(root / "b.flac")
    put(
        root / "wav.scp",
        f"a {root}/a.wav\nb flac -c -d -s {root}/b.flac |\nc touch {root}/hacked; cat {root}/a.wav |\nd gone.wav\n",
    )
    put(root / "text", "a-1 hello you\nb-1 other\n")
    put(root / "utt2spk", "a-1 anna\nb-1 bob\n")
    put(root / "segments", "a-1 a 0.5 1.25\nb-1 b 0 0.2\nc-1 c 0 1\n")
    clips, summary = build(tmp_path / "data")
    assert facts(clips) == {"a-1": ("anna", "test", "hello you"), "b-1": ("bob", "test", "other")}
    assert clips["a-1"].start == 0.5 and clips["a-1"].duration == 0.75 and clips["b-1"].start == 0.0
    assert not (root / "hacked").exists() and "its command is not run" in str(summary) and "gone.wav" in str(summary)


PLAIN = (
    "cat a.wav",
    "flac -c -d -s a.wav",
    "flac -cds a.wav",
    "sph2pipe -f wav -p a.wav",
    "sph2pipe -p -f wav a.wav",
    "sox a.wav -t wav -",
    "sox -t wav a.wav -r 16k -b 16 -e signed-integer -c 1 -t wav - rate -v 16000",
    "ffmpeg -nostdin -v error -i a.wav -f wav -ar 16000 -ac 1 -acodec pcm_s16le -",
)
DOING_MORE = (
    "sph2pipe -f wav -p -c 2 a.wav",
    "sph2pipe -f wav -t 1:2 a.wav",
    "sox a.wav -t wav - remix 2",
    "sox a.wav -t wav - trim 10 5",
    "sox a.wav -t wav - speed 1.1",
    "sox -v 0.5 a.wav -t wav -",
    "sox -r 8000 a.wav -t wav -",
    "sox a.wav b.wav -t wav -",
    "cat a.wav b.wav",
    "ffmpeg -ss 3 -i a.wav -f wav -",
    "ffmpeg -i a.wav -af volume=2 -f wav -",
    "ffmpeg -i a.wav -i b.wav -f wav -",
    "flac -c -d -s --skip=100 a.wav",
    "wav-reverberate a.wav -",
    "sox a.wav -t wav - | sox -t wav - -t wav - tempo 0.9",
    "cat a.wav > b.wav",
)


def test_kaldi_commands_that_do_more_than_give_their_file_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "data" / "train"
    for name in ("a.wav", "b.wav"):
        speak(root / name, 1.0)
    for number, command in enumerate(PLAIN + DOING_MORE):
        put(root / "wav.scp", f"u {command} |\nb b.wav\n")
        clips, summary = build(tmp_path / "data")
        plain = number < len(PLAIN)
        assert set(clips) == ({"u", "b"} if plain else {"b"}), command
        assert f"wav.scp: u: its command is not run: '{command} |'" in str(summary) or plain


def test_lhotse_cut_sets(tmp_path):
    root = tmp_path / "lhotse"
    speak(root / "a.wav", 2.0)
    recording = {"id": "a", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "duration": 2.0}
    cuts = [
        {"id": "whole", "start": 0, "duration": 2.0, "channel": 0, "type": "MonoCut", "recording": recording,
         "supervisions": [{"text": "all of", "speaker": "s"}, {"text": "it", "speaker": "s"}]},
        {"id": "part", "start": 0.5, "duration": 1.0, "type": "MonoCut", "recording": recording, "supervisions": []},
        {"id": "mixed", "type": "MixedCut", "tracks": []},
        {"id": "url", "start": 0, "duration": 2.0, "recording": {"sources": [{"type": "url", "source": "x"}]}},
    ]  # fmt: skip
    with gzip.open(root / "cuts_dev.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, cuts)) + "\n")
    clips, summary = build(root)
    assert facts(clips) == {"whole": ("s", "valid", "all of it"), "part": ("", "valid", "")}
    assert clips["whole"].start is None and clips["part"].start == 0.5
    assert "MixedCut" in str(summary) and "audio of type 'url'" in str(summary)


def test_lhotse_channels_and_transforms(tmp_path: Path) -> None:
    """The file with the channel is read; never a mean of channels, another channel, or audio before its transform."""
    root = tmp_path / "lhotse"
    for name in ("ch0.wav", "ch1.wav", "both.wav"):
        speak(root / name, 1.0)
    apart = [{"type": "file", "channels": [number], "source": f"ch{number}.wav"} for number in (0, 1)]
    both = [{"type": "file", "channels": [0, 1], "source": "both.wav"}]
    cuts: list[dict[str, Any]] = [
        {"id": "left", "channel": 0, "recording": {"sources": apart, "transforms": None}},
        {"id": "right", "channel": 1, "recording": {"sources": apart, "transforms": [{"name": "Resample"}]}},
        {"id": "third", "channel": 2, "recording": {"sources": apart}},
        {"id": "none", "recording": {"sources": apart}},
        {"id": "shared", "channel": 1, "recording": {"sources": both}},
        {"id": "fast", "channel": 0, "recording": {"sources": apart, "transforms": [{"name": "Speed", "kwargs": {}}]}},
    ]
    for cut in cuts:
        cut["duration"] = cut["recording"]["duration"] = 1.0
    put(root / "cuts_dev.jsonl", "".join(json.dumps(cut) + "\n" for cut in cuts))
    clips, summary = build(root)
    assert {name: clip.file.name for name, clip in clips.items()} == {"left": "ch0.wav", "right": "ch1.wav"}
    for line, why in (
        (3, "no files of its recording have channel 2"),
        (4, "2 files of its recording have channel None"),
        (5, "channel 1 of a file with channels [0, 1] is not read"),
        (6, "a recording that lhotse changes (Speed) is not read"),
    ):
        assert f"cuts_dev.jsonl:{line}: {why}" in str(summary)


def test_several_corpora_below_one_folder_keep_their_layouts(tmp_path):
    root = tmp_path / "corpora"
    speak(root / "lj" / "wavs" / "LJ1.wav")
    put(root / "lj" / "metadata.csv", "LJ1|raw|clean\n")
    speak(root / "libri" / "test-clean" / "84" / "1" / "84-1-0000.flac")
    speak(root / "plain" / "x.wav")
    clips, summary = build(root)
    assert set(clips) == {"LJ1", "84-1-0000", "plain/x"}
    lines = str(summary)
    assert "lj: LJSpeech" in lines and "libri: LibriSpeech" in lines and "plain: folder" in lines


def test_a_table_line_that_is_not_utf8_costs_itself(tmp_path):
    root = tmp_path / "lj"
    speak(root / "wavs" / "a.wav")
    speak(root / "wavs" / "b.wav")
    root.joinpath("metadata.csv").write_bytes(b"a|Gr\xfc\xdfe|x\nb|hello|hello\n")
    clips, summary = build(root)
    assert clips["a"].text == "" and clips["b"].text == "hello" and "metadata.csv:1: not UTF-8" in str(summary)


def test_names_that_are_no_utf8_or_as_long_as_names_can_be(tmp_path):
    root = tmp_path / "odd"
    speak(root / "ok.wav")
    content = (root / "ok.wav").read_bytes()
    (root / ("x" * 251 + ".wav")).write_bytes(content)
    with open(os.fsencode(root) + b"/caf\xe9.wav", "wb") as file:
        file.write(content)
    clips, _ = build(root)
    assert set(clips) == {"ok", "x" * 251, "caf%E9"}
    assert len(clips["caf%E9"].load(16000)) == 3200


def test_same_name_two_endings_are_two_clips(tmp_path):
    speak(tmp_path / "in" / "a.wav")
    speak(tmp_path / "in" / "a.flac")
    assert set(build(tmp_path / "in")[0]) == {"a", "a.wav"}


def test_formats_that_need_a_package_are_named(tmp_path, monkeypatch):
    speak(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "b.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    for name, value in (("AUDIO_ENDINGS", (".wav",)), ("UNREAD_ENDINGS", (".m4a",))):
        monkeypatch.setattr(audio, name, value)
    monkeypatch.setattr("llmcodec.data.layouts.base.AUDIO_ENDINGS", (".wav",))
    clips, summary = build(tmp_path / "in")
    assert set(clips) == {"a"} and "b.m4a: .m4a needs PyAV: pip install 'llmcodec[formats]'" in str(summary)


def test_no_speaker_in_two_splits_where_that_is_asked_for(tmp_path):
    root = tmp_path / "sp"
    for folder in ("train", "test", "more"):
        for speaker in ("anna", "bob"):
            if (folder, speaker) != ("test", "bob"):
                speak(root / folder / speaker / f"{folder}.wav")
    clips, summary = build(root, split_by="speaker", valid_share=0.0, test_share=0.0)
    assert {(clip.speaker, clip.split) for clip in clips.values()} == {("anna", "test"), ("bob", "train")}
    assert "speaker anna: stood in test, train" in str(summary)
    assert len({(clip.speaker, clip.split) for clip in build(root)[0].values()}) > 2  # by folder, otherwise


def test_a_stretch_is_a_clip_of_its_own_for_everything_that_reads_clips(tmp_path):
    """Training, measuring, tokenizing and scoring hear the stretch, not its whole file."""
    from llmcodec.data.clips import ClipDataset
    from llmcodec.data.sampler import clip_seed
    from llmcodec.evaluation.encoded_corpus import EncodedCorpus
    from llmcodec.io.bad_rows import BadRows
    from llmcodec.transcode.views import read_clip

    from ..miniature import miniature_codec

    speak(tmp_path / "a.wav", 2.0)
    clip = Clip("a", "a.wav", 0.5, start=0.25, folder=str(tmp_path))
    expected_S = audio.load(tmp_path / "a.wav", 16000, 4000, 8000)
    np.testing.assert_array_equal(ClipDataset([clip], 16000).read(0), expected_S)
    start = clip_seed(0, 3, "a", "crop") % (8000 - 1600 + 1)
    crop_S = ClipDataset([clip], 16000, crop_seconds=0.1).read(0, step=3)
    np.testing.assert_array_equal(crop_S, expected_S[start : start + 1600])
    with EncodedCorpus(miniature_codec()) as corpus:
        np.testing.assert_array_equal(corpus.wav(clip), expected_S)
    recording = read_clip(clip, 16000, BadRows())
    assert recording is not None and recording.original_num_samples == 8000
    np.testing.assert_array_equal(recording.wavs[0], expected_S)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "locked"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / f"{name}.wav", np.zeros(16_000) + 0.1, 16_000)
    scan = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = Report()
    assert [utterance.path.name for _, utterance in utterances_of(tmp_path, report)] == ["a.wav"]
    assert list(report.skipped) == [str(tmp_path / "locked")]
    assert report.skipped[str(tmp_path / "locked")].endswith("locked: cannot be read (Permission denied)")


@pytest.mark.parametrize("form", ["kaldi", "lhotse", "nemo", "audiofolder"])
@pytest.mark.parametrize("place", ["elsewhere", "corpus/train/audio"])
def test_the_folder_of_a_table_decides_the_split_wherever_the_audio_lies(tmp_path: Path, form: str, place: str) -> None:
    root = tmp_path / "corpus"
    for number, folder in enumerate(("train", "dev", "test") * 3):
        file = tmp_path / place / f"{folder}{number}.wav"
        speak(file)
        name, put_row = f"{folder}{number}", root / folder / f"more{number}"
        source = {"type": "file", "channels": [0], "source": str(file)}
        cut = {"id": name, "duration": 0.2, "channel": 0, "recording": {"sources": [source], "duration": 0.2}}
        table, text = {
            "kaldi": ("wav.scp", f"{name} {file}"),
            "lhotse": ("cuts.jsonl", json.dumps(cut)),
            "nemo": ("manifest.json", json.dumps({"audio_filepath": str(file), "duration": 0.2})),
            "audiofolder": ("metadata.jsonl", json.dumps({"file_name": str(file)})),
        }[form]
        put(put_row / table, text + "\n")
    clips, summary = build(root, source_by="folder")
    expected = {"train": "train", "dev": "valid", "test": "test"}
    found = {clip.file.stem: clip.split for clip in clips.values() if clip.file.suffix == ".wav"}
    assert len(found) == 9 and all(split == expected[name[:-1]] for name, split in found.items())
    assert "by folder dev, folder test, folder train" in str(summary)
    assert {clip.source for clip in clips.values()} == (set(expected) if place == "elsewhere" else {"train"})
