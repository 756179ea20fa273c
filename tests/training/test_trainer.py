"""The trainer's guards: steps that are not finite, collapse, code revival, the average, overwriting."""

from __future__ import annotations

import copy
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode

from llmcodec.codec import LLMCodec
from llmcodec.data.clips import ClipBatch
from llmcodec.objectives.gumbel import FrameNoise
from llmcodec.training.checkpoint import list_checkpoints, load_checkpoint
from llmcodec.training.run_folder import is_finished
from llmcodec.training.tracking import as_floats, read_log
from llmcodec.training.trainer import CollapseError, Trainer, train_or_resume

from ..miniature import everything_on, same


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trainer")


def trainer_of(folder: Path, run: str, **options: Any) -> Trainer:
    return Trainer(everything_on("paper", folder, run, **options), show_progress=False)


def batches(trainer: Trainer) -> list[ClipBatch]:
    return [next(trainer.loader) for _ in range(trainer.recipe.accumulate)]


def with_nan(batch: ClipBatch) -> ClipBatch:
    wav_BS = batch.wav_BS.clone()
    wav_BS[0, 100] = torch.nan
    return replace(batch, wav_BS=wav_BS)


def unlike(after: dict[str, Any], before: dict[str, Any]) -> list[str]:
    return [line for line in same(after, before) if not line.startswith(("/progress", "/sampler"))]


def test_audio_that_is_missing_is_told_before_the_first_step(tmp_path):
    recipe = everything_on("paper", tmp_path, "missing")
    gone = next(Path(recipe.data.manifest).parent.glob("*.wav"))
    gone.unlink()
    with pytest.raises(ValueError, match=f"1 of . audio files cannot be read:\n.*{gone.name}: No such file"):
        Trainer(recipe, show_progress=False)


def test_bad_clips_within_the_limit_are_named_and_replaced(tmp_path, capsys):
    recipe = everything_on("paper", tmp_path, "bad")
    paths = sorted(Path(recipe.data.manifest).parent.glob("*.wav"))
    paths[0].unlink()
    paths[1].write_text("no audio")
    recipe = replace(recipe, data=replace(recipe.data, max_bad=2, prefetch=0))
    trainer = Trainer(recipe, show_progress=False)
    assert f"left out: clip0: {paths[0]}: No such file" in capsys.readouterr().err, "before the first step"
    seen = {name for _ in range(9) for batch in batches(trainer) for name in batch.ids}
    assert seen and not seen & {"clip0", "clip1"} and set(trainer.loader.dataset.bad.reasons) == {"clip0", "clip1"}
    assert f"left out: clip1: {paths[1]}: not an audio file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="2 of . audio files cannot be read"):
        paths[1].unlink()
        Trainer(replace(recipe, run=str(tmp_path / "no"), data=replace(recipe.data, max_bad=1)), show_progress=False)


def test_a_step_that_is_not_finite_leaves_no_trace_but_its_count(folder):
    trainer = trainer_of(folder, "nan")
    assert trainer.train_step(batches(trainer)) is not None
    before = copy.deepcopy(trainer.training_state())
    first, second = batches(trainer)
    assert trainer.train_step([first, with_nan(second)]) is None
    assert unlike(trainer.training_state(), before) == [], "weights, bank, batch norm, usage, adversary, average"
    assert trainer.training_state()["progress"] == {"step": 2, "bad_steps": 1, "skipped": 1, "revived": 0}
    assert all(p.grad is None for p in trainer.objective.parameters())
    row = trainer.train_step(batches(trainer))
    assert row is not None and trainer.bad_steps == 0 and trainer.skipped == 1
    assert all(torch.isfinite(p).all() for p in trainer.objective.parameters())


def test_a_gradient_that_is_not_finite_is_found_though_every_loss_is(folder):
    trainer = trainer_of(folder, "gradient", accumulate=1)
    head = trainer.objective.language.prediction.rows[0]
    handle = head.register_hook(lambda gradient: gradient * torch.inf)
    before = copy.deepcopy(trainer.training_state())
    guilty: list[str] = []
    skip = trainer.skip
    trainer.skip = lambda names, buffers: (guilty.extend(names), skip(names, buffers))  # type: ignore[method-assign]
    assert trainer.train_step(batches(trainer)) is None
    assert guilty == ["grad_norm/audio"] and unlike(trainer.training_state(), before) == []
    handle.remove()
    assert trainer.train_step(batches(trainer)) is not None


def test_norms_are_on_the_device_of_the_losses_also_where_a_group_has_no_gradient(folder):
    trainer = trainer_of(folder, "delayed", accumulate=1)
    assert all(p.grad is None for group in trainer.groups for p in group.parameters)  # a delayed learning rate
    trainer.device = torch.device("meta")  # any other than the CPU
    norms = trainer.clip()
    assert set(norms) == {group.name for group in trainer.groups}
    assert {norm.device.type for norm in norms.values()} == {"meta"}


