"""`llmcodec encode`, `decode`, `reconstruct` as a user calls them, on a codec that gives the audio back."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from llmcodec.io import audio
from llmcodec.io import tensor_file as tensorfile
from llmcodec.io.token_file import load_token_file
from llmcodec.io.token_shards import TokenShardWriter, read_token_shards
from llmcodec.io.token_text import codes_to_text
from llmcodec.transcode import files
from llmcodec.transcode.index import read_index

from ..pcm import HOP, LEVELS, RATE, PCMRuntime, speech_like
from ..transcode.conftest import read
from .commands import finish, run, start

CLOSE = 3e-3


def tree(folder: Path) -> list[str]:
    """Files that are not hidden."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in files)


@pytest.fixture
def folder(clip, tmp_path) -> Path:
    """Nine recordings in a tree: formats, rates, channels, names."""
    clip("in/a.wav", 4000)
    clip("in/one sample.wav", 1)
    clip("in/deep/er/b.flac", 12000, 44100, 2)
    clip("in/deep/c.ogg", 16000)
    clip("in/deep/d.opus", 24000, 48000)
    clip("in/e.mp3", 20000, 22050)
    clip("in/Größe 音声/f g.wav", 3000, 8000)
    clip("in/h.wav", 9000, 192000, 7)
    clip("in/i.aiff", 5000)
    return tmp_path / "in"


def test_a_folder_forth_and_back_keeps_tree_lengths_and_rates(pcm, folder, tmp_path, capsys):
    assert run("encode", folder, "-o", tmp_path / "tokens") == 0
    assert "encoded 9 files" in capsys.readouterr().err
    expected = [str(Path(name).with_suffix("")) for name in tree(folder)]
    assert tree(tmp_path / "tokens") == [f"{name}.safetensors" for name in expected]
    assert run("decode", tmp_path / "tokens", "--output", tmp_path / "again") == 0
    assert tree(tmp_path / "again") == [f"{name}.wav" for name in expected]
    for name in tree(folder):
        before, rate = audio.read(folder / name)
        after, again = read((tmp_path / "again" / name).with_suffix(".wav"))
        assert again == rate and after.shape == before.shape, name
    assert capsys.readouterr().out == ""


