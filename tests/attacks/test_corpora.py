"""Attacks on what comes in as a corpus: tables, transcripts, manifests, shards. README.md lists what they found."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmcodec.data.corpus import make_manifest
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io.token_shards import read_token_shards

from ..miniature import miniature_codec, miniature_speech
from .attack import RATE, accepts, refuses, rows_of, tone, wav


def manifest_of(folder: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Rows by the stem of their file, and the summary."""
    said = accepts("data", "manifest", folder, "-o", folder.parent / "out.jsonl")
    return {Path(row["audio"]).stem: row for row in rows_of(folder.parent / "out.jsonl")}, said


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two recordings, a.wav and b.wav."""
    wav(tmp_path / "corpus" / "a.wav")
    wav(tmp_path / "corpus" / "b.wav", hertz=300)
    return tmp_path / "corpus"


# Tables


def test_csv_with_bom_and_doubled_quotes(corpus):
    """Right: the text without its outer quotes."""
    table = '\ufefffile_name,text\r\na.wav,"He said, ""hi"""\r\nb.wav,two\r\n'
    (corpus / "metadata.csv").write_bytes(table.encode())
    assert manifest_of(corpus)[0]["a"]["text"] == 'He said, "hi"'


def test_csv_names_a_column_twice(corpus):
    """Right: refused; nobody knows which of the two texts is meant."""
    (corpus / "metadata.csv").write_text("file_name,text,text\na.wav,one,eins\nb.wav,two,zwei\n")
    assert "column 'text' stands twice" in refuses("data", "manifest", corpus)


def test_csv_with_a_comma_that_nobody_quoted(corpus):
    """Right: the row is named and left out; "Hello" is not its text."""
    (corpus / "metadata.csv").write_text("file_name,text\na.wav,Hello, world\nb.wav,two\n")
    rows, said = manifest_of(corpus)
    assert "metadata.csv:2: 3 cells for 2 columns" in said
    assert "text" not in rows["a"] and rows["b"]["text"] == "two"


def test_csv_with_a_line_break_in_a_cell(corpus):
    """Right: the whole cell, and the row after it."""
    (corpus / "metadata.csv").write_text('file_name,text\na.wav,"one\nand more"\nb.wav,two\n')
    rows, _ = manifest_of(corpus)
    assert rows["a"]["text"] == "one and more" and rows["b"]["text"] == "two"


def test_csv_with_an_inch_sign(corpus):
    """Right: a quote inside a cell is a letter."""
    (corpus / "metadata.csv").write_text('file_name,text\na.wav,a 5" nail\nb.wav,two\n')
    rows, _ = manifest_of(corpus)
    assert rows["a"]["text"] == 'a 5" nail' and rows["b"]["text"] == "two"


def test_csv_with_a_quote_that_never_closes(corpus):
    """Right: what it swallows is named."""
    (corpus / "metadata.csv").write_text('file_name,text\na.wav,"one\nb.wav,two\n')
    rows, said = manifest_of(corpus)
    assert "metadata.csv:2-3: not CSV" in said and "text" not in rows["a"] and "text" not in rows["b"]


def test_texts_that_are_lists_and_objects(corpus):
    """Right: no text, and said; a number is text."""
    (corpus / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "text": ["x", "y"], "speaker": {"a": 1}}\n{"file_name": "b.wav", "text": 5}\n'
    )
    rows, said = manifest_of(corpus)
    assert "metadata.jsonl:1: text is no text" in said
    assert "text" not in rows["a"] and "speaker" not in rows["a"] and rows["b"]["text"] == "5"


def test_a_split_that_is_none(corpus):
    """Right: `holdout` gets its split by hash, and the summary says that its own was not understood."""
    (corpus / "metadata.csv").write_text("file_name,text,split\na.wav,one,holdout\nb.wav,two,Dev\n")
    rows, said = manifest_of(corpus)
    assert "name the split 'holdout'" in said and rows["b"]["split"] == "valid"


