"""The console script `llmcodec`: every command is a typed function, its help comes from the docstring.

The table `COMMANDS` names them; a command's module is imported when it runs, so `llmcodec --help` answers at once.
Test: tests/cli/test_main.py.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TextIO

from llmcodec.cli.parser import run_function
from llmcodec.io.run_guard import Stopped, stopped_in_order


@dataclass(frozen=True)
class Command:
    """One command: a line of help, and `module:function` inside llmcodec, imported when the command runs.

    The function takes options (parser.py), or `arguments` as they were typed if it has its own parser.
    """

    help: str
    target: str
    stopped: str = "what it was writing is removed; start it again"
    """What a signal leaves, and how to go on; commands that know more at that moment say so themselves."""

    def run(self, program: str, arguments: Sequence[str]) -> None:
        module, _, name = self.target.partition(":")
        function = getattr(import_module(f"llmcodec.{module}"), name)
        own_parser = list(signature(function).parameters) == ["arguments"]
        with stopped_in_order(self.stopped):
            result = function(arguments) if own_parser else run_function(function, program, arguments)
        if result is not None:
            print(result)


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "quickstart": Command(
        "adapt the bundled codec on bundled speech, ten minutes, table and report", "cli.experiments:quickstart"
    ),
    "train": Command("train a codec, or adapt one through a frozen language model", "cli.train:train"),
    "sweep": Command("train and measure several recipes with several seeds, as one table", "cli.experiments:sweep"),
    "compare": Command("compare codecs: fidelity, LM bits per second, token statistics", "cli.compare:compare_codecs"),
    "encode": Command("audio files to token files", "cli.transcode:encode"),
    "decode": Command("token files, or tokens as text, back to audio", "cli.transcode:decode"),
    "reconstruct": Command("audio through a codec and back", "cli.transcode:reconstruct"),
    "export": Command("export a codec: Hugging Face folder with a card, or ONNX", "cli.codecs:export_codec"),
    "prior": Command("count which codes follow each other, for encoding by search", "cli.codecs:prior"),
    "convert": Command("AUV and LLM-Codec checkpoints to codec folders, and back", "cli.codecs:convert"),
    "verify": Command("check a folder for damage, one line per file", "cli.verify:verify"),
    "evaluate": {
        "reconstruction": Command(
            "fidelity: Codec-SUPERB's metrics, WER and more, per file, codec and domain",
            "cli.evaluate:evaluate_reconstruction",
        ),
        "predictability": Command(
            "predictability: LM bits per second, n-grams, probe, trade-off against quality",
            "cli.evaluate:evaluate_predictability",
            stopped="with --output, codecs that are done are kept; start it again to go on",
        ),
        "consistency": Command(
            "share of tokens unchanged in slices, after shifts, phase changes and light noise",
            "cli.evaluate:evaluate_consistency",
        ),
        "robustness": Command(
            "robustness to quiet and loud recordings, silence, a telephone band, noise",
            "cli.evaluate:evaluate_robustness",
        ),
        "salmon": Command(
            "does a language model over the tokens notice a change of speaker, background or room?",
            "cli.salmon:evaluate_salmon",
        ),
    },
    "tokenize": Command("turn a corpus into token shards for language model training", "cli.lm:tokenize"),
    "tokens": {
        "merge": Command("put the parts of `tokenize --shard` or `encode --shard` together", "cli.tokens:merge"),
        "verify": Command("check token folders by their index, name the parts that are missing", "cli.tokens:verify"),
    },
    "lm": {
        "train": Command("train a language model on codec tokens, or adapt one", "cli.lm:train"),
        "score": Command("log-likelihood of speech, per file and per token", "cli.lm:score"),
        "sample": Command("generate speech: continue a prompt, read a text", "cli.lm:sample"),
        "export": Command("write a plain Hugging Face model that any server can load", "cli.lm:export"),
    },
    "data": {
        "manifest": Command("make a manifest from a corpus in any layout", "cli.data:make_manifest"),
        "hub": Command("make a manifest from a data set of the Hugging Face hub", "cli.data:make_hub_manifest"),
        "salmon": Command(
            "make a SALMon-style suite of consistency pairs from any corpus", "cli.salmon:make_salmon_suite"
        ),
    },
}
BROKEN_PIPE = 141
"""128 + SIGPIPE, as in a shell."""
GROUP_HELP = {
    "tokens": "token folders: parts of a sharded run, the index",
    "lm": "token language models: train, score, sample, export",
    "evaluate": "one measurement at a time, for any codec",
    "data": "manifests of speech: what training and evaluation read",
}


def usage(program: str, commands: Mapping[str, Command | dict[str, Command]]) -> str:
    width = max(len(name) for name in commands)
    lines = [
        f"  {name:<{width}}  {command.help if isinstance(command, Command) else GROUP_HELP[name]}"
        for name, command in commands.items()
    ]
    more = f"`{program} COMMAND --help` explains a command; `--debug` anywhere shows where an error comes from."
    return f"usage: {program} COMMAND ...\n\n" + "\n".join(lines) + f"\n\n{more}"


def find_command(argv: list[str]) -> tuple[str, Command, list[str]] | int:
    """The command's full name as typed, the command and its arguments; an exit code if there is none to run."""
    if argv[:1] == ["--version"]:
        from llmcodec import __version__

        print(__version__)
        return 0
    program, commands = "llmcodec", COMMANDS
    while True:
        if not argv or argv[0] in ("-h", "--help"):
            print(usage(program, commands))
            return 0 if argv else 2
        name, *argv = argv
        if name not in commands:
            print(f"{program}: no command {name!r}\n\n{usage(program, commands)}", file=sys.stderr)
            return 2
        program, command = f"{program} {name}", commands[name]
        if isinstance(command, Command):
            return program, command, argv
        commands = dict(command)


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
                command.run(program, rest)
            except SystemExit:  # --help has been printed
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


def how_it_ends(error: BaseException) -> tuple[int, str]:
    """Exit code and line for the user; no line if the reader of standard output has gone."""
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE, ""
    if isinstance(error, Stopped):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped"
    if isinstance(error, (ValueError, ArithmeticError, OSError)):
        return 1, str(error)
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
