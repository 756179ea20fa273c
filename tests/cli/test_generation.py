"""`llmcodec evaluate generation` on miniature models: table, files, resuming, messages."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmcodec.cli import generation as generation_command
from llmcodec.cli.generation import choose_clips
from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, read_manifest, write_manifest
from llmcodec.evaluation import generation
from llmcodec.evaluation.generation import BATCH, GenerationConfig, Passage
from llmcodec.io import audio

from ..miniature import miniature_codec, miniature_speech
from ..pcm import RATE, PCMRuntime
from .test_lm import SMALL, TRAIN


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two LMs of one codec that read texts, and clips with words."""
    folder = tmp_path_factory.mktemp("place")
    miniature_codec().save_pretrained(folder / "codec")
    manifest = miniature_speech(folder / "speech", seconds=(1.2, 1.3, 1.4, 1.5, 1.1, 1.6))
    clips = read_manifest(manifest)
    rows = [
        Clip(**{**vars(clip), "split": "train" if i < 3 else "valid", "text": f"this is clip {i}", "language": "en"})
        for i, clip in enumerate(clips)
    ]
    write_manifest(manifest, rows)
    tokens = ["--manifest", str(manifest), "--codec", str(folder / "codec"), "-o", str(folder / "tokens")]
    assert main(["tokenize", *tokens]) == 0
    for seed in (0, 1):
        options = ["--run", str(folder / f"run{seed}"), "--data.tokens", f"[{folder / 'tokens'}]", "--seed", str(seed)]
        assert main(["lm", "train", *options, "--model.small", SMALL, "--data.formats", "[audio, tts]", *TRAIN]) == 0
    return folder


@pytest.fixture
def hear(monkeypatch):
    """A recogniser that hears every text rightly but for one word, and counts."""
    calls = []

    def transcribe(wav_S):
        calls.append(wav_S.size)
        return "this is clip nine"

    monkeypatch.setattr(generation, "load_transcriber", lambda name: transcribe)
    return calls


