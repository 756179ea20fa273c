"""The sources by name: what they are, under which terms, and what may be done with them.

Test: tests/examples/test_build_corpus.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus.amazon_queen import PACKAGE as AMAZON_QUEEN
from corpus.amazon_queen import amazon_queen
from corpus.kokoro import read_synthesized
from corpus.readings import festvox_ru, klettres, tuxpaint
from corpus.sources import ASTERISK, Recording, asterisk, fillets, librivox


@dataclass(frozen=True)
class Source:
    """One source of speech."""

    column: str
    """Its name in the manifest's column `source`."""
    read: Callable[[Path], Iterator[Recording]]
    """Its recordings, given the folder of the unpacked packages (`kokoro`: of the synthesized speech)."""
    packages: tuple[str, ...]
    """Debian packages, none for synthetic speech."""
    licence: str
    ships: bool
    """Whether weights trained on it may be passed on."""
    terms: str
    """Why, in the words of the licence where they decide."""
    split: str = "id"
    """`id`: 90/5/5 by a hash of the id, for one reader; `speaker`: 80/10/10 by speaker; or `train` or `test`: all."""
    synthetic: bool = False


SOURCES = {
    "asterisk": Source(
        "asterisk-core-sounds",
        asterisk,
        tuple(f"asterisk-core-sounds-{language}{codec}" for language in ASTERISK for codec in ("", "-g722")),
        "CC-BY-SA-3.0 (en es fr), CC-BY-3.0 (it ru)",
        ships=True,
        terms="attribution; adaptations of the English, Spanish and French part under the same licence",
    ),
    "librivox": Source(
        "pocketsphinx-testdata",
        librivox,
        ("pocketsphinx-testdata",),
        "BSD-2-Clause",
        ships=True,
        terms='"Redistribution and use in source and binary forms, with or without modification, are permitted"',
    ),
    "festvox_ru": Source(
        "festvox-ru",
        festvox_ru,
        ("festvox-ru",),
        "BSD-like (2005 Nickolay V. Shmyrev)",
        ships=True,
        terms='"without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or '
        "sell copies\"; keep the notice and the authors' names, mark modifications, no endorsement",
    ),
    "kokoro": Source(
        "kokoro-82m",
        read_synthesized,
        (),
        "Apache-2.0",
        ships=True,
        terms="model, voices and phonemes Apache-2.0; the authors say that its training data, much of it synthetic, "
        "was permissive or free of copyright; texts in the public domain",
        split="train",
        synthetic=True,
    ),
    "tuxpaint": Source(
        "tuxpaint-stamps",
        tuxpaint,
        ("tuxpaint-stamps-default",),
        "GPL-2.0-only",
        ships=False,
        terms="GPL: evaluation only",
        split="test",
    ),
    "klettres": Source(
        "klettres",
        klettres,
        ("klettres-data",),
        "GPL-2.0-or-later",
        ships=False,
        terms="GPL: evaluation and local experiments",
        split="speaker",
    ),
    "fillets": Source(
        "fillets-ng",
        fillets,
        ("fillets-ng-data", "fillets-ng-data-cs", "fillets-ng-data-nl"),
        "GPL-2.0-only",
        ships=False,
        terms="GPL: evaluation only",
        split="test",
    ),
    "amazon_queen": Source(
        "flight-of-the-amazon-queen",
        amazon_queen,
        (AMAZON_QUEEN,),
        "Flight-of-the-Amazon-Queen-License",
        ships=False,
        terms='"You may not charge a fee for the game itself": evaluation on this machine only, pass nothing on',
        split="test",
    ),
}
HUMAN = tuple(name for name, source in SOURCES.items() if not source.synthetic)


def choose_sources(names: Iterable[str], for_shipping: bool) -> tuple[list[str], list[str]]:
    """Names to build, in the order of the table, and names left out because weights trained on them may not ship.

    Raises:
        ValueError: a name is unknown, or nothing is left.
    """
    asked = set(names)
    if unknown := sorted(asked - SOURCES.keys()):
        raise ValueError(f"--sources: there is no {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    left_out = [name for name in SOURCES if name in asked and for_shipping and not SOURCES[name].ships]
    kept = [name for name in SOURCES if name in asked and name not in left_out]
    if not kept:
        raise ValueError(f"--for-shipping leaves nothing of {', '.join(left_out)}: their licences do not allow it")
    return kept, left_out


def describe_sources() -> str:
    """The table that `--list` prints."""
    lines = []
    for name, source in SOURCES.items():
        kind = "synthetic" if source.synthetic else "people"
        use = "may ship" if source.ships else "never in shipped weights"
        lines += [f"{name} ({kind}; {use}; split {source.split}): {source.licence}", f"    {source.terms}"]
    return "\n".join(lines)
