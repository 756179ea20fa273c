"""cli/options.py: what the shared options mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcodec.cli.options import ClipOptions, CodecOptions, CorpusOptions, DeviceOptions, OutputOptions, ResumeOptions


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    rows = [("a", "train", 2.0, "en"), ("b", "valid", 0.4, "en"), ("c", "test", 3.0, "fr"), ("d", "extra", 9.0, "en")]
    path = tmp_path / "m.jsonl"
    names = ("id", "split", "duration", "language")
    path.write_text(
        "".join(json.dumps({"audio": "x.wav", **dict(zip(names, row, strict=True))}) + "\n" for row in rows)
    )
    return str(path)


def ids(clips: list) -> str:
    return "".join(clip.id for clip in clips)


def test_clips_pass_every_filter(manifest: str) -> None:
    assert ids(CorpusOptions(manifest).read()) == "acd" and ids(CorpusOptions(manifest, min_seconds=0).read()) == "abcd"
    assert ids(CorpusOptions(manifest, languages=("fr",)).read()) == "c"
    assert ids(CorpusOptions(manifest, max_seconds=3).read()) == "ac"
    assert ids(CorpusOptions(manifest).read("train")) == "a"
    with pytest.raises(ValueError, match="m.jsonl"):
        CorpusOptions(manifest, sources=("none",)).read()
    assert len(CorpusOptions().read()) == 191


def test_clips_that_are_too_short_are_counted_aloud(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    CorpusOptions(manifest, max_seconds=8).read()
    assert capsys.readouterr().err == f"{manifest}: 2 clips are left out by --min-seconds 0.5 and --max-seconds 8\n"
    CorpusOptions(manifest).read("train")
    assert capsys.readouterr().err == ""


def test_held_out_clips_are_taken_where_there_are_any(manifest: str, tmp_path: Path, capsys) -> None:
    assert ids(ClipOptions(manifest, min_seconds=0).held_out_clips()) == "bc"
    assert ids(ClipOptions(manifest, split=("extra", "train")).held_out_clips()) == "ad"
    assert ids(ClipOptions(manifest, split=("extra", "train")).clips()) == "ad"
    assert ids(ClipOptions(manifest).clips()) == "acd"
    for split in ("dev", "validation", "test-clean"):  # names of other corpora
        text = Path(manifest).read_text().replace('"valid"', f'"{split}"').replace('"test"', '"train"')
        (tmp_path / "named.jsonl").write_text(text)
        assert ids(ClipOptions(str(tmp_path / "named.jsonl"), min_seconds=0).held_out_clips()) == "b"
    assert "all are taken" not in capsys.readouterr().err
    assert ids(ClipOptions(manifest, languages=("en",)).held_out_clips()) == "ad"
    assert "so all are taken, of extra, train; choose others with --split" in capsys.readouterr().err
    (tmp_path / "plain.jsonl").write_text('{"id": "a", "audio": "a.wav", "duration": 1.0}\n')
    assert ids(ClipOptions(str(tmp_path / "plain.jsonl")).held_out_clips()) == "a"
    assert capsys.readouterr().err == ""


def test_an_output_that_is_needed_is_asked_for() -> None:
    assert OutputOptions("a/b").place == Path("a/b")
    with pytest.raises(ValueError, match="name the output: -o"):
        _ = OutputOptions().place
    with pytest.raises(ValueError, match="choose one"):
        ResumeOptions("a", overwrite=True, resume=True)


def test_the_device_is_one_of_this_machine() -> None:
    assert DeviceOptions("cpu").torch_device() == "cpu"
    with pytest.raises(ValueError, match="not there"):
        DeviceOptions("cuda:99").torch_device()


def test_the_bundled_codec_opens() -> None:
    assert CodecOptions(device="cpu").open("encoder").identity.sample_rate == 16000
