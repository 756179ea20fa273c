"""Audio made elsewhere: read by line, measured, and refused in one line."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pesq import pesq

from llmcodec.evaluation import cache, wer
from llmcodec.evaluation.cache import Journal
from llmcodec.evaluation.pairs import measure_pairs, read_pairs
from llmcodec.evaluation.reconstruction import ReconstructionResult
from llmcodec.evaluation.results import SystemRow, compare
from llmcodec.metrics.registry import measure_pair
from llmcodec.report.fidelity import failures, word_counts

from ..speech import speech_like

FAST = ("mel", "stft", "sdr")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        wav = speech_like(1.0, index)
        noise = np.random.default_rng(index).standard_normal(wav.size).astype(np.float32)
        soundfile.write(tmp_path / f"r{index}.wav", wav, 16_000, subtype="FLOAT")
        soundfile.write(tmp_path / f"light{index}.wav", wav + 0.001 * noise, 16_000, subtype="FLOAT")
        soundfile.write(tmp_path / f"heavy{index}.wav", wav + 0.02 * noise, 16_000, subtype="FLOAT")
    lines = ["reference,reconstruction,codec,domain"]
    lines += [
        f"r{i}.wav,{name}{i}.wav,{name},{'odd' if i % 2 else 'even'}" for name in ("light", "heavy") for i in range(3)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_pairs_are_measured_by_codec_and_domain(folder: Path) -> None:
    results = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=FAST, num_workers=0)
    assert list(results) == ["light", "heavy"]
    assert results["light"].mean("mel").value < results["heavy"].mean("mel").value
    assert results["light"].domains == ["even", "odd"] and len(results["light"].of_domain("even").rows) == 2
    wav = soundfile.read(folder / "r1.wav", dtype="float32")[0]
    other = soundfile.read(folder / "heavy1.wav", dtype="float32")[0]
    assert results["heavy"].rows[1].metrics == measure_pair(wav, other, 16_000, FAST)


def test_a_second_run_measures_only_what_changed(folder: Path) -> None:
    journal = folder / "rows.jsonl"
    first = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=FAST, num_workers=0, journal=Journal(journal))
    size = journal.stat().st_size
    again = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=FAST, num_workers=0, journal=Journal(journal))
    assert again == first and journal.stat().st_size == size
    soundfile.write(folder / "light0.wav", speech_like(1.0, 9), 16_000, subtype="PCM_24")
    other = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=FAST, num_workers=0, journal=Journal(journal))
    assert other["heavy"] == first["heavy"] and other["light"].rows[1:] == first["light"].rows[1:]
    assert other["light"].rows[0].metrics["mel"] != first["light"].rows[0].metrics["mel"]


def test_rows_of_other_code_or_of_another_recogniser_are_measured_again(folder: Path, monkeypatch) -> None:
    heard = []
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: heard.append(name) or "one two")
    (folder / "texts.csv").write_text("reference,reconstruction,text\nr0.wav,light0.wav,one two\n")
    model = folder / "model" / "model.bin"
    model.parent.mkdir()
    model.write_bytes(b"one")

    def measure() -> int:
        heard.clear()
        journal, asr = Journal(folder / "rows.jsonl"), f"faster-whisper:{model.parent}"
        measure_pairs(read_pairs(folder / "texts.csv"), metrics=(), asr=asr, num_workers=0, journal=journal)
        return len(heard)

    assert [measure(), measure()] == [1, 0]
    model.write_bytes(b"another one")
    assert [measure(), measure()] == [1, 0]
    monkeypatch.setattr(cache, "code_digest", lambda: "of a later version")
    with pytest.warns(UserWarning, match="rows.jsonl: results of another version of llmcodec are measured again"):
        assert measure() == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure() == 0


@pytest.mark.parametrize("longer", ["reconstruction", "reference"])
def test_unequal_lengths_are_cut_or_padded_as_in_codec_superb(tmp_path: Path, longer: str) -> None:
    long_S, short_S = 0.5 * speech_like(1.2, 3), 0.9 * 0.5 * speech_like(1.2, 3)[:16_000]
    long_S[16_000:] += 0.2  # what lies behind the end of the other is loud
    one, other = (short_S, long_S) if longer == "reconstruction" else (long_S, short_S)
    for name, wav_S in (("a", one), ("b", other)):
        soundfile.write(tmp_path / f"{name}.wav", wav_S, 16_000, subtype="FLOAT")
    (tmp_path / "pairs.csv").write_text("reference,reconstruction\na.wav,b.wav\n")

    def by_hand(first: list[float], second: list[float]) -> float:
        """10 log10 of the reference's power over that of the error."""
        signal = sum(x * x for x in first)
        return 10 * math.log10(signal / sum((x - y) ** 2 for x, y in zip(first, second, strict=True)))

    reference, reconstruction = one.astype(np.float64).tolist(), other.astype(np.float64).tolist()
    padded = [wav + [0.0] * (len(long_S) - len(wav)) for wav in (reference, reconstruction)]
    expected = {
        "cut": (by_hand(reference[:16_000], reconstruction[:16_000]), 1.0),
        "superb": (by_hand(*padded), len(one) / 16_000),
    }
    journal = Journal(tmp_path / "rows.jsonl")
    for lengths, (sdr, seconds) in expected.items():
        (row,) = measure_pairs(
            read_pairs(tmp_path / "pairs.csv"),
            metrics=("sdr", "pesq"),
            num_workers=0,
            journal=journal,
            lengths=lengths,  # type: ignore[arg-type]
        )["reconstruction"].rows
        assert row.metrics["sdr"].value == pytest.approx(sdr, abs=1e-3) and row.seconds == pytest.approx(seconds)
        pair = padded if lengths == "superb" else (reference[:16_000], reconstruction[:16_000])
        theirs = pesq(16_000, *(np.asarray(wav, np.float32) for wav in pair), "wb")
        assert row.metrics["pesq"].value == pytest.approx(theirs, abs=1e-3)
    assert expected["cut"][0] > expected["superb"][0] + 3


