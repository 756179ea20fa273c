"""examples/build_corpus.py on synthetic recordings: deterministic, resumable, licences kept apart, splits disjoint."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio, audio_writer

build_corpus = importlib.import_module("build_corpus")
catalogue = importlib.import_module("corpus.catalogue")
listing = importlib.import_module("corpus.listing")
Journal = importlib.import_module("corpus.journal").Journal


def recordings(count: int, decoded: list[int] | None = None):
    def decode(number: int) -> np.ndarray:
        if decoded is not None:
            decoded.append(number)
        if number == 3:
            raise OSError("empty file")
        speech = 0.3 * np.random.default_rng(number % 20).standard_normal(12000)
        silence = np.zeros(8000)
        return np.concatenate([silence, speech[: 12000 if number != 4 else 4000], silence]).astype(np.float32)

    for number in range(count):
        row = {"id": f"x/{number:03d}", "speaker": "x", "language": "en", "text": f"text {number % 15}."}
        yield {**row, "source": "fillets-ng", "license": "any"}, lambda number=number: decode(number)


def build(out, count: int = 40, decoded: list[int] | None = None):
    journal = Journal(out / "journal" / "x.jsonl", {"packages": []})
    rows, dropped = build_corpus.build(recordings(count, decoded), out, journal)
    listing.split_rows(rows)
    listing.write_lists(rows, out)
    return rows, dropped


def test_building_twice_gives_the_same_bytes(tmp_path):
    for out in ("one", "two"):
        rows, dropped = build(tmp_path / out)
        assert dict(dropped) == {"undecodable": 1, "short or silent": 1, "identical audio": 18}
        assert len(rows) == 20
    one, two = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*.*")} for f in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two and len(one) == 20 + 5 + 1, "clips; four manifests and LICENSES.md; the journal"
    clips = read_manifest(tmp_path / "one")
    assert {clip.duration for clip in clips} == {0.95}, "0.1 s of silence is kept on both sides of 0.75 s"
    assert audio.info(clips[0].path).sample_rate == 16000
    assert "Fish Fillets NG" in (tmp_path / "one" / "LICENSES.md").read_text()
    assert not (set((tmp_path / "one/audio").rglob("*.flac")) - {clip.path for clip in clips}), "no file without a row"


def test_a_stopped_build_goes_on_and_ends_with_the_same_bytes(tmp_path):
    build(tmp_path / "whole")
    decoded: list[int] = []
    out = tmp_path / "stopped"
    build(out, 25, decoded)
    journal = out / "journal" / "x.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])  # the kill came in the middle of its last line
    assert decoded == list(range(25))
    decoded.clear()
    (out / "audio/x/007.flac").unlink()
    build(out, 40, decoded)
    assert decoded == [7, *range(24, 40)], "only the lost clip, the torn line and what was still to do"
    for path in (tmp_path / "whole").glob("*.jsonl"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    decoded.clear()
    build(out, 40, decoded)
    assert decoded == []


def test_packages_of_another_version_are_read_again(tmp_path):
    first = Journal(tmp_path / "j.jsonl", {"packages": ["a_1.deb"]})
    first.add({"id": "x", "audio": "x.flac"})
    assert Journal(tmp_path / "j.jsonl", {"packages": ["a_1.deb"]}).entries == {"x": {"id": "x", "audio": "x.flac"}}
    assert Journal(tmp_path / "j.jsonl", {"packages": ["a_2.deb"]}).entries == {}
    assert Journal(tmp_path / "j.jsonl", {"packages": ["a_1.deb"]}).entries == {}, "the older entries are gone"


def test_an_id_for_two_recordings_is_an_error(tmp_path):
    twice = [*recordings(1), *recordings(1)]
    with pytest.raises(ValueError, match=r"fillets-ng: the id x/000 stands for two recordings"):
        build_corpus.build(twice, tmp_path, Journal(tmp_path / "j.jsonl", {}))


def test_splits_are_by_id_and_repeated_texts_stay_in_train():
    rows = [{"id": f"c/{n}", "language": "en", "text": f"Once {n}!" if n % 2 else "Again, again."} for n in range(2000)]
    listing.split_rows(rows)
    assert {row["split"] for row in rows if row["text"].startswith("Again")} == {"train"}
    once = [row["split"] for row in rows if row["text"].startswith("Once")]
    assert 30 <= once.count("valid") <= 75 and 30 <= once.count("test") <= 75


def test_speakers_stand_in_one_split_each():
    rows = [{"id": f"{n}", "language": "en", "text": "a", "speaker": f"s{n % 60}"} for n in range(600)]
    listing.split_rows(rows, "speaker")
    of_speaker = {
        speaker: {row["split"] for row in rows if row["speaker"] == speaker} for speaker in ("s0", "s7", "s59")
    }
    assert all(len(splits) == 1 for splits in of_speaker.values())
    assert {row["split"] for row in rows} == {"train", "valid", "test"}


def test_held_out_sources_never_train_and_synthetic_speech_never_tests():
    splits = {name: source.split for name, source in catalogue.SOURCES.items()}
    assert {splits[name] for name in ("tuxpaint", "fillets", "amazon_queen")} == {"test"}
    assert splits["kokoro"] == "train" and catalogue.SOURCES["kokoro"].synthetic
    assert "kokoro" not in catalogue.HUMAN and len(catalogue.HUMAN) == len(catalogue.SOURCES) - 1


def test_for_shipping_keeps_what_licences_allow():
    kept, left_out = catalogue.choose_sources(catalogue.SOURCES, for_shipping=True)
    assert kept == ["asterisk", "librivox", "festvox_ru", "kokoro"]
    assert left_out == ["tuxpaint", "klettres", "fillets", "amazon_queen"]
    assert all("GPL" not in catalogue.SOURCES[name].licence for name in kept)
    assert catalogue.choose_sources(["tuxpaint", "asterisk"], for_shipping=False) == (["asterisk", "tuxpaint"], [])
    with pytest.raises(ValueError, match="--for-shipping leaves nothing of klettres"):
        catalogue.choose_sources(["klettres"], for_shipping=True)
    with pytest.raises(ValueError, match="there is no librispeech; there are asterisk, librivox"):
        catalogue.choose_sources(["librispeech"], for_shipping=False)
    assert "klettres (people; never in shipped weights; split speaker)" in catalogue.describe_sources()


def test_a_folder_for_shipping_holds_nothing_else(tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/asterisk.jsonl").touch()
    build_corpus.refuse_leftovers(tmp_path, ["asterisk", "kokoro"])
    (tmp_path / "journal/tuxpaint.jsonl").touch()
    with pytest.raises(ValueError, match="holds audio of tuxpaint as well"):
        build_corpus.refuse_leftovers(tmp_path, ["asterisk", "kokoro"])


def test_the_manifest_says_what_is_synthetic(tmp_path):
    speech = tmp_path / "kokoro"
    journal = Journal(speech / "clips.0of1.jsonl", {"source": "kokoro-82m"})
    for number, voice in enumerate(["af_sky", "mix:af_sky+af_nova"]):
        wav_S = 0.2 * np.random.default_rng(number).standard_normal(16000).astype(np.float32)
        audio_writer.write(speech / f"audio/{number}.flac", wav_S, 16000)
        journal.add({"id": f"kok_en/{number}", "voice": voice, "text": "Hello there.", "audio": f"audio/{number}.flac"})
    rows, _ = build_corpus.build_source("kokoro", speech, tmp_path / "out")
    listing.write_lists(rows, tmp_path / "out")
    written = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert [(row["speaker"], row["synthetic"], row["license"]) for row in written] == [
        ("kok_af_sky", True, "Apache-2.0"),
        ("kok_mix:af_sky+af_nova", True, "Apache-2.0"),
    ]
    by_id, _ = build_corpus.build_source("kokoro", speech, tmp_path / "out", by_id=True)
    assert {row["split"] for row in by_id} == {"train"}, (
        "synthetic speech is in no other split, however people are split"
    )
    with pytest.raises(ValueError, match="synthesize_speech.py makes synthetic speech"):
        build_corpus.build_source("kokoro", tmp_path / "nowhere", tmp_path / "out")
