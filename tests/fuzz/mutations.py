"""Damage done to files, keyed by a number: bytes, header fields, lengths. The same key gives the same damage."""

from __future__ import annotations

import json
import random
from typing import Any

NASTY: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 255, 65536, 2**31, 2**32, 2**40, 2**53, 2**63, 2**64, 10**30),
    *(0.5, -0.0, 1e300, float("nan"), float("inf"), True, False, None),
    *("", "0", "-1", "٣", "x" * 300, "\x00", "../../etc/passwd", "9" * 25, "llmcodec", "F64", "U8"),
    *([], {}, [[]], [0, 0], [1, 2**62], {"a": 1}),
)


def damaged(data: bytes, key: int) -> bytes:
    """`data` of a safetensors file with one to three changes."""
    chance = random.Random(key)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = chance.choice(_KINDS)(data, chance)
    return data


def damaged_json(text: str, key: int) -> str:
    """JSON text with one to three changes."""
    chance = random.Random(key)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if chance.random() < 0.25:
            text = _flip(text.encode(), chance).decode("utf-8", "replace")
            continue
        try:
            value = json.loads(text)
        except ValueError:
            return text
        text = json.dumps(_poke(value, chance))
    return text


def _poke(value: Any, chance: random.Random) -> Any:
    """One place in a JSON value replaced, removed, doubled or renamed."""
    places = list(_places(value))
    if not places:
        return chance.choice(NASTY)
    holder, at = chance.choice(places)
    kind = chance.random()
    if kind < 0.6:
        holder[at] = chance.choice(NASTY)
    elif kind < 0.75 and isinstance(holder[at], (int, float)) and not isinstance(holder[at], bool):
        holder[at] = holder[at] * chance.choice((2, 1000, -1, 10**9)) + chance.choice((-1, 0, 1))
    elif kind < 0.85:
        del holder[at]
    elif isinstance(holder, dict):
        holder[f"{at}{chance.choice('xyz')}"] = holder.pop(at)
    else:
        holder.append(holder[at])
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        pairs = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for at, inner in pairs:
            found.append((one, at))
            waiting.append(inner)
    return found


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _grow(data: bytes, chance: random.Random) -> bytes:
    return data + bytes(chance.randrange(256) for _ in range(chance.randint(1, 40)))


def _header_length(data: bytes, chance: random.Random) -> bytes:
    length = chance.choice((0, 1, 2, 8, 2**16, 2**31, 2**40, 2**63, 2**64 - 1, chance.randrange(2000)))
    return length.to_bytes(8, "little") + data[8:]


def _header_value(data: bytes, chance: random.Random) -> bytes:
    """The JSON header changed, its length and the tensors kept right."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return _flip(data, chance)
    text = json.dumps(_poke(header, chance)).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _piece(data: bytes, chance: random.Random) -> bytes:
    """A stretch of the file repeated or dropped."""
    start = chance.randrange(len(data) + 1)
    stop = min(len(data), start + chance.randint(1, 60))
    return data[:start] + data[start:stop] * chance.choice((0, 2, 3)) + data[stop:]


_KINDS = (_flip, _flip, _cut, _grow, _header_length, _header_value, _header_value, _header_value, _piece)


def damaged_text(data: bytes, key: int) -> bytes:
    """A text file with one to three changes: bytes, or lines dropped, doubled, swapped, joined, given odd fields."""
    chance = random.Random(key)
    for _ in range(chance.choice((1, 1, 2, 3))):
        lines = data.splitlines(keepends=True)
        if not lines or chance.random() < 0.3:
            data = chance.choice((_flip, _cut, _grow, _piece))(data, chance)
            continue
        at = chance.randrange(len(lines))
        lines[at : at + 1] = chance.choice(_OF_LINES)(lines[at], chance)
        data = b"".join(lines)
    return data


def damaged_lines(data: bytes, key: int) -> bytes:
    """A JSONL file in which one row is damaged as JSON, or the file as text."""
    chance = random.Random(key)
    lines = data.splitlines(keepends=True)
    if not lines or chance.random() < 0.3:
        return damaged_text(data, key)
    at = chance.randrange(len(lines))
    lines[at] = damaged_json(lines[at].decode("utf-8", "replace"), key).encode() + b"\n"
    return b"".join(lines)


def damaged_bytes(data: bytes, key: int) -> bytes:
    """A file of any kind with one to three changes, near its start more often than elsewhere."""
    chance = random.Random(key)
    for _ in range(chance.choice((1, 1, 2, 3))):
        head = 1 << chance.choice((4, 6, 8, 40))
        data = chance.choice((_flip, _flip, _cut, _grow, _piece))(data[:head], chance) + data[head:]
    return data


def _odd_field(line: bytes, chance: random.Random) -> list[bytes]:
    """One word of a line replaced by something nasty."""
    words = line.split(chance.choice((b" ", b"\t", b"|", b",", b": ")))
    words[chance.randrange(len(words))] = str(chance.choice(NASTY)).encode("utf-8", "surrogatepass")
    return [chance.choice((b" ", b"\t", b"|", b",", b": ")).join(words) + b"\n"]


_OF_LINES = (
    lambda line, chance: [],
    lambda line, chance: [line, line],
    lambda line, chance: [line.rstrip(b"\n")],
    lambda line, chance: [line.replace(b" ", b"\t")],
    lambda line, chance: [b"\xef\xbb\xbf" + line],
    lambda line, chance: [line.replace(b"\n", b"\r")],
    lambda line, chance: [line[: len(line) // 2] + "\u2028\u0085\x00\x1c".encode() + line[len(line) // 2 :]],
    lambda line, chance: [b"  " * chance.randrange(1, 60) + line],
    _odd_field,
    _odd_field,
)