def test_a_file_that_is_cut_short_counts_as_what_was_read(pcm, clip, tmp_path, capsys):
    whole = clip("in/cut.wav", 3 * RATE).read_bytes()
    (tmp_path / "in" / "cut.wav").write_bytes(whole[: len(whole) // 3])
    run("encode", tmp_path / "in", "-o", tmp_path / "tokens")
    assert "encoded 1 file, 1.0 s of audio" in capsys.readouterr().err


def test_channels_can_be_kept_apart(pcm, clip, tmp_path):
    source = clip("a.wav", 5000, channels=7, subtype="FLOAT")
    assert run("encode", source, "--channels", "split") == 0
    assert load_token_file(tmp_path / "a.safetensors")[0].codes.shape == (7, HOP, 625)
    assert run("decode", tmp_path / "a.safetensors", "-o", tmp_path / "b.flac") == 0
    np.testing.assert_allclose(read(tmp_path / "b.flac")[0], read(source)[0], atol=CLOSE)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_formats_and_rates_of_the_result(pcm, clip, tmp_path, ending):
    source = clip("a.wav", 16000, 16000)
    assert run("reconstruct", source, "-o", tmp_path / f"b.{ending}", "--sample_rate", 48000) == 0
    wav, rate = read(tmp_path / f"b.{ending}")
    assert rate == 48000 and len(wav) == 48000
    assert run("reconstruct", source, "-o", tmp_path / "out", "--format", ending) == 0
    assert tree(tmp_path / "out") == [f"a.{ending}"] and len(read(tmp_path / "out" / f"a.{ending}")[0]) == 16000


def test_one_file_needs_no_output_and_nothing_is_overwritten(pcm, clip, tmp_path, capsys):
    source = clip("a.wav")
    before = source.read_bytes()
    assert run("encode", source) == run("decode", tmp_path / "a.safetensors") == run("reconstruct", source) == 0
    assert tree(tmp_path) == ["a.decoded.wav", "a.reconstructed.wav", "a.safetensors", "a.wav"]
    assert source.read_bytes() == before
    capsys.readouterr()
    assert run("encode", source) == 1
    error = capsys.readouterr().err
    assert "a.safetensors: is there already; --resume keeps" in error and len(error.splitlines()) == 1
    assert run("encode", source, "--overwrite") == 0


def test_resume_does_the_rest_and_only_the_rest(pcm, folder, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    assert run("encode", folder, "-o", tokens) == 0
    removed = tokens / "deep" / "c.safetensors"
    kept = {name: (tokens / name).stat().st_mtime_ns for name in tree(tokens)}
    removed.unlink()
    capsys.readouterr()
    assert run("encode", folder, "-o", tokens, "--resume") == 0
    assert "encoded 1 file, 1.0 s of audio" in (shown := capsys.readouterr().err) and "8 files done before" in shown
    changed = [name for name in tree(tokens) if (tokens / name).stat().st_mtime_ns != kept[name]]
    assert changed == ["deep/c.safetensors"]


def test_resume_makes_again_what_is_stale_or_damaged(pcm, folder, clip, tmp_path, capsys):
    tokens, again = tmp_path / "tokens", tmp_path / "again"
    assert run("encode", folder, "-o", tokens) == 0 and run("decode", tokens, "-o", again) == 0
    assert run("reconstruct", folder, "-o", tmp_path / "same") == 0
    clip("in/a.wav", 4000, seed=7)  # newer, of equal length
    (tokens / "deep/c.safetensors").write_bytes((tokens / "deep/c.safetensors").read_bytes()[:-40])
    old = clip("in/h.wav", 4500, 96000, seed=3)
    os.utime(old, (1e9, 1e9))  # older than its tokens, but of another rate
    kept = {name: (tokens / name).stat().st_mtime_ns for name in tree(tokens)}
    capsys.readouterr()
    assert run("encode", folder, "-o", tokens, "--resume") == 0
    shown = capsys.readouterr().err
    assert "encoded 3 files" in shown and "6 files done before" in shown
    assert f"made again: {tokens}/a.safetensors: {folder}/a.wav is newer\n" in shown
    assert f"made again: {tokens}/deep/c.safetensors: damaged (" in shown
    assert f"h.safetensors: {folder}/h.wav has 96000 Hz, it was made of 192000 Hz\n" in shown
    changed = {name for name in tree(tokens) if (tokens / name).stat().st_mtime_ns != kept[name]}
    assert changed == {"a.safetensors", "deep/c.safetensors", "h.safetensors"}
    assert run("encode", folder, "-o", tmp_path / "fresh") == 0
    assert all((tokens / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes() for name in tree(tokens))

    whole = (again / "i.wav").read_bytes()
    (again / "i.wav").write_bytes(whole[:2000])
    capsys.readouterr()
    assert run("decode", tokens, "-o", again, "--resume") == 0
    shown = capsys.readouterr().err
    assert "decoded 4 files" in shown and (again / "i.wav").read_bytes() == whole
    assert "i.wav: it has 978 samples at 16000 Hz instead of 5000 samples at 16000 Hz" in shown
    assert run("decode", tokens, "-o", again, "--resume") == 0 and "made again" not in capsys.readouterr().err
    assert run("reconstruct", folder, "-o", tmp_path / "same", "--resume") == 0
    assert "reconstructed 2 files" in (shown := capsys.readouterr().err) and "7 files done before" in shown


def test_resume_does_not_replace_a_file_of_another_program(pcm, clip, tmp_path, capsys):
    source, target = clip("in/a.wav"), tmp_path / "t" / "a.safetensors"
    target.parent.mkdir()
    tensorfile.write_arrays(target, {"weights": np.zeros(3, np.float32)}, {})
    before = target.read_bytes()
    assert run("encode", source.parent, "-o", target.parent, "--resume") == 1
    assert "not a token file of llmcodec" in capsys.readouterr().err and target.read_bytes() == before


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_resume_makes_stale_rows_of_a_shard_again(pcm, folder, clip, tmp_path, capsys, format):
    shards = tmp_path / "shards"
    assert run("encode", folder, "--format", format, "-o", shards) == 0
    before = {row.id: row.codes.tolist() for row in read_token_shards(shards)}
    clip("in/a.wav", 4000, seed=7)
    capsys.readouterr()
    assert run("encode", folder, "--format", format, "-o", shards, "--resume") == 0
    assert f"made again: a: {folder}/a.wav is newer" in (shown := capsys.readouterr().err) and "encoded 1 file" in shown
    after = {row.id: row.codes.tolist() for row in read_token_shards(shards)}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["a"] and set(after) == set(before)


def test_more_bad_files_than_allowed_stop_the_run(pcm, folder, tmp_path, capsys):
    for name in ("a bad.wav", "b bad.wav"):
        (folder / name).write_text("this is text\n" * 9)
    assert run("encode", folder, "-o", tmp_path / "t", "--max-bad", "0") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a bad.wav: not an audio file" in error and "b bad.wav" not in error
    assert run("encode", folder, "-o", tmp_path / "t", "--resume", "--max-bad", "10%") == 1  # of 11
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 11 files are bad, and --max-bad 10% allows 1: " in error and "b bad.wav; the first: " in error
    assert run("encode", folder, "-o", tmp_path / "t", "--resume", "--max-bad", "2") == 1
    assert "2 files failed, the others are done" in capsys.readouterr().err and len(tree(tmp_path / "t")) == 9


def test_resume_does_not_mix_codecs(pcm, folder, tmp_path, capsys, monkeypatch):
    assert run("encode", folder, "-o", tmp_path / "tokens") == 0
    (tmp_path / "tokens/a.safetensors").unlink()
    pcm.identity = dataclasses.replace(pcm.identity, codec="other", weights_sha256="cd" * 32)
    assert run("encode", folder, "-o", tmp_path / "tokens", "--resume") == 1
    assert "tokens of codec 'pcm'" in capsys.readouterr().err
    assert not (tmp_path / "tokens/a.safetensors").exists()


def test_resume_does_not_mix_searches(pcm, folder, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    assert run("encode", folder, "-o", tokens) == 0
    (tokens / "a.safetensors").unlink()
    for codec in ("search@0.1:pcm?effort=fast", "search@0.2:pcm?effort=fast"):
        before, pcm.identity = pcm.identity.codec, dataclasses.replace(pcm.identity, codec=codec)
        assert run("encode", folder, "-o", tokens, "--resume") == 1
        said = f"its tokens were chosen by {before!r}, not by {codec!r}; name another folder, or --overwrite"
        assert said in capsys.readouterr().err and not (tokens / "a.safetensors").exists()
        assert run("encode", folder, "-o", tokens, "--overwrite") == 0
        (tokens / "a.safetensors").unlink()
    pcm.identity = dataclasses.replace(pcm.identity, codec="search@0.2:elsewhere/pcm?effort=fast")
    assert run("encode", folder, "-o", tokens, "--resume") == 0
    pcm.identity = dataclasses.replace(pcm.identity, codec="pcm")
    assert run("decode", tokens, "-o", tmp_path / "again") == 0, "the search does not change what decodes"


def test_resume_does_not_mix_channels(pcm, folder, tmp_path, capsys):
    tokens, shards = tmp_path / "tokens", tmp_path / "shards"
    assert run("encode", folder, "-o", tokens) == run("encode", folder, "-o", shards, "--format", "arrow") == 0
    for channels, number in (("split", 2), ("mix", 1)):
        capsys.readouterr()
        assert run("encode", folder, "-o", tokens, "--channels", channels, "--resume") == 0
        assert "encoded 2 files" in (said := capsys.readouterr().err) and "7 files done before" in said
        assert len(load_token_file(tokens / "deep/er/b.safetensors")[0].codes) == number
    before = tree(shards)
    (shards / "index.json").unlink()  # as where the run was killed
    assert run("encode", folder, "-o", shards, "--format", "arrow", "--channels", "split", "--resume") == 1
    assert "there was coded without --channels split; name another folder" in capsys.readouterr().err
    assert [*tree(shards), "index.json"] == sorted(before, key=lambda name: name == "index.json")


def test_a_name_that_is_no_utf8_is_named_before_shards_are_written(pcm, clip, tmp_path, capsys):
    source = clip("in/a.wav")
    try:
        source.rename(os.fsdecode(os.fsencode(source.parent) + b"/caf\xe9.wav"))
    except OSError:
        pytest.skip("this file system knows only names in UTF-8")
    assert run("encode", source.parent, "-o", tmp_path / "t", "--format", "arrow") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "caf%E9: its name is not UTF-8, so it cannot be the id of its tokens" in said


def test_resume_does_not_mix_reconstructions(pcm, folder, tmp_path, capsys):
    again, old = tmp_path / "again", tmp_path / "old"
    assert run("reconstruct", folder, "-o", again) == 0
    assert run("reconstruct", folder, "-o", again, "--resume") == 0
    assert run("reconstruct", folder, "-o", again, "--resume", "--channels", "split") == 1
    assert "its results were made with channels mix, not split" in capsys.readouterr().err
    shutil.copytree(again, old)
    (old / ".reconstructed.json").unlink()
    pcm.identity = dataclasses.replace(pcm.identity, codec="other", weights_sha256="cd" * 32)
    assert run("reconstruct", folder, "-o", again, "--resume") == 1
    assert "not cdcdcdcdcdcdcdcd; name another folder" in capsys.readouterr().err
    assert run("reconstruct", folder, "-o", old, "--resume") == 0, "nobody knows by which codec"
    assert not (old / ".reconstructed.json").exists()
    assert run("reconstruct", folder, "-o", again, "--overwrite") == 0
    assert run("reconstruct", folder, "-o", again, "--resume") == 0
    assert run("reconstruct", folder / "a.wav", "-o", tmp_path / "one.wav") == 0
    assert not (tmp_path / ".reconstructed.json").exists()


def test_resume_does_not_mix_reconstructions_of_other_codebooks_or_searches(pcm, clip, tmp_path, capsys):
    clip("in/a.wav")
    before, out = pcm.identity, tmp_path / "out"
    assert run("reconstruct", tmp_path / "in", "-o", out) == 0
    for change, said in (
        ({"num_codebooks": 2}, "made with num_codebooks 8, not 2; name"),
        ({"codec": "search@0.1:pcm?effort=fast,lm"}, "made with search none, not 0.1 fast,lm; name"),
    ):
        pcm.identity = dataclasses.replace(before, **change)
        assert run("reconstruct", tmp_path / "in", "-o", out, "--resume") == 1
        assert said in capsys.readouterr().err
    record = json.loads((out / ".reconstructed.json").read_text())
    kept = {name: record[name] for name in ("codec", "channels", "sample_rate")}
    (out / ".reconstructed.json").write_text(json.dumps(kept))
    assert run("reconstruct", tmp_path / "in", "-o", out, "--resume") == 0, "a record of before says less"


@pytest.mark.parametrize("command", ["encode", "decode", "reconstruct"])
def test_resume_does_not_mix_precisions_or_runtimes(pcm, clip, tmp_path, capsys, command):
    source, out = clip("in/a.wav"), tmp_path / "out"
    clip("in/b.wav")
    if command == "decode":
        assert run("encode", source.parent, "-o", tmp_path / "tokens") == 0
        source = tmp_path / "tokens" / "a.safetensors"
    record = {"encode": ".encoded.json", "decode": ".decoded.json"}.get(command, ".reconstructed.json")
    words = [command, source.parent, "-o", out]
    assert run(*words, "--precision", "fp32") == 0
    (first,) = out.glob("a.*")
    first.unlink()
    for option, said in (
        (["--precision", "int8"], "made with precision fp32, not int8; name another folder, or --overwrite"),
        (["--precision", "fp32", "--runtime", "torch"], "made with runtime auto, not torch; name another folder"),
    ):
        capsys.readouterr()
        assert run(*words, *option, "--resume") == 1
        assert f"{out}: its results were {said}" in capsys.readouterr().err and not first.exists()
    assert run(*words, "--precision", "fp32", "--resume") == 0 and first.exists()
    (out / record).unlink()
    first.unlink()
    assert run(*words, "--precision", "int8", "--resume") == 0, "nobody knows how an earlier version made them"
    assert not (out / record).exists()
    assert run(*words, "--precision", "int8", "--overwrite") == 0
    assert json.loads((out / record).read_text())["precision"] == "int8"
    assert run(*words, "--precision", "fp32", "--resume") == 1


def test_token_files_of_parts_do_not_mix_precisions(pcm, clip, tmp_path, capsys):
    for name in ("in/a.wav", "in/b.wav"):
        clip(name)
    words = ["encode", tmp_path / "in", "-o", tmp_path / "t"]
    assert run(*words, "--shard", "0/2", "--precision", "fp32") == 0
    assert run(*words, "--shard", "1/2", "--precision", "int8") == 1
    assert run(*words, "--resume", "--precision", "int8") == 1
    assert capsys.readouterr().err.count("made with precision fp32, not int8") == 2
    assert run(*words, "--shard", "1/2", "--precision", "fp32") == 0 == run("tokens", "merge", tmp_path / "t")
    (tmp_path / "t" / ".encoded.json").unlink()  # the index knows, too
    (tmp_path / "t" / "a.safetensors").unlink()
    assert run(*words, "--resume", "--precision", "int8") == 1
    assert "made with precision fp32, not int8" in capsys.readouterr().err


def test_resume_does_not_mix_precisions_in_shards_without_an_index(pcm, clip, tmp_path, capsys, monkeypatch):
    for name in ("in/a.wav", "in/b.wav"):
        clip(name)
    words = ["encode", tmp_path / "in", "-o", tmp_path / "t", "--format", "arrow", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(files, "describe_shards", lambda place: (_ for _ in ()).throw(OSError("killed")))
        assert run(*words, "--precision", "fp32") == 1
    assert run(*words, "--precision", "int8") == 1
    assert "its tokens were made with precision fp32, not int8; name another folder" in capsys.readouterr().err
    assert run(*words, "--precision", "fp32") == 0
    assert read_index(tmp_path / "t")["settings"]["precision"] == "fp32" and not (tmp_path / "t/.begun.json").exists()


def test_long_files_are_streamed_in_the_same_folder_run(pcm, clip, tmp_path):
    clip("in/short.wav", 8000)
    clip("in/long.wav", 80000, 16000)
    assert run("encode", tmp_path / "in", "-o", tmp_path / "t", "--long_seconds", 3) == 0
    assert ("encode_stream", 1) in pcm.calls and ("encode", 1) in pcm.calls
    pcm.calls.clear()
    assert run("decode", tmp_path / "t", "-o", tmp_path / "w", "--long_seconds", 3) == 0
    assert ("decode_stream", 1) in pcm.calls
    for name in ("short", "long"):
        np.testing.assert_allclose(
            read(tmp_path / f"w/{name}.wav")[0], read(tmp_path / f"in/{name}.wav")[0], atol=CLOSE
        )


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_a_corpus_as_shards_and_back(pcm, folder, tmp_path, capsys, format):
    shards = tmp_path / "shards"
    assert run("encode", folder, "--format", format, "-o", shards) == 0
    rows = {row.id: row for row in read_token_shards(shards)}
    assert set(rows) == {str(Path(name).with_suffix("")) for name in tree(folder)}
    assert rows["deep/er/b"].original_channels == 2 and rows["h"].original_sample_rate == 192000
    assert run("encode", folder, "--format", format, "-o", shards) == 1
    assert "holds token shards already" in capsys.readouterr().err
    assert run("encode", folder, "--format", format, "-o", shards, "--resume") == 0
    assert "9 files done before" in capsys.readouterr().err
    assert run("decode", shards, "-o", tmp_path / "w") == run("encode", folder, "-o", tmp_path / "t") == 0
    assert run("decode", tmp_path / "t", "-o", tmp_path / "v") == 0
    assert tree(tmp_path / "w") == tree(tmp_path / "v")
    assert all((tmp_path / "w" / n).read_bytes() == (tmp_path / "v" / n).read_bytes() for n in tree(tmp_path / "w"))


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_one_bad_file_or_the_end_of_memory_costs_no_other_row_of_a_shard(
    pcm, folder, tmp_path, capsys, monkeypatch, format
):
    shutil.copy(folder / "i.aiff", folder / "j.aiff")
    (folder / "bad.wav").write_text("this is text\n" * 9)
    encode, calls = pcm.encode_batch, []

    def until_memory_ends(wavs):
        calls.append(len(wavs))
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return encode(wavs)

    monkeypatch.setattr(pcm, "encode_batch", until_memory_ends)
    assert run("encode", folder, "--format", format, "-o", tmp_path / "s", "--batch_seconds", 0.5) == 1
    assert "internal error (RuntimeError: out of memory)" in capsys.readouterr().err
    assert len(list(read_token_shards(tmp_path / "s"))) == sum(calls[:2])
    assert run("encode", folder, "--format", format, "-o", tmp_path / "s", "--resume") == 1
    assert "1 file failed" in capsys.readouterr().err
    assert len({row.id for row in read_token_shards(tmp_path / "s")}) == 10
    assert run("encode", folder, "--format", format, "-o", tmp_path / "t") == 1
    assert len({row.id for row in read_token_shards(tmp_path / "t")}) == 10


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_shard_that_cannot_be_written_is_no_clip_s_fault(pcm, clip, tmp_path, capsys, monkeypatch, code):
    for number in range(5):
        clip(f"in/c{number}.wav", 4000)
    write, failing, out = TokenShardWriter.write, [code], tmp_path / "s"

    def once(path, rows, provenance, made_ns=None):
        if len(rows) == 2 and failing:
            raise OSError(failing.pop(), os.strerror(code), str(path))
        write(path, rows, provenance, made_ns)

    monkeypatch.setattr(TokenShardWriter, "write", staticmethod(once))
    monkeypatch.setattr("llmcodec.transcode.files.CLIPS", 2)
    assert run("encode", tmp_path / "in", "--format", "arrow", "-o", out) == 1
    [line] = [one for one in capsys.readouterr().err.splitlines() if "continue with --resume" in one]
    assert f"shard-00000.arrow: {os.strerror(code)}; 1 files are finished" in line
    assert not list(tmp_path.glob("s/*.arrow")) and not (out / "index.json").exists()
    assert run("encode", tmp_path / "in", "--format", "arrow", "-o", out, "--resume") == 0
    assert sorted(row.id for row in read_token_shards(out)) == [f"c{number}" for number in range(5)]
    assert read_index(out)["left_out"] == {}


def test_a_twin_that_comes_or_goes_does_not_put_a_file_twice_into_a_corpus(pcm, clip, tmp_path, capsys):
    command = ("encode", tmp_path / "in", "--format", "arrow", "-o", tmp_path / "s", "--resume")
    clip("in/a.wav", 4000)
    assert run(*command) == 0
    clip("in/a.flac", 5000)
    assert run(*command) == 1
    assert "s: holds a row 'a', but " in capsys.readouterr().err
    assert [row.id for row in read_token_shards(tmp_path / "s")] == ["a"]
    (tmp_path / "in" / "a.flac").rename(tmp_path / "in" / "b.flac")
    assert run(*command) == 0 and len(list(read_token_shards(tmp_path / "s"))) == 2
    clip("twins/a.wav", 4000)
    clip("twins/a.flac", 4000)
    command = ("encode", tmp_path / "twins", "--format", "arrow", "-o", tmp_path / "t", "--resume")
    assert run(*command) == run(*command) == 0
    (tmp_path / "twins" / "a.flac").unlink()
    assert run(*command) == 1 and "t: holds a row 'a.wav', but " in capsys.readouterr().err


def test_arrow_says_what_it_needs(pcm, clip, tmp_path, capsys):
    source = clip("a.wav")
    assert run("encode", source, "--format", "arrow") == 1
    assert "name it with --output" in capsys.readouterr().err
    assert run("encode", source, "--format", "arrow", "-o", tmp_path / "s", "--overwrite") == 1
    assert "delete the folder" in capsys.readouterr().err
    clip("b/a.wav")
    assert run("encode", source, tmp_path / "b/a.wav", "--format", "arrow", "-o", tmp_path / "s") == 1
    assert "would both have the id 'a'" in capsys.readouterr().err


def text_of(codes_QT: np.ndarray) -> str:
    return codes_to_text((codes_QT + LEVELS * np.arange(HOP)[:, None]).T.reshape(-1))


def test_tokens_as_text(pcm, tmp_path, capsys, monkeypatch):
    wav = speech_like(4000)
    codes = PCMRuntime().encode_batch([wav])[0]
    text = f"Say it: <CODEC_BEGIN>{text_of(codes)}<CODEC_END> done"
    assert run("decode", "--text", text, "-o", tmp_path / "a.wav") == 0
    back, rate = read(tmp_path / "a.wav")
    assert rate == RATE
    np.testing.assert_allclose(back, wav, atol=CLOSE)
    halves = f"{text_of(codes[:, :250])} and {text_of(codes[:, 250:])}"
    monkeypatch.setattr("sys.stdin", io.StringIO(halves))
    assert run("decode", "--text", "-", "-o", tmp_path / "b.flac", "--sample_rate", 8000) == 0
    assert len(read(tmp_path / "b.flac")[0]) == 2000
    for arguments, said in (
        (["--text", "no tokens", "-o", tmp_path / "c.wav"], "no token like <CODEC_17>"),
        (["--text", f"<CODEC_{HOP * LEVELS}>", "-o", tmp_path / "c.wav"], "but this codec has"),
        (["--text", "<CODEC_1>", "-o", tmp_path / "c.wav"], "no whole frames"),
        (["--text", text], "--text needs --output"),
        ([], "or give --text"),
        (["x.safetensors", "--text", text, "-o", tmp_path / "c.wav"], "one of the two"),
    ):
        assert run("decode", *arguments) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "c.wav").exists()


def test_pipes(clip, tmp_path):
    source = clip("a.flac", 44100, 44100)
    code, tokens, error = finish(start("encode", "-"), source.read_bytes())
    assert code == 0 and "encoded 1 file" in error and "standard output" in error
    code, wav, error = finish(start("decode", "-", "--format", "flac"), tokens)
    assert code == 0, error
    (tmp_path / "b.flac").write_bytes(wav)
    back, rate = read(tmp_path / "b.flac")
    assert rate == 44100 and len(back) == 44100
    code, out, error = finish(start("reconstruct", "-", "-o", tmp_path / "c.wav"), b"")
    assert (code, out) == (1, b"") and "standard input: the file is empty" in error
    code, out, error = finish(start("decode", "-"), b"\x00" * 100)
    assert (code, out) == (1, b"") and "standard input: " in error and "llmcodec-" not in error


def test_one_bad_file_among_good_ones_is_listed_and_the_others_are_done(pcm, folder, tmp_path, capsys):
    (folder / "bad.wav").write_text("this is text\n" * 9)
    (folder / "deep" / "empty.flac").touch()
    assert run("encode", folder, "-o", tmp_path / "tokens") == 1
    error = capsys.readouterr().err
    assert "encoded 9 files" in error and "2 files failed" in error
    listed = [line.strip() for line in error.splitlines() if line.startswith("  ")]
    assert listed[0].startswith(f"{folder}/bad.wav: not an audio file that can be read")
    assert listed[1] == f"{folder}/deep/empty.flac: the file is empty (0 bytes)"
    assert len(tree(tmp_path / "tokens")) == 9


def test_help_needs_no_codec_and_wrong_options_are_said(pcm, clip, capsys, tmp_path):
    source = clip("a.wav")
    for arguments, said in (
        (["--sample_rate", "5"], "cannot be right"),
        (["--workers", "-2"], "--workers"),
        (["--resume", "--overwrite"], "choose one"),
        (["-o", tmp_path / "b.flac", "--format", "wav"], "contradicts"),
    ):
        assert run("reconstruct", source, *arguments) == 1
        assert said in capsys.readouterr().err
    for arguments in (["--format", "wma"], ["--channels", "left"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            run("reconstruct", source, *arguments)
        assert stopped.value.code == 2


def test_the_output_folder_inside_the_input_is_not_read_again(pcm, clip, tmp_path):
    clip("in/a.wav")
    for _ in range(2):
        assert run("reconstruct", tmp_path / "in", "-o", tmp_path / "in/out", "--overwrite") == 0
    assert tree(tmp_path / "in") == ["a.wav", "out/a.wav"]


def test_the_result_does_not_depend_on_workers_or_batches(pcm, folder, tmp_path):
    shutil.copy(folder / "a.wav", folder / "a2.wav")
    made = []
    for number, options in enumerate((["--workers", 1], ["--workers", 4, "--batch_seconds", 0.2])):
        assert run("encode", folder, "-o", tmp_path / str(number), *options) == 0
        made.append([(name, (tmp_path / str(number) / name).read_bytes()) for name in tree(tmp_path / str(number))])
    assert made[0] == made[1]
    assert tensorfile.read_header(tmp_path / "0/a.safetensors").metadata["codec"] == "pcm"
