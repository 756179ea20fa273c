"""Parts of a manifest: shares by a hash, refused where they overlap by id, by sound, by stretch or by speaker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.data.manifest import Clip
from llmcodec.experiments.parts import check_disjoint, divide, parts_table, shared_speakers, sound_digests
from llmcodec.experiments.sweep_config import PartsConfig

PARTS = PartsConfig("train[:25%]", "train[25%:62.5%]", "train[62.5%:]", "valid", "test")


def clips_of(**splits: int) -> list[Clip]:
    return [
        Clip(f"{split}{number}", f"{split}{number}.wav", 2.0, speaker=f"s{number % 20}", split=split)
        for split, count in splits.items()
        for number in range(count)
    ]


def test_parts_divide_a_manifest_by_their_shares_and_every_clip_keeps_its_part():
    clips = clips_of(train=2000, valid=7, test=9)
    parts = divide(PARTS, clips)
    sizes = {name: len(part) for name, part in parts.items()}
    assert sum(sizes.values()) == len(clips) and (sizes["tuning"], sizes["reporting"]) == (7, 9)
    assert abs(sizes["priors"] - 500) < 60 and abs(sizes["codec"] - 750) < 70 and abs(sizes["lm"] - 750) < 70
    fewer = divide(PARTS, clips[::3])
    assert all(set(fewer[name]) <= set(part) for name, part in parts.items())


def test_overlapping_shares_are_refused_by_name():
    with pytest.raises(ValueError, match=r"codec training and LM training overlap: \d+ clips are in both \(train\d+"):
        divide(replace(PARTS, lm="train[50%:]"), clips_of(train=100, valid=2, test=2))
    with pytest.raises(ValueError, match=r"tuning and reporting overlap: 2 clips are in both \(valid0, valid1\)"):
        divide(replace(PARTS, reporting="valid"), clips_of(train=100, valid=2, test=2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("train[50%:20%]", "no share between"),
        ("train[:120%]", "no share between"),
        ("train[1:2]", "is a split, or a share of one such as"),
        ("dev", r"no clip is in dev \(split 'dev' has 0 clips"),
    ],
)
def test_a_part_that_means_nothing_is_refused(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        divide(replace(PARTS, tuning=spec), clips_of(train=100, valid=2, test=2))


def test_speakers_stay_together_where_that_is_asked_and_are_named_where_it_is_impossible():
    asked = replace(PARTS, speaker_disjoint=True)
    clips = clips_of(train=400) + [
        Clip(f"{split}{n}", f"{split}{n}.wav", 1.0, speaker=split, split=split)
        for split in ("valid", "test")
        for n in range(3)
    ]
    parts = divide(asked, clips)
    assert not shared_speakers(parts) and sum(map(len, parts.values())) == len(clips)
    assert shared_speakers(divide(PARTS, clips))[("priors", "codec")]
    with pytest.raises(ValueError, match=r"parts share speakers.*LM training and tuning: s\d"):
        divide(asked, [*clips, *(Clip(f"v{n}", "v.wav", 1.0, speaker=f"s{n}", split="valid") for n in range(20))])
    with pytest.raises(ValueError, match=r"clips of train\[:25%\] have no speaker: nobody"):
        divide(asked, [*clips, Clip("nobody", "n.wav", 1.0, split="train")])


def test_the_same_recording_under_two_ids_is_refused(tmp_path: Path):
    rng = np.random.default_rng(0)
    wavs = rng.normal(0, 0.1, (3, 1600)).astype(np.float32)
    for name, wav in (("a", wavs[0]), ("b", wavs[1]), ("c", wavs[2]), ("copy of a", wavs[0])):
        soundfile.write(tmp_path / f"{name}.wav", wav, 16_000)
    a, b, c, copy = (Clip(n, f"{n}.wav", 0.1, folder=str(tmp_path)) for n in ("a", "b", "c", "copy of a"))
    kept = tmp_path / "sounds.json"
    sounds = sound_digests([a, b, c, copy], kept)
    check_disjoint({"lm": [a, b], "reporting": [c]}, sounds)
    with pytest.raises(ValueError, match=r"LM training and reporting hold the same recordings.*\(a = copy of a\)"):
        check_disjoint({"lm": [a, b], "reporting": [c, copy]}, sounds)
    kept.write_text(kept.read_text().replace(sounds["b"], "0" * 16))
    assert sound_digests([a, b, c, copy], kept)["b"] == "0" * 16, "read, not listened to again"
    soundfile.write(tmp_path / "b.wav", wavs[0], 22_050)
    assert len(set(sound_digests([a, b, c, copy], kept).values())) == 3, "b is heard again: it has another rate"


def test_stretches_of_one_file_may_not_overlap():
    first, second, third = (Clip(f"c{start}", "long.wav", 2.0, start=start) for start in (0.0, 2.0, 3.5))
    check_disjoint({"tuning": [first], "reporting": [second, third]}, {})
    with pytest.raises(ValueError, match=r"same recordings under other ids \(c2.0 = c3.5\)"):
        check_disjoint({"tuning": [first, second], "reporting": [third]}, {})
    with pytest.raises(ValueError, match="same recordings"):
        check_disjoint({"tuning": [replace(first, start=None, duration=9.0)], "reporting": [third]}, {})


def test_the_table_has_clips_seconds_speakers_and_who_is_shared():
    parts = {"lm": clips_of(train=3), "reporting": [*clips_of(test=2), Clip("x", "x.wav", 0.5)]}
    table = parts_table({"lm": "train[40%:]", "reporting": "test"}, parts, "A note.\n")
    assert "| LM training | train[40%:] | 3 | 6 | 3 |" in table
    assert "| reporting | test | 3 | 4 | 2 and 1 clips without one |" in table
    assert "LM training and reporting share 2 (s0, s1)." in table
    assert "No two parts share a named speaker" in parts_table({"lm": "train"}, {"lm": parts["lm"]}, "")
