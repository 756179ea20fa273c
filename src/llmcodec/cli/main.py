"""The console script `llmcodec`: every command is a typed function, its help comes from the docstring.

The table in commands.py names them; a command's module is imported when it runs, and `--help` prints a stored page
(pages.py), so help answers at once.
Test: tests/cli/test_main.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from llmcodec.cli.commands import COMMANDS, GROUP_HELP, Command, every_command
from llmcodec.cli.urls import forget_urls, uploaded_results
from llmcodec.io.remote.paths import StoreError, shown
from llmcodec.io.run_guard import Stopped

HELP_FLAGS = ("-h", "--help", "--help-all")
BROKEN_PIPE = 141
"""128 + SIGPIPE, as in a shell."""
WITHOUT_TORCH = ("llmcodec", "torch", "transformers", "accelerate", "jinja2", "matplotlib")
"""What the distribution llmcodec-runtime comes without; of llmcodec itself, some packages."""
FIRST_STEPS = """\
  llmcodec encode speech/ -o tokens/                  audio to tokens, with the codec in the package
  llmcodec train --config rate -o runs/mine           adapt it; `llmcodec recipes` lists the recipes
  llmcodec compare bundled mine=runs/mine -o r.html   what it gained"""


def usage(program: str, commands: Mapping[str, Command | dict[str, Command]]) -> str:
    width = max(len(name) for name in commands)
    lines = [
        f"  {name:<{width}}  {command.help if isinstance(command, Command) else GROUP_HELP[name]}"
        for name, command in commands.items()
    ]
    steps = [FIRST_STEPS] if program == "llmcodec" else []
    urls = "Every path may be a URL: s3://, gs://, hf://, file://. " if program == "llmcodec" else ""
    more = f"{urls}`{program} COMMAND --help` explains a command; `--debug` anywhere shows where an error comes from."
    return "\n\n".join([f"usage: {program} COMMAND ...", *steps, "\n".join(lines), more])


def find_command(argv: list[str]) -> tuple[str, Command, list[str]] | int:
    """The command's full name as typed, the command and its arguments; an exit code if there is none to run."""
    if argv[:1] == ["--version"]:
        from llmcodec import __version__

        print(__version__)
        return 0
    program, commands = "llmcodec", COMMANDS
    while True:
        if not argv or argv[0] in HELP_FLAGS:
            print(usage(program, commands))
            return 0 if argv else 2
        name, *argv = argv
        if name not in commands:
            print(f"{program}: no command {name!r}{guess(name)}\n`{program} --help` lists all", file=sys.stderr)
            return 2
        program, command = f"{program} {name}", commands[name]
        if isinstance(command, Command):
            if asked := [one for one in argv if one in HELP_FLAGS]:
                print_page(program, command, everything="--help-all" in asked)
                return 0
            return program, command, argv
        commands = dict(command)


def print_page(program: str, command: Command, everything: bool) -> None:
    """Print what `--help` or `--help-all` shows."""
    from llmcodec.cli.pages import page_for, render

    print(render(program, page_for(program, command), command.first.split(), everything))


def guess(name: str) -> str:
    """The command that may have been meant: one with this last word, else one that is spelled alike."""
    from difflib import get_close_matches

    names = [program.removeprefix("llmcodec ") for program, _ in every_command()]
    last = {full.rpartition(" ")[2]: full for full in reversed(names)}
    near = get_close_matches(name, [*last, *COMMANDS], 1)
    return f"; did you mean `llmcodec {last.get(near[0], near[0])}`?" if near else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Every error ends in one line on stderr; `--debug` adds the traceback.

    Errors exit with 1, a signal with 128 + its number, and a closed pipe on standard output (`| head`) with 141,
    silently.
    """
    if sys.stderr is None:  # closed by `2>&-`: print would write to standard output then
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for the rest of the process
    typed = list(sys.argv[1:] if arguments is None else arguments)
    program = "llmcodec"
    try:
        found = find_command([argument for argument in typed if argument != "--debug"])
        code = found if isinstance(found, int) else 0
        if not isinstance(found, int):
            program, command, rest = found
            from llmcodec.io.progress import quiet_transformers

            quiet_transformers()
            try:
                with warnings_in_a_line("--debug" in typed), uploaded_results():
                    command.run(program, rest)
            except SystemExit:  # the configuration has been printed
                flush_output()
                raise
        flush_output()
        return code
    except (Exception, KeyboardInterrupt) as error:  # the last place that can tell the user in one line
        code, line = how_it_ends(error)
        told = traceback.format_exc() if "--debug" in typed else ""
        try:
            print(f"{told}{program}: {line}" if line else told, end="\n" if line else "", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # the terminal is gone
            silence(sys.stderr)
        if isinstance(error, BrokenPipeError):
            silence(sys.stdout)
        return code
    finally:
        forget_urls()


@contextlib.contextmanager
def warnings_in_a_line(debug: bool) -> Iterator[None]:
    """For users a warning is its text, once; with `debug` also where it comes from, as Python prints it."""
    python, told = warnings.formatwarning, set[str]()

    def one_line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        line = f"warning: {message}\n"
        if debug or not issubclass(category, UserWarning):
            return python(message, category, *where, **more)
        if line in told:
            return ""
        told.add(line)
        return line

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = python


def how_it_ends(error: BaseException) -> tuple[int, str]:
    """Exit code and line for the user; no line if the reader of standard output has gone."""
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE, ""
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped"
    if isinstance(error, (ValueError, ArithmeticError, OSError, StoreError)):
        return 1, shown(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in WITHOUT_TORCH:
        return 1, f"{error.name} is not installed: llmcodec-runtime has no such part, `pip install llmcodec` does"
    first = next(iter(str(error).splitlines()), "")
    what = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's, on a GPU
        return 1, f"out of memory ({what}); smaller batches or shorter clips need less"
    return 1, f"internal error ({what}); please report it, --debug shows where"


def flush_output() -> None:
    """Flush standard output now: at interpreter exit nobody could catch a broken pipe."""
    if sys.stdout is not None:  # closed by `>&-`
        sys.stdout.flush()


def silence(stream: TextIO | None) -> None:
    """Discard what a stream still buffers, so that the interpreter ends without an error about it."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):  # a stream of a test or a notebook has no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
