"""cli/recipes.py: short names are the recipe's keys, shipped recipes are found by name, a training sees its device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from llmcodec import assets
from llmcodec.cli.experiments import train_parser
from llmcodec.cli.lm import lm_train_parser
from llmcodec.cli.main import main
from llmcodec.cli.recipes import find_recipe, show_device


def test_short_names_are_the_recipes_keys() -> None:
    clips = "--manifest m.jsonl --sources a,b --languages [no] --min-seconds 1 --max_seconds=9 --split dev"
    short = train_parser().read_recipe(f"--config control -o there --codec tiny {clips}".split())
    long = "--run=there --data.manifest=m.jsonl --data.sources=[a,b] --data.min_seconds=1 --data.max_seconds=9"
    keys = [*long.split(), "--codec.start=tiny", '--data.languages=["no"]', "--data.split=dev"]
    assert short == train_parser().read_recipe(["--config", str(assets.shipped_recipe("control")), *keys])
    assert short.run == "there" and short.data.languages == ["no"] and short.codec.start == "tiny"
    assert train_parser().read_recipe(["--config=rate", "--sources", "null"]).data.sources is None
    lm = lm_train_parser().read_recipe(["--output", "there", "--codec", "mine", "--sources", "a"])
    assert (lm.run, lm.data.codec, lm.data.sources) == ("there", "mine", ["a"])


def test_later_arguments_win_whatever_their_spelling() -> None:
    assert train_parser().read_recipe(["--run", "a", "-o", "b"]).run == "b"
    assert train_parser().read_recipe(["--output=b", "--run=a"]).run == "a"


def test_an_unknown_option_of_a_recipe_is_one_line_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for typed, meant in (("--manifets", "--manifest"), ("--setps", "--steps"), ("--weights.raet", "--weights.rate")):
        with pytest.raises(SystemExit):
            train_parser().read_recipe([typed, "1"])
        assert f"no option {typed}; did you mean {meant}?" in capsys.readouterr().err


def test_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = str(assets.shipped_recipe("rate"))
    assert find_recipe("rate") == find_recipe("recipes/rate.yaml") == shipped
    assert find_recipe("ablations/causal").endswith("ablations/causal.yaml")
    assert find_recipe("{steps: 1}") == "{steps: 1}" and find_recipe("mine.yaml") == "mine.yaml"
    (tmp_path / "rate.yaml").write_text("steps: 1\n")
    assert find_recipe("rate.yaml") == "rate.yaml"
    with pytest.raises(ValueError, match="no recipe raet: did you mean rate\\? `llmcodec recipes` lists them"):
        find_recipe("raet")
    with pytest.raises(ValueError, match="no recipe 'loud' in the package; it has ablations/"):
        assets.shipped_recipe("loud")


def test_the_sweep_file_may_stand_anywhere(tmp_path: Path) -> None:
    from llmcodec.cli.main import main

    (tmp_path / "sweep.yaml").write_text("folder: nowhere\nmanifest: x\nrows: {}\n")
    assert main(["sweep", "-o", str(tmp_path / "out"), str(tmp_path / "sweep.yaml"), "--sources", "a,b"]) == 0
    assert (tmp_path / "out" / "table.md").exists()


def test_a_training_sees_its_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not there"):
        show_device("gpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a GPU each"):
        show_device("cuda:1")
    monkeypatch.delenv("WORLD_SIZE")
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "0")  # what `show_device` sets goes again at the end
    show_device("cpu")
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["ACCELERATE_USE_CPU"]) == ("", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert Accelerator().device.type == "cpu"
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.cuda.is_available():  # in a process that has not asked for the GPU yet
        code = (
            "from llmcodec.cli.recipes import show_device; show_device('cpu'); import torch; "
            "assert not torch.cuda.is_available()"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text,said",
    [
        ("steps: 3\nname: " + "[" * 100_000, "line 2: lists or maps nested"),
        (BOMB, "line 6: stands for more than 100,000 values"),
        ("steps: [1, 2\nname: x", "line 2: not YAML (expected"),
    ],
)
def test_a_recipe_that_is_not_sound_yaml_is_one_line_with_file_and_line(text, said, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "mine.yaml")]) == 1
    error = capsys.readouterr().err.strip()
    assert "mine.yaml, " + said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("section", ["optimizer", "codec", "spectral.multi_mel"])
def test_a_section_that_is_null_is_named(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Found by `make soak`: a TypeError out of the parser."""
    outer, _, inner = section.partition(".")
    (tmp_path / "a.yaml").write_text(f"{outer}: {{{inner}: null}}\n" if inner else f"{outer}: null\n")
    assert main(["train", "--config", "rate", "--config", str(tmp_path / "a.yaml")]) == 1
    assert capsys.readouterr().err == f"llmcodec train: {section} is null; leave it out, or give its fields\n"


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_bytes(b"steps: 3 # \xff\n")
    assert main(["train", "--config", str(tmp_path / "a.yaml")]) == 1
    assert f"{tmp_path / 'a.yaml'}: not a text in UTF-8" in capsys.readouterr().err
