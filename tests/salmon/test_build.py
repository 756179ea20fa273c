"""salmon/build.py and salmon_pairs.py: suites that are deterministic, mirrored, spliced alike, and say why not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.data.manifest import read_manifest, write_manifest
from llmcodec.io import audio
from llmcodec.salmon.build import BG_ALL, BG_DOMAIN, GENDER, ROOM, SPEAKER, SuiteSettings, SuiteSummary, build_suite
from llmcodec.salmon.splice import PAUSE

from .voices import make_corpus

RATE = 16_000
PEOPLE = {"ann": ("en", 210.0), "bob": ("en", 115.0), "eva": ("fr", 190.0)}
SETTINGS = SuiteSettings(pairs=12, splits=("test", "train"))
SPEAKERS = {"ann": {"person": "ann", "gender": "f"}, "bob": {"person": "bob", "gender": "m"}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), PEOPLE)


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("speakers") / "speakers.json"
    path.write_text(json.dumps(SPEAKERS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def suite(corpus: Path, speakers: str, tmp_path_factory: pytest.TempPathFactory) -> SuiteSummary:
    return build_suite([corpus], tmp_path_factory.mktemp("suites") / "suite", SETTINGS, speakers=speakers)


def side(summary: SuiteSummary, part: str, index: int, label: int) -> np.ndarray:
    wav, rate = soundfile.read(summary.folder / part / f"sample_{index}_{label}.wav", dtype="float64")
    assert rate == RATE
    return wav


def test_the_layout_is_the_original_ones(suite):
    assert set(suite.pairs) == {SPEAKER, GENDER, BG_ALL, BG_DOMAIN, ROOM} and not suite.missing
    told = json.loads((suite.folder / "suite.json").read_text("utf-8"))
    for part, pairs in suite.pairs.items():
        names = {path.name for path in (suite.folder / part).iterdir()}
        assert names == {f"sample_{i}_{label}.wav" for i in range(12) for label in (0, 1)}
        assert [row["index"] for row in told["parts"][part]] == [pair.index for pair in pairs] == list(range(12))
    assert "sentiment_consistency" in told["missing"] and "sentiment_consistency: needs" in str(suite)
    assert soundfile.info(suite.folder / SPEAKER / "sample_0_0.wav").subtype == "PCM_16"


def test_clips_that_cannot_be_read_are_left_out_up_to_max_bad_and_listed(corpus, tmp_path):
    clips = read_manifest(corpus)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    bad = [dataclasses.replace(one, id=f"{one.id}-bad", audio=str(tmp_path / "bad.wav")) for one in clips[1::2]]
    manifest = write_manifest(tmp_path / "m.jsonl", [*bad, *clips])
    settings = SuiteSettings(12, (ROOM,), splits=("test", "train"))
    with pytest.raises(ValueError, match=r"bad\.wav"):
        build_suite([manifest], tmp_path / "none", settings)
    assert not (tmp_path / "none").exists()
    made = build_suite([manifest], tmp_path / "suite", settings, max_bad=len(bad))
    assert f"{len(bad)} of {len(bad) + len(clips)} clips are left out" in str(made)
    told = json.loads((tmp_path / "suite" / "suite.json").read_text("utf-8"))
    assert list(told["left_out"]) == [one.id for one in bad] and len(told["parts"][ROOM]) == 12
    build_suite([corpus], tmp_path / "without", settings)
    for path in sorted((tmp_path / "without" / ROOM).iterdir()):
        assert (tmp_path / "suite" / ROOM / path.name).read_bytes() == path.read_bytes(), "as if it had not been there"


def test_the_same_settings_give_the_same_bytes_and_another_seed_others(corpus, speakers, suite, tmp_path):
    def digest(folder: Path) -> str:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    again = build_suite([corpus], tmp_path / "again", SETTINGS, speakers=speakers)
    assert digest(again.folder) == digest(suite.folder)
    other = build_suite([corpus], tmp_path / "other", SuiteSettings(12, (ROOM,), seed=1), speakers=speakers)
    assert other.pairs[ROOM][0].detail != suite.pairs[ROOM][0].detail


def test_the_two_sides_of_a_pair_are_equal_until_the_change(suite):
    for part, pairs in suite.pairs.items():
        for pair in pairs:
            positive, negative = side(suite, part, pair.index, 0), side(suite, part, pair.index, 1)
            joint = round(pair.joint_seconds * RATE)
            assert len(positive) == len(negative) and len(positive) % 4000 == 0
            # 10 ms before the joint the noise cross-fade begins; levels may differ by the common gain's rounding
            np.testing.assert_allclose(positive[: joint - 200], negative[: joint - 200], atol=2 / 32768)
            change = np.abs(positive[joint + 200 :] - negative[joint + 200 :]).max()
            assert change > 0.003, (part, pair.index)


def test_mirrored_pairs_share_their_second_halves(suite):
    """What ends the negative of one pair ends the positive of its twin, so neither half tells anything by itself."""
    for part in (SPEAKER, BG_ALL, ROOM):
        for first, second in zip(suite.pairs[part][::2], suite.pairs[part][1::2], strict=True):
            length = len(side(suite, part, first.index, 0)) - round(first.joint_seconds * RATE)
            assert len(side(suite, part, second.index, 0)) - round(second.joint_seconds * RATE) == length
            tail = length - 8000 if part == ROOM else length - 400  # in rooms the echo of the first half differs
            for a, b in ((1, 0), (0, 1)):
                ends = [side(suite, part, pair.index, x)[-tail:] for pair, x in ((first, a), (second, b))]
                scale = np.dot(*ends) / np.dot(ends[0], ends[0])
                rest = np.sqrt(np.mean((ends[1] - scale * ends[0]) ** 2))
                assert rest < 0.06 * np.sqrt(np.mean(ends[1] ** 2)) + 0.0025, (part, first.index)


def test_voice_pairs_are_of_two_persons_of_one_language_and_never_of_one_recording(suite):
    by_id = {f"{label}-{n}": label for label in PEOPLE for n in range(99)}
    for part in (SPEAKER, GENDER):
        for pair in suite.pairs[part]:
            first, same, other = pair.clips
            assert by_id[first] == by_id[same] != by_id[other] and len(set(pair.clips)) == 3
            assert {PEOPLE[by_id[clip]][0] for clip in pair.clips} == {"en"}
    assert all(pair.detail["speakers"][0] != pair.detail["speakers"][2] for pair in suite.pairs[SPEAKER])


def test_held_out_clips_are_used_up_first(suite):
    assert all(set(pair.splits) == {"test"} for pair in suite.pairs[ROOM])
    assert suite.pairs[SPEAKER][0].splits == ["test"] * 3


def test_no_clip_is_in_both_folds(suite):
    for pairs in suite.pairs.values():
        folds = [{clip for pair in pairs if pair.fold == fold for clip in pair.clips} for fold in (0, 1)]
        assert folds[0] and folds[1] and not folds[0] & folds[1]


def test_around_the_joint_both_sides_have_the_same_pause(suite):
    for pair in suite.pairs[SPEAKER]:
        joint = round(pair.joint_seconds * RATE)
        for label in (0, 1):
            pause = side(suite, SPEAKER, pair.index, label)[joint - PAUSE : joint]
            assert 0.0004 < np.sqrt(np.mean(pause**2)) < 0.0012  # the bed of noise and nothing else


def test_merged_persons_are_not_taken_for_two(corpus, tmp_path):
    path = tmp_path / "speakers.json"
    path.write_text(json.dumps({"ann": "one", "bob": "one"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"speaker_consistency: the corpus is too small .* 0 pairs .* two persons"):
        build_suite([corpus], tmp_path / "suite", SuiteSettings(12, (SPEAKER,)), speakers=str(path))
    assert not (tmp_path / "suite").exists() and not list(tmp_path.glob(".suite*"))


def test_supplied_noises_and_rooms_are_used(corpus, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("street/a", "street/b", "cafe/c"):
        audio.write(tmp_path / "noises" / f"{name}.wav", 0.1 * rng.standard_normal(RATE).astype(np.float32), RATE)
    for name in ("hall", "bath"):
        decay = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 500)
        audio.write(tmp_path / "rooms" / f"{name}.wav", (0.5 * decay / abs(decay).max()).astype(np.float32), RATE)
    settings = SuiteSettings(10, (BG_ALL, BG_DOMAIN, ROOM))
    places = {"noises": str(tmp_path / "noises"), "rooms": str(tmp_path / "rooms")}
    made = build_suite([corpus], tmp_path / "suite", settings, **places)
    assert all({n[0] for n in pair.detail["noises"]} & {"c"} for pair in made.pairs[BG_ALL])
    assert all(sorted(pair.detail["noises"]) == ["a.wav", "b.wav"] for pair in made.pairs[BG_DOMAIN])
    assert all(sorted(pair.detail["rooms"]) == ["bath.wav", "hall.wav"] for pair in made.pairs[ROOM])
    (tmp_path / "rooms" / "bath.wav").unlink()
    with pytest.raises(ValueError, match="the folder of rooms needs two impulse responses"):
        build_suite([corpus], tmp_path / "b", SuiteSettings(10, (ROOM,)), rooms=places["rooms"])


def test_noise_is_as_loud_as_the_drawn_ratio_says(suite):
    """Pauses of the speech hold the noise alone: louder against the speech where the ratio is lower."""
    pairs = suite.pairs[BG_ALL]
    assert all(0 <= pair.detail["snr_db"] <= 15 for pair in pairs)
    quiet = [np.percentile(np.abs(side(suite, BG_ALL, p.index, 0)), 20) for p in pairs]
    ratios = [pair.detail["snr_db"] for pair in pairs]
    assert np.corrcoef(ratios, np.log(quiet))[0, 1] < -0.4


def test_a_corpus_that_is_too_small_says_so(tmp_path):
    small = make_corpus(tmp_path / "small", {"ann": ("en", 200.0), "bob": ("en", 110.0)}, clips_each=6)
    with pytest.raises(ValueError, match=r"rir_consistency: the corpus is too small .* pairs can be made"):
        build_suite([small], tmp_path / "suite", SuiteSettings(12, (ROOM,)))
    with pytest.raises(
        ValueError, match=r"no part could be built from the 6 clips of test, valid \(--split\): speaker_consistency"
    ):
        build_suite([small], tmp_path / "suite", SuiteSettings(12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SuiteSettings(12, ("sentiment_consistency",)), r"sentiment_consistency \(needs recordings whose emotion"),
        (SuiteSettings(12, ("nonsense",)), "cannot build nonsense; parts are speaker_consistency"),
        (SuiteSettings(5), "pairs=5: give at least 10 pairs"),
        (SuiteSettings(12, max_seconds=1.0), "max_seconds=1 must be at least"),
        (SuiteSettings(12, snr_db=(5.0, 1.0)), "snr_db=.5, 1. is no usable range"),
        (SuiteSettings(12, t60_seconds=(0.5, 0.6)), "t60_seconds=.0.5, 0.6. is no usable range"),
        (SuiteSettings(12, splits=("dev",)), "no clip is left after split"),
    ],
)
def test_bad_settings_are_refused(corpus, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build_suite([corpus], tmp_path / "suite", settings)


def test_a_folder_that_exists_is_left_alone(corpus, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists already"):
        build_suite([corpus], tmp_path, SETTINGS)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_held_out_pairs_are_counted_whatever_their_splits_are_called(suite):
    pairs = [dataclasses.replace(pair, splits=("dev-clean", "test_other")) for pair in suite.pairs[SPEAKER]]
    said = str(dataclasses.replace(suite, pairs={SPEAKER: pairs}))
    assert f"{len(pairs)} pairs, {len(pairs)} of them from held-out clips only" in said
