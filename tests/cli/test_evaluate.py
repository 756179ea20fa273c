"""`llmcodec evaluate ...` as typed by a person, on four short recordings and codecs without weights."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from llmcodec.cli import evaluate
from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, write_manifest
from llmcodec.evaluation import system
from llmcodec.experiments import comparison
from llmcodec.io.progress import ProgressBar, status_line

from ..evaluation.test_probe import TINY_LM, ShownCodec
from ..fake_codec import LoudnessCodec
from ..speech import speech_like

Run = Callable[..., str]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    clips = []
    for index, (split, seconds) in enumerate([("train", 2.0), ("train", 1.5), ("valid", 1.2), ("test", 1.6)]):
        soundfile.write(tmp_path / f"{index}.flac", speech_like(seconds, index), 16_000)
        source = "studio" if index % 2 else "field"
        clips.append(Clip(f"c{index}", f"{index}.flac", seconds, split=split, source=source, folder=str(tmp_path)))
    return write_manifest(tmp_path / "manifest.jsonl", clips)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; `loud` and `dull` are codecs, any other name is refused as ever."""
    known = {"loud": LoudnessCodec(), "dull": LoudnessCodec(context=4), "shown": ShownCodec()}
    load = comparison.load_codec
    monkeypatch.setattr(
        comparison, "load_codec", lambda name, device: known[name] if name in known else load(name, device)
    )
    monkeypatch.setattr(evaluate, "LikelihoodConfig", lambda: TINY_LM)

    def typed(*words: object, code: int = 0) -> str:
        assert main(["evaluate", *map(str, words)]) == code
        shown = capsys.readouterr()
        return shown.err if code else shown.out

    return typed


def test_reconstruction_writes_tables_rows_and_json(run: Run, manifest: Path, tmp_path: Path) -> None:
    out, rows = tmp_path / "out" / "quality", tmp_path / "rows.csv"
    words = ["reconstruction", "--codec", "loud", "--codec", "b=dull", "--manifest", manifest, "--workers", 0]
    words += ["--metrics", "mel,stft,sdr,f0corr", "--per-file", rows, "-o", f"{out}.html"]
    shown = run(*words, "--opus", "[]")
    assert "All files" in shown and "field (1 files)" in shown
    with open(rows, encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0])[:8] == ["reference", "reconstruction", "codec", "domain", "mel", "stft", "sdr", "f0corr"]
    assert [(line["codec"], line["id"], line["domain"]) for line in lines] == [
        ("loud", "c2", "field"), ("loud", "c3", "studio"), ("b", "c2", "field"), ("b", "c3", "studio")
    ]  # fmt: skip
    result = json.loads(out.with_suffix(".json").read_text())
    mel = [float(line["mel"]) for line in lines if line["codec"] == "loud"]
    measures = result["systems"]["loud"]["measures"]
    assert measures["mel"]["value"] == pytest.approx(np.mean(mel)) and measures["mel"]["num"] == 2
    assert measures["nominal_bits_per_second"]["value"] == 300
    assert 0 < measures["entropy_bits_per_second"]["value"] <= 300 and measures["used_codes"]["value"] > 1
    assert result["settings"]["clips"] == 2 and result["settings"]["versions"]["llmcodec"]
    assert any("Mel distance" in sentence for sentence in result["statements"])
    assert "| Mel distance" in out.with_suffix(".md").read_text()
    page = out.with_suffix(".html").read_text("utf-8")
    assert page.index('id="listen"') < page.index('id="measurements"') < page.index('id="tables"')
    assert page.count("<audio") == 3 and page.count("data-tokens=") == 0, "original and two codecs"
    assert "field (1 files)" in page and "Against loud: " in page and " b" in page.split("Against loud: ")[1][:60]


