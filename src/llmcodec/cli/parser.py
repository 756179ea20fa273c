"""A typed function as a command: its parameters become options, its docstring becomes the help.

A parameter without a default is positional, but for `output`, which is `-o` in every command; a parameter whose type is
an option group (options.py) gives one option per field. Names of several things are joined by commas (`--sources a,b`;
`'[a,b]'` is read as well). Options are spelled with hyphens; underscores are read as well.
Test: tests/cli/test_parser.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import Parameter, getdoc, signature
from textwrap import fill
from typing import Any, get_args, get_origin, get_type_hints

from docstring_parser import parse, parse_from_object
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader, set_parsing_settings
from yaml import YAMLError

from llmcodec.cli.options import OptionGroup
from llmcodec.io.structured import check_yaml


class HelpFormatter(DefaultHelpFormatter):
    """Wraps the paragraphs of a description; lines that are indented, such as examples, stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(
            part if any(line.startswith("  ") for line in part.splitlines()) else fill(part, width)
            for part in paragraphs
        )


@dataclass(frozen=True)
class Option:
    """One argument of a command."""

    name: str
    """Of the function's parameter, or of the group's field."""
    hint: Any
    default: Any
    """`Parameter.empty` where the argument is required."""
    help: str
    group: str = ""
    """The parameter that the field belongs to."""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def positional(self) -> bool:
        """Whether it is required and no option."""
        return self.default is Parameter.empty and self.name != "output"

    @property
    def items(self) -> tuple[Any, ...]:
        """Item types of a list (one) or of a tuple; nothing for other types."""
        hint = next((one for one in get_args(self.hint) if get_origin(one) in (list, tuple)), self.hint)
        return get_args(hint) if get_origin(hint) in (list, tuple) else ()

    def read(self, value: Any) -> Any:
        """The text of a list or tuple as such; other values as they are. Raises ValueError that names the option."""
        if not self.items or not isinstance(value, str):
            return value
        parts = split_names(value)
        kind, many = self.items[0], get_origin(self.hint) is tuple and self.items[-1] is not ...
        try:
            if many and len(parts) != len(self.items):
                raise ValueError
            read = [kind(part) for part in parts]
        except ValueError:
            number = f"{len(self.items)} " if many else ""
            raise ValueError(f"{self.flag} takes {number}values joined by commas; not {value!r}") from None
        return tuple(read) if many else read


def split_names(text: str) -> list[str]:
    """`a,b`, `[a, b]` or `["a", "b"]` -> the names."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def options_of(function: Callable[..., Any]) -> list[Option]:
    """The arguments of a command in the order of its parameters, fields of option groups in their place."""
    hints, helps, found = get_type_hints(function), parameter_helps(function), []
    for name, parameter in signature(function).parameters.items():
        hint, default = hints[name], parameter.default
        if not (isinstance(hint, type) and issubclass(hint, OptionGroup)):
            found.append(Option(name, hint, default, helps.get(name, "")))
            continue
        field_hints = get_type_hints(hint)
        field_helps = {name: text for one in hint.__mro__[-2::-1] for name, text in parameter_helps(one).items()}
        for field in fields(hint):  # type: ignore[arg-type]
            value = field.default if default is Parameter.empty else getattr(default, field.name)
            assert value is not MISSING
            help_text = helps.get(field.name) or field_helps[field.name]
            found.append(Option(field.name, field_hints[field.name], value, help_text, name))
    return found


def parameter_helps(documented: Any) -> dict[str, str]:
    """Parameter or field -> its text in the docstring."""
    found = parse_from_object(documented) if isinstance(documented, type) else parse(getdoc(documented) or "")
    return {one.arg_name: " ".join((one.description or "").split()) for one in found.params}


def run_function(
    function: Callable[..., Any],
    program: str,
    arguments: Sequence[str],
    many: str = "",
    repeat: str = "",
    renamed: Mapping[str, str] | None = None,
    positional_output: bool = False,
) -> Any:
    """Read the arguments and call the function; returns what it returns.

    Args:
        function: the command.
        program: what the user typed before the arguments.
        arguments: what the user typed.
        many: a list parameter that takes several positional values, none where it has a default.
        repeat: list parameters (joined by commas) given as options that may be repeated (`--codec A --codec B`).
        renamed: old option -> its name today, `{"splits": "split"}`; an old name works and warns.
        positional_output: whether the output was the last positional value in 0.1; that works and warns as well.
    """
    options = options_of(function)
    parser = new_parser(program, (getdoc(function) or "").partition("Args:")[0].partition("Raises:")[0])
    repeated = repeat.split(",")
    for option in options:
        add_option(parser, option, option.name == many, option.name in repeated)
    names = [option.name for option in options]
    flags = [option.flag for option in options if isinstance(option.default, bool)]
    typed = spell_out(rename(program, arguments, renamed or {}), names, flags)
    if positional_output:
        typed = name_output(program, typed, sum(option.positional for option in options))
    values = vars(parser.instantiate(parser.parse_args(typed)))
    values = {option.name: option.read(values[option.name]) for option in options}
    hints = get_type_hints(function)
    groups = {
        group: hints[group](**{option.name: values.pop(option.name) for option in options if option.group == group})
        for group in {option.group for option in options if option.group}
    }
    return function(**values, **groups)


def new_parser(program: str, description: str, **settings: Any) -> ArgumentParser:
    """A parser whose help explains the fields of dataclasses by the strings below them."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    limit_yaml()
    return ArgumentParser(prog=program, description=description.strip(), formatter_class=HelpFormatter, **settings)