def test_two_tables_that_disagree(corpus):
    """Right: one of them is read, and the summary says which is not."""
    (corpus / "metadata.csv").write_text("file_name,text\na.wav,one\nb.wav,two\n")
    (corpus / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "EINS"}\n')
    rows, said = manifest_of(corpus)
    assert rows["a"]["text"] == "one" and "metadata.jsonl: metadata.csv beside it is read instead" in said


def test_a_row_with_a_key_twice(corpus):
    """Right: the row is named and left out."""
    (corpus / "metadata.jsonl").write_text(
        '{"file_name": "a.wav", "text": "one", "text": "eins"}\n{"file_name": "b.wav"}\n'
    )
    rows, said = manifest_of(corpus)
    assert "metadata.jsonl:1: not a JSON object" in said and "text" not in rows["a"]


# Transcripts and lists of other layouts


@pytest.mark.parametrize("layout", ["librispeech", "ljspeech", "kaldi"])
def test_a_transcript_twice(tmp_path, layout):
    """Right: the first one, and the second is named."""
    root = tmp_path / "corpus"
    if layout == "librispeech":
        wav(root / "84" / "1" / "84-1-0000.flac")
        (root / "84" / "1" / "84-1.trans.txt").write_text("84-1-0000 FIRST\n84-1-0000 SECOND\n")
    elif layout == "ljspeech":
        wav(root / "wavs" / "LJ1.wav")
        (root / "metadata.csv").write_text("LJ1|FIRST\nLJ1|SECOND\n")
    else:
        path = wav(root / "w" / "a.wav")
        (root / "wav.scp").write_text(f"u1 {path}\n")
        (root / "text").write_text("u1 FIRST\nu1 SECOND\n")
    rows, said = manifest_of(root)
    assert next(iter(rows.values()))["text"] == "FIRST" and ":2: " in said and "stands there already" in said


def test_kaldi_tables_with_tabs(tmp_path):
    """Right: a tab separates as a space does."""
    path = wav(tmp_path / "corpus" / "w" / "a.wav")
    for name, value in (("wav.scp", path), ("text", "hello there"), ("utt2spk", "ann")):
        (tmp_path / "corpus" / name).write_text(f"u1\t{value}\n")
    row = manifest_of(tmp_path / "corpus")[0]["a"]
    assert (row["text"], row["speaker"]) == ("hello there", "ann")


def test_kaldi_segments_that_lie(tmp_path):
    """Right: every one is named; a channel column is no reason to take the whole recording."""
    path = wav(tmp_path / "corpus" / "w" / "a.wav", 16000)
    (tmp_path / "corpus" / "wav.scp").write_text(f"r1 {path}\n")
    (tmp_path / "corpus" / "segments").write_text(
        "u1 r1 0.0 0.5\nu2 r1 0.5 5\nu3 r1 -1 0.3\nu4 r1 0.9 0.2\nu5 r1 0.1 0.4 A\nu6 r1 nan 1\nu7 r1\nu8\nu9 r1 a b\n"
    )
    said = accepts("data", "manifest", tmp_path / "corpus", "-o", tmp_path / "out.jsonl")
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl")] == ["u1"] and "8 files skipped" in said


