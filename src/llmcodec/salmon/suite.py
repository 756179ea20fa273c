"""Pairs of a SALMon suite, official or home-made: from a folder of wav files or from a Hugging Face data set.

Folder: `<part>/sample_<i>_<0 positive|1 negative>.wav`. Data set (`slprl/SALMon`): one configuration per part with
columns `positive_audio` and `negative_audio`; audio comes undecoded and is decoded by libsndfile. Shapes: S samples.
Test: tests/salmon/test_suite.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.hub import import_datasets, read_rows, readable, undecoded_audio
from llmcodec.io import audio
from llmcodec.io.digests import digest

PARTS = (
    "sentiment_consistency",
    "speaker_consistency",
    "gender_consistency",
    "bg_domain_consistency",
    "bg_all_consistency",
    "rir_consistency",
    "sentiment_alignment",
    "bg_alignment",
)
"""The eight tasks in the order of the paper's table."""
COLUMNS = ("positive_audio", "negative_audio")
_NAME = re.compile(r"sample_(\d+)_([01])\.wav")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class SuitePair:
    """One pair; audio is read on demand."""

    part: str
    index: int
    positive: Path | bytes
    negative: Path | bytes

    def read(self, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Positive and negative, float32 (S,) mono at `sample_rate`. Raises ValueError naming a broken file."""
        where = f"{self.part}, pair {self.index}"
        return _decode(self.positive, sample_rate, where), _decode(self.negative, sample_rate, where)

    def fingerprint(self) -> bytes:
        """Changes when either file changes (its content, or for files their size and time)."""
        sides = [
            side if isinstance(side, bytes) else f"{side.stat().st_size} {side.stat().st_mtime_ns}"
            for side in (self.positive, self.negative)
        ]
        return bytes.fromhex(digest(f"{self.part}/{self.index}", *sides))


def _decode(source: Path | bytes, sample_rate: int, where: str) -> np.ndarray:
    if isinstance(source, Path):
        return audio.load(source, sample_rate)
    try:
        return audio.resample(*audio.read_bytes(source, "its bytes"), sample_rate)
    except ValueError as error:
        raise ValueError(f"{where}: the data set's audio cannot be read ({error})") from error


def open_suite(suite: str | Path, parts: Sequence[str] | None = None) -> dict[str, list[SuitePair]]:
    """Part -> its pairs, in order. `suite`: a folder in the official layout, a data set saved to disk, or a hub id.

    Raises:
        ValueError: no such suite, a part that is not in it, or a pair without its partner.
    """
    folder = Path(suite)
    if folder.is_dir():
        data_set = folder / "dataset_dict.json"
        if not data_set.is_file() and not (folder / "state.json").is_file() and not any(folder.rglob("*.parquet")):
            return _from_folder(folder, parts)
    elif not _HUB_ID.fullmatch(str(suite)):
        raise ValueError(f"{suite}: no such folder, and not the name of a data set such as slprl/SALMon")
    return _from_data_set(str(suite), parts)


def _ordered(found: Sequence[str], parts: Sequence[str] | None, where: str) -> list[str]:
    unknown = [part for part in parts or () if part not in found]
    if unknown:
        raise ValueError(f"{where}: no part {', '.join(unknown)}; there is {', '.join(sorted(found)) or 'nothing'}")
    rank = {part: number for number, part in enumerate(PARTS)}
    return sorted(parts or found, key=lambda part: (rank.get(part, len(rank)), part))


def _from_folder(folder: Path, parts: Sequence[str] | None) -> dict[str, list[SuitePair]]:
    found = [place.name for place in folder.iterdir() if place.is_dir() and any(place.glob("sample_*_0.wav"))]
    if not found:
        raise ValueError(f"{folder}: no folder in it holds sample_<i>_0.wav and sample_<i>_1.wav")
    suite = {}
    for part in _ordered(found, parts, str(folder)):
        sides: dict[int, dict[str, Path]] = {}
        for path in (folder / part).iterdir():
            if match := _NAME.fullmatch(path.name):
                sides.setdefault(int(match[1]), {})[match[2]] = path
        alone = [index for index, pair in sides.items() if len(pair) < 2]
        if alone:
            missing = "1" if "0" in sides[alone[0]] else "0"
            raise ValueError(f"{folder / part}: sample_{alone[0]}_{missing}.wav is missing ({len(alone)} in all)")
        suite[part] = [SuitePair(part, index, pair["0"], pair["1"]) for index, pair in sorted(sides.items())]
    return suite


def _from_data_set(name: str, parts: Sequence[str] | None) -> dict[str, list[SuitePair]]:
    datasets = import_datasets()
    with readable(name):
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            rows = datasets.load_from_disk(name)
            tables = dict(rows) if isinstance(rows, datasets.DatasetDict) else {"": rows}
        else:
            configurations = [c for c in datasets.get_dataset_config_names(name) if not c.startswith("all")]
            wanted = [name_ for name_ in configurations if parts is None or name_ in parts] or configurations
            tables = {c: datasets.load_dataset(name, c, split="train") for c in wanted}
    pairs: dict[str, list[SuitePair]] = {}
    for table_name, table in tables.items():
        for part, pair in _rows(name, table_name, table):
            pairs.setdefault(part, []).append(pair)
    return {part: pairs[part] for part in _ordered(list(pairs), parts, name)}


def _rows(name: str, table_name: str, table: Any) -> Iterator[tuple[str, SuitePair]]:
    datasets = import_datasets()
    missing = [column for column in COLUMNS if column not in table.features]
    if missing:
        raise ValueError(f"{name}: no column {', '.join(missing)}; there is {', '.join(table.features)}")
    for column in COLUMNS:
        table = table.cast_column(column, datasets.Audio(decode=False))
    for number, row in enumerate(read_rows(name, table)):
        part = table_name if table_name not in ("", "default", "train") else str(row.get("task") or "suite")
        index = row.get("ind") if isinstance(row.get("ind"), int) else number
        try:
            sides = [undecoded_audio(row[column]) for column in COLUMNS]
        except ValueError as error:
            raise ValueError(f"{name}, {part}, row {number}: {error}") from error
        yield part, SuitePair(part, int(index), sides[0], sides[1])