def test_a_corrupt_file_fails_by_name_and_the_rest_is_measured(folder: Path) -> None:
    (folder / "light1.wav").write_bytes(b"not audio at all")
    soundfile.write(folder / "light2.wav", speech_like(0.3), 16_000)
    result = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=FAST, num_workers=0)["light"]
    assert result.mean("mel").num == 1
    reasons = "; ".join(result.failures("mel"))
    assert "light1.wav" in reasons and "not the same recording" in reasons


def test_words_of_a_pair_that_fails_are_missed_by_name_and_other_languages_are_left_out(folder, monkeypatch) -> None:
    (folder / "light1.wav").write_bytes(b"not audio at all")
    lines = ["reference,reconstruction,codec,text,language"]
    lines += [
        f"r{i}.wav,{name}{i}.wav,{name},one two,{'de' if i == 2 else 'en'}"
        for name in ("light", "heavy")
        for i in range(3)
    ]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: "one two")
    found = measure_pairs(read_pairs(folder / "pairs.csv"), metrics=(), asr="x", asr_languages=["en"], num_workers=0)
    light, heavy = (SystemRow(name, 0.0, result, words=result.words) for name, result in found.items())
    assert [len(one.words) for one in (light, heavy)] == [1, 2]
    (said,) = failures([light, heavy])
    assert said.startswith("light: no wer for 1 of 3 files (") and "light1.wav" in said
    assert compare(light, heavy, "wer").difference.value == 0.0  # on the pair that both have
    said = word_counts([light, heavy])
    assert [line.partition(" clips")[0] for line in said] == [
        "light: word errors of 1 of 3",
        "heavy: word errors of 2 of 3",
    ]
    assert len(word_counts([heavy, heavy])) == 1 and word_counts([heavy, heavy])[0].startswith("word errors of 2")
    assert not word_counts([SystemRow("all", 0.0, ReconstructionResult(found["heavy"].rows[:2]))])


@pytest.mark.parametrize(
    ("head", "wanted", "problem"),
    [
        ("text,language", ["en"], "none of 2 pairs has a transcript in en; languages of their transcripts: de"),
        ("transcript,language", None, "in any language; .* is its column called `text`"),
    ],
)
def test_a_recogniser_without_a_transcript_is_an_error(folder, monkeypatch, head, wanted, problem) -> None:
    lines = [f"reference,reconstruction,{head}", *(f"r{i}.wav,light{i}.wav,one two,de" for i in range(2))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: "one two")
    with pytest.raises(ValueError, match=problem):
        measure_pairs(read_pairs(folder / "pairs.csv"), metrics=(), asr="x", asr_languages=wanted, num_workers=0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ref,rec\na,b\n", "column reference, reconstruction missing"),
        ("", "column reference, reconstruction missing"),
        ("reference,reconstruction\n", "no pairs under the header"),
        ("reference,reconstruction\nr0.wav,\n", ":2: reconstruction is empty"),
        ("reference,reconstruction\nr0.wav,light0.wav\nr1.wav,gone.wav\n", ":3: reconstruction gone.wav is not there"),
        ("reference,reconstruction\nr0.wav,light0.wav\nr0.wav,light1.wav\n", "r0.wav occurs twice"),
    ],
)
def test_what_is_wrong_with_the_file_is_one_line(folder: Path, text: str, problem: str) -> None:
    (folder / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        read_pairs(folder / "bad.csv")
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_line(folder: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_pairs(folder / "nothing.csv")
    with pytest.raises(ValueError, match="not a CSV file|column"):
        read_pairs(folder / "r0.wav")
    with pytest.raises(ValueError, match="no metric 'nope'"):
        measure_pairs(read_pairs(folder / "pairs.csv"), metrics=("nope",))