def test_nemo_rows_that_lie(tmp_path):
    """Right: stretches outside their file are all named, so are times that are none; a wrong length is said."""
    wav(tmp_path / "a.wav")
    lines = [
        {"audio_filepath": "a.wav", "duration": 100.0},
        {"audio_filepath": "a.wav", "offset": 0.4, "duration": 0.4},
        {"audio_filepath": "a.wav", "offset": 0.3, "duration": 0.4},
        {"audio_filepath": "a.wav", "offset": True, "duration": 0.2},
        {"audio_filepath": "a.wav", "offset": "soon", "duration": 0.2},
    ]
    (tmp_path / "train.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = accepts("data", "manifest", tmp_path / "train.json", "-o", tmp_path / "out.jsonl")
    assert [row["duration"] for row in rows_of(tmp_path / "out.jsonl")] == [0.5]
    assert "4 files skipped" in said and "1 files last longer or shorter than their corpus says" in said


def test_stretches_that_begin_nearly_together(tmp_path):
    """Right: each has an id of its own (three of them could not be told apart by six digits)."""
    wav(tmp_path / "a.wav", 16 * 1001, hertz=20)
    lines = [{"audio_filepath": "a.wav", "offset": 0.1 + one * 1e-7, "duration": 0.2} for one in range(6)]
    (tmp_path / "train.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    accepts("data", "manifest", tmp_path / "train.json", "-o", tmp_path / "out.jsonl")
    assert len({row["id"] for row in rows_of(tmp_path / "out.jsonl")}) == 6


def test_transcripts_that_differ_in_case_alone(tmp_path):
    """Right: A.TXT belongs to A.wav, a.txt to a.wav."""
    for name, text in (("A", "upper"), ("a", "lower")):
        wav(tmp_path / "corpus" / f"{name}.wav")
        (tmp_path / "corpus" / f"{name}.{'TXT' if name == 'A' else 'txt'}").write_text(text)
    rows, _ = manifest_of(tmp_path / "corpus")
    assert (rows["A"]["text"], rows["a"]["text"]) == ("upper", "lower")


def test_a_cut_set_cut_short(tmp_path):
    """Right: the cuts before the damage, and a line that says where it begins."""
    path = wav(tmp_path / "corpus" / "a.wav")
    source = {"sources": [{"type": "file", "source": str(path)}], "duration": 0.5}
    cuts = [
        {"id": f"c{one}", "start": 0, "duration": 0.5, "recording": source, "x": tone(9, one).tolist()}
        for one in range(400)
    ]
    whole = gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode())
    (tmp_path / "cuts.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    summary = make_manifest(str(tmp_path / "cuts.jsonl.gz"), str(tmp_path / "out.jsonl"))
    assert any("damaged after line" in line for line in summary.skipped.values())
    assert rows_of(tmp_path / "out.jsonl")[0]["id"] == "c0"


def test_common_voice_without_its_columns(tmp_path):
    """Right: a table that cannot be read is named."""
    wav(tmp_path / "corpus" / "clips" / "a.wav")
    wav(tmp_path / "corpus" / "clips" / "b.wav")
    (tmp_path / "corpus" / "train.tsv").write_text("client_id\tpath\tsentence\nx\ta.wav\tone\n")
    (tmp_path / "corpus" / "test.tsv").write_text("speaker\tfile\tsentence\nx\tb.wav\ttwo\n")
    assert "test.tsv: no columns path and client_id" in manifest_of(tmp_path / "corpus")[1]


def test_names_with_line_breaks_and_two_spellings_of_a_letter(tmp_path):
    """Right: five clips, five ids."""
    for name in ("a\nb", "c\u2028d", "\U0001f600 x", "e\u0301", "\u00e9"):
        wav(tmp_path / "corpus" / f"{name}.wav")
    accepts("data", "manifest", tmp_path / "corpus", "-o", tmp_path / "out.jsonl")
    assert len({clip.id for clip in read_manifest(tmp_path / "out.jsonl")}) == 5


# Hub rows


def test_hub_rows_of_integers():
    """Right: int16 by its full scale; integers of no known scale, and integers kept as floats, are bad rows."""
    np = pytest.importorskip("numpy")
    from llmcodec.data.hub import _decoded

    wav_S, _ = _decoded((tone() * 32767).astype(np.int16), RATE)
    assert np.abs(wav_S - tone()).max() < 1e-4
    for bad in ((tone() * 32767).astype(int).tolist(), (tone() * 32767).tolist()):
        with pytest.raises(ValueError, match="full scale|full range"):
            _decoded(bad, RATE)


# Manifests and shards


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A codec, speech, its manifest."""
    folder = tmp_path_factory.mktemp("made")
    miniature_codec(0).save_pretrained(folder / "codec")
    miniature_speech(folder / "speech")
    return folder


def tokenize(made: Path, manifest: Path, output: Path, *more: str) -> tuple[object, ...]:
    return ("tokenize", "--codec", made / "codec", "--manifest", manifest, "-o", output, *more)


def rewritten(made: Path, name: str, *rows: dict[str, Any] | str) -> Path:
    """A manifest with these rows, or with those of the speech changed by them in order."""
    known = rows_of(made / "speech" / "train.jsonl")
    lines = [row if isinstance(row, str) else json.dumps(old | row) for old, row in zip(known, rows, strict=False)]
    path = made / "speech" / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_manifest_row_with_a_key_twice(made, tmp_path):
    """Right: refused with its line; taking the last one moved a training clip into the test split."""
    row = '{"id": "a", "audio": "0.wav", "duration": 0.9, "split": "train", "split": "test"}'
    said = refuses(*tokenize(made, rewritten(made, "twice", row), tmp_path))
    assert "twice.jsonl:1: not JSON (the key 'split' stands twice)" in said


@pytest.mark.parametrize("split", ["../evil", "..", "/tmp/evil", "a/b"])
def test_a_split_that_leads_out_of_the_folder(made, tmp_path, split):
    """Right: refused; nothing is written outside of --output."""
    said = refuses(*tokenize(made, rewritten(made, "evil", {"split": split}), tmp_path / "o"))
    assert "cannot name a folder" in said and list(tmp_path.iterdir()) == []


def test_a_stretch_that_leaves_its_file(made, tmp_path):
    """Right: the row is bad; less speech than it says is not its speech."""
    said = refuses(*tokenize(made, rewritten(made, "far", {"start": 0.5, "duration": 1.0}), tmp_path / "o"))
    assert "0.5 to 1.5 s is asked for, it lasts 0.900 s" in said
    clip = Clip("a", "0.wav", 1.0, start=0.5, folder=str(made / "speech"))
    with pytest.raises(ValueError, match="is asked for"):
        clip.load(16000)


def test_a_clip_changes_its_split(made, tmp_path):
    """Right: refused; it would be in the shards of both splits, so in training and in the test."""
    accepts(*tokenize(made, rewritten(made, "as_train", {}, {}), tmp_path))
    said = refuses(*tokenize(made, rewritten(made, "as_test", {"split": "test"}, {}), tmp_path))
    assert "'clip0' to test" in said and not (tmp_path / "test").exists()


def test_a_manifest_with_fewer_clips(made, tmp_path):
    """Right: the shards keep the others, and it says how many."""
    accepts(*tokenize(made, rewritten(made, "six", {}, {}, {}), tmp_path))
    assert "and 2 that this manifest does not name" in accepts(*tokenize(made, rewritten(made, "one", {}), tmp_path))


def test_a_shard_copied(made, tmp_path):
    """Right: refused by whoever reads the folder; every clip in it would count double."""
    accepts(*tokenize(made, rewritten(made, "copied", {}, {}), tmp_path))
    shutil.copy(tmp_path / "train" / "shard-00000.arrow", tmp_path / "train" / "shard-00007.arrow")
    assert "'clip0' is in shard-00000.arrow too" in refuses(*tokenize(made, made / "speech" / "copied.jsonl", tmp_path))
    recipe = ("--config", "lm_small", "--run", tmp_path / "r", "--data.tokens", f"[{tmp_path / 'train'}]")
    assert "stands there twice" in refuses("lm", "train", *recipe)


def test_one_folder_of_shards_named_twice(made, tmp_path):
    """Right: refused; its clips would count double."""
    accepts(*tokenize(made, rewritten(made, "again", {}), tmp_path))
    place = tmp_path / "train"
    recipe = ("--config", "lm_small", "--run", tmp_path / "r", "--data.tokens", f"[{place},{place}/.]")
    assert "named twice" in refuses("lm", "train", *recipe)


def test_two_files_change_places(made, tmp_path):
    """Right: both are encoded again (they keep size, name and age; the lengths tell)."""
    speech = shutil.copytree(made / "speech", tmp_path / "speech")
    accepts(*tokenize(made, speech / "train.jsonl", tmp_path / "o"))
    (speech / "0.wav").rename(speech / "x")
    (speech / "1.wav").rename(speech / "0.wav")
    (speech / "x").rename(speech / "1.wav")
    said = accepts(*tokenize(made, speech / "train.jsonl", tmp_path / "o"))
    lengths = {row.id: row.num_samples for row in read_token_shards(tmp_path / "o" / "train")}
    assert "made again: clip0" in said and (lengths["clip0"], lengths["clip1"]) == (9920, 14400)