@cache
def limit_yaml() -> None:
    """Let every parser refuse YAML that is too deep or too large; in a file this is one line with its name."""
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


def add_option(parser: ArgumentParser, option: Option, many: bool = False, repeated: bool = False) -> None:
    """Declare one argument."""
    required = option.default is Parameter.empty
    given: dict[str, Any] = {"help": option.help, "type": option.hint}
    if many:
        parser.add_argument(option.name, nargs="+" if required else "*", **given | {"type": str})
        return
    if repeated:
        parser.add_argument(option.flag, action="append", **given | {"type": str})
        return
    if option.items:
        given |= {"type": str if required else str | None, "metavar": "A,B"}
    if option.positional:
        parser.add_argument(option.name, **given)
        return
    if required:
        given["required"] = True
    else:
        given["default"] = option.default
        if isinstance(option.default, list | tuple):
            given["default"] = ",".join(map(str, option.default))
    parser.add_argument(*["-o"] * (option.name == "output"), option.flag, **given)


def rename(program: str, arguments: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Old options by their names of today, each with one line on standard error."""
    now, told = [], set()
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        new = renamed.get(flag.removeprefix("--").replace("-", "_")) if flag.startswith("--") else None
        if new is not None and flag not in told:
            told.add(flag)
            print(f"{program}: {flag} is --{new} now; the old name goes with the next release", file=sys.stderr)
        now.append(argument if new is None else f"--{new}{equals}{value}")
    return now


def positions(arguments: Sequence[str]) -> list[int]:
    """Where positional values stand, among options that take one value each."""
    found, value = [], False
    for at, argument in enumerate(arguments):
        option = not value and argument.startswith("-") and argument != "-"
        if not option and not value:
            found.append(at)
        value = option and "=" not in argument and argument not in ("-h", "--help")
    return found


def name_output(program: str, arguments: list[str], num_inputs: int) -> list[str]:
    """An output given as the positional value behind the inputs, as in 0.1, as `--output`; with a line that says so."""
    places = positions(arguments)
    named = any(argument.partition("=")[0] in ("-o", "--output") for argument in arguments)
    if named or len(places) != num_inputs + 1:
        return arguments
    output = arguments[places[-1]]
    print(f"{program}: name the output by -o {output}; the next release asks for it", file=sys.stderr)
    return [*arguments[: places[-1]], *arguments[places[-1] + 1 :], f"--output={output}"]


def spell_out(arguments: Sequence[str], names: Collection[str], flags: Collection[str]) -> list[str]:
    """`--min_seconds` as `--min-seconds`, and a flag that stands alone with its value."""

    def hyphened(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        known = flag.startswith("--") and flag[2:].replace("-", "_") in names
        return f"{flag.replace('_', '-')}{equals}{value}" if known else argument

    spelled = [hyphened(argument) for argument in arguments]
    following = [*spelled, ""][1:]
    return [
        f"{argument}=true" if argument in flags and after not in ("true", "false") else argument
        for argument, after in zip(spelled, following, strict=True)
    ]
