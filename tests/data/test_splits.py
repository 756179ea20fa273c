"""splits.py: names that decide a split as a whole, hashes, speakers kept together."""

from __future__ import annotations

import pytest

from llmcodec.data.clip import is_held_out, is_valid
from llmcodec.data.splits import hashed_split, keep_speakers_together, split_of_folders, split_of_name


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train training Train train-clean-100 train_si284 train100 training-2 train.360"),
        ("valid", "val valid validation dev development dev93 dev-clean Dev_Other val2 dev.clean"),
        ("test", "test eval evaluation testing eval92 test2 test-other TEST eval_1"),
        ("", "validated invalidated other tested latest trainer devices evaluator testament de v valley contest"),
    ],
)
def test_a_name_decides_as_a_whole(split, names):
    assert {name: split_of_name(name) for name in names.split()} == dict.fromkeys(names.split(), split)
    assert split_of_name("test 2") == "test" and split_of_name("") == ""


def test_splits_of_any_name_are_held_out():
    names = "val validation dev-clean dev.other development eval eval92 evaluation testing test2 test_other"
    assert all(is_held_out(name) for name in names.split())
    assert [name for name in names.split() if is_valid(name)] == names.split()[:5]
    assert not any(is_held_out(name) for name in ("", "train", "train.100", "validated", "other"))


def test_the_folder_nearest_to_the_root_wins():
    assert split_of_folders(["corpus", "train", "test_speaker"]) == ("train", "train")
    assert split_of_folders(["corpus", "dev-other", "8000"]) == ("valid", "dev-other")
    assert split_of_folders(["corpus", "clips"]) == ("", "")


def test_hashes_take_names_that_are_no_utf8():
    assert hashed_split("caf\udce9", 0.2, 0.2) in ("train", "valid", "test")


def test_speakers_go_to_the_most_protected_split_they_stood_in():
    speakers = ["a", "a", "b", "b", "c", "", ""]
    splits = ["train", "test", "valid", "train", "train", "train", "test"]
    together, moved = keep_speakers_together(speakers, splits)
    assert together == ["test", "test", "valid", "valid", "train", "train", "test"]
    assert moved == {"a": ["test", "train"], "b": ["train", "valid"]}