def test_opus_stands_in_every_table_of_reconstruction_with_the_bytes_sent(run: Run, manifest: Path, tmp_path: Path):
    base = ["reconstruction", "--codec", "loud", "--manifest", manifest, "--metrics", "mel", "--workers", 0]
    shown = run(*base, "-o", tmp_path / "all")
    assert all(name in shown for name in ("opus:6", "opus:9", "opus:12"))
    systems = json.loads((tmp_path / "all.json").read_text())["systems"]
    assert list(systems) == ["loud", "opus:6", "opus:9", "opus:12"]
    bits = [systems[name]["measures"]["nominal_bits_per_second"]["value"] for name in list(systems)[1:]]
    assert bits[0] < bits[1] < bits[2] < 20_000 and "used_codes" not in systems["opus:6"]["measures"]
    run(*base, "--opus", "24", "-o", tmp_path / "one")
    assert list(json.loads((tmp_path / "one.json").read_text())["systems"]) == ["loud", "opus:24"]


def test_bad_clips_within_the_limit_are_left_out_alike_and_said(run: Run, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "3.flac").write_bytes((tmp_path / "3.flac").read_bytes()[:30])
    base = ["reconstruction", "--metrics", "mel", "--workers", 0, "--manifest", manifest, "-o", tmp_path / "q"]
    base += ["--codec", "loud", "--codec", "dull"]
    assert "3.flac: " in run(*base, code=1)
    run(*base, "--max-bad", "50%")
    values = json.loads((tmp_path / "q.json").read_text())
    assert [[row["id"] for row in values["systems"][name]["files"]] for name in ("loud", "dull")] == [["c2"], ["c2"]]
    assert list(values["settings"]["left_out"]) == ["c3"] and values["settings"]["clips"] == 1
    assert "no clip of one split can be read" in run(*base, "--max-bad", "100%", "--split", "test", code=1)
    assert (
        "2 of 2 audio files cannot be read"
        in [
            (tmp_path / "2.flac").unlink(),
            (tmp_path / "3.flac").unlink(),
            run(*base, "--max-bad", "50%", code=1),
        ][-1]
    )


