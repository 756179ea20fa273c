"""salmon/plan.py: who is paired with whom, which clips are taken first, the speakers file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmcodec.data.manifest import Clip
from llmcodec.salmon.plan import Voice, draw_others, fold_of, plan_scenes, plan_voices, read_voices, voice_of


def clips(label: str, num: int, language: str = "en", source: str = "s", seconds: float = 3.0) -> list[Clip]:
    splits = ("test", "valid", "train", "train")
    return [
        Clip(f"{label}-{i}", "x.wav", seconds, speaker=label, language=language, source=source, split=splits[i % 4])
        for i in range(num)
    ]


CORPUS = [*clips("a", 40), *clips("b", 40), *clips("c", 40), *clips("d", 40, "fr"), *clips("e", 40, "en", "other")]


def test_each_role_takes_a_recording_once_and_languages_and_sources_do_not_mix():
    plans = plan_voices(CORPUS, {}, 1000, ["test", "valid", "train"], 0)
    assert len(plans) > 30
    firsts = [clip.id for plan in plans for clip in (plan.first_a, plan.first_b)]
    seconds = [clip.id for plan in plans for clip in (plan.second_a, plan.second_b)]
    assert len(set(firsts)) == len(firsts) and len(set(seconds)) == len(seconds)
    for plan in plans:
        a, b = plan.first_a, plan.first_b
        assert a.speaker == plan.second_a.speaker != b.speaker == plan.second_b.speaker
        assert {c.language for c in plan.clips} == {"en"} and {c.source for c in plan.clips} == {"s"}
        assert len({c.id for c in plan.clips}) == 4 and {fold_of(c) for c in plan.clips} == {plan.fold}
    assert abs(sum(plan.fold for plan in plans) - len(plans) / 2) <= 1
    couples = [frozenset((plan.first_a.speaker, plan.first_b.speaker)) for plan in plans[:12]]
    assert min(couples.count(couple) for couple in set(couples)) >= 2 and len(set(couples)) == 3


def test_held_out_clips_first_and_only_the_splits_asked_for():
    few = plan_voices(CORPUS, {}, 4, ["test", "valid", "train"], 0)
    assert {clip.split for plan in few for clip in plan.clips} == {"test"}
    held_out = plan_voices(CORPUS, {}, 1000, ["test", "valid"], 0)
    assert {clip.split for plan in held_out for clip in plan.clips} == {"test", "valid"}
    scenes = plan_scenes(CORPUS, {}, 24, ["test", "train"], 0)
    assert {clip.split for clip in scenes} == {"test"} and len({clip.id for clip in scenes}) == 24
    assert {clip.speaker for clip in scenes} == set("abcde")
    assert [fold_of(clip) for clip in scenes] == [0, 1] * 12


def test_short_clips_unknown_speakers_and_merged_persons_are_left_out():
    short = [*clips("a", 40), *clips("b", 40, seconds=1.0), *clips("", 40)]
    assert plan_voices(short, {}, 10, ["test", "train"], 0) == []
    two = [*clips("a", 40), *clips("b", 40)]
    assert plan_voices(two, {"b": Voice("a")}, 10, ["test"], 0) == [] == plan_voices(two, {"b": None}, 10, ["test"], 0)
    assert len(plan_scenes(short, {}, 10, ["test"], 0)) == 10


def test_gender_pairs_need_known_and_different_genders():
    voices = {"a": Voice("a", "f"), "b": Voice("b", "m"), "c": Voice("c", "f")}
    plans = plan_voices(CORPUS, voices, 20, ["test", "valid", "train"], 0, across_gender=True)
    assert {frozenset((p.first_a.speaker, p.first_b.speaker)) for p in plans} == {frozenset("ab"), frozenset("bc")}
    assert plan_voices(CORPUS, {}, 20, ["test"], 0, across_gender=True) == []


def test_speakers_file(tmp_path):
    path = tmp_path / "speakers.json"
    path.write_text(json.dumps({"x": "one", "y": {"person": "one", "gender": "f"}, "z": None, "w": {"gender": "m"}}))
    voices = read_voices(str(path))
    assert voices == {"x": Voice("one"), "y": Voice("one", "f"), "z": None, "w": Voice("w", "m")}
    assert voice_of(clips("z", 1)[0], voices) is None and voice_of(clips("new", 1)[0], voices) == Voice("new")
    assert read_voices(None) == {}
    for text, message in (
        ("{", "not a JSON file"),
        ("[]", "one JSON object"),
        ('{"x": 3}', "'x' must be a person"),
        ('{"x": {"sex": "f"}}', "'x' must be"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_voices(str(path))


def test_babble_comes_from_other_clips_of_the_fold():
    clip = CORPUS[0]
    others = draw_others(CORPUS, clip, 6, np.random.default_rng(0))
    assert len({other.id for other in others} - {clip.id}) == 6 and {fold_of(o) for o in others} == {fold_of(clip)}
