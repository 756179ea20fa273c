"""The console script `llmcodec`: every command is a typed function, its help comes from the docstring.

The table `COMMANDS` names them; a command's module is imported when it runs, so `llmcodec --help` answers at once.
Test: tests/cli/test_main.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from llmcodec.cli.parser import run_function


@dataclass(frozen=True)
class Command:
    """One command: where it lives and how its arguments are read."""

    help: str
    target: str
    """`module:function` inside llmcodec, imported when the command runs."""
    many: str = ""
    """List parameter of the function that takes several positional values."""
    repeat: str = ""
    """List parameters of the function, joined by commas, that are options which may be repeated."""
    renamed: Mapping[str, str] | None = None
    """Old option -> its name today."""
    positional_output: bool = False
    """In 0.1 the output was the last positional value."""
    reads_arguments: bool = False
    """The function takes the raw arguments and has a parser of its own."""

    def run(self, program: str, arguments: Sequence[str]) -> None:
        module, _, name = self.target.partition(":")
        function = getattr(import_module(f"llmcodec.{module}"), name)
        if self.reads_arguments:
            function(arguments)
        else:
            result = run_function(
                function, program, arguments, self.many, self.repeat, self.renamed, self.positional_output
            )
            if result is not None:
                print(result)


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "quickstart": Command(
        "adapt the bundled codec on bundled speech, ten minutes, table and report",
        "cli.experiments:quickstart",
        reads_arguments=True,
    ),
    "train": Command(
        "train a codec, or adapt one through a frozen language model", "cli.train:train", reads_arguments=True
    ),
    "sweep": Command(
        "train and measure several recipes with several seeds, as one table",
        "cli.experiments:sweep",
        reads_arguments=True,
    ),
    "compare": Command(
        "measure codecs alike: fidelity, LM bits per second, token health", "cli.compare:compare_codecs", "codec"
    ),
    "encode": Command("audio files to token files", "cli.transcode:encode", "inputs"),
    "decode": Command("token files, or tokens as text, back to audio", "cli.transcode:decode", "inputs"),
    "reconstruct": Command("audio through a codec and back", "cli.transcode:reconstruct", "inputs"),
    "export": Command(
        "write a codec for others: Hugging Face folder with a card, or ONNX",
        "cli.codecs:export_codec",
        positional_output=True,
    ),
    "prior": Command(
        "count which codes follow each other, for encoding that searches for cheap ones",
        "cli.codecs:prior",
        positional_output=True,
    ),
    "convert": Command(
        "AUV and LLM-Codec checkpoints to codec folders, and back", "cli.codecs:convert", positional_output=True
    ),
    "evaluate": {
        "reconstruction": Command(
            "how faithful: Codec-SUPERB's metrics, WER and more, per file, codec and domain",
            "cli.evaluate:evaluate_reconstruction",
            repeat="codec",
        ),
        "predictability": Command(
            "how predictable: LM bits per second, n-grams, probe, the frontier against quality",
            "cli.evaluate:evaluate_predictability",
            repeat="codec",
        ),
        "consistency": Command(
            "do tokens stay the same in slices, after shifts, phase changes and light noise?",
            "cli.evaluate:evaluate_consistency",
            repeat="codec",
        ),
        "salmon": Command(
            "does a language model over the tokens hear a change of speaker, background or room?",
            "cli.salmon:evaluate_salmon",
            repeat="codec",
        ),
    },
    "tokenize": Command("turn a corpus into token shards that language models train on", "cli.lm:tokenize"),
    "lm": {
        "train": Command("train a language model on codec tokens, or adapt one", "cli.lm:train", reads_arguments=True),
        "score": Command("log-likelihood of speech, per file and per token", "cli.lm:score", many="inputs"),
        "sample": Command("speak: continue a prompt, read a text", "cli.lm:sample", repeat="prompt,text"),
        "export": Command(
            "write a plain Hugging Face model that others can serve", "cli.lm:export", positional_output=True
        ),
    },
    "data": {
        "manifest": Command("make a manifest from a folder or a LibriSpeech layout", "cli.data:make_manifest"),
        "hub": Command(
            "make a manifest from a data set of the Hugging Face hub",
            "cli.data:make_hub_manifest",
            positional_output=True,
        ),
        "salmon": Command(
            "make a SALMon-style suite of consistency pairs from any corpus",
            "cli.salmon:make_salmon_suite",
            repeat="manifest",
        ),
    },
}
GROUP_HELP = {
    "lm": "token language models: train, score, speak, hand over",
    "evaluate": "one measurement at a time, for any codec",
    "data": "manifests of speech: what training and evaluation read",
}


def usage(program: str, commands: Mapping[str, Command | dict[str, Command]]) -> str:
    width = max(len(name) for name in commands)
    lines = [
        f"  {name:<{width}}  {command.help if isinstance(command, Command) else GROUP_HELP[name]}"
        for name, command in commands.items()
    ]
    return (
        f"usage: {program} COMMAND ...\n\n" + "\n".join(lines) + f"\n\n`{program} COMMAND --help` explains a command."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Bad input ends in one line on stderr."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv[:1] == ["--version"]:
        from llmcodec import __version__

        print(__version__)
        return 0
    program, commands = "llmcodec", COMMANDS
    while True:
        if not argv or argv[0] in ("-h", "--help"):
            print(usage(program, commands))
            return 0 if argv else 2
        name = argv.pop(0)
        if name not in commands:
            print(f"{program}: no command {name!r}\n\n{usage(program, commands)}", file=sys.stderr)
            return 2
        program, command = f"{program} {name}", commands[name]
        if isinstance(command, Command):
            break
        commands = dict(command)
    from llmcodec.io.progress import quiet_transformers

    quiet_transformers()
    try:
        command.run(program, argv)
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    return 0
