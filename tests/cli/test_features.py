"""`llmcodec evaluate phones` and `llmcodec units` as typed by a person."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, write_manifest
from llmcodec.experiments import comparison

from ..evaluation.test_phones import ShownLoudness
from ..fake_codec import LoudnessCodec
from ..miniature import miniature_teacher


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return f"hubert:{miniature_teacher(tmp_path_factory.mktemp('encoder') / 'hubert', 'hubert')}:1"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Six clips of two loudnesses, with texts that say when."""
    random, clips = np.random.default_rng(0), []
    for number in range(6):
        levels = random.permutation([0.02, 0.2] * 6)
        wav = np.concatenate([level * random.standard_normal(1600) for level in levels]).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", wav, 16_000, subtype="FLOAT")
        text = " ".join(f"<|{i / 10:.2f}|> {'quiet' if level < 0.1 else 'loud'}" for i, level in enumerate(levels))
        split = "train" if number < 2 else "test"
        clips.append(Clip(f"c{number}", f"{number}.wav", 1.2, text, speaker=f"s{number % 2}", split=split))
    return write_manifest(tmp_path / "manifest.jsonl", clips)


@pytest.fixture
def known(monkeypatch) -> None:
    codecs, load = {"loud": ShownLoudness(), "dull": LoudnessCodec(context=4)}, comparison.load_codec
    monkeypatch.setattr(comparison, "load_codec", lambda name, dev: codecs[name] if name in codecs else load(name, dev))


def test_phones_of_codecs_and_encoders_stand_in_one_table(known, manifest, encoder, tmp_path, capsys):
    out = tmp_path / "phones"
    words = ["--codec", "loud", "--codec", "b=dull", "--features", encoder, "--manifest", str(manifest)]
    assert main(["evaluate", "phones", *words, "-o", f"{out}.html"]) == 0
    table = out.with_suffix(".md").read_text()
    lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()
             if line.startswith("|")}  # fmt: skip
    assert lines[""] == ["loud", "b", encoder]
    purity = lines["Phone purity ↑ (by chance)"]
    assert float(purity[0][:5]) > 0.99 and float(purity[0][7:12]) < 0.9 and purity[2] == "-"
    tokens, features = lines["ABX error, tokens, one speaker ↓"], lines["ABX error, features, one speaker ↓"]
    assert (
        tokens[2] == "-" == features[1]
        and float(tokens[0][:5]) < float(tokens[1][:5])
        and "ABX error, tokens, other speaker ↓" in lines
    )
    result = json.loads(out.with_suffix(".json").read_text())
    assert result["systems"]["loud"]["tokens"]["num_frames"] == 4 * 60 and result["settings"]["clips"] == 4
    assert result["systems"][encoder]["feature_abx"]["within"]["pairs"].keys() == {"loud quiet"}
    assert any("b and loud: no difference shown, -0.0" in said for said in result["statements"])
    assert result["systems"]["loud"]["token_abx"]["within"]["low"] is None, "one pair of phones has no interval"
    assert "ABX error" in out.with_suffix(".html").read_text()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name something to measure: --codec bundled, or --features hubert:PLACE:LAYER"),
        (["--codec", "loud", "--alignments", "nowhere"], "alignments nowhere: no such file or folder"),
        (["--codec", "loud", "--codebook", "2"], "no codebook 2; the codec has 1"),
        (["--codec", "loud", "--items", "1"], "ABX needs at least 2 renditions of a phone, not 1"),
        (["--codec", "opus:6"], "OpusCodec has no tokens that could mean phones"),
        (["--features", "hubrt:x"], "near: hubert:facebook/hubert-base-ls960"),
    ],
)
def test_what_cannot_be_measured_is_one_line(known, manifest, words, message, capsys):
    assert main(["evaluate", "phones", "--manifest", str(manifest), *words]) != 0
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error


def test_clap_joins_the_metrics_of_reconstruction(known, manifest, tmp_path, capsys):
    clap, out = miniature_teacher(tmp_path / "clap", "clap"), tmp_path / "quality"
    words = [
        "evaluate",
        "reconstruction",
        "--manifest",
        str(manifest),
        "--metrics",
        "sdr",
        "--workers",
        "0",
        "--opus",
        "[]",
    ]
    assert main([*words, "--codec", "loud", "--codec", "b=dull", "--clap", str(clap), "-o", str(out)]) == 0
    result = json.loads(out.with_suffix(".json").read_text())
    told = result["systems"]["b"]
    values = [row["clap"] for row in told["files"]]
    assert len(values) == 4 and all(-1 <= value < 0.99999 for value in values)
    assert told["measures"]["clap"]["value"] == pytest.approx(np.mean(values)) and "sdr" in told["measures"]
    assert any("CLAP similarity" in said for said in result["statements"])
    assert "| CLAP similarity" in out.with_suffix(".md").read_text()
    capsys.readouterr()
    assert main([*words, "--codec", "loud", "--metrics", "clap"]) == 1
    assert "needs a model: leave it out and give --clap PLACE" in capsys.readouterr().err
    assert main([*words, "--codec", "loud", "--clap", "no/such/where"]) == 1
    assert "CLAP no/such/where: " in capsys.readouterr().err
