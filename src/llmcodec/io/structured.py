"""JSON, JSON lines, CSV and YAML that may come from anybody: limits on size, depth and aliases, messages of one line.

    settings = read_object("config.json", max_bytes=1 << 20)     # a JSON object
    for number, row in read_lines("manifest.jsonl"): ...
    write_json("result.json", {"value": 1.0})                    # whole or not at all
    check_yaml(text, "recipe.yaml")                              # before another library reads it

`[` a hundred thousand times would end a parser in a RecursionError, and nine lines of YAML aliases stand for a billion
values; here both are a ValueError that names file and line. Test: tests/io/test_structured.py.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from ast import literal_eval
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmcodec.io.atomic import AnyPath, write_text
from llmcodec.io.remote.paths import fetch

MAX_BYTES = 1 << 28
"""Of a file, where the caller knows no better."""
MAX_DEPTH = 100
"""Of lists and objects in each other."""
MAX_YAML_NODES = 100_000
"""Values of a YAML document, those behind its aliases counted as often as they are named."""
_BRACKET_OR_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]|\n', re.DOTALL)


def check_choices(settings: Any, where: str) -> None:
    """Raise ValueError where a `Literal` field of a dataclass has another value: Python takes any, and it would count
    as one of them."""
    for item in fields(settings):
        if str(item.type).startswith("Literal["):  # a text, by `from __future__ import annotations`
            value, allowed = getattr(settings, item.name), literal_eval(str(item.type).removeprefix("Literal"))
            if value not in allowed:
                *others, last = map(str, allowed)
                raise ValueError(f"{where}: {item.name} must be {', '.join(others)} or {last}, got {value!r}")


def parse_json(content: str | bytes, where: object, strict: bool = False) -> Any:
    """JSON as Python values.

    Args:
        content: the document; bytes are UTF-8.
        where: names it in messages, a path or `path:line`.
        strict: refuse NaN and infinity.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deeply, an object that names a key twice (Python would take the last
            one in silence), or what `strict` refuses.
    """
    text = content if isinstance(content, str) else _decoded(content, where)
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text, where)
    try:
        if not strict:
            return json.loads(text, object_pairs_hook=_without_doubles)
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise ValueError(f"{where}: not JSON ({error.msg} at {place})") from error
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({str(error)[:120]})") from error


def read_text(path: AnyPath, max_bytes: int = MAX_BYTES) -> str:
    """The text file `path`, UTF-8.

    Raises:
        OSError: it cannot be opened.
        ValueError: too large, or not UTF-8.
    """
    return _decoded(_read(path, max_bytes), path)


def read_json(path: AnyPath, max_bytes: int = MAX_BYTES, strict: bool = False) -> Any:
    """The JSON file `path`; see `parse_json`.

    Raises:
        OSError: it cannot be opened.
        ValueError: too large, or as `parse_json`.
    """
    return parse_json(_read(path, max_bytes), path, strict)


def read_object(path: AnyPath, max_bytes: int = MAX_BYTES, strict: bool = False) -> dict[str, Any]:
    """The JSON file `path`, which must hold an object; raises as `read_json`."""
    found = read_json(path, max_bytes, strict)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object")
    return found


def read_lines(path: AnyPath, strict: bool = False) -> Iterator[tuple[int, Any]]:
    """Number, counted from 1, and value of every line that is not blank; raises as `parse_json`, naming the line."""
    try:
        with open(fetch(path), encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, parse_json(line, f"{path}:{number}", strict)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from error


def write_json(path: AnyPath, value: Any, durable: bool = False, **options: Any) -> Path:
    """Write a JSON file whole or not at all, indented by one space where `options` of json.dumps do not differ."""
    return write_text(path, json.dumps(value, **{"indent": 1, **options}) + "\n", durable)


def write_csv(path: AnyPath, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a CSV file with these columns, whole or not at all; missing values are empty, others are left out."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, buffer.getvalue())


def check_yaml(text: str, where: object) -> None:
    """Refuse YAML that names a key twice, is nested too deeply, or whose aliases stand for too many values.

    Raises:
        ValueError: this, an alias that stands inside itself, or no YAML; names `where` and the line.
    """
    import yaml

    open_nodes = [("", 0)]  # anchor and number of values of every collection that is open
    children: list[list[str] | None] = [None]  # of every open map its keys and values so far; None: a list
    anchors: dict[str, int] = {}
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            assert event.start_mark is not None
            line = f"{where}, line {event.start_mark.line + 1}"
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor or "", 1))
                _add_child(children[-1], "", line)
                children.append([] if isinstance(event, yaml.MappingStartEvent) else None)
            elif isinstance(event, yaml.CollectionEndEvent | yaml.ScalarEvent | yaml.AliasEvent):
                anchor, size = open_nodes.pop() if isinstance(event, yaml.CollectionEndEvent) else (event.anchor, 1)
                if isinstance(event, yaml.CollectionEndEvent):
                    children.pop()
                else:
                    _add_child(children[-1], getattr(event, "value", ""), line)
                if isinstance(event, yaml.AliasEvent):
                    if event.anchor not in anchors:
                        raise ValueError(f"{line}: the alias *{event.anchor} names nothing that ends before it")
                    size = anchors[event.anchor]
                elif anchor:
                    anchors[anchor] = size
                open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
                if open_nodes[-1][1] > MAX_YAML_NODES:
                    raise ValueError(f"{line}: stands for more than {MAX_YAML_NODES:,} values, by its aliases")
            if len(open_nodes) > MAX_DEPTH + 1:
                raise ValueError(f"{line}: lists or maps nested more than {MAX_DEPTH} deep")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = where if mark is None else f"{where}, line {mark.line + 1}"
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"{at}: not YAML ({' '.join(str(reason).split())[:200]})") from error


def _add_child(children: list[str] | None, value: str, where: str) -> None:
    """Note a key or a value of a map, by turns. Raises ValueError for a key that it has already."""
    if children is not None:
        if len(children) % 2 == 0 and value and value in children[::2]:
            raise ValueError(f"{where}: the key {value[:80]!r} stands twice")
        children.append(value)


def _read(path: AnyPath, max_bytes: int) -> bytes:
    with open(fetch(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path}: more than {max_bytes:,} bytes, too large for a configuration or a result")
    return content


def _decoded(content: bytes, where: object) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not a text in UTF-8 ({error})") from error


def _check_depth(text: str, where: object) -> None:
    depth, line = 0, 1
    for match in _BRACKET_OR_TEXT.finditer(text):
        found = match[0]
        if found in "[{":
            depth += 1
        elif found in "]}":
            depth -= 1
        else:
            line += found.count("\n")
        if depth > MAX_DEPTH:
            at = f", line {line}" if "\n" in text.strip() else ""
            raise ValueError(f"{where}{at}: not JSON (nested too deeply, more than {MAX_DEPTH})")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)[:80]!r} stands twice")
    return row


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value
