"""transcode/outputs.py: every result has a place of its own, inside the folder, and never that of an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcodec.transcode.inputs import Found, find_inputs
from llmcodec.transcode.outputs import plan_outputs, refuse_existing, remove_left_overs

WAVES = (".wav", ".flac")
TOKENS = (".safetensors",)


def one(name: str, folder: str = "in") -> Found:
    return Found(Path(folder, name), Path(name), from_folder=True)


def alone(name: str) -> Found:
    return Found(Path(name), Path(Path(name).name))


def names(paths: list[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def test_a_tree_is_kept():
    targets = plan_outputs([one("a.wav"), one("x/b.c.mp3")], "out", TOKENS)
    assert names(targets) == ["out/a.safetensors", "out/x/b.c.safetensors"]


def test_one_file_may_name_its_result_or_go_beside():
    assert names(plan_outputs([alone("in/a.wav")], "b.safetensors", TOKENS)) == ["b.safetensors"]
    assert names(plan_outputs([alone("in/a.wav")], "folder", TOKENS)) == ["folder/a.safetensors"]
    assert names(plan_outputs([alone("in/a.wav")], None, TOKENS)) == ["in/a.safetensors"]
    assert names(plan_outputs([alone("in/a.wav")], None, WAVES, mark=".reconstructed")) == ["in/a.reconstructed.wav"]
    assert names(plan_outputs([alone("a.safetensors")], "b.flac", WAVES)) == ["b.flac"]
    assert names(plan_outputs([alone("a.safetensors")], "out", WAVES, ".flac")) == ["out/a.flac"]


def test_files_that_differ_by_their_ending_alone_keep_it(tmp_path):
    for name in ("a.wav", "a.flac", "b.wav", "x/a.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    found, problems = find_inputs([str(tmp_path / "in")], (".wav", ".flac"))
    targets = plan_outputs(found, "out", TOKENS)
    assert names(targets) == [f"out/{name}.safetensors" for name in ("a.flac", "a.wav", "b", "x/a")] and not problems


def test_a_folder_named_like_a_file_stays_a_folder(tmp_path):
    (tmp_path / "odd.wav").mkdir()
    targets = plan_outputs([alone("a.safetensors")], str(tmp_path / "odd.wav"), WAVES)
    assert targets == [tmp_path / "odd.wav/a.wav"]


@pytest.mark.parametrize(
    ("found", "output", "said"),
    [
        ([one("a.wav"), one("a.flac")], "out", "in/a.wav and in/a.flac would both be written to out/a.safetensors"),
        ([one("a.wav", "p"), one("a.wav", "q")], "out", "p/a.wav and q/a.wav would both"),
        ([alone("a.wav"), alone("a.wav")], "out", "would both"),
        ([one("a.wav"), one("b.wav")], None, "name the folder"),
        ([one("a.wav")], None, "name the folder"),
    ],
)
def test_results_without_a_place_of_their_own_are_refused(found, output, said):
    with pytest.raises(ValueError, match=said):
        plan_outputs(found, output, TOKENS)


def test_an_input_is_never_overwritten(tmp_path):
    source = tmp_path / "a.wav"
    source.write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path)
    for output in (str(source), str(tmp_path / "link" / "a.wav"), str(tmp_path / "link")):
        with pytest.raises(ValueError, match="would overwrite an input"):
            plan_outputs([Found(source, Path("a.wav"))], output, WAVES)


def test_places_that_cannot_be_written_are_said_before_work(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "out/a.safetensors").mkdir(parents=True)
    with pytest.raises(ValueError, match="must be a folder"):
        plan_outputs([one("a.wav")], str(tmp_path / "file"), TOKENS)
    with pytest.raises(ValueError, match="is a folder, but the result should be a file"):
        plan_outputs([one("a.wav")], str(tmp_path / "out"), TOKENS)
    with pytest.raises(ValueError, match="contradicts the format flac"):
        plan_outputs([alone("a.safetensors")], "b.wav", WAVES, ".flac")


def test_nothing_leaves_the_output_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "way").symlink_to(outside)
    with pytest.raises(ValueError, match="out/way/deep: leads out of the output folder"):
        plan_outputs([one("a.wav"), one("way/deep/b.wav")], str(out), TOKENS)
    (out / "a.safetensors").symlink_to(outside / "victim")
    with pytest.raises(ValueError, match="a.safetensors: is a link out of the output folder"):
        plan_outputs([one("a.wav")], str(out), TOKENS)
    for name in ("../../b.x", "/etc/b.x"):  # ids of a shard from elsewhere
        with pytest.raises(ValueError, match="leads out of"):
            plan_outputs([one(name)], str(out), WAVES)
    (tmp_path / "alias").symlink_to(out)  # the folder itself may be a link
    assert plan_outputs([one("c.wav")], str(tmp_path / "alias"), TOKENS) == [tmp_path / "alias/c.safetensors"]


def test_existing_results_and_left_overs(tmp_path):
    targets = [tmp_path / f"{i}.wav" for i in range(3)]
    refuse_existing(targets)
    for target in targets[:2]:
        target.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0.wav: is there already, like 1 more; --resume keeps .* --overwrite"):
        refuse_existing(targets)
    for name in (".0.wav.0123abcd.tmp", ".mine.tmp", "x.0123abcd.tmp"):
        (tmp_path / name).write_bytes(b"half")
    assert remove_left_overs([*targets, tmp_path / "nowhere" / "x"]) == 1
    assert not (tmp_path / ".0.wav.0123abcd.tmp").exists() and (tmp_path / ".mine.tmp").exists()


@pytest.mark.parametrize(
    ("found", "output", "said"),
    [
        ([alone("a.wav")], "b.m4a", "b.m4a: --output is a folder, or a file in .wav, .flac, not .m4a"),
        ([one("a.wav")], "b.WAV", "b.WAV: --output is a folder for these inputs, not .wav"),
    ],
)
def test_a_name_of_another_format_is_not_taken_for_a_folder(found, output, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        plan_outputs(found, output, WAVES)
    Path(output).mkdir()  # somebody means it
    assert names(plan_outputs(found, output, WAVES)) == [f"{output}/a.wav"]


def test_a_folder_without_output_is_called_a_folder():
    with pytest.raises(ValueError, match="a folder: name the folder for the results"):
        plan_outputs([one("a.wav")], None, WAVES)
