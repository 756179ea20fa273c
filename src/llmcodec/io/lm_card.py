"""`token_lm.json`: what a language model over codec tokens says of itself, beside its weights.

    card = TokenLMCard.load(folder)          # an empty one where there is none
    card.save(folder)

A card may have come from anybody: a field of another type or size than ours, or a template that does more than fill in
words, ends in one line. Fields of later versions are passed over. Test: tests/io/test_lm_card.py.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from llmcodec.io.remote.paths import is_url, url_of
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.token_file import SIZES, TokenProvenance

CARD, RELATIVE, TOKENS_OF = "token_lm.json", "codec_relative_path", "codec.json"
MAX_BYTES = 1 << 24
LONGEST_TEXT = 4096
TEMPLATE_FIELDS = ("text", "speaker", "language")


@dataclass(frozen=True)
class TokenLMCard:
    """Contents of `token_lm.json`, next to the weights."""

    codec: TokenProvenance | None = None
    """Codec whose tokens the LM speaks, with the digest of its weights; None if not recorded."""
    codec_path: str = ""
    """Full path of that codec's folder. Empty: it has none (`bundled`, a hub id), or it is not known. In the file it
    also stands as seen from the LM's folder, for trees that move as a whole."""
    formats: list[str] = field(default_factory=list)
    """Its training formats: audio, tts, tts_stream, tts_aligned, asr, interleaved."""
    loss: str = ""
    """Where the training loss was taken, in words."""
    base: str = ""
    """Name or path of the LM it started from; for an adapter folder, the LM below it."""
    seed: int = 0
    """Of the initial audio rows."""
    max_tokens: int | None = None
    """Longest sequence in training."""
    text_template: str = "{text}"
    """Template of a transcript; fields {text}, {speaker}, {language}."""
    turns: tuple[int, int] | None = None
    """Text tokens and codes of a turn, if it was trained on tts_stream."""
    units_ahead: int | None = None
    """Units read before their turn, if it was trained on tts_aligned."""
    longest_unit: int | None = None
    """Codes that 99 % of its units do not exceed; sampling ends units there."""
    units: list[str] | None = None
    """Names of its units if they are few (phonemes): others are rejected."""

    voice_seconds: float | None = None
    """Speech of the speaker that it reads before a text, if it was trained with voice prompts."""

    def save(self, folder: Path) -> None:
        """Write the card into the LM's folder."""
        write_json(folder / CARD, dataclasses.asdict(self) | _paths(self.codec_path, folder))

    @staticmethod
    def load(folder: Path) -> TokenLMCard:
        """The card of an LM's folder.

        Raises:
            ValueError: damaged, or a field that no LM of ours has written. One line that names file and field.
        """
        path = folder / CARD
        if not path.is_file():
            return TokenLMCard()
        try:
            facts = read_object(path, MAX_BYTES)
        except ValueError as error:
            raise ValueError(f"{path}: damaged ({error}); take it from the run again") from error
        known = {name: facts[name] for name in _PLAUSIBLE if name in facts}
        for name, value in known.items():
            if not _PLAUSIBLE[name](value):
                raise ValueError(f"{path}: damaged: {name} cannot be {repr(value)[:60]}; take it from the run again")
        check_template(known.get("text_template", "{text}"), path)
        codec, turns = known.pop("codec", None), known.pop("turns", None)
        known["codec_path"] = _found(known.get("codec_path", ""), known.pop(RELATIVE, ""), folder)
        return TokenLMCard(
            codec=None if codec is None else TokenProvenance(**codec),
            turns=None if turns is None else (turns[0], turns[1]),
            **known,
        )


def full_path(name: str) -> str:
    """A folder's full path, so that it is found from everywhere; any other name as it is."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def remember_codec(folder: Path, codec: str) -> None:
    """Write into a folder of tokens where their codec is, where `codec` is a folder: shards hold its name alone."""
    if Path(codec).is_dir():
        write_json(folder / TOKENS_OF, _paths(full_path(codec), folder))


def remembered_codec(folder: Path) -> str:
    """What `remember_codec` wrote into a folder of tokens or the one above it; "" where there is nothing."""
    for place in (folder, folder.parent):
        if (place / TOKENS_OF).is_file():
            facts = read_object(place / TOKENS_OF, MAX_BYTES)
            path, relative = facts.get("codec_path", ""), facts.get(RELATIVE, "")
            if not (_text(path) and _text(relative)):
                raise ValueError(f"{place / TOKENS_OF}: damaged: codec_path must be a text")
            return _found(path, relative, place)
    return ""


def _paths(path: str, folder: Path) -> dict[str, str]:
    """A path as it is, and as seen from `folder` where neither is a URL, or both are."""
    together = path and not is_url(path) and (url_of(path) is None) == (url_of(folder) is None)
    return {"codec_path": path, RELATIVE: os.path.relpath(path, folder.resolve()) if together else ""}


def _found(path: str, relative: str, folder: Path) -> str:
    """The full path of the folder that `_paths` meant: seen from `folder`, if there is one, else as it was."""
    seen = folder.resolve() / relative
    return str(seen.resolve()) if relative and seen.is_dir() else path


def check_template(template: str, where: object) -> None:
    """Refuse a template that is more than words around {text}, {speaker} and {language}.

    `{text:>4000000000}` would take 4 GB, and `{text.__class__}` looks into the program.

    Raises:
        ValueError: such a field, a brace that opens none, or no {text}.
    """
    named = []
    try:
        for _, name, layout, conversion in Formatter().parse(template):
            if name is not None:
                named.append(name)
                if name not in TEMPLATE_FIELDS or layout or conversion:
                    raise ValueError(f"{{{name[:40]}{':' if layout else '!' if conversion else ''}...")
    except ValueError as error:
        fields = ", ".join(f"{{{name}}}" for name in TEMPLATE_FIELDS)
        raise ValueError(f"{where}: text_template may hold {fields} as they stand, not {str(error)[:60]}") from error
    if "text" not in named:
        raise ValueError(f"{where}: text_template must contain {{text}}, got {template[:60]!r}")


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _whole(low: int, high: int = 1 << 31) -> Callable[[Any], bool]:
    """Whole numbers from `low` to `high`."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _or_none(plausible: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or plausible(value)


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole(1), value))


def _provenance(value: Any) -> bool:
    names = {one.name for one in dataclasses.fields(TokenProvenance)}
    return (
        isinstance(value, dict)
        and names - {"manifest_hash"} <= set(value) <= names
        and all(_whole(1)(value[name]) for name in SIZES)
        and all(_text(value[name]) for name in set(value) - set(SIZES))
        and re.fullmatch(r"[0-9a-f]{64}", value["weights_sha256"]) is not None
    )


_PLAUSIBLE: dict[str, Callable[[Any], bool]] = {
    "codec": _or_none(_provenance),
    "codec_path": _text,
    RELATIVE: _text,
    "formats": _texts,
    "loss": _text,
    "base": _text,
    "seed": _whole(-(1 << 63), (1 << 64) - 1),
    "max_tokens": _or_none(_whole(1)),
    "text_template": _text,
    "turns": _or_none(_pair),
    "units_ahead": _or_none(_whole(0)),
    "longest_unit": _or_none(_whole(0)),
    "units": _or_none(_texts),
    "voice_seconds": _or_none(lambda value: isinstance(value, int | float) and 0 < value <= 30),
}
