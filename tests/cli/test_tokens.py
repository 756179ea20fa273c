"""`--shard` and `llmcodec tokens` as people type them."""

from __future__ import annotations

import sys

import pytest

from llmcodec.cli.main import main
from llmcodec.cli.options import ClipOptions, CodecOptions
from llmcodec.cli.tokens import job_in_actor, tokenize_job
from llmcodec.io.lm_card import remembered_codec
from llmcodec.transcode.flat_rows import flat_rows

from ..miniature import miniature_codec, miniature_speech


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    miniature_codec().save_pretrained(folder)
    return folder


def test_two_machines_and_a_merge(codec, tmp_path, capsys):
    manifest, tokens = miniature_speech(tmp_path / "speech"), tmp_path / "tokens"
    arguments = ["tokenize", "--manifest", str(manifest), "--codec", str(codec), "-o", str(tokens)]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert main(["tokens", "verify", str(tokens)]) == 1
    shown = capsys.readouterr()
    assert "WRONG shard 0/2 is missing" in shown.out and "1 of these are wrong" in shown.err
    assert main(["tokens", "merge", str(tokens)]) == 1
    assert capsys.readouterr().err == (
        f"llmcodec tokens merge: shard 0/2 is missing in {tokens}; run with --shard 0/2\n"
    )
    assert main([*arguments, "--shard", "0/2"]) == 0 and main(["tokens", "verify", str(tokens)]) == 0
    assert main(arguments) == 1 and "holds 2 parts of a sharded run" in capsys.readouterr().err
    assert main(["tokens", "merge", str(tokens), "--remove-parts"]) == 0
    assert "6 clips, 4 s, " in capsys.readouterr().out
    assert main(["tokens", "verify", str(tokens)]) == 0 and "as in the index" in capsys.readouterr().out
    assert [row.id for row in flat_rows(tokens / "train")[1]] == [f"clip{n}" for n in range(6)]
    assert not list(tokens.glob("part-*")) and remembered_codec(tokens) == str(codec)
    assert main([*arguments, "--shard", "0/2"]) == 0 and "is merged already" in (said := capsys.readouterr().out)
    assert "the audio was not compared with the tokens: the same command without --shard does that" in said
    assert main(["tokens", "merge", str(tokens), "-o", str(tmp_path / "other")]) == 1
    assert "no parts of a sharded run in this folder" in capsys.readouterr().err


def test_parts_of_several_machines_go_where_one_says(codec, tmp_path, capsys):
    manifest = miniature_speech(tmp_path / "speech")
    for number in range(2):
        where = ["-o", str(tmp_path / f"disk{number}"), "--shard", f"{number}/2", "--format", "parquet"]
        assert main(["tokenize", "--manifest", str(manifest), "--codec", str(codec), *where]) == 0
    places = [str(tmp_path / f"disk{number}" / f"part-0000{number}-of-00002") for number in range(2)]
    assert main(["tokens", "merge", *places]) == 1 and "name the folder" in capsys.readouterr().err
    assert main(["tokens", "merge", *places, "-o", str(tmp_path / "tokens")]) == 0
    assert len(list(flat_rows(tmp_path / "tokens" / "train")[1])) == 6
    assert remembered_codec(tmp_path / "tokens") == str(codec)


@pytest.mark.parametrize("shard", ["2/2", "half", "1/2/3"])
def test_what_is_no_shard_is_one_line(codec, tmp_path, capsys, shard):
    manifest = miniature_speech(tmp_path / "speech")
    for command in (["tokenize", "--manifest", str(manifest)], ["encode", str(tmp_path / "speech")]):
        assert main([*command, "--codec", str(codec), "-o", str(tmp_path / "t"), "--shard", shard]) == 1
        error = capsys.readouterr().err
        assert f"--shard {shard}: shards are counted from 0" in error and error.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_encode_shares_a_folder(codec, tmp_path, capsys):
    miniature_speech(tmp_path / "speech")
    arguments = ["encode", str(tmp_path / "speech"), "--codec", str(codec)]
    assert main([*arguments, "-o", str(tmp_path / "one")]) == 0
    for number in range(2):
        assert main([*arguments, "-o", str(tmp_path / "t"), "--shard", f"{number}/2"]) == 0
    assert main(["tokens", "merge", str(tmp_path / "t")]) == 0 and main(["tokens", "verify", str(tmp_path / "t")]) == 0
    names = {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.safetensors")}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "one").glob("*.safetensors")}
    assert main([*arguments, "-o", "-", "--shard", "0/2"]) == 1
    assert "not of standard input or output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "ray"], "--engine ray needs one more package: pip install 'llmcodec[ray]'"),
        (["--engine", "ray", "--shard", "0/2"], "--shard is for machines that share the work without Ray"),
        (["--workers", "2"], "--workers 2: a number of actors, of --engine ray"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: a number of actors, of --engine ray"),
    ],
)
def test_what_ray_does_not_go_with_is_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["tokenize", "--manifest", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "t"), *words]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "t").exists()


def test_an_actor_makes_the_job_of_the_command(codec, tmp_path, monkeypatch):
    miniature_speech(tmp_path / "speech")
    monkeypatch.chdir(tmp_path)
    options = {"clips_per_shard": 2, "settings": {"precision": "fp32"}}
    corpus = ClipOptions("speech/train.jsonl", min_seconds=0.0)
    job = tokenize_job(CodecOptions(codec=str(codec), runtime="torch"), corpus, options)
    monkeypatch.chdir(tmp_path / "speech")
    again = job_in_actor(CodecOptions(codec=str(codec), runtime="torch"), corpus, options, str(tmp_path))
    assert job.plan == again.plan and job.num_clips == 6


def test_without_pyarrow_tokenize_says_so_before_it_opens_a_codec(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["tokenize", "--codec", str(tmp_path / "none"), "-o", str(tmp_path / "t")]) == 1
    assert "token shards need pyarrow: pip install 'llmcodec[datasets]'" in capsys.readouterr().err
