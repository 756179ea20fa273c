"""From a manifest to tokens, a trained LM, scores, speech and a plain export, by the commands people type."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from llmcodec.cli.main import main
from llmcodec.data.manifest import Clip, read_manifest, write_manifest
from llmcodec.io import audio
from llmcodec.io.token_shards import TokenRow, TokenShardWriter, read_token_shards
from llmcodec.lm import sampling
from llmcodec.lm.speech import SpeechRequest, stream_speech
from llmcodec.report.tables import TextTable
from llmcodec.runtime.torch_runtime import TorchRuntime
from llmcodec.transcode.flat_rows import flat_rows

from ..miniature import NUM_CODES, SAMPLE_RATE, miniature_codec, miniature_speech

TRAIN = ["--steps", "3", "--eval_every", "3", "--data.max_tokens", "128", "--rows_per_batch", "2", "--bf16", "false"]
SMALL = "{num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 24, max_positions: 256}"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Miniature codec, manifest with two splits, tokens and a trained LM for audio and texts."""
    folder = tmp_path_factory.mktemp("house")
    miniature_codec().save_pretrained(folder / "codec")
    manifest = miniature_speech(folder / "speech")
    clips = read_manifest(manifest)
    split = [Clip(**{**vars(clip), "split": "train" if i < 4 else "valid"}) for i, clip in enumerate(clips)]
    write_manifest(manifest, split)
    assert (
        main(["tokenize", "--manifest", str(manifest), "--codec", str(folder / "codec"), "-o", str(folder / "tokens")])
        == 0
    )
    options = ["--run", str(folder / "run"), "--data.tokens", f"[{folder / 'tokens'}]", "--model.small", SMALL]
    assert main(["lm", "train", *options, "--data.formats", "[audio, tts]", *TRAIN]) == 0
    return folder


def test_tokens_are_the_codecs_own_and_a_second_run_finds_them(house, capsys):
    provenance, rows = flat_rows(house / "tokens" / "train")
    by_id = {row.id: row for row in rows}
    assert list(by_id) == ["clip0", "clip1", "clip2", "clip3"] and by_id["clip1"].text == "clip number 1"
    assert provenance.codebook_size == 64 and len(provenance.weights_sha256) == 64 and provenance.manifest_hash
    import torch

    wav, _ = soundfile.read(house / "speech" / "2.wav", dtype="float32")
    alone = miniature_codec().eval().encode(torch.from_numpy(wav)[None, None]).audio_codes[0, 0]
    assert by_id["clip2"].codes.tolist() == alone.tolist()
    arguments = ["--manifest", str(house / "speech" / "train.jsonl"), "--codec", str(house / "codec")]
    assert main(["tokenize", *arguments, "-o", str(house / "tokens"), "--format", "slamkit"]) == 0
    assert "0 clips, 0 s of audio, 4 there before" in capsys.readouterr().out
    first = json.loads((house / "tokens" / "train.jsonl").read_text().splitlines()[0])
    assert first["file_name"] == "clip0" and first["units"] == by_id["clip0"].codes.tolist()
    assert [int(unit) for unit in re.findall(r"<Un(\d+)>", first["audio_repr"])] == first["units"]
    assert first["duration"] == [1] * len(first["units"])


