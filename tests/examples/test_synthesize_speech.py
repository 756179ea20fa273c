"""examples/synthesize_speech.py without its models: texts, voices, turns, and going on after a stop."""

from __future__ import annotations

import collections
import importlib

import numpy as np
import pytest
import soundfile as sf

synthesize_speech = importlib.import_module("synthesize_speech")
kokoro = importlib.import_module("corpus.kokoro")
texts = importlib.import_module("corpus.texts")
Journal = importlib.import_module("corpus.journal").Journal

PURE = ["bf_emma", "af_sky", "am_adam", "af_nova", "bf_lily", "af_bella"]


def test_sentences_are_whole_and_plain():
    text = """00-database-short

ABATIS, n.  Rubbish in front of a fort, to prevent the rubbish outside
from molesting the rubbish inside.  It costs 7 dollars a day to keep.
He said {this} -- and “only this” -- to Dr. Smith. Compare the words of the other entry. Short one.

    Set all tongues wagging in the Spanish nation,
    Then left
    Her only to reflect on wise and sound delectation.
"""
    assert list(texts.split_sentences(text)) == [
        "Rubbish in front of a fort, to prevent the rubbish outside from molesting the rubbish inside."
    ]


def test_voices_are_pure_first_and_mixtures_stay_within_accent_and_gender():
    names = kokoro.name_voices(PURE, 10)
    assert names[:6] == sorted(PURE)
    assert sorted(names[6:]) == [
        "mix:af_bella+af_nova",
        "mix:af_bella+af_sky",
        "mix:af_nova+af_sky",
        "mix:bf_emma+bf_lily",
    ]
    assert kokoro.name_voices(list(reversed(PURE)), 8) == names[:8], "more voices leave the first ones as they are"
    with pytest.raises(ValueError, match="there are 6 voices and 4 mixtures"):
        kokoro.name_voices(PURE, 11)


def test_all_voices_read_in_turn_and_nobody_reads_a_sentence_twice():
    planned = list(synthesize_speech.plan(["a", "b", "c", "d", "e", "f"], ["x", "y", "mix:x+y"], 0, 1))
    assert [clip["voice"] for clip in planned[:4]] == ["x", "y", "mix:x+y", "x"]
    assert collections.Counter((clip["text"], clip["voice"]) for clip in planned).most_common(1)[0][1] == 1
    assert len(planned) == 18 and len({clip["id"] for clip in planned}) == 18
    assert all(0.85 <= clip["speed"] <= 1.2 for clip in planned)
    halves = [list(synthesize_speech.plan(list("abcdef"), ["x", "y", "mix:x+y"], part, 2)) for part in (0, 1)]
    assert sorted(halves[0] + halves[1], key=lambda clip: clip["id"]) == sorted(planned, key=lambda clip: clip["id"])


def test_other_texts_have_other_ids():
    first, second = ([*synthesize_speech.plan([text], ["x"], 0, 1)] for text in ("one", "two"))
    assert first[0]["speed"] == second[0]["speed"] and first[0]["id"] != second[0]["id"]


def test_a_stopped_synthesis_goes_on(tmp_path):
    said: list[str] = []

    def speak(text, voice, speed):
        if len(said) == 3:
            raise KeyboardInterrupt
        said.append(text)
        return np.full(16000, 0.1, np.float32)

    def run(seconds):
        journal = Journal(tmp_path / "clips.0of1.jsonl", kokoro.STAMP)
        planned = synthesize_speech.plan(["one", "two", "three", "four", "five"], ["af_sky", "am_adam"], 0, 1)
        return synthesize_speech.synthesize(planned, speak, tmp_path, journal, seconds)

    with pytest.raises(KeyboardInterrupt):
        run(4)
    said.clear()
    assert run(4) == 4.0
    assert said == ["four"], "one to three are there"
    rows = [(row["id"], row["speaker"], row["text"], len(read())) for row, read in kokoro.read_synthesized(tmp_path)]
    assert sorted(row[1:] for row in rows) == [
        ("kok_af_sky", "one", 16000),
        ("kok_af_sky", "three", 16000),
        ("kok_am_adam", "four", 16000),
        ("kok_am_adam", "two", 16000),
    ]
    assert sf.info(tmp_path / f"audio/{rows[0][0]}.flac").samplerate == 16000
    said.clear()
    assert run(4) == 4.0 and said == []
