"""A typed function as a command: its parameters become options, its docstring becomes the help.

A parameter without a default is positional, and so is `inputs`; `output` is `-o` in every command. An option group
(options.py) gives one option per field. A list takes several values: positional ones, or an option that may be repeated
(`--codec a --codec b`). The values of a tuple are joined by commas (`--sources a,b`; `'[a,b]'` is read as well).
Options are spelled with hyphens; underscores are read as well. Test: tests/cli/test_parser.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache, partial
from inspect import Parameter, getdoc, signature
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse, parse_from_object
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from yaml import YAMLError

from llmcodec.cli.options import OptionGroup
from llmcodec.cli.urls import local_value
from llmcodec.io.structured import check_yaml

RENAMED = {"splits": "split"}
"""Option of 0.1 -> its name today."""


class Parser(ArgumentParser):
    """Says what is wrong in one line, with the option that may have been meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # jsonargparse tries values with such parsers
            super().error(message, ex)
        unknown = message.partition("nrecognized arguments: ")[2].split()
        wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if wrong is not None:
            flags = [name for name in (*self._option_string_actions, *self.further_flags) if not name.endswith("+")]
            near = get_close_matches(f"--{wrong.lstrip('-')}", flags, 1)
            message = f"no option {wrong}" + (f"; did you mean {near[0]}?" if near else "")
            if wrong.lstrip("-") in (action.dest for action in self._get_positional_actions()):
                message = f"no option {wrong}: write its values without it, right after `{self.prog}`"
        elif unknown:
            word = unknown[0]
            flag = "--manifest" if word.endswith((".jsonl", ".parquet", ".tar")) else ""
            meant = f"{flag} {word}" if flag in self._option_string_actions else f"--OPTION {word}"
            message = f"one value too many: {word}; write its option before it: {meant}"
        print(f"{self.prog}: {message}\n`{self.prog} --help` explains its options", file=sys.stderr)
        raise SystemExit(2)

    further_flags: Sequence[str] = ()
    """Spellings that the parser does not know itself."""


@dataclass(frozen=True)
class Option:
    """One argument of a command."""

    name: str
    """Of the function's parameter, or of the group's field."""
    hint: Any
    default: Any
    """`Parameter.empty` if the argument is required."""
    help: str
    parameter: str
    """The parameter that takes the value, or the group that the field belongs to."""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def required(self) -> bool:
        return self.default is Parameter.empty

    @property
    def several(self) -> bool:
        """Whether it is a list, of values that are given one by one."""
        return list in (get_origin(self.hint), *map(get_origin, get_args(self.hint)))

    @property
    def positional(self) -> bool:
        return self.name == "inputs" or self.required and self.name != "output"

    @property
    def items(self) -> Any:
        """Type of the items of a tuple, a value that is joined by commas; None for other types."""
        tuples = [one for one in (self.hint, *get_args(self.hint)) if get_origin(one) is tuple]
        return get_args(tuples[0])[0] if tuples else None

    @property
    def spelling(self) -> Spelling:
        convert = partial(spell_list, items=self.items, flag=self.flag) if self.items else str
        return Spelling(self.flag, convert, isinstance(self.default, bool))


@dataclass(frozen=True)
class Spelling:
    """How an option that a user types is passed on to the parser."""

    flag: str
    convert: Callable[[str], str] = str
    """Converts the user's value to the parser's."""
    switch: bool = False
    """It may be given without a value, for true."""
    warning: str = ""
    """Warning shown once if it is used."""


def options_of(function: Callable[..., Any]) -> list[Option]:
    """The arguments of a command in the order of its parameters, fields of option groups in their place."""
    hints, helps, found = get_type_hints(function), parameter_helps(function), []
    for name, parameter in signature(function).parameters.items():
        group, default = hints[name], parameter.default
        if not is_group(group):
            found.append(Option(name, group, default, helps.get(name, ""), name))
            continue
        field_hints = get_type_hints(group)
        field_helps = {one: text for base in group.__mro__[-2::-1] for one, text in parameter_helps(base).items()}
        for field in fields(group):
            value = field.default if default is Parameter.empty else getattr(default, field.name)
            assert value is not MISSING
            text = helps.get(field.name) or field_helps[field.name]
            found.append(Option(field.name, field_hints[field.name], value, text, name))
    return found


def is_group(hint: Any) -> bool:
    """Whether a type is an option group."""
    return isinstance(hint, type) and issubclass(hint, OptionGroup)


def parameter_helps(documented: Any) -> dict[str, str]:
    """Parameter or field -> its text in the docstring."""
    found = parse_from_object(documented) if isinstance(documented, type) else parse(getdoc(documented) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in found.params}