def test_a_run_that_is_over_and_resumed_takes_no_step_more_and_logs_nothing_twice(house):
    """Found by `make soak`: killed after its last checkpoint, a run of 3 steps took a fourth."""
    before = (house / "run" / "log.jsonl").read_text()
    model = (house / "run" / "lm" / "model.safetensors").read_bytes()
    options = ["--run", str(house / "run"), "--data.tokens", f"[{house / 'tokens'}]", "--model.small", SMALL]
    assert main(["lm", "train", *options, "--data.formats", "[audio, tts]", *TRAIN, "--resume"]) == 0
    assert (house / "run" / "log.jsonl").read_text() == before and before.count("\n") > 1
    assert (house / "run" / "lm" / "model.safetensors").read_bytes() == model
    assert [path.name for path in (house / "run").glob("checkpoint-*")] == ["checkpoint-3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_tokenize_ends_in_good_order_at_a_signal_and_goes_on(house, tmp_path, capsys, monkeypatch, number):
    arguments = ["--manifest", str(house / "speech" / "train.jsonl"), "--codec", str(house / "codec")]
    arguments += ["--split", "train", "-o", str(tmp_path / "tokens")]
    add, added = TokenShardWriter.add, []

    def add_and_stop(writer: TokenShardWriter, row: TokenRow) -> None:
        add(writer, row)
        added.append(row.id)
        if len(added) == 2:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(TokenShardWriter, "add", add_and_stop)
        assert main(["tokenize", *arguments]) == 128 + number
    assert f"llmcodec tokenize: stopped by {number.name}: finished shards stay" in capsys.readouterr().err
    assert [row.id for row in flat_rows(tmp_path / "tokens")[1]] == added and len(added) == 2
    assert main(["tokenize", *arguments]) == 0 and "2 there before" in capsys.readouterr().out
    assert len(list(flat_rows(tmp_path / "tokens")[1])) == 4


def test_lm_train_ends_in_good_order_while_it_tokenises_and_goes_on(house, tmp_path, capsys, monkeypatch):
    arguments = ["lm", "train", "--manifest", str(house / "speech" / "train.jsonl"), "--codec", str(house / "codec")]
    arguments += ["-o", str(tmp_path / "run"), "--model.small", SMALL, *TRAIN]
    add, added = TokenShardWriter.add, []

    def add_and_stop(writer: TokenShardWriter, row: TokenRow) -> None:
        add(writer, row)
        added.append(row.id)
        if len(added) == 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(TokenShardWriter, "add", add_and_stop)
        assert main(arguments) == 128 + signal.SIGUSR1
    assert "llmcodec lm train: stopped by SIGUSR1: finished shards stay, the same command continues" in (
        capsys.readouterr().err
    )
    kept = tmp_path / "run" / "tokens" / "train" / "shard-00000.arrow"
    before = kept.read_bytes()
    assert [row.id for row in read_token_shards(kept)] == added
    assert main(arguments) == 0 and "3 there before" in capsys.readouterr().out
    assert kept.read_bytes() == before and (tmp_path / "run" / "lm" / "config.json").is_file()


def test_lm_train_leaves_out_what_max_bad_allows(house, tmp_path, capsys):
    clips = read_manifest(house / "speech" / "train.jsonl")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    gone = Clip("gone", str(tmp_path / "gone.wav"), 1.0, split="train")
    write_manifest(tmp_path / "m.jsonl", [Clip("bad", str(tmp_path / "bad.wav"), 1.0, split="train"), gone, *clips])
    arguments = ["lm", "train", "--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec")]
    arguments += ["-o", str(tmp_path / "run"), "--model.small", SMALL, *TRAIN]
    assert main(arguments) == 1 and "gone.wav: No such file" in capsys.readouterr().err
    assert main([*arguments, "--max-bad", "1"]) == 1
    assert "2 of 8 clips are bad, and --max-bad 1 allows 1: gone, bad" in capsys.readouterr().err
    assert main([*arguments, "--max-bad", "25%"]) == 0
    assert "2 of 8 clips are left out (--max-bad 25%)" in capsys.readouterr().out
    assert {row.id for row in read_token_shards(tmp_path / "run" / "tokens" / "train")} == {
        f"clip{i}" for i in range(4)
    }


def test_tokens_of_audio_that_has_changed_are_made_again(house, tmp_path, capsys):
    manifest, output = miniature_speech(tmp_path / "speech"), ["-o", str(tmp_path / "tokens")]
    arguments = ["tokenize", "--manifest", str(manifest), "--codec", str(house / "codec"), *output]
    for _ in range(2):
        assert main(arguments) == 0 and "made again" not in capsys.readouterr().out
    before = {row.id: row.codes.tolist() for row in read_token_shards(tmp_path / "tokens" / "train")}
    (tmp_path / "speech" / "1.wav").write_bytes((tmp_path / "speech" / "2.wav").read_bytes())  # newer than its tokens
    older = (tmp_path / "speech" / "2.wav").stat().st_mtime
    (tmp_path / "speech" / "3.wav").write_bytes((tmp_path / "speech" / "0.wav").read_bytes())  # older, of other length
    os.utime(tmp_path / "speech" / "3.wav", (older, older))
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert re.search(r"2 clips, .* 4 there before\n  made again: clip1: .*1.wav is newer\n", shown)
    assert re.search(r"  made again: clip3: .*3.wav has 14400 samples, it was made of 8000\n", shown)
    after = {row.id: row.codes.tolist() for row in read_token_shards(tmp_path / "tokens" / "train")}
    assert after == before | {"clip1": before["clip2"], "clip3": before["clip0"]}
    assert main(arguments) == 0 and "0 clips, 0 s of audio, 6 there before" in capsys.readouterr().out


