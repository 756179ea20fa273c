"""The options that commands share: a command takes one of these groups as an argument and its fields become options.

    def tokenize(codec: CodecOptions, corpus: ClipOptions, output: OutputOptions) -> None: ...
    llmcodec tokenize --codec bundled --manifest corpus.jsonl --sources a,b --min-seconds 1 -o tokens

An option means the same wherever it appears. A command with another default says so in its signature
(`output: OutputOptions = OutputOptions("tokens")`); an `Args:` entry that carries a field's name replaces that field's
help. Imports no torch, so `--runtime onnx` never does. Test: tests/cli/test_options.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcodec.assets import BUNDLED
from llmcodec.data.manifest import Clip, leave_out_unreadable, read_manifest, spread, values_of
from llmcodec.data.splits import SPLITS, split_of_name
from llmcodec.io.bad_rows import BadRows, MaxBad, read_max_bad
from llmcodec.precision import Precision, Side
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.opening import RuntimeName, open_runtime, pick_device


class OptionGroup:
    """A dataclass whose fields are top-level options; the string below a field is its help."""


@dataclass(frozen=True)
class DeviceOptions(OptionGroup):
    """Where models run."""

    device: str = "auto"
    """auto takes a GPU if there is one, else the CPU; or cpu, cuda, cuda:1, mps."""

    def torch_device(self) -> str:
        """The device by PyTorch's name. Raises ValueError for one that this machine does not have."""
        return pick_device(self.device)


@dataclass(frozen=True)
class CodecOptions(DeviceOptions):
    """One codec and how it runs."""

    codec: str = BUNDLED
    """bundled, a folder, or a Hugging Face hub id."""
    precision: Precision = "auto"
    """auto takes the fastest that keeps the tokens; fp32 is exact."""
    runtime: RuntimeName = "auto"
    """onnx starts in half a second, without PyTorch, for bundled and folders of `llmcodec export --format onnx`; torch
    is faster on hours of audio and on a GPU. auto takes onnx where there are graphs and no GPU."""

    def open(self, only: Side | None = None, batch_seconds: float = 64.0) -> Runtime:
        """The codec, ready to run.

        Args:
            only: the side that will be used; the other one works too, but is not optimised.
            batch_seconds: padded seconds of audio in one call.
        """
        return open_runtime(self.codec, self.runtime, self.device, self.precision, batch_seconds, only)


