"""cli/parser.py: a function's signature and docstring become options and help; every spelling of an option is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from llmcodec.cli.main import main
from llmcodec.cli.options import ClipOptions, CodecOptions, OutputOptions, ResumeOptions
from llmcodec.cli.pages import page_of, render
from llmcodec.cli.parser import function_parser, options_of, run_function


@dataclass(frozen=True)
class Budget:
    """What it may cost."""

    num_steps: int = 1
    """Steps."""


CODES = OutputOptions("codes")


def command(
    inputs: list[str],
    codec: CodecOptions,
    corpus: ClipOptions,
    output: OutputOptions = CODES,
    kind: Literal["a", "b"] = "a",
    parts: tuple[str, ...] | None = None,
    range_db: tuple[float, float] = (0.0, 15.0),
    budget: Budget | None = None,
    mel: bool = True,
) -> dict[str, Any]:
    """Do it, to 95 % of them.

      llmcodec it a.wav b.wav -o there

    Args:
        inputs: files that are read,
            several of them.
        codec: the codec's name, 100 % of it.
        corpus: which speech.
        output: folder for the codes.
        kind: what kind.
        parts: some parts.
        range_db: lowest and highest.
        budget: what it may cost.
        mel: also Mel.

    Raises:
        ValueError: never.
    """
    return locals()


def run(*arguments: str) -> dict[str, Any]:
    return run_function(command, "llmcodec it", arguments)


def test_groups_get_their_fields_and_defaults() -> None:
    got = run("x", "y")
    assert got["inputs"] == ["x", "y"] and got["codec"] == CodecOptions() and got["corpus"] == ClipOptions()
    assert got["output"] == CODES and got["mel"] is True and got["range_db"] == (0.0, 15.0) and got["budget"] is None
    got = run(
        "x", "--codec", "mine", "--runtime=onnx", "-o", "there", "--min-seconds", "2", "--split", "dev", "--mel=false"
    )
    assert got["codec"] == CodecOptions(codec="mine", runtime="onnx") and got["output"].output == "there"
    assert got["corpus"] == ClipOptions(min_seconds=2.0, split=("dev",)) and got["mel"] is False


@pytest.mark.parametrize("text", ["en,no", "en, no", "[en,no]", "[en, no]", "['en', \"no\"]"])
def test_names_are_joined_by_commas_with_or_without_brackets(text: str) -> None:
    assert run("x", "--languages", text)["corpus"].languages == ("en", "no")
    assert run("x", f"--parts={text}")["parts"] == ("en", "no")


def test_numbers_are_joined_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in (["--range-db", "-3,4"], ["--range_db=[-3, 4]"]):
        assert run("x", *typed)["range_db"] == (-3.0, 4.0)
    with pytest.raises(ValueError, match="--range-db takes values joined by commas; not '1,loud'"):
        run("x", "--range-db=1,loud")
    for wrong in ("1", "1,2,3"):
        with pytest.raises(SystemExit):
            run("x", f"--range-db={wrong}")
        assert "range_db" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("x", "--range-db", "--mel")
    assert "argument --range-db: expected one argument" in capsys.readouterr().err


def test_underscores_and_lone_flags_are_read() -> None:
    got = run("x", "--min_seconds=2", "--max_seconds", "3", "--mel", "--kind", "b", "--budget.num_steps", "4")
    assert (got["corpus"].min_seconds, got["corpus"].max_seconds, got["mel"], got["kind"]) == (2.0, 3.0, True, "b")
    assert got["budget"] == Budget(4)


def test_repeated_options_keep_their_commas() -> None:
    def say(text: list[str] | None = None) -> list[str] | None:
        """Say it."""
        return text

    say.__annotations__ = {"text": list[str] | None}
    typed = ["--text", "one, two", "--text=[three]"]
    assert run_function(say, "llmcodec it", typed) == ["one, two", "[three]"]
    assert run_function(say, "llmcodec it", []) is None


def test_an_old_name_works_and_warns_once(capsys: pytest.CaptureFixture[str]) -> None:
    got = run("x", "--splits", "a", "--splits=b,c")
    assert got["corpus"].split == ("b", "c")
    assert capsys.readouterr().err == "llmcodec it: --splits is --split now; the old name goes with the next release\n"


def test_help_comes_from_docstrings() -> None:
    shown = " ".join(render("llmcodec it", page_of(function_parser(command, "llmcodec it")), everything=True).split())
    for text in (
        "usage: llmcodec it INPUTS... [-o OUTPUT] [options] Do it, to 95 % of them. llmcodec it a.wav b.wav -o there ",
        "files that are read, several of them.",
        "the codec's name, 100 % of it.",
        "-o, --output OUTPUT folder for the codes. (default: codes)",
        "--min-seconds X Leave out shorter clips. (default: 0.5)",
        "--range-db A,B lowest and highest. (default: 0.0,15.0)",
        "--kind {a,b} what kind. (default: a)",
        "--budget {...} what it may cost. --budget.help lists its fields.",
        "--mel {true,false} also Mel. (default: true)",
    ):
        assert text in shown, text
    assert "never" not in shown


def test_an_unknown_option_is_one_line_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, said in (
        ("--min-secnods 3", "no option --min-secnods; did you mean --min-seconds?"),
        ("--min_secnods=3", "no option --min_secnods; did you mean --min-seconds?"),
        ("--min-second 3", "no option --min-second; did you mean --min-seconds?"),  # options are not abbreviated
        ("--zzzz", "no option --zzzz"),
        ("--kind a b c.jsonl", "one value too many: b; write its option before it: --OPTION b"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run("x", *typed.split())
        assert stopped.value.code == 2
        assert capsys.readouterr().err == f"llmcodec it: {said}\n`llmcodec it --help` explains its options\n"


def test_every_field_of_a_group_has_a_help() -> None:
    def every(clips: ClipOptions, codec: CodecOptions, output: ResumeOptions) -> None:
        """Nothing."""

    every.__annotations__ = {"clips": ClipOptions, "codec": CodecOptions, "output": ResumeOptions}
    options = options_of(every)
    assert all(option.help.endswith(".") for option in options)
    assert {option.name for option in options} >= {"manifest", "split", "sources", "languages", "min_seconds"}
    assert {option.name for option in options} >= {"device", "precision", "runtime", "output", "resume"}


def convert(checkpoint: str, output: str, overwrite: bool = False) -> tuple[str, str, bool]:
    """Turn it.

    Args:
        checkpoint: what is turned.
        output: what it becomes.
        overwrite: over what is there.
    """
    return checkpoint, output, overwrite


@pytest.mark.parametrize("typed", ["a -o b --overwrite", "--output=b --overwrite a", "-o b a --overwrite true"])
def test_every_output_is_named_by_o(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_function(convert, "llmcodec it", typed.split()) == ("a", "b", True)
    assert capsys.readouterr().err == ""


def test_an_output_behind_the_inputs_is_still_understood(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ("a b --overwrite", "a --overwrite b", "--overwrite a b"):
        assert run_function(convert, "llmcodec it", typed.split()) == ("a", "b", True)
        assert capsys.readouterr().err.startswith("llmcodec it: name the output by -o b;")
    for wrong in ("a", "a b c", "a b -o c"):
        with pytest.raises(SystemExit):
            run_function(convert, "llmcodec it", wrong.split())


def test_a_value_written_as_an_option_is_told_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--codec", "bundled"])
    told = "llmcodec compare: no option --codec: write its values without it, right after `llmcodec compare`\n"
    assert capsys.readouterr().err.startswith(told)