def test_a_damaged_shard_is_put_aside_and_made_again(house, tmp_path, capsys):
    manifest, folder = miniature_speech(tmp_path / "speech"), tmp_path / "tokens"
    arguments = ["tokenize", "--manifest", str(manifest), "--codec", str(house / "codec"), "-o", str(folder)]
    arguments += ["--split", "train", "--clips-per-shard", "2"]
    assert main(arguments) == 0
    before = {row.id: row.codes.tolist() for row in read_token_shards(folder)}
    shard = folder / "shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:700])
    capsys.readouterr()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "2 clips, " in shown and "4 there before" in shown
    assert re.search(r"made again: .*shard-00001.arrow: .*damaged.*it is called shard-00001.arrow.damaged now", shown)
    assert {row.id: row.codes.tolist() for row in read_token_shards(folder)} == before
    assert (folder / "shard-00001.arrow.damaged").stat().st_size == 700


def test_views_are_the_same_speech_from_later_starts(house, tmp_path, capsys):
    import torch

    arguments = ["--manifest", str(house / "speech" / "train.jsonl"), "--codec", str(house / "codec")]
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens"), "--views", "2"]) == 0
    by_id = {row.id: row for row in flat_rows(tmp_path / "tokens" / "train")[1]}
    assert sorted(by_id) == sorted([f"clip{i}{view}" for i in range(4) for view in ("", "#160")])
    codec = miniature_codec().eval()
    wav, _ = soundfile.read(house / "speech" / "2.wav", dtype="float32")
    late = codec.encode(torch.from_numpy(wav)[None, None, codec.config.hop_samples // 2 :]).audio_codes[0, 0]
    assert by_id["clip2#160"].codes.tolist() == late.tolist() and by_id["clip2#160"].text == by_id["clip2"].text
    assert not any("#" in row.id for row in flat_rows(tmp_path / "tokens" / "valid")[1])
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens"), "--views", "2"]) == 0
    assert "0 clips, 0 s of audio, 8 there before" in capsys.readouterr().out
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens"), "--views", "4"]) == 0
    more, starts = {row.id: row for row in flat_rows(tmp_path / "tokens" / "train")[1]}, ("", "#80", "#160", "#240")
    assert sorted(more) == sorted([f"clip{i}{view}" for i in range(4) for view in starts])
    for start in (80, 160, 240):
        late = codec.encode(torch.from_numpy(wav)[None, None, start:]).audio_codes[0, 0]
        assert more[f"clip2#{start}"].codes.tolist() == late.tolist()
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "none"), "--views", "0"]) == 1
    assert "views must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["valid", "dev-clean", "test_other", "Validation.2"])
def test_held_out_clips_have_one_view_in_whatever_folder(house, tmp_path, split):
    clips = [Clip(**{**vars(clip), "split": split}) for clip in read_manifest(house / "speech" / "train.jsonl")[:2]]
    write_manifest(tmp_path / "m.jsonl", clips)
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec"), "--views", "2"]
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "one"), "--split", split]) == 0
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "all")]) == 0
    for folder in (tmp_path / "one", tmp_path / "all" / split):
        assert [row.id for row in flat_rows(folder)[1]] == ["clip0", "clip1"]


def test_an_id_that_is_that_of_a_view_is_refused_before_anything_is_encoded(house, tmp_path, capsys):
    clips = read_manifest(house / "speech" / "train.jsonl")[:3]
    named = zip(clips, ("b", "a", "a#160"), ("first", "train", "train"), strict=True)
    write_manifest(
        tmp_path / "m.jsonl", [Clip(**{**vars(clip), "id": id, "split": split}) for clip, id, split in named]
    )
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec"), "-o", str(tmp_path / "t")]
    assert main(["tokenize", *arguments, "--views", "2"]) == 1
    error = capsys.readouterr().err.strip()
    assert "clips 'a' and 'a#160' would both have the id 'a#160'" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "t").exists()
    assert main(["tokenize", *arguments]) == 0


