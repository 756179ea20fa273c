"""`llmcodec verify`: every folder that we write is told to be whole; every kind of damage is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcodec import assets
from llmcodec.cli.main import main
from llmcodec.io.tensor_check import DIGESTS, INDEX
from llmcodec.io.tensor_file import read_header
from llmcodec.training.checkpoint import save_checkpoint

from ..golden.make_artefacts import ARTEFACTS
from ..miniature import miniature_codec


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Everything that an earlier llmcodec wrote (tests/golden)."""
    return Path(shutil.copytree(ARTEFACTS, tmp_path / "artefacts"))


def verified(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str], str]:
    capsys.readouterr()
    code = main(["verify", *map(str, arguments)])
    out, error = capsys.readouterr()
    return code, out.splitlines(), error


def flip(path: Path, at: float = 0.5) -> str:
    """Change one bit in the middle of the file's data; returns the tensor that it is in."""
    header = read_header(path)
    content = bytearray(path.read_bytes())
    place = int((len(content) - header.data_start) * at)
    content[header.data_start + place] ^= 1
    path.write_bytes(content)
    return next(name for name, entry in header.tensors.items() if entry.start <= place < entry.stop)


def test_the_shipped_codec_is_as_it_was_saved(capsys):
    code, lines, _ = verified(capsys, assets.codec_folder())
    assert code == 0 and len(lines) == 7
    tensors = {"audio_lm.safetensors": 27, "model.safetensors": 247, "token_prior.safetensors": 7}
    tensors |= {"encoder.onnx": 155, "decoder.onnx": 226}
    for name, count in tensors.items():
        assert f"{assets.codec_folder() / name}: {count} tensors, as they were saved" in lines
    both = "a codec of 8192 codes with its token prior, opens; an ONNX export, opens"
    assert f"{assets.codec_folder()}: {both}" in lines


def test_every_folder_of_ours_is_known_and_an_old_one_can_be_given_digests(folders, capsys):
    code, lines, error = verified(capsys, folders)
    assert code == 0, error
    said = {line.split(": ")[0].removeprefix(f"{folders}/"): line for line in lines}
    for name, what in (
        ("run/codec", "a codec of 64 codes, opens"),
        ("run/codec/model.safetensors", "73 tensors, finite; no digests to compare with"),
        ("run/checkpoints/step_00000003", "a checkpoint with adversary, ema, objective"),
        ("run/checkpoints/step_00000003/usage.safetensors", "tensors, finite; no digests"),
        ("lm_run/lm", "a language model of 64 codes, opens"),
        ("lm_run/checkpoint-2/trainable.safetensors", "11 tensors, finite"),
        ("lm_run/checkpoint-2/optimizer.pt", "a pickle, not checked"),
        ("tokens/mono.safetensors", "tokens, 120 frames of codec run/codec; sound"),
        ("shards_arrow/shard-00000.arrow", "tokens, 2 clips of codec run/codec; sound"),
        ("shards_parquet/shard-00000.parquet", "tokens, 2 clips of codec run/codec; sound"),
        ("onnx/encoder.onnx", "70 tensors, finite; no digests"),
        ("onnx", "an ONNX export"),
    ):
        assert what in said[name], said[name]
    before = {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()}
    code, lines, error = verified(capsys, folders, "--write-digests")
    assert code == 0 and "no digests to" not in "\n".join(lines) + error
    assert f"{folders}/run/codec/model.safetensors: 73 tensors, as they were saved" in lines
    new = {path for path in folders.rglob("*") if path.is_file()} - set(before)
    assert {path.name for path in new} == {DIGESTS} and not any("tokens" in path.parts for path in new)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("run/codec/model.safetensors", 0.5),
        ("run/audio_rows.safetensors", 0.9),
        ("run/audio_lm.safetensors", 0.1),
        ("run/checkpoints/step_00000003/ema.safetensors", 0.5),
        ("run/checkpoints/step_00000003/usage.safetensors", 0.5),
        ("lm_run/lm/model.safetensors", 0.5),
        ("lm_run/checkpoint-2/trainable.safetensors", 0.2),
    ],
)
def test_one_bit_names_file_and_tensor(folders, capsys, name, at):
    root = folders / name.split("/")[0]
    assert verified(capsys, root, "--write-digests")[0] == 0
    tensor = flip(folders / name, at)
    code, lines, error = verified(capsys, root)
    damaged = [line for line in lines if line.startswith("DAMAGED")]
    assert code == 1 and f"DAMAGED {folders / name}: {tensor} differs from what was saved" in damaged[0]
    assert str(folders / name) in error and len(error.splitlines()) == 1
    assert verified(capsys, folders / name)[0] == 1  # the file alone