@dataclass(frozen=True)
class CorpusOptions(OptionGroup):
    """A corpus from which a command takes the splits train, valid and test."""

    manifest: str = BUNDLED
    """JSONL manifest, or a file, folder or pattern of Parquet, Arrow, WebDataset tars or lhotse shar, with columns by
    name: data/?audio=wav&text=words; here or at a URL (s3://, gs://, hf://), as every path may be; bundled is the
    corpus in the package."""
    sources: tuple[str, ...] | None = None
    """Keep clips of these sources, joined by commas."""
    languages: tuple[str, ...] | None = None
    """Keep clips of these languages, joined by commas."""
    min_seconds: float = 0.5
    """Leave out shorter clips."""
    max_seconds: float = math.inf
    """Leave out longer clips."""
    max_bad: MaxBad = 0
    """Limit of unreadable clips, e.g. 20 or 1%: each is named and left out; one more stops the run."""

    def __post_init__(self) -> None:
        read_max_bad(self.max_bad)

    def read(self, split: str | tuple[str, ...] | None = None) -> Sequence[Clip]:
        """Clips of one split or several (None: of all) that pass the filters; reports how many were too short or long.

        Raises:
            ValueError: no clip is left.
        """
        names: dict[str, Any] = {"sources": self.sources, "languages": self.languages}
        low, high = self.min_seconds, self.max_seconds
        clips = read_manifest(self.manifest, split, **names, min_seconds=low, max_seconds=high)
        if left := len(read_manifest(self.manifest, split, **names)) - len(clips):
            limits = f"--min-seconds {low:g} and --max-seconds {high:g}"
            print(f"{self.manifest}: {left} clips are left out by {limits}", file=sys.stderr)
        return clips

    def three_splits(self) -> tuple[Sequence[Clip], Sequence[Clip], Sequence[Clip]]:
        """Clips of train, valid and test, whatever their splits are called: `validation` and `dev-clean` are valid.

        Raises:
            ValueError: no clip of one of them is left.
        """
        names = sorted({split for (split,) in values_of(read_manifest(self.manifest), "split")})
        train, valid, test = (tuple(name for name in names if split_of_name(name) == split) for split in SPLITS)
        return self.read(train or "train"), self.read(valid or "valid"), self.read(test or "test")

    def without_bad(self, *parts: Sequence[Clip]) -> tuple[list[list[Clip]], BadRows]:
        """Parts of the corpus without the clips that cannot be read, and those; says which.

        With `--max-bad 0` nothing is read here, and the first measurement that comes upon one stops.

        Raises:
            ValueError: more than `--max-bad` allows, or a part is empty then.
        """
        clips = list(dict.fromkeys(clip for part in parts for clip in part))
        bad = BadRows(self.max_bad, len(clips))
        if bad.allowed:
            leave_out_unreadable(clips, bad)
        left = [[clip for clip in part if clip.id not in bad.reasons] for part in parts]
        if not all(left):
            raise ValueError(f"{self.manifest}: no clip of one split can be read; {'; '.join(bad.lines()[1:])}")
        for line in bad.lines():
            print(line, file=sys.stderr)
        return left, bad


@dataclass(frozen=True)
class ClipOptions(CorpusOptions):
    """Clips of the named splits of one corpus."""

    split: tuple[str, ...] | None = None
    """Take these splits, joined by commas."""

    def clips(self) -> Sequence[Clip]:
        """Clips of the named splits, all clips if none is named."""
        return self.read(self.split)

    def held_out_clips(self) -> Sequence[Clip]:
        """Clips of the named splits; without names the held-out ones, or all, said aloud, if there is none of those."""
        clips = self.clips()
        if self.split is not None:
            return clips
        if held_out := [clip for clip in clips if clip.held_out]:
            return held_out
        if splits := sorted({clip.split for clip in clips} - {""}):
            names = f"{', '.join(splits[:8])}{', ...' if len(splits) > 8 else ''}"
            print(
                f"{self.manifest}: no clip is in a held-out split (valid, test, ...), so all are taken, of {names}; "
                "choose others with --split",
                file=sys.stderr,
            )
        return clips

    def measured_clips(self, count: int | None, among: Sequence[Clip] | None = None) -> tuple[list[Clip], BadRows]:
        """So many clips, evenly spread, without those that cannot be read, and these.

        Args:
            count: how many; None takes all.
            among: what to choose from, `held_out_clips` if None.

        Raises:
            ValueError: less than one clip, or as `without_bad`.
        """
        if count is not None and count < 1:
            raise ValueError(f"--clips must be at least 1, not {count}")
        (chosen,), bad = self.without_bad(spread(self.held_out_clips() if among is None else among, count))
        return chosen, bad


@dataclass(frozen=True)
class OutputOptions(OptionGroup):
    """Where results go."""

    output: str | None = None
    """File or folder for the results; like every path, it may be a URL (s3://)."""

    @property
    def place(self) -> Path:
        """The output of a command that requires one. Raises ValueError if it was not named."""
        if self.output is None:
            raise ValueError("name the output: -o NAME")
        return Path(self.output)


@dataclass(frozen=True)
class ResumeOptions(OutputOptions):
    """Where results go, and what happens to existing results."""

    resume: bool = False
    """Keep finished results and do the rest; what is older than its source, or damaged, is made again."""
    overwrite: bool = False
    """Replace existing results."""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ValueError("--resume keeps results and --overwrite replaces them: choose one")
