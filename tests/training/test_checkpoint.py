"""Checkpoints: what was saved comes back, a save that fails at any stage leaves the one before, damage is named."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from llmcodec.training import checkpoint
from llmcodec.training.checkpoint import (
    join_tensors,
    list_checkpoints,
    load_checkpoint,
    load_rng_state,
    missing_items,
    rng_state,
    save_checkpoint,
    split_tensors,
)

from ..miniature import same


def items(value: float = 1.0) -> dict:
    """States of the kinds a run has: integer keys, scalars, empty and nested containers, several dtypes."""
    shared = torch.full((3,), value)
    return {
        "objective": {"weight": torch.randn(4, 2, dtype=torch.float64), "shared": shared, "again": shared},
        "optimizer": {"codec": [{0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 2).t()}, 7: {}}, {}]},
        "usage": {"counts": torch.arange(3), "bf16": torch.ones(2, dtype=torch.bfloat16), "empty": torch.zeros(0)},
        "progress": {"step": 3, "rate": 1e-3, "name": "run", "none": None, "flag": True, "list": [1, [2.5, "x"]]},
    }


def test_a_round_trip_keeps_values_dtypes_and_integer_keys(tmp_path):
    saved = items()
    folder = save_checkpoint(tmp_path, 12, saved)
    assert folder.name == "step_00000012" and same(load_checkpoint(folder), saved) == []
    assert not list(tmp_path.glob(".tmp*"))


def test_a_flipped_bit_and_values_that_are_not_finite_name_the_tensor(tmp_path):
    folder = save_checkpoint(tmp_path, 1, items())
    path = folder / "objective.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    with pytest.raises(ValueError, match=r"objective/\w+ differs from what was saved.*delete this folder to resume"):
        load_checkpoint(folder)
    path.write_bytes(whole)
    assert same(load_checkpoint(folder), load_checkpoint(folder)) == []
    (folder / "digests.json").unlink()  # as llmcodec 0.1 left it
    load_checkpoint(folder)
    unknown = items()
    unknown["usage"]["usage_V"] = torch.tensor([torch.inf])  # codes of another partition
    assert load_checkpoint(save_checkpoint(tmp_path, 2, unknown))["usage"]["usage_V"].isinf().all()
    unknown["objective"]["weight"][1, 1] = torch.nan
    folder = save_checkpoint(tmp_path, 3, unknown)
    with pytest.raises(ValueError, match="objective/weight holds NaN or infinite values"):
        load_checkpoint(folder)


def test_the_comparison_itself_sees_differences():
    assert same(items(1.0), items(2.0)), "random weights differ"
    assert same({0: torch.ones(1)}, {"0": torch.ones(1)}) and same(torch.ones(1), torch.ones(1).double())


def test_a_state_that_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"thing/deep/0 holds a set"):
        save_checkpoint(tmp_path, 1, {"thing": {"deep": [{1, 2}]}})
    assert not list(tmp_path.iterdir())


def test_only_the_newest_checkpoints_stay(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, items(), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000015", "step_00000020"]
    assert len(list(tmp_path.iterdir())) == 2
    save_checkpoint(tmp_path, 25, items(), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000025"]


def test_the_same_step_saved_twice_is_the_newer(tmp_path):
    save_checkpoint(tmp_path, 5, items(1.0))
    save_checkpoint(tmp_path, 5, items(2.0))
    assert load_checkpoint(tmp_path / "step_00000005")["objective"]["shared"][0] == 2.0
    assert len(list(tmp_path.iterdir())) == 1


STAGES = ("save_file of the first item", "save_file of the third item", "write state.json", "fsync", "rename", "full")


def break_at(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on that stage of a save fails like a full or broken disk."""
    calls = {"save_file": 0}
    save_file, rename = checkpoint.save_file, Path.rename

    def failing_save_file(tensors, path):
        calls["save_file"] += 1
        if stage == "full":
            raise SafetensorError("Error while serializing: No space left on device")
        if calls["save_file"] == (1 if "first" in stage else 3):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    def failing_rename(self, target):
        if Path(target).name.startswith("step_") and not self.name.endswith(".old"):
            fail()
        return rename(self, target)

    if "save_file" in stage or stage == "full":
        monkeypatch.setattr(checkpoint, "save_file", failing_save_file)
    elif stage == "write state.json":
        monkeypatch.setattr(Path, "write_text", fail)
    elif stage == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", failing_rename)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [6, 5], ids=["next step", "same step"])
