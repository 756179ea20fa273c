"""Forced alignment: the best path against all paths, known times in made-up speech, and what is written."""

import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from llmcodec.data.timed_text import timed_units

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import align  # noqa: E402
import phonemes  # noqa: E402
from corpus.listing import read_rows, write_rows  # noqa: E402


def utterance(clauses, features_TD, numbers):
    return align.Utterance({"text": "old", "id": "a"}, features_TD, *align.chain(clauses, numbers))


def log_densities(features_TD, means_KD):
    return -((features_TD[:, None] - means_KD[None]) ** 2).sum(2) / 2


def test_expanded_features_give_the_gaussians():
    generator = np.random.default_rng(0)
    one = utterance([[["a"]]], generator.normal(size=(400, 3)), {"_": 0})
    path_T = np.sort(generator.integers(0, len(one.states_S), 400))
    found_TK = align.expand(one.features_TD) @ align.estimate([one], [path_T]).T
    common = np.cov(one.features_TD.T) / 2
    for state in range(4):
        own = one.features_TD[one.states_S[path_T] == state]
        mean = own.sum(0) / (len(own) + 1)
        covariance = ((own - mean).T @ (own - mean) + align.SHRINK * common) / (len(own) + align.SHRINK)
        away = one.features_TD - mean
        wanted = -0.5 * np.einsum("td,td->t", away @ np.linalg.inv(covariance), away)
        wanted -= 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))
        np.testing.assert_allclose(found_TK[:, state], wanted, atol=1e-9)


def test_best_path_against_all_paths():
    """Two words of one phoneme with pauses that may be left out, two clips of different lengths in a batch."""
    generator = np.random.default_rng(1)
    numbers = {"_": 0}
    clips = [
        utterance([[["a"], ["b"]]], generator.normal(size=(9, 4)), numbers),
        utterance([[["b"]]], generator.normal(size=(6, 4)), numbers),
    ]
    model_KF = generator.normal(size=(7, 15)) / 10
    paths, scores = align.viterbi(clips, model_KF)
    for one, path_T, score in zip(clips, paths, scores, strict=True):
        density_TS = (align.expand(one.features_TD) @ model_KF.T)[:, one.states_S]
        frames, last = len(density_TS), len(one.states_S) - 1
        best = (-np.inf, ())
        for start, steps in itertools.product((0, 1), itertools.product((0, 1, 2), repeat=frames - 1)):
            path = np.cumsum([start, *steps])
            skips = [place for place, step in zip(path[1:], steps, strict=True) if step == 2]
            if path[-1] not in (last - 1, last) or any(
                not one.optional_S[place - 1] for place in skips if place <= last
            ):
                continue
            best = max(best, (float(density_TS[np.arange(frames), path].sum()), tuple(path)))
        assert tuple(path_T) == best[1] and np.isclose(score, best[0])


def test_times_of_made_up_speech_are_found():
    """Phonemes that sound alike only to themselves, pauses between some words: from a flat start to the true times."""
    generator = np.random.default_rng(2)
    sounds = list("abcdefg")
    voices = {sound: generator.normal(scale=2.0, size=6) for sound in [*sounds, "_"]}
    numbers, clips, truth = {"_": 0}, [], []
    for _ in range(60):
        words = [list(generator.choice(sounds, 3)) for _ in range(3)]
        plan = [("_", 20)]
        for word in words:
            plan += [(sound, int(generator.integers(5, 12))) for sound in word]
            if generator.random() < 0.5:
                plan.append(("_", int(generator.integers(8, 15))))
        features = [voices[sound] + generator.normal(scale=0.7, size=(frames, 6)) for sound, frames in plan]
        clips.append(utterance([words], np.concatenate(features), numbers))
        truth.append(
            list(zip((sound for sound, _ in plan), np.cumsum([0] + [n for _, n in plan[:-1]]) / 100, strict=True))
        )
    rows = align.align(clips, 10)
    exact = total = 0
    for row, wanted in zip(rows, truth, strict=True):
        found = timed_units(row["text"])
        total += len(wanted)
        if [name for name, _ in found] == [name for name, _ in wanted]:
            exact += sum(abs(a - b) <= 0.021 for (_, a), (_, b) in zip(found, wanted, strict=True))
    assert exact > 0.9 * total, f"{exact} of {total}"
    assert rows[0]["id"] == "a"


def test_batches_fit_into_memory_and_hold_every_clip(monkeypatch):
    monkeypatch.setattr(align, "BATCH_NUMBERS", 3 * 40 * 8)
    numbers = {"_": 0}
    clips = [utterance([[["a"], ["b"]]], np.zeros((frames, 2)), numbers) for frames in (20, 30, 40, 50, 900)]
    assert list(align.batches([0, 1, 2, 3, 4], clips)) == [[0, 1], [2, 3], [4]]


def test_phonemes_together_and_apart():
    clauses = [[["p", "l", "i:", "z"], ["h", "oU"]], [["tS"]]]
    assert phonemes.together(clauses) == "pli:z hoU tS"
    assert phonemes.apart(clauses) == "_ p l i: z h oU _ tS _"
    parts = {"'i:": "i:", ",aI": "aI", "t#": "t", ";": "", "t;": "t;", "(en)": "", "_:": "", "_!": "", "_": ""}
    assert {part: phonemes.sound_of(part) for part in parts} == parts


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_phonemes_of_espeak():
    """Its own signs for pauses are no phonemes."""
    ((first, second),) = (phonemes.phonemes("en", "Say your message, and then press one."),)
    assert ["m", "E", "s", "I2", "dZ"] in first and second[0][-1] == "d"
    sounds = {sound for word in first + second for sound in word}
    assert not any("_" in sound or " " in sound for sound in sounds)
    assert phonemes.phonemes("xx", "hello") is None
    assert phonemes.phonemes("", "hello") is None, "and not English"


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_texts_that_espeak_would_spell_or_read_as_english_keep_their_spelling(tmp_path, monkeypatch, capsys):
    read = [("en", "Hello."), ("en", "7"), ("fr", "le weekend"), ("ru", "Привет hello"), ("ru", "мир"), ("es", "el 1º")]
    kept = [("", "guten Morgen"), (None, "Morgen"), ("xx", "hello"), ("xx", "мир"), ("en", "!!!")]
    kept += [("en", "Tokyo 東京"), ("de", "мир")]
    rows = [{"id": str(i), "language": one, "text": text} for i, (one, text) in enumerate(read + kept)]
    rows.append({"id": "silent", "language": "en"})
    write_rows(tmp_path / "m.jsonl", rows)
    monkeypatch.setattr(sys, "argv", ["phonemes.py", str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "p.jsonl")])
    phonemes.main()
    texts = [row.get("text") for row in read_rows(tmp_path / "p.jsonl")]
    assert texts[len(read) :] == [text for _, text in kept] + [None]
    assert all(text != found for (_, text), found in zip(read, texts, strict=False))
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'p.jsonl'}: 14 clips, 6 texts as phonemes",
        "no language: espeak-ng does not speak it; 2 clips keep their spelling",
        "language 'xx': espeak-ng does not speak it; 2 clips keep their spelling",
        "language 'en': letters of another script, or none; 2 clips keep their spelling",
        "language 'de': letters of another script, or none; 1 clips keep their spelling",
    ]
    assert align.prepare([{"id": "a", "audio": "none.wav", "text": "hello"}], tmp_path) == [], "of no language"
