"""The console script: help that teaches, one line for bad input, exit codes."""

import subprocess
import sys

import pytest

from llmcodec import __version__
from llmcodec.cli.main import COMMANDS, Command, main

EVERY = [
    *(name for name, command in COMMANDS.items() if isinstance(command, Command)),
    *(f"{group} {name}" for group, inner in COMMANDS.items() if isinstance(inner, dict) for name in inner),
]


def test_usage_names_every_command(capsys):
    assert main([]) == 2 and main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out


def test_an_unknown_command_is_named(capsys):
    assert main(["transmogrify"]) == 2
    assert "no command 'transmogrify'" in capsys.readouterr().err


@pytest.mark.parametrize("command", EVERY)
def test_every_command_explains_itself(command, capsys):
    try:
        assert main([*command.split(), "--help"]) == 0
    except SystemExit as done:
        assert done.code == 0
    shown = capsys.readouterr().out
    assert len(shown) > 150 and f"\n  llmcodec {command} " in shown, "it has an example"


def test_bad_input_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["data", "manifest", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("llmcodec data manifest:") and "nowhere" in error and len(error.splitlines()) == 1


def test_help_needs_no_torch():
    code = "import sys; from llmcodec.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
