"""Corpus to tokens: encode every clip of a manifest once into shards that language models train on.

    job = TokenJob.of(runtime, clips)
    job.run(Path("tokens"))                               # all of it
    job.run_part(Path("tokens"), Shard.read("2/8"))       # a part, which merge.py puts together with the others

Shards are written atomically; started again, a run skips the clips that are already in shards. What it has made stands
in `index.json` at the end; of a part, in its record (sharding.py). Clips are read from the manifest when their turn
comes, so that memory grows by about 100 bytes a clip, and 32 more for each that is in shards before.
Shapes: S samples, Q codebooks, T frames. Test: `pytest tests/cli/test_lm.py tests/transcode/test_tokenize.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llmcodec.data.manifest import Clip, clips_by_split, durations_of, find_missing, manifest_hash, where
from llmcodec.io.bad_rows import MOST_LISTED, BadRows
from llmcodec.io.digests import digest
from llmcodec.io.token_shards import ShardFormat, TokenRow, TokenShardWriter, shards_in
from llmcodec.runtime.base import Runtime
from llmcodec.transcode.freshness import refuse_moved
from llmcodec.transcode.index import HERE, Plan, begin_shards, describe_shards, refuse_other_settings, write_index
from llmcodec.transcode.kept_rows import drop_stale, refuse_other_texts, text_of
from llmcodec.transcode.sharding import Part, Shard, is_merged, refuse_parts
from llmcodec.transcode.views import (
    Starts,
    counted_as_other_sound,
    encode_views,
    lengths_of,
    own_starts,
    refuse_doubled,
    starts_of,
    view_counts,
    view_name,
    view_numbers,
)

NO_SPLIT, UNSPLIT = "", "unsplit"
Progress = Callable[[float], None]
"""Takes the share of the audio that is done, 0 to 1."""


@dataclass
class Tokenized:
    """Outcome of a run."""

    clips: int = 0
    """Number of encoded clips; every view counts."""
    seconds: float = 0.0
    """Their audio."""
    known: int = 0
    """Number of clips that were in the shards before."""
    others: int = 0
    """Number of clips in the shards that were not asked for: of another manifest, or of this one as it was."""
    again: list[str] = field(default_factory=list)
    """A line on every clip that was there before and is made again: its audio has changed, or its shard was damaged."""
    sounds_new: list[str] = field(default_factory=list)
    """Ids of clips that the prior of a searching codec has counted by name, but does not know by their sound."""


def split_folders(clips: Sequence[Clip]) -> dict[str, Sequence[Clip]]:
    """One folder of shards per split, by name; or the output itself if the manifest has no splits.

    Raises:
        ValueError: a split is called as the folder of the clips that have none.
    """
    splits = clips_by_split(clips)
    if splits.keys() == {NO_SPLIT}:
        return {HERE: clips}
    if {NO_SPLIT, UNSPLIT} <= splits.keys():
        raise ValueError(
            f"tokenize: clips without a split go into a folder {UNSPLIT!r}, and so would the split of that name; "
            "rename it in the manifest, or give all clips a split"
        )
    return {name or UNSPLIT: members for name, members in splits.items()}


@dataclass(frozen=True)
class TokenJob:
    """A corpus and how it is to be tokenized: equal ones give equal tokens, whoever takes which part of it."""

    runtime: Runtime
    folders: Mapping[str, Sequence[Clip]]
    """Clips by the folder of the output in which their shards go, in the order of the corpus."""
    hashes: Mapping[str, str]
    """`manifest_hash` of every folder."""
    plan: Plan

    @classmethod
    def of(
        cls,
        runtime: Runtime,
        clips: Sequence[Clip],
        *,
        by_split: bool = True,
        views: int = 1,
        clips_per_shard: int = 500,
        format: ShardFormat = "arrow",
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> TokenJob:
        """The job of these clips; the whole manifest is read once.

        Args:
            runtime: the codec.
            clips: of all splits.
            by_split: False puts all clips into the output itself.
            views: how often each clip that is not held out is encoded, see views.py. A later run with more views adds
                to the existing ones.
            clips_per_shard: clips in one shard, the most that a kill can lose.
            format: of the shards.
            settings: further ones that decide the tokens; parts with other settings are not merged.

        Raises:
            ValueError: fewer than one view.
        """
        if views < 1:
            raise ValueError(f"tokenize: views must be at least 1, got {views}")
        folders = split_folders(clips) if by_split else {HERE: clips}
        hashes = {name: manifest_hash(members) for name, members in folders.items()}
        of_all = "".join(f"{name} {one}\n" for name, one in hashes.items())
        told = {"by_split": by_split, "clips_per_shard": clips_per_shard, "format": format, "views": views, **settings}
        plan = Plan.of({"command": "tokenize", **told}, runtime.identity, len(clips), digest(of_all))
        return cls(runtime, folders, hashes, plan)

    @property
    def num_clips(self) -> int:
        """Of the whole corpus."""
        return int(self.plan.corpus["clips"])

    @cached_property
    def milliseconds(self) -> np.ndarray:
        """Of every clip, all its views together (int64)."""
        views = self.plan.settings["views"]
        return np.concatenate([lengths_of(members, views) for members in self.folders.values()])

    @cached_property
    def starts(self) -> Starts:
        """Where the views of a clip start that is not held out."""
        return starts_of(self.plan.settings["views"], self.runtime.identity.hop_samples)

    def run(
        self, output: Path, on_progress: Progress | None = None, bad: BadRows | None = None
    ) -> dict[Path, Tokenized]:
        """Shards of every split in a folder of its own; what was done in each.

        Args:
            output: folder for the folders.
            on_progress: takes the share that is done.
            bad: takes clips that cannot be read; nothing of them is in the shards. None allows none.

        Raises:
            ValueError: a clip with the id of another's view, parts that are not merged yet, tokens that were made with
                other settings, or as `tokenize_clips`.
        """
        bad = BadRows(total=self.num_clips) if bad is None else bad
        refuse_parts(output)
        refuse_other_settings(output, self.plan.settings)
        numbers = self._numbers(self.folders)
        refuse_moved({output / name: known for name, known in numbers.items()}, output)
        begin_shards(output, self.plan)
        results = self._run(self.folders, numbers, output, on_progress, bad)
        others = (path for path in output.iterdir() if path.is_dir() and shards_in(path))
        write_index(output, self.plan, _described(output, {*results, *others}), bad.reasons)
        return results

    def run_part(
        self, output: Path, shard: Shard, on_progress: Progress | None = None, bad: BadRows | None = None
    ) -> dict[Path, Tokenized]:
        """One part of the corpus, in a folder of its own in `output`; nothing if it was merged before. As `run`."""
        bad = BadRows(total=self.num_clips) if bad is None else bad
        if is_merged(output, self.plan):
            return {}
        part = Part.begin(output, shard, self.plan, shard.span(self.milliseconds))
        folders = {name: members for name, members in cut_folders(self.folders, part.span).items() if len(members)}
        bad.settle(len(part.span))
        results = self._run(folders, self._numbers(folders), part.folder, on_progress, bad)
        for folder, result in results.items():
            if result.others:
                raise ValueError(f"{folder}: holds {result.others} clips that are not of this part; delete them")
        part.finish(_described(part.folder, results), bad.reasons)
        return results

    def _numbers(self, folders: Mapping[str, Sequence[Clip]]) -> dict[str, np.ndarray]:
        numbers = {name: view_numbers(members, self.starts) for name, members in folders.items()}
        for name, members in folders.items():
            refuse_doubled(members, self.starts, numbers[name])
        return numbers

    def _run(
        self,
        folders: Mapping[str, Sequence[Clip]],
        numbers: Mapping[str, np.ndarray],
        place: Path,
        on_progress: Progress | None,
        bad: BadRows,
    ) -> dict[Path, Tokenized]:
        total = sum(_seconds(members, self.starts) for members in folders.values())
        done = 0.0

        def on_clip(seconds: float) -> None:
            nonlocal done
            done += seconds
            if on_progress is not None:
                on_progress(min(1.0, done / total) if total else 1.0)

        return {
            place / name: tokenize_clips(self, name, members, numbers[name], place / name, on_clip, bad)
            for name, members in folders.items()
        }


def tokenize_splits(
    runtime: Runtime,
    clips: Sequence[Clip],
    output: Path,
    *,
    on_progress: Progress | None = None,
    bad: BadRows | None = None,
    shard: Shard | None = None,
    **options: Any,
) -> dict[Path, Tokenized]:
    """A `TokenJob` made and run: all of it, or only one part; `options` are those of `TokenJob.of`."""
    job = TokenJob.of(runtime, clips, **options)
    if shard is None:
        return job.run(output, on_progress, bad)
    return job.run_part(output, shard, on_progress, bad)


def _seconds(clips: Sequence[Clip], starts: Starts) -> float:
    return float((durations_of(clips) * view_counts(clips, starts)).sum())


def _described(place: Path, folders: Iterable[Path]) -> dict[str, Any]:
    return {folder.relative_to(place).as_posix(): describe_shards(folder) for folder in sorted(folders)}


def cut_folders(folders: Mapping[str, Sequence[Clip]], span: range) -> dict[str, Sequence[Clip]]:
    """The clips of a part by the folders in which they go.

    Args:
        folders: of the whole corpus, in its order.
        span: clips of the part.
    """
    cut: dict[str, Sequence[Clip]] = {}
    first = 0
    for name, members in folders.items():
        cut[name] = members[max(0, span.start - first) : max(0, span.stop - first)]
        first += len(members)
    return cut


def describe(results: Mapping[Path, Tokenized]) -> list[str]:
    """What a run did, as lines of text."""
    lines = []
    for folder, result in results.items():
        known = f", {result.known} there before" if result.known else ""
        known += f", and {result.others} that this manifest does not name" if result.others else ""
        lines.append(f"{folder}: {result.clips} clips, {result.seconds:.0f} s of audio{known}")
        lines += [f"  made again: {line}" for line in result.again[:MOST_LISTED]]
        if len(result.again) > MOST_LISTED:
            lines.append(f"  and {len(result.again) - MOST_LISTED} more")
        if result.sounds_new:
            lines.append(
                f"warning: {len(result.sounds_new)} clips have ids that the codec's prior has counted with other audio "
                f"(the first: {result.sounds_new[0]!r}); if it is the same speech, its own counts were not left out: "
                "count it again with `llmcodec prior` on this manifest"
            )
    return lines


def tokenize_clips(
    job: TokenJob,
    name: str,
    clips: Sequence[Clip],
    numbers: np.ndarray,
    folder: Path,
    on_clip: Callable[[float], None],
    bad: BadRows,
) -> Tokenized:
    """Encode clips into shards in `folder`, resuming by clip id; what is stale or damaged there is made again.

    Args:
        job: what they are clips of.
        name: of their folder in the job.
        clips: of that folder, or of a part of it.
        numbers: `view_numbers` of these.
        folder: for the shards.
        on_clip: called with the seconds of every clip that is read (or was done before), all its views together.
        bad: takes clips that cannot be read.

    Raises:
        ValueError: the folder holds shards of another codec, or these clips with other texts, speakers or languages;
            two rows with one id; too many unreadable clips, or no readable one.
    """
    done, starts, settings = Tokenized(), job.starts, job.plan.settings
    sample_rate = job.runtime.identity.sample_rate
    provenance = replace(job.runtime.identity, manifest_hash=job.hashes[name])
    more: dict[str, Any] = {"clips_per_shard": settings["clips_per_shard"], "format": settings["format"]}
    with TokenShardWriter(folder, provenance, resume=True, **more) as shards:
        counts = view_counts(clips, starts)
        known = _known_views(shards, numbers, counts)
        there = where(clips, known > 0)
        refuse_other_texts(shards, there, starts, sample_rate)
        done.others = len(shards.done) - int(known.sum())
        done.again = [*shards.damaged, *drop_stale(shards, there, starts, sample_rate)]
        known = _known_views(shards, numbers, counts)
        done.known = int(known.sum())
        if done.known:
            on_clip(float((known * durations_of(clips)).sum()))
        missing = where(clips, known < counts)
        find_missing(missing, bad)
        planned = ((clip, _left(shards, clip, starts)) for clip in missing)
        for clip, row_id, view, codes_QT in encode_views(
            job.runtime, planned, bad, lambda clip, left: on_clip(len(left) * clip.duration)
        ):
            if row_id == clip.id and counted_as_other_sound(job.runtime, row_id, view.wavs[0]):
                done.sounds_new.append(row_id)
            tokens = vars(view.clip([codes_QT]))
            start = int(row_id[len(clip.id) + 1 :] or 0)
            text = text_of(clip.text, start, sample_rate)
            shards.add(TokenRow(**tokens, id=row_id, text=text, speaker=clip.speaker, language=clip.language))
            done.clips += 1
            done.seconds += len(view.wavs[0]) / sample_rate
    if len(clips) == len(job.folders[name]) and not done.clips and not done.known:
        raise ValueError(f"tokenize: none of {len(clips)} clips could be read; the first: {bad.reasons[clips[0].id]}")
    return done


def _known_views(shards: TokenShardWriter, numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many views of every clip are in the shards (int32)."""
    found = shards.done.holds(numbers)
    if len(numbers) == len(counts):  # one view of each
        return found.astype(np.int32)
    sums: np.ndarray = np.add.reduceat(found, np.cumsum(counts) - counts, dtype=np.int32)
    return sums


def _left(shards: TokenShardWriter, clip: Clip, starts: Starts) -> Starts:
    """Where the views of a clip start that are not in the shards."""
    return tuple(one for one in own_starts(clip.split, starts) if view_name(clip.id, one) not in shards.done)