def test_a_save_that_fails_leaves_the_previous_checkpoint_and_no_rubbish(stage, step, tmp_path, monkeypatch):
    before = items()
    save_checkpoint(tmp_path, 5, before, keep=1)
    with monkeypatch.context() as patch:
        break_at(stage, patch)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, step, items(2.0), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]
    assert same(load_checkpoint(tmp_path / "step_00000005"), before) == []
    save_checkpoint(tmp_path, step, before, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"step_0000000{step}"]


def test_everything_is_flushed_before_the_rename_and_the_rename_itself_after(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1])
    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are read from /proc")
    save_checkpoint(tmp_path, 1, items())
    at = events.index("rename")
    flushed = {Path(name).name for name in events[:at]}
    assert {"state.json", "objective.safetensors", "optimizer.safetensors", "usage.safetensors"} < flushed
    assert any(name.startswith(".step_") for name in flushed), "the folder's own entries"
    assert events[at + 1 :] == [str(tmp_path)]


def test_rubbish_of_a_killed_process_is_removed_and_never_listed(tmp_path):
    stale = tmp_path / ".tmp_step_00000003_4711"
    stale.mkdir()
    (stale / "state.json").write_text("{}")
    (tmp_path / "step_00000004").write_text("a file, not a folder")
    assert list_checkpoints(tmp_path) == [] == list_checkpoints(tmp_path / "nowhere")
    save_checkpoint(tmp_path, 5, items())
    assert not stale.exists()


def damage(folder: Path, kind: str) -> None:
    weights = folder / "objective.safetensors"
    if kind == "short file":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif kind == "no file":
        weights.unlink()
    elif kind == "empty file":
        weights.write_bytes(b"")
    elif kind == "huge header":
        weights.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    elif kind == "other tensors":
        (folder / "usage.safetensors").replace(weights)
    elif kind == "short json":
        (folder / "state.json").write_text((folder / "state.json").read_text()[:-20])
    elif kind == "no json":
        (folder / "state.json").unlink()
    elif kind == "other json":
        (folder / "state.json").write_text(json.dumps([1, 2]))


@pytest.mark.parametrize(
    "kind",
    ["short file", "no file", "empty file", "huge header", "other tensors", "short json", "no json", "other json"],
)
def test_a_damaged_checkpoint_is_a_value_error_that_names_the_folder(kind, tmp_path):
    folder = save_checkpoint(tmp_path, 3, items())
    damage(folder, kind)
    with pytest.raises(ValueError, match=r"step_00000003: unreadable .* delete this folder"):
        load_checkpoint(folder)


def test_missing_items_are_found_at_any_depth():
    expected = {"a": {"x": torch.ones(1), "y": {0: torch.ones(1)}}, "b": 1}
    assert missing_items(expected, expected) == []
    assert missing_items(expected, {"a": {"x": torch.ones(2), "y": {}}, "b": 2, "more": 1}) == ["a/y/0"]
    assert missing_items(expected, {"a": {"x": 3.0, "y": {0: torch.ones(1)}}}) == ["a/x", "b"]
    assert missing_items(expected, {"a": 5, "b": 1}) == ["a"]


def test_random_states_of_every_kind_come_back(tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    random.gauss(0, 1), np.random.standard_normal()  # each keeps a second value back
    folder = save_checkpoint(tmp_path, 1, {"rng": rng_state()})
    first = (random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    load_rng_state(load_checkpoint(folder)["rng"])
    again = (random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist())
    assert first == again


def test_tensors_are_copied_at_the_moment_of_saving():
    weight, tensors = torch.ones(2), {}
    tree = split_tensors({"w": weight}, "item", tensors)
    weight.zero_()
    assert join_tensors(tree, tensors)["w"].tolist() == [1.0, 1.0]
