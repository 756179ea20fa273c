"""cli/shell.py: recipes by name; completion that bash itself accepts and completes with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llmcodec import assets
from llmcodec.cli.main import main
from llmcodec.cli.shell import completion


def test_recipes_are_listed_with_what_they_say_of_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == assets.recipe_names()
    assert all(len(line.split()) > 3 and len(line) < 120 for line in lines)


def test_a_recipe_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--name", "rate"]) == 0
    assert capsys.readouterr().out == assets.shipped_recipe("rate").read_text()
    assert main(["recipes", "--name", "loud"]) == 1
    assert "no recipe 'loud' in the package; it has" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("llmcodec enc", "encode"),
        ("llmcodec lm sa", "sample"),
        ("llmcodec encode --prec", "--precision"),
        ("llmcodec encode --format ar", "arrow"),
        ("llmcodec train --weights.ra", "--weights.rate"),
    ],
)
def test_bash_completes_commands_options_and_choices(typed: str, offered: str, tmp_path: Path) -> None:
    script = tmp_path / "llmcodec"
    script.write_text(completion("bash"))
    words = typed.split()
    code = f"""
source {script}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}
$(complete -p llmcodec | sed 's/.*-F \\([^ ]*\\).*/\\1/') llmcodec {words[-1]} {words[-2]}
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert offered in done.stdout.split(), done.stderr


def test_every_shell_has_a_script() -> None:
    for shell in ("zsh", "tcsh"):
        assert "reconstruct" in completion(shell)  # type: ignore[arg-type]