def test_the_figures_of_a_step_are_fetched_together():
    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += function is torch.ops.aten._local_scalar_dense.default  # what float(tensor) does
            return function(*args, **kwargs or {})

    row = {"b": torch.tensor(0.1), "a": 0.5, "c": torch.tensor(0.1, dtype=torch.float64), "d": torch.tensor(torch.inf)}
    with Waits() as waits:
        found = as_floats(row)
    assert waits.count == 0  # `tolist` is a single copy
    assert list(found) == list(row) and found == {name: float(value) for name, value in row.items()}
    assert all(type(value) is float for value in found.values())


def test_a_step_asks_for_no_more_values_than_it_did(folder):
    """On a GPU each of these waits for all that was started: a ceiling that may only be lowered."""

    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.overloadpacket.__name__
            chosen = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
            by_mask = any(place is not None and place.dtype == torch.bool for place in chosen)
            self.count += by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")
            return function(*args, **kwargs or {})

    trainer = trainer_of(folder, "waits", accumulate=1)
    batch = batches(trainer)
    with Waits() as waits:
        assert trainer.train_step(batch) is not None
    assert 0 < waits.count <= 19  # norms, draws of the views and the average's count are on the CPU of a GPU too


def test_forward_and_backward_ask_a_device_for_nothing(folder, monkeypatch):
    """Tensors on `meta` have no values: one that is looked at, or that meets one on the CPU, is an error."""
    outside = dict(bigram="null", teacher="null", weights__bigram=0, weights__distill_l1=0, weights__distill_cosine=0)
    trainer = trainer_of(folder, "meta", accumulate=1, **outside)  # what is no submodule does not move with it
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)  # it asks
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(FrameNoise, "rows", lambda self, first, end, _: torch.ones(end - first, self.width).to("meta"))
    objective, adversary, batch = trainer.objective.to("meta"), trainer.adversary, batches(trainer)[0]
    assert adversary is not None and adversary.to("meta") and len(set(batch.lengths_B.tolist())) > 1
    terms = objective(replace(batch, wav_BS=batch.wav_BS.to("meta")), 0)
    terms.total.backward()
    assert len(terms.raw) == 15 and all(p.grad is not None for p in objective.codec.parameters())


def test_bad_steps_in_a_row_end_the_run_naming_the_term_with_the_newest_checkpoint_intact(folder):
    options: dict[str, Any] = dict(accumulate=1, max_bad_steps=3, checkpoint_every=1, steps=50)
    trainer = trainer_of(folder, "ends", **options)
    spectral, calls = trainer.objective.spectral, []

    def poisoned(*arguments: Any) -> dict[str, torch.Tensor]:
        terms = type(spectral).forward(spectral, *arguments)
        calls.append(1)
        return terms | {"recon/mel": terms["recon/mel"] * torch.nan} if len(calls) > 2 else terms

    spectral.forward = poisoned
    with pytest.raises(FloatingPointError, match=r"3 non-finite steps in a row \(recon/mel, grad_norm/codec\)"):
        trainer.run()
    assert len(calls) == 5 and [row["step"] for row in read_log(folder / "ends" / "log.jsonl")] == [1, 2]
    newest = load_checkpoint(list_checkpoints(folder / "ends" / "checkpoints")[-1])
    assert newest["progress"] == {"step": 4, "bad_steps": 2, "skipped": 2, "revived": 0}
    assert all(torch.isfinite(value).all() for value in newest["objective"].values())
    resumed = Trainer(everything_on("paper", folder, "ends", **options), resume=True, show_progress=False)
    assert resumed.step == 4 and resumed.train_step(batches(resumed)) is not None


def test_a_collapse_warns_or_stops_with_a_checkpoint(folder):
    stop = dict(floors__min_perplexity=1e6, floors__action="stop", accumulate=1)
    with pytest.raises(CollapseError, match="step 1: tokens are collapsing: codes are collapsing: perplexity"):
        trainer_of(folder, "stops", **stop).run()
    assert [path.name for path in list_checkpoints(folder / "stops" / "checkpoints")] == ["step_00000001"]


def test_what_is_exported_is_the_average(folder, monkeypatch):
    monkeypatch.setattr("llmcodec.training.trainer.plot_curves", lambda *_: None)
    trainer = trainer_of(folder, "average", accumulate=1, steps=3, log_every=2)
    clock = SimpleNamespace(monotonic=lambda: 10.0 * trainer.step)
    monkeypatch.setattr("llmcodec.training.trainer.time", clock)
    exported = LLMCodec.from_pretrained(trainer.run()).state_dict()
    rows = read_log(folder / "average" / "log.jsonl")
    assert [(row["step"], row["seconds_per_step"]) for row in rows] == [(2, 10.0), (3, 10.0)]
    assert trainer.ema is not None and same(exported, dict(trainer.ema.module.state_dict())) == []
    assert same(exported, trainer.codec.state_dict())
    for name in ("audio_rows.safetensors", "prediction_heads.safetensors", "run.json"):
        assert (folder / "average" / name).is_file()


