"""The table of commands: a line of help, the function, what `--help` shows first. Imports nothing of the commands.

Test: tests/cli/test_main.py, tests/cli/test_pages.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from llmcodec.io.run_guard import stopped_in_order


@dataclass(frozen=True)
class Command:
    """One command: a line of help, and `module:function` inside llmcodec, imported when the command runs.

    The function takes options (parser.py), or `arguments` as they were typed if the command has a parser of its own.
    """

    help: str
    target: str
    first: str = ""
    """Names of the options that `--help` shows, where there are too many for all of them."""
    parser: str = ""
    """`module:function` that makes the command's own parser, a `RecipeParser`."""
    stopped: str = "what it was writing is removed; start it again"
    """What a signal leaves, and how to go on; commands that know more at that moment say so themselves."""

    def run(self, program: str, arguments: Sequence[str]) -> None:
        module, _, name = self.target.partition(":")
        function = getattr(import_module(f"llmcodec.{module}"), name)
        with stopped_in_order(self.stopped):
            if self.parser:
                result = function(arguments)
            else:
                from llmcodec.cli.parser import run_function

                result = run_function(function, program, arguments)
        if result is not None:
            print(result)


FILES = "output codec resume overwrite runtime device precision"
COMMANDS: dict[str, Command | dict[str, Command]] = {
    "quickstart": Command(
        "adapt the bundled codec on bundled speech, ten minutes, table and report",
        "cli.experiments:quickstart",
        "output restart config manifest codec steps seed sources languages",
        "cli.experiments:quickstart_parser",
    ),
    "train": Command(
        "train a codec, or adapt one through a frozen language model",
        "cli.experiments:train",
        "config manifest output codec steps seed resume device precision print_config",
        "cli.experiments:train_parser",
    ),
    "sweep": Command(
        "train and measure several recipes with several seeds, as one table",
        "cli.experiments:sweep",
        "output manifest seeds stage sources languages only_train max-bad device print_config",
        "cli.experiments:sweep_parser",
    ),
    "compare": Command(
        "compare codecs: fidelity, LM bits per second, token statistics",
        "cli.compare:compare_codecs",
        "output manifest sources languages recordings measurement max-bad fresh device",
    ),
    "demo": Command(
        "a page on this machine: hear codecs on your own voice, change tokens, continue",
        "cli.experiments:run_demo",
        stopped="recordings are deleted",
    ),
    "encode": Command("audio files to token files", "cli.transcode:encode", f"{FILES} channels format workers"),
    "decode": Command(
        "token files, or tokens as text, back to audio",
        "cli.transcode:decode",
        f"{FILES} text sample-rate format",
    ),
    "reconstruct": Command(
        "audio through a codec and back", "cli.transcode:reconstruct", f"{FILES} channels sample-rate format"
    ),
    "codecs": Command("list every codec by name: origin, rates, licence, state", "cli.codecs:list_codecs"),
    "export": Command("export a codec: Hugging Face folder with a card, or ONNX", "cli.codecs:export_codec"),
    "prior": Command(
        "count which codes follow each other, for encoding by search",
        "cli.codecs:prior",
        "output manifest split sources languages max-bad folds overwrite device",
    ),
    "units": Command(
        "k-means units of a speech encoder, as a tokenizer without decoder",
        "cli.features:units",
        "output manifest split codes rounds overwrite device",
    ),
    "convert": Command("published checkpoints to codec folders; AUV and back", "cli.codecs:convert"),
    "verify": Command("check a folder for damage, one line per file", "cli.codecs:verify"),
    "recipes": Command("list the recipes of the package, or show one", "cli.shell:recipes"),
    "completion": Command("tab completion for bash, zsh or tcsh", "cli.shell:completion"),
    "evaluate": {
        "reconstruction": Command(
            "fidelity: Codec-SUPERB's metrics, WER and more, per file, codec and domain",
            "cli.evaluate:evaluate_reconstruction",
            "codec output manifest split metrics clips pairs asr per-file device",
        ),
        "predictability": Command(
            "predictability: LM bits per second, n-grams, probe, trade-off against quality",
            "cli.evaluate:evaluate_predictability",
            "codec output manifest seeds audio-seconds probe ngrams mel workers device",
            stopped="with --output, codecs that are done are kept; start it again to go on",
        ),
        "consistency": Command(
            "share of tokens unchanged in slices, after shifts, phase changes and light noise",
            "cli.evaluate:evaluate_consistency",
            "codec output manifest split clips slices shifts noises seed device",
        ),
        "robustness": Command(
            "robustness to quiet and loud recordings, silence, a telephone band, noise",
            "cli.evaluate:evaluate_robustness",
            "codec output manifest split clips levels noises pauses metrics device",
        ),
        "phones": Command(
            "what tokens and features know of phones: purity, mutual information, ABX",
            "cli.features:evaluate_phones",
            "codec features alignments output manifest split context clips device",
        ),
        "generation": Command(
            "speech that token LMs generate: word errors, voice, DNSMOS, loops, silence",
            "cli.generation:evaluate_generation",
            "lm task output manifest split texts clips draws metrics device",
            stopped="with --output, models that are done are kept; start it again to go on",
        ),
        "salmon": Command(
            "does a language model over the tokens notice a change of speaker, background or room?",
            "cli.salmon:evaluate_salmon",
            "codec lm output manifest parts max-pairs seed likelihood device",
        ),
    },
    "tokenize": Command(
        "turn a corpus into token shards for language model training",
        "cli.tokens:tokenize",
        "manifest codec output split sources languages views format runtime device",
    ),
    "tokens": {
        "merge": Command("put the parts of `tokenize --shard` or `encode --shard` together", "cli.tokens:merge"),
        "verify": Command("check token folders by their index, name the parts that are missing", "cli.tokens:verify"),
    },
    "lm": {
        "train": Command(
            "train a language model on codec tokens, or adapt one",
            "cli.lm:train",
            "config data.tokens output manifest codec steps epochs lr resume device",
            "cli.lm:lm_train_parser",
        ),
        "score": Command("log-likelihood of speech, per file and per token", "cli.lm:score"),
        "sample": Command(
            "generate speech: continue a prompt, read a text",
            "cli.lm:sample",
            "prompt text output seconds count temperature top-p seed stream device",
        ),
        "export": Command("write a plain Hugging Face model that any server can load", "cli.lm:export"),
    },
    "data": {
        "manifest": Command("make a manifest from a corpus in any layout", "cli.tokens:make_manifest"),
        "hub": Command("make a manifest from a data set of the Hugging Face hub", "cli.tokens:make_hub_manifest"),
        "salmon": Command(
            "make a SALMon-style suite of consistency pairs from any corpus",
            "cli.salmon:make_salmon_suite",
            "manifest output pairs parts split seed speakers noises rooms check",
        ),
    },
}
GROUP_HELP = {
    "tokens": "token folders: parts of a sharded run, the index",
    "lm": "token language models: train, score, sample, export",
    "evaluate": "one measurement at a time, for any codec",
    "data": "manifests of speech: what training and evaluation read",
}


def every_command(
    commands: Mapping[str, Command | dict[str, Command]] = COMMANDS, program: str = "llmcodec"
) -> Iterator[tuple[str, Command]]:
    """Full names of all commands, and the commands."""
    for name, command in commands.items():
        if isinstance(command, Command):
            yield f"{program} {name}", command
        else:
            yield from every_command(command, f"{program} {name}")
