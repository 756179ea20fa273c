"""The console script: help that teaches, one line for bad input, exit codes."""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial

import pytest

from llmcodec import __version__
from llmcodec.cli.commands import COMMANDS, Command, every_command
from llmcodec.cli.main import main
from llmcodec.io.run_guard import Stopped

from .commands import finish, start

EVERY = [program.removeprefix("llmcodec ") for program, _ in every_command()]


def test_usage_names_every_command(capsys):
    assert main([]) == 2 and main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out


def test_an_unknown_command_is_named(capsys):
    assert main(["transmogrify"]) == 2
    assert "no command 'transmogrify'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"), [("encod", "encode"), ("score", "lm score"), ("lm smaple", "lm sample"), ("hub", "data hub")]
)
def test_the_command_that_was_meant_is_named(typed, meant, capsys):
    assert main(typed.split()) == 2
    assert f"; did you mean `llmcodec {meant}`?" in capsys.readouterr().err


@pytest.mark.parametrize("command", EVERY)
def test_every_command_explains_itself(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown) > 150 and f"\n  llmcodec {command} " in shown, "it has an example"


def test_bad_input_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["data", "manifest", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("llmcodec data manifest:") and "nowhere" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "command", ["evaluate reconstruction", "evaluate predictability", "evaluate salmon", "data manifest", "quickstart"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_is_one_line_that_says_how_to_go_on(command, number, monkeypatch, capsys, tmp_path):
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("llmcodec.cli.parser.run_function", stop)
    monkeypatch.setattr("llmcodec.experiments.quickstart.run_quickstart", stop)
    before = signal.getsignal(number)
    assert main(command.split()) == 128 + number and signal.getsignal(number) == before
    said = {"quickstart": "what has been trained is kept", "evaluate predictability": "codecs that are done are kept"}
    line = capsys.readouterr().err
    assert line.startswith(f"llmcodec {command}: stopped by {number.name}: ") and line.count("\n") == 1
    assert said.get(command, "what it was writing is removed; start it again") in line


def test_a_training_of_quickstart_speaks_of_quickstart(monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise Stopped(signal.SIGTERM, "step 3 is saved; continue with --resume")

    monkeypatch.setattr("llmcodec.experiments.quickstart.run_quickstart", stop)
    assert main(["quickstart"]) == 143
    line = capsys.readouterr().err
    assert "--resume" not in line and "start the same command again" in line


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("weights"), 1, "internal error (KeyError: 'weights'); please report it, --debug shows where"),
        (TypeError("a\nb"), 1, "internal error (TypeError: a); please report it, --debug shows where"),
        (AssertionError(), 1, "internal error (AssertionError); please report it, --debug shows where"),
        (RecursionError("maximum depth"), 1, "internal error (RecursionError: maximum depth); please report it, "),
        (MemoryError(), 1, "out of memory (MemoryError); smaller batches"),
        (ZeroDivisionError("division by zero"), 1, "division by zero"),
        (ValueError("x: no such file"), 1, "x: no such file"),
        (Stopped(15, "--resume goes on"), 143, "stopped by SIGTERM: --resume goes on"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_debug_shows_where(error, code, line, monkeypatch, capsys):
    def run(command: Command, program: str, arguments: list[str]) -> None:
        assert arguments == ["in"]
        raise error

    monkeypatch.setattr(Command, "run", run)
    monkeypatch.setattr("llmcodec.cli.main.silence", lambda stream: None)  # the streams of the test go on
    assert main(["encode", "in"]) == code
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"llmcodec encode: {line}" if line else "")
    assert len(shown.err.splitlines()) == bool(line)
    for typed in (["--debug", "encode", "in"], ["encode", "in", "--debug"]):
        assert main(typed) == code
        shown = capsys.readouterr().err
        assert "Traceback" in shown and "raise error" in shown and (f"\nllmcodec encode: {line}" in shown or not line)


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["encode", "in.wav", "-o", "-"]])
def test_a_reader_that_has_had_enough_is_no_error(arguments, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip("in.wav")
    reader, writer = os.pipe()
    os.close(reader)
    code, _, error = finish(start(*arguments, stdout=writer))
    os.close(writer)
    assert code == 141
    assert error == "" or error.startswith("encoded 1 file")


def closed(*numbers: int) -> Callable[[], None]:
    """Closes streams of a process before it begins, as `<&-` does."""
    return partial(list, map(os.close, numbers))


def test_streams_that_the_shell_has_closed(clip, tmp_path):
    source = clip("in.wav")
    refused = [
        (["encode", "-", "-o", tmp_path / "a.safetensors"], 0, "encode: standard input is closed"),
        (["decode", "--text", "-", "-o", tmp_path / "a.wav"], 0, "decode: standard input is closed"),
        (["encode", source, "-o", "-"], 1, "encode: standard output is closed"),
    ]
    # All at once: most of each is the start of a process.
    started = [start(*arguments, preexec_fn=closed(number)) for arguments, number, _ in refused]
    helped = start("--help", preexec_fn=closed(1))
    encoded = [start("encode", source, "-o", "-", **more) for more in ({}, {"preexec_fn": closed(2)})]
    for process, (*_, message) in zip(started, refused, strict=True):
        code, _, error = finish(process)
        assert code == 1 and error.startswith(f"llmcodec {message}") and len(error.splitlines()) == 1
    assert finish(helped)[0] == 0
    (_, whole, _), (code, out, _) = map(finish, encoded)
    assert code == 0 and out == whole and len(out) > 100


def test_help_needs_no_torch():
    code = "import sys; from llmcodec.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_warning_is_its_text_once_and_debug_shows_where(monkeypatch, capsys):
    def warned(program: str, arguments: list[str]) -> None:
        for _ in range(2):
            print(warnings.formatwarning(UserWarning("a.wav: cut short"), UserWarning, "x.py", 3, "read()"), end="")

    monkeypatch.setattr(Command, "run", lambda self, *rest: warned(*rest))
    assert main(["recipes"]) == 0 and capsys.readouterr().out == "warning: a.wav: cut short\n"
    assert main(["recipes", "--debug"]) == 0 and capsys.readouterr().out.count("x.py:3: UserWarning: a.wav") == 2