def run_function(function: Callable[..., Any], program: str, arguments: Sequence[str]) -> Any:
    """Read the arguments and call the function; returns what it returns.

    Args:
        function: the command.
        program: what the user typed before the arguments.
        arguments: what the user typed.
    """
    options, parser = options_of(function), function_parser(function, program)
    spellings = {option.name: option.spelling for option in options}
    for old, new in RENAMED.items():
        if new in spellings and old not in spellings:
            warning = f"{program}: --{old} is --{new} now; the old name goes with the next release"
            spellings[old] = replace(spellings[new], warning=warning)
    typed = spell_out(arguments, spellings)
    if any(option.name == "output" and option.required for option in options):
        typed = name_output(program, typed, sum(option.positional for option in options))
    values = parser.instantiate(parser.parse_args(typed))
    taken: dict[str, Any] = {}
    command = program.partition(" ")[2]
    for name, hint in get_type_hints(function).items():
        own = {
            option.name: local_value(command, option.name, values[option.name])
            for option in options
            if option.parameter == name
        }
        if own:
            taken[name] = hint(**own) if is_group(hint) else own[name]
    return function(**taken)


def function_parser(function: Callable[..., Any], program: str) -> Parser:
    """The parser of a command that is a function."""
    about = (getdoc(function) or "").partition("Args:")[0].partition("Returns:")[0].partition("Raises:")[0]
    parser = new_parser(program, about)
    for option in options_of(function):
        add_option(parser, option)
    return parser


def new_parser(program: str, description: str, **settings: Any) -> Parser:
    """A parser that takes the help of dataclass fields from the strings below them."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    limit_yaml()
    return Parser(prog=program, description=description.strip(), allow_abbrev=False, **settings)


@cache
def limit_yaml() -> None:
    """Make every parser reject YAML that is too deep or too large; for a file, in one line with its name."""
    load = get_loader("yaml")

    def load_checked(text: str, path: str = "") -> Any:
        try:
            check_yaml(text, path or "an option")
        except ValueError as error:
            if path:
                raise
            raise YAMLError(str(error)) from error  # jsonargparse takes the value of an option as text then
        return load(text)

    set_loader("yaml", load_checked, (YAMLError,))


def add_option(parser: Parser, option: Option) -> None:
    """Declare one argument."""
    names, how = [option.name if option.positional else option.flag], {"help": option.help, "type": option.hint}
    if option.several:
        how["type"] = str
        how |= {"nargs": "+" if option.required else "*"} if option.positional else {"action": "append"}
    elif option.items:
        how["metavar"] = "A,B"
    if not option.required and not option.several:
        how["default"] = option.default
    if option.name == "output":
        names, how["required"] = ["-o", *names], option.required
    action = parser.add_argument(*names, **how)
    action.option_strings = [name for name in action.option_strings if not name.endswith("+")]  # hides `--sources+`


def spell_out(arguments: Sequence[str], spellings: Mapping[str, Spelling]) -> list[str]:
    """The arguments as a parser knows them, each option with its value: `--min_seconds 2` as `--min-seconds=2`."""
    spelled: list[str] = []
    rest, told = list(arguments), set()
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        name = "output" if flag == "-o" else flag.removeprefix("--").replace("-", "_")
        found = spellings.get(name) if flag.startswith("-") else None
        if found is None:
            spelled.append(argument)
            continue
        if found.warning and name not in told:
            print(found.warning, file=sys.stderr)
        told.add(name)
        if not equals and found.switch:
            value = rest.pop(0) if rest[:1] in (["true"], ["false"]) else "true"
        elif not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        elif not equals:
            spelled.append(found.flag)  # the parser says that its value is missing
            continue
        spelled.append(f"{found.flag}={found.convert(value)}")
    return spelled


def name_output(program: str, arguments: list[str], num_inputs: int) -> list[str]:
    """An output given as the last positional value, as in 0.1, becomes `--output`; a line says so."""
    places = [at for at, argument in enumerate(arguments) if argument == "-" or not argument.startswith("-")]
    if len(places) != num_inputs + 1 or any(argument.startswith("--output") for argument in arguments):
        return arguments
    output = arguments.pop(places[-1])
    print(f"{program}: name the output by -o {output}; the next release asks for it", file=sys.stderr)
    return [*arguments, f"--output={output}"]


def spell_list(text: str, items: type = str, flag: str = "") -> str:
    """`a,b`, `[a, b]` or `["a", "b"]` as JSON, so that YAML does not read `no` as false.

    Raises:
        ValueError: an item of another type; it names the option.
    """
    parts = [part.strip().strip("'\"") for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    try:
        return text if text == "null" else json.dumps([items(part) for part in parts if part])
    except ValueError:
        raise ValueError(f"{flag} takes values joined by commas; not {text!r}") from None
