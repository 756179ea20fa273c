"""What is not sound, not finite or not what was saved is named; the rest passes, and large files pass quickly."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmcodec.io import tensor_check
from llmcodec.io.tensor_check import (
    DIGESTS,
    check_tensors,
    inspect_tensors,
    renewed_digests,
    weight_files,
    write_digests,
)
from llmcodec.io.tensor_file import read_header

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(30, 7, generator=generator),
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(3),
        "nothing": torch.zeros(0, 4),
    }


def saved(folder: Path, name: str = "model.safetensors", **changes: torch.Tensor) -> Path:
    with renewed_digests(folder, name):
        save_file(values() | changes, folder / name)
    return folder / name


def flip(path: Path, tensor: str, byte: int = 0, bit: int = 0) -> None:
    """Change one bit of one tensor, as a bad disk would."""
    header = read_header(path)
    content = bytearray(path.read_bytes())
    content[header.data_start + header.tensors[tensor].start + byte] ^= 1 << bit
    path.write_bytes(content)


def test_what_was_saved_passes_and_a_flipped_bit_names_its_tensor(tmp_path):
    path = saved(tmp_path)
    assert check_tensors(path) == path
    report = inspect_tensors(path)
    assert (report.num_tensors, report.has_digests) == (4, True)
    for tensor, byte, bit in (("weight", 0, 0), ("weight", 30 * 7 * 4 - 1, 6), ("half", 9, 3), ("count", 0, 1)):
        flip(path, tensor, byte, bit)
        with pytest.raises(ValueError, match=f"model.safetensors: {tensor} differs from what was saved") as failure:
            check_tensors(path)
        assert "\n" not in str(failure.value) and f"llmcodec verify {tmp_path} --write-digests" in str(failure.value)
        flip(path, tensor, byte, bit)
        check_tensors(path)


def test_every_bit_of_every_tensor_counts(tmp_path):
    path = saved(tmp_path, weight=torch.ones(2, 2))
    header = read_header(path)
    size = path.stat().st_size
    for byte in range(header.data_start, size):
        content = bytearray(path.read_bytes())
        content[byte] ^= 1 << byte % 8
        path.write_bytes(content)
        with pytest.raises(ValueError, match="differs from what was saved|NaN or infinite"):
            check_tensors(path)
        content[byte] ^= 1 << byte % 8
        path.write_bytes(content)


def test_a_tensor_of_another_shape_type_or_name_is_named(tmp_path):
    path = saved(tmp_path)
    noted = (tmp_path / DIGESTS).read_text()
    for change, said in (
        ({"weight": values()["weight"].reshape(7, 30)}, "weight differs"),
        ({"weight": values()["weight"].view(torch.int32)}, "weight differs"),
        ({"extra": torch.zeros(1)}, "extra is not in both the file and what was saved"),
    ):
        save_file(values() | change, path)
        (tmp_path / DIGESTS).write_text(noted)
        with pytest.raises(ValueError, match=said):
            check_tensors(path)
    save_file({name: value for name, value in values().items() if name != "half"}, path)
    with pytest.raises(ValueError, match="half is not in both"):
        check_tensors(path)
    write_digests(tmp_path)
    assert inspect_tensors(path).has_digests


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_are_refused_in_every_precision(tmp_path, dtype):
    rows = torch.linspace(-400, 400, 999).to(dtype)
    assert check_tensors(saved(tmp_path, weight=rows))
    bad = [torch.nan] if dtype == torch.float8_e4m3fn else [torch.nan, torch.inf, -torch.inf]
    for value in bad:
        wrong = rows.float()
        wrong[600] = value
        path = saved(tmp_path, weight=wrong.to(dtype))  # its digests are those of what was saved, NaN and all
        with pytest.raises(ValueError, match="model.safetensors: weight holds NaN or infinite values"):
            check_tensors(path)


def test_a_value_that_is_not_finite_in_a_late_chunk_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_check, "CHUNK_BYTES", 64)
    rows = torch.ones(1000)
    rows[-1] = torch.inf
    with pytest.raises(ValueError, match="weight holds NaN"):
        check_tensors(saved(tmp_path, weight=rows))
    rows[-1] = 1
    path = saved(tmp_path, weight=rows)
    monkeypatch.undo()
    check_tensors(path)  # the digest does not depend on how the file was read


def test_a_folder_without_digests_says_so_once_and_foreign_ones_never(tmp_path, caplog):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(values(), tmp_path / name)
    with caplog.at_level(logging.WARNING):
        check_tensors(tmp_path / "a.safetensors", ours=False)
        assert not caplog.records
        for name in ("a.safetensors", "b.safetensors", "a.safetensors"):
            check_tensors(tmp_path / name)
    assert [record.getMessage().count("no digests for a.safetensors") for record in caplog.records] == [1]
    assert write_digests(tmp_path) == ["a.safetensors", "b.safetensors"]
    assert inspect_tensors(tmp_path / "b.safetensors").has_digests


def test_saving_one_file_keeps_the_digests_of_the_others_and_drops_those_of_files_that_are_gone(tmp_path):
    saved(tmp_path, "a.safetensors")
    saved(tmp_path, "b.safetensors", weight=torch.zeros(2))
    assert set(json.loads((tmp_path / DIGESTS).read_text())["files"]) == {"a.safetensors", "b.safetensors"}
    (tmp_path / "a.safetensors").unlink()
    saved(tmp_path, "c.safetensors")
    assert set(json.loads((tmp_path / DIGESTS).read_text())["files"]) == {"b.safetensors", "c.safetensors"}
    flip(tmp_path / "b.safetensors", "weight")
    saved(tmp_path, "c.safetensors", count=torch.tensor(4))
    with pytest.raises(ValueError, match="b.safetensors: weight differs"):
        check_tensors(tmp_path / "b.safetensors")


def test_a_save_that_fails_leaves_no_wrong_digests(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(OSError, match="full"), renewed_digests(tmp_path, "model*.safetensors"):
        save_file(values() | {"weight": torch.zeros(3)}, path)
        raise OSError("full")
    assert not inspect_tensors(path).has_digests


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 3}', '{"format": "llmcodec digests 1", "files": [1]}', "\xff"])
def test_damaged_digests_are_refused_in_one_line(tmp_path, text):
    path = saved(tmp_path)
    (tmp_path / DIGESTS).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=DIGESTS) as failure:
        check_tensors(path)
    assert "\n" not in str(failure.value)
    write_digests(tmp_path)
    check_tensors(path)


def test_a_large_file_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensor_check, "LARGE_BYTES", 100)
    (tmp_path / "lm").mkdir()
    path = saved(tmp_path / "lm")
    read: list[Path] = []
    whole = tensor_check._digests_of
    monkeypatch.setattr(
        tensor_check, "_digests_of", lambda path, *more, **named: read.append(path) or whole(path, *more, **named)
    )
    for _ in range(3):
        check_tensors(path)
    assert read == [path]
    os.utime(path, ns=(1, 1))
    check_tensors(path)
    check_tensors(path)
    assert len(read) == 2
    digests = json.loads((tmp_path / "lm" / DIGESTS).read_text())
    digests["files"]["model.safetensors"]["weight"] = "0" * 32
    (tmp_path / "lm" / DIGESTS).write_text(json.dumps(digests))
    for _ in range(2):  # what failed is not remembered
        with pytest.raises(ValueError, match="weight differs"):
            check_tensors(path)
    write_digests(tmp_path / "lm")
    check_tensors(path)
    flip(path, "weight")
    with pytest.raises(ValueError, match="weight differs"):
        check_tensors(path)


def test_weight_files_are_one_or_those_of_the_index(tmp_path):
    with pytest.raises(ValueError, match="no model.safetensors in it"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match="pickled weights could run code"):
        weight_files(tmp_path)
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    with pytest.raises(ValueError, match=r"model-1.safetensors: no such file"):
        check_tensors(weight_files(tmp_path)[0])
