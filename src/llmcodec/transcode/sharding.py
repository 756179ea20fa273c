"""Work that several machines share: `--shard 2/8` is the third of eight parts, none of which knows of the others.

    shard = Shard.read("2/8")
    own = shard.span(milliseconds)          # a range of clips that lasts an eighth of the corpus
    part = Part.begin(Path("tokens"), shard, plan, own)
    ...                                     # tokens go into part.folder
    part.finish(folders, left_out)

A part is a stretch of the corpus in its order, so that the parts one after another are the corpus, and a machine reads
neighbouring files. Its folder has a record of what it is of, which ends with what it holds; `merge.py` puts the parts
together. Test: tests/transcode/test_sharding.py.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.io.structured import read_object, write_json
from llmcodec.transcode.index import INDEX, MAX_BYTES, Plan, read_index

RECORD = "part.json"
FORMAT = "llmcodec-part-1"
MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of equal duration; the first has number 0."""

    number: int
    count: int

    @classmethod
    def read(cls, written: str) -> Shard:
        """`2/8`. Raises ValueError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", written)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 <= number < count <= MOST_SHARDS:
            last = f"0/{count} to {count - 1}/{count}" if 0 < count <= MOST_SHARDS else "0/8 to 7/8"
            raise ValueError(f"--shard {written}: shards are counted from 0, for example {last}")
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder_name(self) -> str:
        """Of its part."""
        return f"part-{self.number:05d}-of-{self.count:05d}"

    def span(self, milliseconds: Sequence[int] | np.ndarray) -> range:
        """The clips of this shard: all spans together are all clips, and none lasts longer than its share by a clip.

        Args:
            milliseconds: of every clip of the corpus, in its order; 0 where nobody knows.
        """
        lengths = np.maximum(np.asarray(milliseconds, np.int64), 1)
        middles = 2 * np.cumsum(lengths) - lengths  # twice, so that they are whole numbers on every machine
        total = 2 * int(lengths.sum())
        first, last = (-(-total * number // self.count) for number in (self.number, self.number + 1))
        return range(int(np.searchsorted(middles, first)), int(np.searchsorted(middles, last)))


def in_milliseconds(seconds: float) -> int:
    """Whole milliseconds, which sum up to the same on every machine."""
    return round(1000 * seconds) if math.isfinite(seconds) else 0


@dataclass(frozen=True)
class Part:
    """The folder of one shard and its record."""

    folder: Path
    shard: Shard
    plan: Plan
    span: range
    folders: Mapping[str, Any] | None = None
    """What it holds, as `describe_shards` says; None: it is unfinished."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] | None = None
    """Digest of each token file, where there is one for each clip; they lie beside the part's folder."""

    @classmethod
    def begin(cls, output: Path, shard: Shard, plan: Plan, span: range) -> Part:
        """The part of a shard in `output`, new or to go on with.

        Raises:
            ValueError: the part that is there is of another plan.
        """
        part = cls(output / shard.folder_name, shard, plan, span)
        if (part.folder / RECORD).is_file():
            before = cls.load(part.folder)
            if other := before.plan.difference(plan):
                raise ValueError(f"{part.folder}: begun with {_other_way(other)}; delete it, or name another folder")
            return dataclasses.replace(before, span=span)
        part._write()
        return part

    def finish(
        self, folders: Mapping[str, Any], left_out: Mapping[str, str], files: Mapping[str, str] | None = None
    ) -> Part:
        """Record what the part holds: it is complete."""
        done = dataclasses.replace(self, folders=folders, left_out=dict(sorted(left_out.items())), files=files)
        done._write()
        return done

    def _write(self) -> None:
        told = {"format": FORMAT, "shard": str(self.shard), **dataclasses.asdict(self.plan)}
        told |= {"clips": [self.span.start, self.span.stop], "folders": self.folders, "left_out": self.left_out}
        write_json(self.folder / RECORD, told | ({} if self.files is None else {"files": self.files}), durable=True)

    @classmethod
    def load(cls, folder: Path) -> Part:
        """The part in a folder. Raises ValueError where there is none."""
        path = folder / RECORD
        if not path.is_file():
            raise ValueError(f"{folder}: no part of a sharded run ({RECORD} is missing)")
        found = read_object(path, MAX_BYTES)
        if found.get("format") != FORMAT:
            raise ValueError(f"{path}: not the record of a part ({FORMAT} is known)")
        span: Any = found.get("clips")
        folders, left_out, files = (found.get(name) for name in ("folders", "left_out", "files"))
        whole = isinstance(span, list) and len(span) == 2 and all(isinstance(one, int) and one >= 0 for one in span)
        if not whole or not isinstance(left_out, dict) or not isinstance(found.get("shard"), str):
            raise ValueError(f"{path}: a damaged record")
        if not all(one is None or isinstance(one, dict) for one in (folders, files)):
            raise ValueError(f"{path}: a damaged record")
        shard = Shard.read(found["shard"])
        return cls(folder, shard, Plan.read(found, path), range(span[0], span[1]), folders, left_out, files)


def _other_way(difference: str) -> str:
    return f"another plan (now {difference})"


def parts_in(place: Path) -> list[Path]:
    """Folders of parts: the place itself, or those in it."""
    if (place / RECORD).is_file():
        return [place]
    return sorted(path for path in place.glob("part-*") if (path / RECORD).is_file()) if place.is_dir() else []


def refuse_parts(output: Path) -> None:
    """Raise ValueError where a run without --shard would write beside the parts of one with it."""
    if parts := parts_in(output):
        raise ValueError(
            f"{output}: holds {len(parts)} parts of a sharded run ({parts[0].name}); put them together with "
            f"`llmcodec tokens merge {output}`, or name another folder"
        )


def merged_line(output: Path, option: str = "--shard") -> str:
    """What a run with `option` says of a folder that `is_merged`."""
    return (
        f"{output}: is merged already, nothing is left to do; the audio was not compared with the tokens: the same "
        f"command without {option} does that, once no parts are left there (`tokens merge --remove-parts`)"
    )


def is_merged(output: Path, plan: Plan) -> bool:
    """Whether the parts of this plan have been merged already, so that nothing is left to do.

    Raises:
        ValueError: the folder has the tokens of another plan.
    """
    if not (output / INDEX).is_file():
        return False
    if other := Plan.read(read_index(output), output / INDEX).difference(plan):
        raise ValueError(f"{output}: holds tokens of {_other_way(other)}; name another folder")
    return True
