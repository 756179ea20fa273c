"""The console script `llmcodec`: every command is a typed function, its help comes from the docstring.

The table `COMMANDS` names them; a command's module is imported when it runs, so `llmcodec --help` answers at once.
Test: tests/cli/test_main.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, set_parsing_settings

from llmcodec.cli.parser import run_function

if TYPE_CHECKING:
    from llmcodec.training.recipe import Recipe

TRAIN_HELP = """\
Train a codec: from scratch, or adapt a pretrained one through a frozen language model.

  llmcodec train --config recipes/rate.yaml --data.manifest corpus/manifest.jsonl --run runs/mine
  llmcodec train --config recipes/rate.yaml --config recipes/control.yaml     recipes stack, later ones win
  llmcodec train --config recipes/rate.yaml --weights.rate 0.2 --steps 800    options win over recipes
  llmcodec train --config recipes/rate.yaml --resume                          go on where it stopped
  llmcodec train --config recipes/rate.yaml --print_config                    show the whole recipe, train nothing
  torchrun --nproc-per-node 4 -m llmcodec train --config recipes/paper.yaml   several processes

A weight or learning rate is a number or a schedule, {value: 0.2, delay: 10000, warmup: 2000}. The run folder gets
run.json (the resolved recipe), log.jsonl, checkpoints/, curves.png and codec/, which `llmcodec compare` reads."""


def recipe_parser(prog: str, description: str, **options: Any) -> ArgumentParser:
    """A parser whose help explains every field of the recipe by the docstring below it; the usage line stays short."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(prog=prog, description=description, usage=f"{prog} [options]", **options)


def training_parser(prog: str, description: str, recipe: type) -> ArgumentParser:
    """Parser of a training command: the recipe's fields at top level, `--config` as often as you like (later wins)."""
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the line breaks of the description, and those alone."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "".join(indent + line for line in text.splitlines(keepends=True))

    parser = recipe_parser(prog, description, formatter_class=Formatter)
    parser.add_argument("--config", action="config", help="Recipe (YAML); several stack, later ones win.")
    parser.add_argument("--resume", action="store_true", help="Continue from the newest checkpoint in the run folder.")
    parser.add_class_arguments(recipe)
    return parser


def train_parser() -> ArgumentParser:
    """Parser of `llmcodec train`."""
    from llmcodec.training.recipe import Recipe

    return training_parser("llmcodec train", TRAIN_HELP, Recipe)


def read_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe that options of `llmcodec train` describe, without training it."""
    return _recipe_and_resume(arguments)[0]


def _recipe_and_resume(arguments: Sequence[str]) -> tuple[Recipe, bool]:
    from llmcodec.training.recipe import Recipe

    parser = train_parser()
    values = vars(parser.instantiate(parser.parse_args(list(arguments))))
    values.pop("config")
    resume = values.pop("resume")
    return Recipe(**values), resume


def train(arguments: Sequence[str]) -> None:
    """Run `llmcodec train`."""
    from llmcodec.training.trainer import Trainer

    recipe, resume = _recipe_and_resume(arguments)
    quiet_transformers()
    folder = Trainer(recipe, resume=resume).run()
    print(f"codec: {folder}")


def quickstart(arguments: Sequence[str]) -> None:
    """Run `llmcodec quickstart`."""
    from llmcodec.experiments.quickstart import run_quickstart
    from llmcodec.training.recipe import Recipe

    parser = recipe_parser(
        "llmcodec quickstart",
        "Adapt the bundled codec on the bundled speech through a pretrained LM, against a control: table, "
        "verdict, report.html. About ten minutes on two cores; a second run resumes. Recipe: recipes/quickstart.yaml.",
        default_config_files=[str(shipped_recipe("quickstart"))],
    )
    parser.add_argument("--config", action="config", help="Recipe differences (YAML) on top of the quickstart's.")
    parser.add_argument("--output", type=str, default="runs/quickstart", help="Folder for runs, table and report.")
    parser.add_argument("--restart", action="store_true", help="Delete what an earlier quickstart left and start over.")
    parser.add_class_arguments(Recipe)
    values = vars(parser.instantiate(parser.parse_args(list(arguments))))
    values.pop("config")
    output, restart = values.pop("output"), values.pop("restart")
    quiet_transformers()
    run_quickstart(Recipe(**values), output, restart)


def sweep(arguments: Sequence[str]) -> None:
    """Run `llmcodec sweep`."""
    from llmcodec.experiments.sweep import SweepConfig, run_sweep

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="llmcodec sweep",
        description="Train and measure several recipes with several seeds, unattended; prints one table. Start it "
        "again to resume, or in a second process to share the work. "
        "Example: llmcodec sweep recipes/sweep_objectives.yaml",
    )
    parser.add_argument("file", type=str, help="Sweep file (YAML).")
    parser.add_class_arguments(SweepConfig)
    file = next((argument for argument in arguments if not argument.startswith("-")), None)
    extra = list(arguments) if file is None else ["--config", file, *arguments]
    parser.add_argument("--config", action="config", help="The sweep file again; set by itself.")
    values = vars(parser.instantiate(parser.parse_args(extra)))
    values.pop("config"), values.pop("file")
    quiet_transformers()
    print(run_sweep(SweepConfig(**values), Path(file or ".").parent, read_recipe).read_text(encoding="utf-8"))


def shipped_recipe(name: str) -> Path:
    """Path of a recipe that comes with the package: inside it when installed as a wheel, beside `src` in a checkout."""
    inside = Path(__file__).parents[1] / "recipes" / f"{name}.yaml"
    beside = Path(__file__).parents[3] / "recipes" / f"{name}.yaml"
    for path in (inside, beside):
        if path.is_file():
            return path
    raise ValueError(f"recipe {name} is missing at {inside}: reinstall llmcodec with pip")


def quiet_transformers() -> None:
    """Our own bars are enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()


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
    reads_arguments: bool = False
    """The function takes the raw arguments and has a parser of its own."""

    def run(self, program: str, arguments: Sequence[str]) -> None:
        module, _, name = self.target.partition(":")
        function = getattr(import_module(f"llmcodec.{module}"), name)
        if "transformers" in sys.modules:
            quiet_transformers()
        if self.reads_arguments:
            function(arguments)
        else:
            result = run_function(function, program, arguments, self.many, self.repeat)
            if result is not None:
                print(result)