def test_a_killed_run_goes_on_where_it_stopped(
    run: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["reconstruction", "--codec", "loud", "--manifest", manifest, "--workers", 0, "--metrics", "fast"]
    run(*words, "-o", tmp_path / "whole")
    whole = (tmp_path / "whole.rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut.rows.jsonl").write_text(whole[0] + whole[1][:40])  # killed while it wrote the second row
    encoded: list[int] = []
    encode = LoudnessCodec.encode
    monkeypatch.setattr(LoudnessCodec, "encode", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    run(*words, "-o", tmp_path / "cut")
    assert len(encoded) == 1
    results = [json.loads((tmp_path / f"{name}.json").read_text())["systems"] for name in ("whole", "cut")]
    assert results[0] == results[1]


def test_pairs_made_elsewhere(run: Run, tmp_path: Path) -> None:
    wav = speech_like(1.0)
    soundfile.write(tmp_path / "a.wav", wav, 16_000)
    soundfile.write(tmp_path / "b.wav", 0.8 * wav, 16_000)
    (tmp_path / "pairs.csv").write_text("reference,reconstruction,codec,domain\na.wav,b.wav,DAC,speech\n")
    words = ["reconstruction", "--pairs", tmp_path / "pairs.csv", "--workers", 0, "--metrics", "fast"]
    shown = run(*words, "--per-file", tmp_path / "rows.csv")
    assert "DAC" in shown and "Nominal" not in shown
    with open(tmp_path / "rows.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert row["domain"] == "speech" and float(row["sdr"]) == pytest.approx(13.98, abs=0.01) and row["failures"] == ""


def test_the_rule_for_unequal_lengths_stands_in_table_and_json(run: Run, tmp_path: Path) -> None:
    for name, seconds in (("a", 1.0), ("b", 1.1)):
        soundfile.write(tmp_path / f"{name}.wav", speech_like(seconds, 1), 16_000)
    (tmp_path / "p.csv").write_text("reference,reconstruction\na.wav,b.wav\n")
    base = ["reconstruction", "--pairs", tmp_path / "p.csv", "--metrics", "mel", "--workers", 0, "-o", tmp_path / "q"]
    values = {}
    for lengths, words in (("cut", []), ("superb", ["--lengths", "superb"])):
        shown = run(*base, *words)
        written = json.loads((tmp_path / "q.json").read_text())
        assert written["settings"]["lengths"] == lengths
        said = "padded with zeros, as in Codec-SUPERB"
        assert (said in " ".join(shown.split())) == (said in (tmp_path / "q.md").read_text()) == (lengths == "superb")
        values[lengths] = written["systems"]["reconstruction"]["measures"]["mel"]["value"]
    assert values["superb"] > values["cut"]


def test_predictability_reports_and_does_not_train_twice(
    run: Run, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bits"
    words = ["predictability", "--codec", "loud", "--codec", "shown", "--manifest", manifest, "--seeds", 2]
    words += ["--workers", 0, "--audio-seconds", 6, "--probe", "--probe-codes", 10, "-o", f"{out}.html"]
    shown = run(*words)
    assert "2 language-model seeds" in shown and "loud: no probe" in shown
    result = json.loads((tmp_path / "bits.json").read_text())
    measures = result["systems"]["shown"]["measures"]
    assert measures["lm_bits_per_second"]["value"] == pytest.approx(50 * measures["lm_bits_per_token"]["value"])
    for key in ("ngram_1", "ngram_4", "context_gain", "probe_accuracy", "probe_perplexity", "zipf_exponent", "mel"):
        assert key in measures, key
    assert "probe_accuracy" not in result["systems"]["loud"]["measures"]
    assert {(point["seed"]) for point in result["systems"]["loud"]["curve"]} == {0, 1}
    assert (tmp_path / "bits.frontier.png").stat().st_size > 5000 and (tmp_path / "bits.curves.png").exists()
    page = (tmp_path / "bits.html").read_text("utf-8")
    assert page.count("data-tokens") == 2 * page.count("<article>") > 0 and page.index("<ab-player ") < page.index(
        "<table>"
    )
    monkeypatch.setattr(system, "measure_predictability", None)  # a second training would fail
    run(*[word for word in words if word != "--probe"])
    again = json.loads((tmp_path / "bits.json").read_text())["systems"]["shown"]["measures"]
    assert again["lm_bits_per_second"] == measures["lm_bits_per_second"]
    joined = run("reconstruction", "--codec", "loud", "--manifest", manifest, "--workers", 0, "--metrics", "fast",
                 "--predictability", tmp_path / "bits.json")  # fmt: skip
    assert "LM bits per second" in joined
    joined = run("reconstruction", "--codec", "dull", "--manifest", manifest, "--workers", 0, "--metrics", "fast",
                 "--predictability", tmp_path / "bits.json")  # fmt: skip
    assert "no LM bits of 'dull' in it; there is loud, shown" in joined


def test_consistency_shows_slices_changes_and_chance(run: Run, manifest: Path, tmp_path: Path) -> None:
    words = ["consistency", "--codec", "loud", "--codec", "dull", "--manifest", manifest, "--slices", "0.2,0.5"]
    shown = run(*words, "-o", tmp_path / "same")
    assert "slice of 0.2 s" in shown and "phase 180 deg" in shown and "noise at 30 dB" in shown and "by chance" in shown
    result = json.loads((tmp_path / "same.json").read_text())["systems"]
    assert result["loud"]["measures"]["slice of 0.2 s"]["value"] == 1.0
    assert result["dull"]["measures"]["slice of 0.2 s"]["value"] < 1.0
    assert len([row for row in result["loud"]["rows"] if "slice" not in row["change"]]) == 2 * 7


def test_names_with_brackets_are_shown_as_they_are(run: Run, manifest: Path, tmp_path: Path) -> None:
    names = ["a[en]", "b[/b]"]
    codecs = [word for name in names for word in ("--codec", f"{name}=loud")]
    shown = run("consistency", *codecs, "--manifest", manifest, "-o", tmp_path / "same[x].html")
    assert all(name in shown for name in names) and "same[x].json" in shown
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with ProgressBar("b[/b] a[en]", console=console) as bar:
        bar.update(0.5)
    with status_line(console) as tell:
        tell("b[/b]: x[en]", 0.25)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    assert "b[/b] a[en]" in drawn and "b[/b]: x[en]" in drawn


def test_robustness_shows_levels_and_silence(run: Run, manifest: Path, tmp_path: Path) -> None:
    words = ["robustness", "--codec", "loud", "--codec", "dull", "--manifest", manifest, "--levels", "-20"]
    words += ["--metrics", "stoi", "--noises", "30", "--pauses", "0.3", "--workers", 0, "-o", tmp_path / "robust"]
    shown = run(*words)
    for line in ("level +0 dB", "level -20 dB", "telephone band", "noise at 30 dB", "pause of 0.3 s", "zeros"):
        assert line in shown
    assert "of dull is" in shown and "paired 95 % interval" in shown
    result = json.loads((tmp_path / "robust.json").read_text())
    rows = {(row["id"], row["condition"]): row for row in result["systems"]["loud"]}
    assert rows["draw 0", "zeros"] == {"id": "draw 0", "condition": "zeros", "silence": -140.0}
    # Loudness survives where it fits into the codebook's steps of a two-hundredth, and not at a tenth of it.
    assert abs(rows["c2", "level +0 dB"]["level_error"]) < abs(rows["c2", "level -20 dB"]["level_error"])
    assert "## Silence" in (tmp_path / "robust.md").read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["reconstruction"], "name at least one codec"),
        (["predictability"], "name at least one codec"),
        (["consistency", "--codec", "loud", "--slices", "short"], "--slices takes values joined by commas"),
        (["consistency", "--codec", "loud", "--shifts", "0.9"], "at most 0.5 of a frame"),
        (["reconstruction", "--codec", "/no/such/codec"], "/no/such/codec"),
        (["reconstruction", "--codec", "loud", "--manifest", "/no/manifest.jsonl"], "no such manifest"),
        (["reconstruction", "--codec", "loud", "--metrics", "mel,beauty"], "no metric 'beauty'"),
        (["reconstruction", "--codec", "loud", "--domain", "mood"], "--domain mood"),
        (["reconstruction", "--pairs", "/no/pairs.csv"], "no such file"),
        (["reconstruction", "--codec", "loud", "--pairs", "x.csv"], "takes no --codec"),
        (["reconstruction", "--codec", "loud", "--asr", "/no/asr", "--metrics", "fast"], "/no/asr: no such folder"),
        (["predictability", "--codec", "loud", "--seeds", "0"], "--seeds must be at least 1"),
        (["consistency", "--codec", "loud", "--clips", "0"], "--clips must be at least 1, not 0"),
        (["predictability", "--codec", "loud", "--audio-seconds", "-1"], "audio_seconds must be above 0"),
        (["predictability", "--codec", "loud", "--probe-codes", "0"], "probe: at least 2 codes"),
        (["reconstruction", "--codec", "loud", "--codec", "loud"], "two codecs are called 'loud'"),
    ],
)
def test_bad_input_is_one_line(run: Run, words: list[str], problem: str) -> None:
    said = run(*words, code=1).strip()
    assert problem in said and len(said.splitlines()) == 1 and said.startswith(f"llmcodec evaluate {words[0]}:")


def test_a_recording_that_is_gone_is_one_line(run: Run, manifest: Path) -> None:
    (manifest.parent / "3.flac").unlink()
    said = run("reconstruction", "--codec", "loud", "--manifest", manifest, "--workers", 0, "--metrics", "fast", code=1)
    assert "3.flac: no such audio file (clip 'c3')" in said


def test_silent_and_tiny_clips_are_failures_by_name(run: Run, manifest: Path) -> None:
    soundfile.write(manifest.parent / "2.flac", np.zeros(16_000), 16_000)
    soundfile.write(manifest.parent / "3.flac", speech_like(0.1), 16_000)
    shown = run("reconstruction", "--codec", "loud", "--manifest", manifest, "--workers", 0)
    assert "reference is digital silence" in shown and "c3" in shown and "PESQ" in shown