def test_a_file_cut_short_is_read_once_and_its_tokens_say_what_was_there(house, tmp_path, monkeypatch):
    wav = 0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(tmp_path / "cut.flac", wav, SAMPLE_RATE)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) * 2 // 3])
    write_manifest(tmp_path / "m.jsonl", [Clip("cut", str(tmp_path / "cut.flac"), 2.0)])
    reads, read = [], audio.read
    monkeypatch.setattr(audio, "read", lambda *arguments, **options: reads.append(1) or read(*arguments, **options))
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec"), "-o", str(tmp_path / "t")]
    with pytest.warns(UserWarning, match="truncated"):
        assert main(["tokenize", *arguments, "--views", "2"]) == 0
    assert len(reads) == 1
    whole, late = read_token_shards(tmp_path / "t")
    assert 16000 < whole.num_samples == whole.original_num_samples < 25000
    assert late.num_samples == late.original_num_samples == whole.num_samples - 160
    assert main(["tokenize", *arguments, "--views", "2"]) == 0


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_kept(house, tmp_path, capsys):
    clips = read_manifest(house / "speech" / "train.jsonl")
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    write_manifest(tmp_path / "m.jsonl", [clips[0], Clip("bad", str(tmp_path / "broken.wav"), 1.0, split="train")])
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec")]
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "strict")]) == 1
    assert "broken.wav: not an audio file" in capsys.readouterr().err
    arguments += ["--max-bad", "50%"]
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens"), "--format", "parquet"]) == 0
    assert (tmp_path / "tokens" / "train" / "shard-00000.parquet").is_file()
    shown = capsys.readouterr().out
    assert re.search(r"left out: bad: .*not an audio file", shown) and "1 of 2 clips are left out" in shown
    assert [row.id for row in flat_rows(tmp_path / "tokens" / "train")[1]] == ["clip0"]
    write_manifest(tmp_path / "m.jsonl", [Clip("bad", str(tmp_path / "broken.wav"), 1.0)])
    arguments[-1] = "100%"
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "none")]) == 1
    assert "none of 1 clips could be read" in capsys.readouterr().err


def test_a_run_leaves_log_and_curves(house):
    rows = [json.loads(line) for line in (house / "run" / "log.jsonl").read_text().splitlines()]
    assert any("lm/bits_per_second" in row for row in rows) and any("lm/nats_per_target" in row for row in rows)
    assert (house / "run" / "curves.png").stat().st_size > 5000
    card = json.loads((house / "run" / "lm" / "token_lm.json").read_text())
    assert card["formats"] == ["audio", "tts"] and card["codec"]["codebook_size"] == 64


def test_score(house, tmp_path, capsys):
    files = [str(house / "speech" / f"{i}.wav") for i in range(3)]
    codec = ["--codec", str(house / "codec")]
    outputs = ["--output", str(tmp_path / "s.csv"), "--tokens", str(tmp_path / "t.csv")]
    assert main(["lm", "score", str(house / "run"), *files, *codec, *outputs]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    tokens = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["file"] for row in rows] == files and len(tokens) == sum(int(row["tokens"]) for row in rows)
    first = [float(row["log_likelihood"]) for row in tokens if row["file"] == files[0]]
    assert float(rows[0]["nats"]) == pytest.approx(-sum(first), rel=1e-5)
    bits = float(rows[0]["nats"]) / np.log(2) / float(rows[0]["seconds"])
    assert float(rows[0]["bits_per_second"]) == pytest.approx(bits)
    assert float(rows[0]["seconds"]) == pytest.approx(0.9) and "bits/s" in printed
    assert (
        main(["lm", "score", str(house / "run"), str(house / "tokens" / "train"), "--output", str(tmp_path / "u.csv")])
        == 0
    )
    shards = {row["file"]: row["nats"] for row in csv.DictReader((tmp_path / "u.csv").open())}
    assert float(shards["clip0"]) == pytest.approx(float(rows[0]["nats"]), rel=1e-4)


