"""Token shards as language models read them: a row of flattened codes per clip.

    provenance, rows = flat_rows("tokens/train")
    rows, codec = read_rows([Path("a/train"), Path("b/train")], speakers=["s1"])

Shapes: Q codebooks, T frames. Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from llmcodec.io.token_file import TokenProvenance, difference_of_search
from llmcodec.io.token_shards import TokenRow, open_token_shards

SEVERAL_CHANNELS = (
    "some clips have several channels (`encode --channels split`), of which a language model reads the first alone; "
    "mix them down to have all of each"
)


Chosen = Mapping[Path, Collection[str]]
"""Ids of the clips that are wanted of a folder; of a folder that is not in it, all."""


@dataclass(frozen=True)
class FlatRow:
    """A row of shards as language models read it. codes: flattened (T Q,), see `io.token_text`."""

    id: str
    codes: np.ndarray
    text: str
    speaker: str
    language: str
    duration: float


def flat_row(row: TokenRow, provenance: TokenProvenance) -> FlatRow:
    """The first channel of a row, its codes in the smallest integers that hold those of all codebooks."""
    if len(row.codes) > 1:
        warnings.warn(SEVERAL_CHANNELS, stacklevel=2)
    shift_Q = np.arange(provenance.num_codebooks)[:, None] * provenance.codebook_size
    smallest = np.min_scalar_type(provenance.num_codebooks * provenance.codebook_size - 1)
    codes = (row.codes[0] + shift_Q).T.reshape(-1).astype(smallest)
    return FlatRow(row.id, codes, row.text, row.speaker, row.language, row.num_samples / provenance.sample_rate)


def flat_rows(path: str | Path) -> tuple[TokenProvenance, Iterator[FlatRow]]:
    """Provenance and flattened rows of a folder of shards, first channel only; ValueError as `open_token_shards`."""
    provenance, rows = open_token_shards(path)

    def flattened() -> Iterator[FlatRow]:
        seen: set[str] = set()
        for row in rows:
            if row.id in seen:
                raise ValueError(f"{path}: the clip {row.id!r} stands there twice; was a shard copied? Delete one")
            seen.add(row.id)
            yield flat_row(row, provenance)

    return provenance, flattened()


def read_rows(
    folders: Sequence[Path],
    speakers: Collection[str] | None = None,
    languages: Collection[str] | None = None,
    codec: TokenProvenance | None = None,
    chosen: Chosen = MappingProxyType({}),
) -> tuple[list[FlatRow], TokenProvenance]:
    """Rows of several folders of shards (at least one) and their codec.

    Args:
        speakers, languages: keep the rows of these; None keeps all.
        codec: reject tokens of other codecs; None takes the first folder's.
        chosen: keep these clips of a folder, with all their views.

    Raises:
        ValueError: shards of different codecs, a folder or a clip in it named twice.
    """
    kept: list[FlatRow] = []
    refuse_twice(folders)
    for folder in folders:
        provenance, rows = flat_rows(folder)
        codec = codec or provenance
        check_one_codec(codec, provenance, folder)
        kept += [
            row
            for row in rows
            if (speakers is None or row.speaker in speakers)
            and (languages is None or row.language in languages)
            and is_chosen(row.id, chosen.get(folder))
        ]
    assert codec is not None
    return kept, codec


def is_chosen(name: str, ids: Collection[str] | None) -> bool:
    """Whether a row is a clip of these ids or a view of one (`ID#SAMPLES`); None takes all."""
    return ids is None or name in ids or name.rpartition("#")[0] in ids


def refuse_twice(folders: Sequence[Path]) -> None:
    """Raise ValueError where a folder is named twice."""
    places = [folder.resolve() for folder in folders]
    if twice := [folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        raise ValueError(f"{twice[0]}: named twice, its clips would count double")


def check_one_codec(codec: TokenProvenance, theirs: TokenProvenance, where: Path) -> None:
    """Raise ValueError for tokens `where` of another codec; warn of tokens that were searched in another way."""
    if theirs.weights_sha256 != codec.weights_sha256:
        raise ValueError(
            f"{where}: tokens of codec {theirs.codec!r} ({theirs.weights_sha256[:12]}), the others are of "
            f"{codec.codec!r} ({codec.weights_sha256[:12]}); one language model speaks one codec"
        )
    if difference := codec.difference_of_sizes(theirs):
        raise ValueError(f"{where}: tokens of {difference} as in the others; one language model speaks one codec")
    if difference := difference_of_search(codec.codec, theirs.codec):
        warnings.warn(f"{where}: {difference}; the language model learns a mixture", stacklevel=3)