def test_two_systems_are_compared_and_done_ones_are_kept(place, tmp_path, hear, capsys):
    manifest = str(place / "speech" / "train.jsonl")
    command = ["evaluate", "generation", "--lm", f"one={place / 'run0'}", "--lm", f"two={place / 'run1'}"]
    command += ["--manifest", manifest, "--metrics", "wer,cer", "--draws", "2", "--seconds", "2"]
    command += ["-o", str(tmp_path / "spoken")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Primary comparison: Word error rate of two against one" in " ".join(said.split())
    assert len(hear) >= 3  # the recordings at least; an LM that ends at once is not heard
    stored = json.loads((tmp_path / "spoken.json").read_text())
    assert list(stored["systems"]) == ["one", "two", "recordings"]
    (rows,) = stored["systems"]["one"]
    assert [(row["id"], row["draw"]) for row in rows] == [(f"clip{n}", draw) for draw in (0, 1) for n in (3, 4, 5)]
    (floor,) = stored["systems"]["recordings"]
    assert [row["words"]["errors"] for row in floor] == [1, 1, 1]
    assert sorted(path.name for path in (tmp_path / "spoken.audio").iterdir())
    first = (tmp_path / "spoken.json").read_text()
    hear.clear()
    assert main(command) == 0
    assert hear == [] and (tmp_path / "spoken.json").read_text() == first
    again = [*command[:-2], "-o", str(tmp_path / "other")]
    assert main(again) == 0
    other = json.loads((tmp_path / "other.json").read_text())
    assert other["systems"] == stored["systems"], "the same draws from the same seed"


def test_continuations_have_a_fixed_length_and_no_words(place, tmp_path, capsys):
    manifest = str(place / "speech" / "train.jsonl")
    command = ["evaluate", "generation", "--lm", str(place / "run0"), "--task", "continue", "--manifest", manifest]
    command += ["--metrics", "wer", "--draws", "1", "--seconds", "0.5", "--prompt-seconds", "0.1"]
    assert main([*command, "-o", str(tmp_path / "on")]) == 0
    rows = json.loads((tmp_path / "on.json").read_text())["systems"]["run0"][0]
    assert len({row["seconds"] for row in rows}) == 1 and abs(rows[0]["seconds"] - 0.5) < 0.05
    assert all(row["words"] is None for row in rows)
    assert "Ended by itself" not in (tmp_path / "on.md").read_text()


def test_audio_is_that_of_its_label_and_as_much_as_is_asked_for(tmp_path, monkeypatch):
    """Swapped labels find their figures by content; the audio under a label was that of the other model."""
    calls = []

    def draw(lm, runtime, passages, config, metrics, asr, on_progress, keep):
        calls.append((len(passages), config.draws, metrics))
        for number in range(config.draws):
            for passage in passages:
                keep(passage, number, np.full(80, lm.model.state_dict()["w"].item(), np.float32))
        return []

    monkeypatch.setattr(generation_command, "measure_generation", draw)
    for number in range(BATCH + 8):
        audio.write(tmp_path / f"{number}.wav", np.zeros(160, np.float32), RATE)
    clips = [Clip(id=f"{n}", audio=f"{n}.wav", duration=0.01, folder=str(tmp_path)) for n in range(BATCH + 8)]
    passages, config = [Passage(clip, "this") for clip in clips], GenerationConfig(draws=2)

    def heard(levels: dict[str, float], most: int) -> dict[str, float]:
        calls.clear()
        bench = generation_command.Bench(passages, config, ("wer",), "asr", str(tmp_path / "on"), "cpu", most)
        for label, level in levels.items():
            model = SimpleNamespace(state_dict=lambda level=level: {"w": torch.tensor(level)})
            lm = SimpleNamespace(card=config, tokenizer=SimpleNamespace(get_vocab=dict), model=model)
            bench.generated(label, lm, PCMRuntime(), lambda share: None)
        return {path.name: float(audio.read(path)[0].max()) for path in (tmp_path / "on.audio").glob("*.wav")}

    everything, first_ones = (BATCH + 8, 2, ("wer",)), (BATCH, 1, ())
    assert heard({"a": 0.25, "b": 0.5}, 1) == {"0 a.wav": 0.25, "0 b.wav": 0.5} and calls == [everything] * 2
    assert heard({"a": 0.5, "b": 0.25}, 1) == {"0 a.wav": 0.5, "0 b.wav": 0.25} and calls == [first_ones] * 2
    more = heard({"a": 0.5, "b": 0.25}, 2)
    assert more == {"0 a.wav": 0.5, "1 a.wav": 0.5, "0 b.wav": 0.25, "1 b.wav": 0.25} and calls == [first_ones] * 2
    assert heard({"a": 0.5, "b": 0.25}, 1) == more and calls == []
    assert heard({"a": 0.25}, 0) == {"0 b.wav": 0.25, "1 b.wav": 0.25} and calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "loudness"], "no figure 'loudness': choose among wer, cer, speaker, dnsmos"),
        (["--speakers", "nobody"], "none of 3 clips is with a transcript"),
        (["--draws", "0"], "draws must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(place, hear, capsys, arguments, message):
    manifest = str(place / "speech" / "train.jsonl")
    command = ["evaluate", "generation", "--lm", str(place / "run0"), "--manifest", manifest]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_two_models_are_never_taken_for_seeds_of_one(place, tmp_path, hear, capsys):
    manifest = str(place / "speech" / "train.jsonl")
    for name in ("a", "b"):
        shutil.copytree(place / "run0", tmp_path / name / "run")
    command = ["evaluate", "generation", "--manifest", manifest, "--metrics", "wer", "--draws", "1", "--seconds", "1"]
    assert main([*command, "--lm", str(tmp_path / "a" / "run"), "--lm", str(tmp_path / "b" / "run")]) == 1
    assert "'run' is named already; seeds of one model are NAME=FOLDER" in capsys.readouterr().err
    assert main([*command, "--lm", f"x={tmp_path / 'a' / 'run'}", "--lm", f"x={tmp_path / 'a' / 'run'}"]) == 1
    assert "each once" in capsys.readouterr().err


def test_texts_of_other_clips_are_refused(place, tmp_path, hear, capsys):
    clips = read_manifest(place / "speech" / "train.jsonl")
    other = write_manifest(tmp_path / "units.jsonl", clips[:2])
    manifest = str(place / "speech" / "train.jsonl")
    assert (
        main(["evaluate", "generation", "--lm", str(place / "run0"), "--manifest", manifest, "--texts", str(other)])
        == 1
    )
    assert "units.jsonl: no text of clip3 and 2 more" in capsys.readouterr().err


def test_clips_are_read_in_the_languages_that_are_asked_for():
    words = {"en": "please leave your name", "de": "bitte nennen Sie Ihren Namen", "fr": ""}
    clips = [Clip(code, f"{code}.wav", 3.0, text=text, language=code) for code, text in words.items()]
    config = GenerationConfig("read")
    assert [clip.id for clip in choose_clips(clips, config, None)] == ["en"]
    assert [clip.id for clip in choose_clips(clips, config, None, ("de", "fr"))] == ["de"]
    with pytest.raises(ValueError, match="none of 3 clips is with a transcript in fr, of at most 8 s"):
        choose_clips(clips, config, None, ("fr",))