def test_tensors_too_few_are_found_without_digests(folders, capsys):
    for name, said in (("lm_run/lm", "is missing from the weights"), ("run/codec", "is missing from the weights")):
        path = folders / name / "model.safetensors"
        tensors = load_file(path)
        save_file({key: tensors[key] for key in sorted(tensors)[1:]}, path, {"format": "pt"})
        code, lines, _ = verified(capsys, folders / name)
        assert code == 1 and lines[-1].startswith("DAMAGED") and said in lines[-1]


def test_files_that_are_gone_damaged_tokens_and_places_with_nothing(folders, tmp_path, capsys):
    run = folders / "run"
    verified(capsys, run, "--write-digests")
    (run / "audio_lm.safetensors").unlink()
    code, lines, _ = verified(capsys, run)
    assert code == 1 and f"DAMAGED {run}/{DIGESTS}: audio_lm.safetensors is missing from the folder" in lines
    shard = folders / "shards_arrow/shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    tokens = folders / "tokens/mono.safetensors"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    code, lines, error = verified(capsys, shard, tokens)
    assert code == 1 and len(lines) == 2 and all(line.startswith("DAMAGED") for line in lines)
    assert "2 damaged" in error
    (tmp_path / "empty").mkdir()
    for place, said in (("nowhere", "no such file or folder"), ("empty", "nothing in it that llmcodec writes")):
        code, _, error = verified(capsys, tmp_path / place)
        assert code == 1 and said in error
    for place, said in (("nowhere", "no such folder"), ("empty", "no weights in it")):
        code, _, error = verified(capsys, tmp_path / place, "--write-digests")
        assert code == 1 and said in error


def test_weights_in_several_files(tmp_path, capsys):
    folder = tmp_path / "codec"
    miniature_codec().save_pretrained(folder, max_shard_size="60KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1 and (folder / INDEX).is_file()
    assert set(json.loads((folder / DIGESTS).read_text())["files"]) == {"config.json", *(path.name for path in parts)}
    assert verified(capsys, folder)[0] == 0
    tensor = flip(parts[-1])
    code, lines, _ = verified(capsys, folder)
    assert code == 1 and any(f"{parts[-1].name}: {tensor} differs" in line for line in lines)
    miniature_codec().save_pretrained(folder)  # in one file now: the digests follow
    assert set(json.loads((folder / DIGESTS).read_text())["files"]) == {"config.json", "model.safetensors"}
    assert verified(capsys, folder)[0] == 0


def test_infinite_values_belong_to_the_usage_of_codes_alone(tmp_path, capsys):
    infinite = {"usage_V": torch.tensor([1.0, torch.inf])}
    folder = save_checkpoint(tmp_path, 3, {"usage": infinite, "objective": {"a": torch.ones(2)}})
    assert verified(capsys, folder)[0] == 0
    folder = save_checkpoint(tmp_path, 4, {"usage": infinite, "objective": {"a": torch.tensor([np.nan])}})
    code, lines, _ = verified(capsys, folder)
    assert code == 1 and any(
        "objective.safetensors: objective/a holds NaN or infinite values" in line for line in lines
    )