COMMANDS: dict[str, Command | dict[str, Command]] = {
    "quickstart": Command(
        "adapt the bundled codec on bundled speech, ten minutes, table and report",
        "cli.main:quickstart",
        reads_arguments=True,
    ),
    "train": Command(
        "train a codec, or adapt one through a frozen language model", "cli.main:train", reads_arguments=True
    ),
    "sweep": Command(
        "train and measure several recipes with several seeds, as one table", "cli.main:sweep", reads_arguments=True
    ),
    "compare": Command(
        "measure codecs alike: fidelity, LM bits per second, token health", "cli.compare:compare_codecs", "codec"
    ),
    "encode": Command("audio files to token files", "transcode.command:encode", "inputs"),
    "decode": Command("token files, or tokens as text, back to audio", "transcode.command:decode", "inputs"),
    "reconstruct": Command("audio through a codec and back", "transcode.command:reconstruct", "inputs"),
    "export": Command(
        "write a codec for others: Hugging Face folder with a card, or ONNX", "runtime.export:export_codec"
    ),
    "prior": Command(
        "count which codes follow each other, for encoding that searches for cheap ones", "transcode.prior:make_prior"
    ),
    "convert": Command("AUV and LLM-Codec checkpoints to codec folders, and back", "codec.interop.convert:convert"),
    "evaluate": {
        "reconstruction": Command(
            "how faithful: Codec-SUPERB's metrics, WER and more, per file, codec and domain",
            "cli.evaluate_reconstruction:evaluate_reconstruction_command",
            repeat="codec",
        ),
        "predictability": Command(
            "how predictable: LM bits per second, n-grams, probe, the frontier against quality",
            "cli.evaluate_predictability:evaluate_predictability_command",
            repeat="codec",
        ),
        "consistency": Command(
            "do tokens stay the same in slices, after shifts, phase changes and light noise?",
            "cli.evaluate_consistency:evaluate_consistency_command",
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
        "score": Command("log-likelihood of speech, per file and per token", "lm.scoring:score", many="inputs"),
        "sample": Command("speak: continue a prompt, read a text", "lm.speech:sample", repeat="prompt,text"),
        "export": Command("write a plain Hugging Face model that others can serve", "lm.speech:export"),
    },
    "data": {
        "manifest": Command("make a manifest from a folder or a LibriSpeech layout", "data.layouts:make_manifest"),
        "hub": Command("make a manifest from a data set of the Hugging Face hub", "data.hub:make_hub_manifest"),
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
    try:
        command.run(program, argv)
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    return 0