def test_score_shows_any_file_name_as_it_is_and_writes_before_it_shows(house, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    names = [tmp_path / "rec[en]_1.wav", tmp_path / "a[" / "b] :smile:.wav"]  # no style, no end of one, no emoji
    for number, path in enumerate(names):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(house / "speech" / f"{number}.wav", path)
    options = ["--codec", str(house / "codec"), "--output", str(tmp_path / "s.csv")]
    assert main(["lm", "score", str(house / "run"), *map(str, names), *options]) == 0
    shown = capsys.readouterr().out
    assert all(str(path) in shown for path in names)

    def broken(table: TextTable) -> None:
        assert (tmp_path / "s.csv").is_file()
        raise ValueError("the terminal is gone")

    (tmp_path / "s.csv").unlink()
    monkeypatch.setattr(TextTable, "rich", broken)
    assert main(["lm", "score", str(house / "run"), *map(str, names), *options]) == 1
    assert "the terminal is gone" in capsys.readouterr().err


def test_score_leaves_out_what_max_bad_allows(house, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    files = [str(tmp_path / "bad.wav"), *(str(house / "speech" / f"{i}.wav") for i in range(2))]
    options = ["--codec", str(house / "codec"), "--output", str(tmp_path / "s.csv")]
    assert main(["lm", "score", str(house / "run"), *files, *options]) == 1
    error = capsys.readouterr().err
    assert "bad.wav" in error and "--max-bad" in error and not (tmp_path / "s.csv").exists()
    assert main(["lm", "score", str(house / "run"), *files, *options, "--max-bad", "34%"]) == 0
    assert "1 of 3 files are left out (--max-bad 34%)" in capsys.readouterr().out
    rows = {row["file"]: row["nats"] for row in csv.DictReader((tmp_path / "s.csv").open())}
    assert main(["lm", "score", str(house / "run"), *files[1:], *options]) == 0
    assert rows == {row["file"]: row["nats"] for row in csv.DictReader((tmp_path / "s.csv").open())}
    assert main(["lm", "score", str(house / "run"), files[0], *options, "--max-bad", "1"]) == 1
    assert "no file can be read; the first: " in capsys.readouterr().err


def test_tokens_of_another_codec_are_refused(house, tmp_path, capsys):
    miniature_codec(seed=1).save_pretrained(tmp_path / "other")
    wav = str(house / "speech" / "0.wav")
    assert main(["lm", "score", str(house / "run"), wav, "--codec", str(tmp_path / "other")]) == 1
    assert "but this LM speaks the tokens of" in capsys.readouterr().err
    arguments = ["--manifest", str(house / "speech" / "train.jsonl"), "--codec", str(tmp_path / "other")]
    assert main(["tokenize", *arguments, "-o", str(tmp_path / "tokens")]) == 0
    both = f"[{house / 'tokens'}, {tmp_path / 'tokens'}]"
    assert main(["lm", "train", "--run", str(tmp_path / "run"), "--data.tokens", both, *TRAIN]) == 1
    assert "one language model speaks one codec" in capsys.readouterr().err
    assert main(["lm", "score", str(house / "run"), str(tmp_path / "tokens" / "train")]) == 1
    assert "but this LM speaks" in capsys.readouterr().err


def test_sample_writes_prompt_and_continuation(house, tmp_path, capsys):
    options = ["--codec", str(house / "codec"), "--seconds", "0.4", "--min-seconds", "0.2", "-o", str(tmp_path)]
    prompts = ["--prompt", str(house / "speech" / "0.wav"), "--prompt", str(house / "speech" / "1.wav"), "--text", "hm"]
    assert main(["lm", "sample", str(house / "run"), *prompts, *options]) == 0
    shown = capsys.readouterr().out
    assert shown.count("s of new audio") == 3 and re.search(r"^\d+ codes in \d+\.\d\d s, [\d,]+ a second$", shown, re.M)
    wav, rate = soundfile.read(tmp_path / "0-0.wav")
    assert rate == SAMPLE_RATE and 1.1 * rate <= len(wav) <= 1.3 * rate + 320
    spoken, _ = soundfile.read(tmp_path / "text0-2.wav")
    assert 0.2 * rate <= len(spoken) <= 0.4 * rate
    line = (tmp_path / "tokens.txt").read_text().splitlines()[2]
    name, _, text = line.partition("\t")
    target = tmp_path / "decoded.wav"
    assert name == "text0-2.wav"
    assert main(["decode", "--codec", str(house / "codec"), "--text", text, "-o", str(target)]) == 0
    decoded, _ = soundfile.read(target)
    assert len(decoded) == len(spoken) and np.allclose(decoded, spoken, atol=1e-3)


def test_a_text_in_the_voice_of_a_prompt_plainly_and_by_drafts(house, tmp_path, capsys):
    clips = read_manifest(house / "speech" / "train.jsonl")
    manifest = tmp_path / "ann.jsonl"
    write_manifest(manifest, [Clip(**{**vars(clip), "speaker": "ann", "split": "train"}) for clip in clips])
    codec = ["--codec", str(house / "codec")]
    assert main(["tokenize", "--manifest", str(manifest), *codec, "-o", str(tmp_path / "tokens")]) == 0
    options = ["--run", str(tmp_path / "run"), "--data.tokens", f"[{tmp_path / 'tokens'}]", "--model.small", SMALL]
    voiced = ["--data.formats", "[tts]", "--data.voice_seconds", "0.3", "--model.heads", "2"]
    assert main(["lm", "train", *options, *voiced, *TRAIN]) == 0
    assert "1 x empty transcript" in capsys.readouterr().out
    stereo = np.stack([0.3 * np.sin(np.arange(4000) / 9), 0.1 * np.cos(np.arange(4000) / 7)], 1)
    soundfile.write(tmp_path / "phone.wav", stereo, 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "short.wav", stereo[:1600], 8000)

    def say(prompt, *more):
        prompts = [] if prompt is None else ["--prompt", str(tmp_path / prompt)]
        kept = ["--seconds", "0.4", "--min-seconds", "0.4", "-o", str(tmp_path / "said")]
        code = main(["lm", "sample", str(tmp_path / "run"), *codec, *prompts, *kept, *more])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    for way in ((), ("--speculative",)):
        code, shown = say("phone.wav", "--text", "one", "--text", "two", *way)
        assert code == 0 and shown.count("0.40 s of new audio") == 2
        assert ("accepted: head 1" in shown) == bool(way)
    spoken, rate = soundfile.read(tmp_path / "said" / "phone-text1-1.wav")
    assert len(spoken) == round(0.4 * rate)  # the prompt is not in it
    for prompt, text, line in (
        ("short.wav", "one", "short.wav: lasts 0.20 s, but this LM takes its voice from 0.3 s of speech"),
        ("silent.wav", "one", "silent.wav: its first 0.3 s are silent"),
        (None, "one", "speaks in the voice of a prompt of 0.3 s; give one"),
        ("phone.wav", " ", "the text is empty"),
    ):
        code, shown = say(prompt, "--text", text)
        assert code == 1 and line in shown and "Traceback" not in shown
    unnamed = ["--run", str(tmp_path / "nobody"), "--data.tokens", f"[{house / 'tokens'}]", "--model.small", SMALL]
    assert main(["lm", "train", *unnamed, *voiced, *TRAIN]) == 1
    assert "no speaker is named" in capsys.readouterr().err
    drafted = ["--text", "hm", "--seconds", "1", "--speculative"]
    assert main(["lm", "sample", str(house / "run"), *codec, *drafted]) == 1
    assert "no draft heads; train them" in capsys.readouterr().err


def test_a_voice_that_starts_before_its_text_is_there(house, tmp_path, capsys):
    options = ["--run", str(tmp_path / "run"), "--data.tokens", f"[{house / 'tokens'}]", "--model.small", SMALL]
    assert main(["lm", "train", *options, "--data.formats", "[tts_stream]", "--data.turns", "[3, 10]", *TRAIN]) == 0
    spoken = ["--text", "one two three four", "--seconds", "1", "--codec", str(house / "codec")]
    assert main(["lm", "sample", str(tmp_path / "run"), *spoken, "-o", str(tmp_path / "said")]) == 0
    assert "text0-0.wav: 1.00 s of new audio" in capsys.readouterr().out  # six turns of text hold the end back
    assert main(["lm", "export", str(tmp_path / "run"), "-o", str(tmp_path / "out")]) == 0
    assert "3 text tokens, `<CODEC_BEGIN>`, 10 codes" in (tmp_path / "out" / "README.md").read_text()
    assert main(["lm", "train", *options, "--data.formats", "[tts_stream]", "--data.turns", "[0, 10]", *TRAIN]) != 0


def test_texts_follow_their_views_and_do_not_change_unseen(house, tmp_path, capsys):
    def texts(text):
        clips = read_manifest(house / "speech" / "train.jsonl")
        write_manifest(tmp_path / "timed.jsonl", [Clip(**{**vars(clip), "text": text}) for clip in clips])
        arguments = ["--manifest", str(tmp_path / "timed.jsonl"), "--codec", str(house / "codec"), "--views", "2"]
        return main(["tokenize", *arguments, "-o", str(tmp_path / "tokens")])

    assert texts("<|0.00|> _ <|0.10|> a") == 0 and texts("<|0.00|> _ <|0.10|> a") == 0
    by_id = {row.id: row.text for row in flat_rows(tmp_path / "tokens" / "train")[1]}
    assert by_id["clip2"] == "<|0.00|> _ <|0.10|> a"
    assert by_id["clip2#160"] == f"<|0.000|> _ <|{0.1 - 160 / SAMPLE_RATE:.3f}|> a"
    assert texts("<|0.00|> b") == 1
    assert (
        "8 clips of the manifest are there with other texts, speakers or languages (the first: 'clip0')"
        in capsys.readouterr().err
    )


def test_other_speakers_lengths_and_settings_do_not_stay_unseen(house, tmp_path, capsys):
    clip, tokens = read_manifest(house / "speech" / "train.jsonl")[0], tmp_path / "tokens"

    def tokenize(*more, **changes):
        values = vars(clip) | {"start": 0.0, "duration": 0.3, "speaker": "ann", "language": "en"} | changes
        write_manifest(tmp_path / "m.jsonl", [Clip(**values)])
        arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--codec", str(house / "codec"), "-o", str(tokens)]
        code = main(["tokenize", "--min-seconds", "0", *arguments, *more])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    assert tokenize()[0] == 0 and "made again" not in tokenize()[1]
    for changes in ({"speaker": "bob"}, {"language": "fr"}):
        code, said = tokenize(**changes)
        assert code == 1 and "with other texts, speakers or languages (the first" in said
    code, said = tokenize(duration=0.2)
    assert code == 0 and f"made again: {clip.id}: it lasts 0.200 s now, its tokens last 0.300 s" in said
    (row,) = read_token_shards(next(path for path in tokens.iterdir() if path.is_dir()))
    assert row.num_samples == round(0.2 * SAMPLE_RATE)
    whole = clip.duration + 0.01  # corpora round their times: the file ends before the stretch
    assert "made again" in tokenize(duration=whole)[1] and "made again" not in tokenize(duration=whole)[1]
    code, said = tokenize("--precision", "fp32", duration=whole)
    assert code == 1 and "its tokens were made with precision auto, not fp32; name another folder" in said
    assert tokenize("--clips-per-shard", "7", duration=whole)[0] == 0


def test_phoneme_after_phoneme(house, tmp_path, capsys):
    timed = [
        Clip(**{**vars(clip), "text": "<|0.00|> _ <|0.10|> a <|0.20|> b"})
        for clip in read_manifest(house / "speech" / "train.jsonl")
    ]
    write_manifest(tmp_path / "timed.jsonl", timed)
    options = ["--run", str(tmp_path / "run"), "--data.manifest", str(tmp_path / "timed.jsonl"), "--model.small", SMALL]
    options += ["--data.codec", str(house / "codec"), "--data.formats", "[tts_aligned]"]
    assert main(["lm", "train", *options, *TRAIN]) == 0
    spoken = ["--text", "_ a b _", "--seconds", "0.5", "--min-seconds", "0.5", "--codec", str(house / "codec")]
    assert main(["lm", "sample", str(tmp_path / "run"), *spoken, "-o", str(tmp_path / "said")]) == 0
    assert "text0-0.wav: 0.50 s of new audio" in capsys.readouterr().out
    heard = io.TextIOWrapper(io.BytesIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", heard)
        assert main(["lm", "sample", str(tmp_path / "run"), *spoken, "--stream", "pcm"]) == 0
    assert len(heard.buffer.getvalue()) == SAMPLE_RATE  # 16 bits, half a second
    assert main(["lm", "export", str(tmp_path / "run"), "-o", str(tmp_path / "out")]) == 0
    card = json.loads((tmp_path / "out" / "token_lm.json").read_text())
    assert card["units_ahead"] == 2 and card["longest_unit"] > 5 and card["units"] == ["_", "a", "b"]
    assert main(["lm", "sample", str(tmp_path / "run"), "--text", "hello", "--codec", str(house / "codec")]) != 0
    refused = capsys.readouterr().err
    assert "'hello' is not one of this LM's units, which are separated by spaces: _ a b" in refused
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)[1]
    scope: dict[str, object] = {}
    exec(code.replace("FOLDER", str(tmp_path / "out")), scope)  # plain transformers, unit after unit
    assert scope["text"].count("<CODEC_END>") == len(scope["units"]) == 3 and "_ a b" in scope["text"]
    assert "the phoneme to speak and the next 2" in (tmp_path / "out" / "README.md").read_text()
    assert main(["lm", "train", *options, "--data.units_ahead", "-1", *TRAIN]) != 0


def test_streamed_sound_is_the_written_sound(house, tmp_path):
    options = ["--prompt", str(house / "speech" / "1.wav"), "--seconds", "0.8", "--min-seconds", "0.8"]
    options += ["--codec", str(house / "codec"), "--seed", "5"]
    assert main(["lm", "sample", str(house / "run"), *options, "-o", str(tmp_path)]) == 0
    command = [sys.executable, "-m", "llmcodec", "lm", "sample", str(house / "run"), *options, "--stream", "wav"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout[:4] == b"RIFF" and struct.unpack("<I", done.stdout[24:28])[0] == SAMPLE_RATE
    streamed = np.frombuffer(done.stdout[44:], "<i2") / 32767
    written, _ = soundfile.read(tmp_path / "1-0.wav")
    assert len(streamed) == len(written)
    assert float(np.abs(streamed - written).max()) < 2e-3


@pytest.mark.parametrize(("causal", "most"), [(False, 20 + 25), (True, 1 + 2)])
def test_the_first_sound_is_written_before_all_codes_are_drawn(monkeypatch, causal, most):
    import torch

    runtime = TorchRuntime(miniature_codec(causal=causal).eval(), "miniature")
    codes, drawn, written = torch.arange(150) % NUM_CODES, [], []

    def one_after_the_other(lm, prompts, config):
        for code in codes:
            drawn.append(code)
            yield code[None]

    class Out(io.BytesIO):
        def write(self, data):
            written.append(len(drawn) - self.tell() / 2 / 320)  # frames that are drawn, but not heard before this
            return super().write(data)

    monkeypatch.setattr(sampling, "sample_steps", one_after_the_other)
    out = Out()
    stream_speech(None, runtime, SpeechRequest("nothing", None), None, out, with_header=False)
    assert len(drawn) == 150 and max(written[:-1]) <= most
    sound = np.frombuffer(out.getvalue(), "<i2") / 32767
    np.testing.assert_allclose(sound, runtime.decode_batch([codes.numpy()[None]])[0].clip(-1, 1), atol=2e-3)


def test_export_command(house, tmp_path, capsys):
    assert main(["lm", "export", str(house / "run"), "-o", str(tmp_path / "plain")]) == 0
    assert "LlamaForCausalLM, 324 tokens, tied rows" in capsys.readouterr().out
    assert main(["lm", "export", str(house / "run"), "-o", str(tmp_path / "plain")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_bad_input_is_one_line(house, capsys):
    for arguments, line in (
        (["lm", "sample", str(house / "run"), "--text", " ", "--codec", str(house / "codec")], "the text is empty"),
        (["lm", "score", str(house / "none"), "a.wav"], "none: no such folder"),
        (["lm", "train", "--data.tokens", "[nowhere]"], "no such token shard"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert line in error and len(error.strip().splitlines()) == 1