def test_a_run_is_finished_when_the_codec_of_its_last_step_is_whole(folder, monkeypatch):
    monkeypatch.setattr("llmcodec.training.trainer.plot_curves", lambda *_: None)
    one = everything_on("paper", folder, "finished", steps=1, accumulate=1)
    codec = train_or_resume(one)
    weights, two = codec / "model.safetensors", replace(one, steps=2)
    of_one = weights.read_bytes()
    assert is_finished(one) and not is_finished(two)
    assert "# finished/codec\n" in (codec / "README.md").read_text() and ".tmp" not in (codec / "README.md").read_text()

    def killed(self: Any, place: Path, **_: Any) -> None:
        (place / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LLMCodec, "save_pretrained", killed)
        train_or_resume(two)
    assert read_log(folder / "finished" / "log.jsonl")[-1]["step"] == 2
    assert weights.read_bytes() == of_one and not is_finished(two), "whole, but of the shorter run"
    assert train_or_resume(two) == codec and is_finished(two)
    of_two = weights.read_bytes()
    ema = load_checkpoint(list_checkpoints(folder / "finished" / "checkpoints")[-1])["ema"]
    state = {f"module.{name}": value for name, value in LLMCodec.from_pretrained(codec).state_dict().items()}
    assert of_two != of_one and same(state, {name: ema[name] for name in state}) == []

    weights.write_bytes(of_two[:-4])
    assert not is_finished(two)
    weights.unlink()  # as a kill in the middle of writing left it before
    assert not is_finished(two) and train_or_resume(two) == codec and weights.read_bytes() == of_two
    monkeypatch.setattr("llmcodec.training.trainer.Trainer", None)
    assert train_or_resume(two) == codec
    with pytest.raises(ValueError, match=r"finished: the run was begun with another recipe: seed was 0, is 3"):
        train_or_resume(replace(two, seed=3))
    run, whole = folder / "finished" / "run.json", (folder / "finished" / "run.json").read_text()
    run.write_text(re.sub(r'"hash": "\w+"', '"hash": "f00d"', whole))
    with pytest.raises(ValueError, match=r"clips of data.manifest was 'as at its beginning', is 'others'"):
        train_or_resume(two)
    run.write_text(whole)
    shutil.rmtree(folder / "finished" / "checkpoints")
    assert train_or_resume(two) == codec and not is_finished(replace(one, steps=3))
    (folder / "finished" / "log.jsonl").unlink()
    assert not is_finished(two)


def test_revival_moves_dead_codes_of_the_partition_alone(folder):
    trainer = trainer_of(folder, "revive", codec__revive_every=1, codec__revive_below=1.0, accumulate=1)
    low, high = trainer.objective.partition
    assert (low, high) == (0, 26)
    for group in trainer.groups:
        group.lr = lambda step: 0.0
    before = trainer.codec.quantizer.codebook.detach().clone()
    row = trainer.train_step(batches(trainer))
    assert row is not None
    moved = (trainer.codec.quantizer.codebook != before).any(1).nonzero()[:, 0].tolist()
    assert 0 < row["codes/revived"] == len(moved) and max(moved) < high


def test_two_trainers_of_the_same_recipe_are_equal_and_of_another_seed_are_not(folder):
    rows = [
        (trainer := trainer_of(folder, f"twin{seed}", accumulate=1, seed=seed)).train_step(batches(trainer))
        for seed in (4, 4, 5)
    ]
    assert same(rows[0], rows[1]) == [] and len(same(rows[0], rows[2])) > 10


def test_the_recipe_decides_on_precision_not_the_settings_of_accelerate(folder, monkeypatch):
    AcceleratorState._reset_state()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert Accelerator().mixed_precision == "bf16"  # as a trainer before in this process may have it
    trainer = trainer_of(folder, "precision", accumulate=1)
    inside, seen = torch.nn.Linear(2, 2), []
    spectral = trainer.objective.spectral.forward

    def spy(*arguments: Any) -> dict[str, torch.Tensor]:
        seen.append(inside(torch.ones(1, 2)).dtype)
        return spectral(*arguments)

    trainer.objective.spectral.forward = spy
    trainer.model(trainer.move(batches(trainer)[0]), 0)
    assert seen == [torch.float32] and trainer.accelerator.scaler is None
