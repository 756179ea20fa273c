"""Corpus to tokens: encode every clip of a manifest once into shards that language models train on.

    llmcodec tokenize --manifest corpus/manifest.jsonl --codec runs/rate/codec -o tokens

Shards are written atomically; started again, the command skips the clips that are already in shards. What it has made
stands in `index.json` at the end; with a `Shard`, in the record of a part (sharding.py).
Shapes: S samples, Q codebooks, T frames. Test: `pytest tests/cli/test_lm.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llmcodec.data.manifest import Clip, clips_by_split, durations_of, find_missing, manifest_hash
from llmcodec.data.timed_text import later
from llmcodec.io import audio
from llmcodec.io.atomic import atomic_file
from llmcodec.io.bad_rows import MOST_LISTED, BadRows
from llmcodec.io.digests import digest
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import ShardFormat, TokenRow, TokenShardWriter, shards_in
from llmcodec.runtime.base import Runtime, encode_many
from llmcodec.transcode.flat_rows import FlatRow, flat_rows
from llmcodec.transcode.freshness import refuse_moved, why_stale_row
from llmcodec.transcode.index import Plan, describe_shards, write_index
from llmcodec.transcode.sharding import Part, Shard, is_merged, refuse_parts
from llmcodec.transcode.work import Recording

NO_SPLIT = ""
Views = dict[str, int]
"""Id of a row -> sample of the clip, at the codec's rate, where it starts."""
Encoded = tuple[Clip, str, Recording, np.ndarray]
"""A clip, the id of one of its views, what was encoded, and its codes (Q, T)."""


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


def split_folders(clips: Sequence[Clip], output: Path) -> dict[Path, Sequence[Clip]]:
    """One folder of shards per split, or the output itself if the manifest has no splits."""
    splits = clips_by_split(clips)
    if splits.keys() == {NO_SPLIT}:
        return {output: clips}
    return {output / (name or "unsplit"): members for name, members in splits.items()}


def lengths_of(clips: Sequence[Clip], views: int) -> np.ndarray:
    """Milliseconds of every clip, all its views together (int64)."""
    lengths: np.ndarray = np.rint(1000 * durations_of(clips)).astype(np.int64)
    if views == 1:
        return lengths
    return lengths * np.fromiter((1 if clip.held_out else views for clip in clips), np.int64, len(clips))


def tokenize_splits(
    runtime: Runtime,
    clips: Sequence[Clip],
    output: Path,
    *,
    by_split: bool = True,
    views: int = 1,
    clips_per_shard: int = 500,
    format: ShardFormat = "arrow",
    on_progress: Callable[[float], None] | None = None,
    bad: BadRows | None = None,
    shard: Shard | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[Path, Tokenized]:
    """Shards of every split in a folder of its own, and what was done in each; nothing if it was merged before.

    Args:
        runtime: the codec.
        clips: of all splits.
        output: folder for the folders.
        by_split: False puts all clips into `output` itself.
        views: how often each clip that is not held out is encoded, see `plan_views`. A later run with more views adds
            to the existing ones.
        clips_per_shard: clips in one shard, the most that a kill can lose.
        format: of the shards.
        on_progress: takes the share of the audio that is done, 0 to 1.
        bad: takes clips that cannot be read; nothing of them is in the shards. None allows none.
        shard: take only this part of the corpus, into a folder of its own in `output`.
        settings: further ones that decide the tokens; parts with other settings are not merged.

    Raises:
        ValueError: fewer than one view, a clip with the id of another's view, parts that are not merged yet, or as
            `tokenize_clips`.
    """
    bad = BadRows(total=len(clips)) if bad is None else bad
    if views < 1:
        raise ValueError(f"tokenize: views must be at least 1, got {views}")
    folders = split_folders(clips, output) if by_split else {output: clips}
    hashes = [manifest_hash(members) for members in folders.values()]
    of_all = "".join(f"{folder.relative_to(output)} {one}\n" for folder, one in zip(folders, hashes, strict=True))
    told = {"by_split": by_split, "clips_per_shard": clips_per_shard, "format": format, "views": views, **settings}
    plan = Plan.of({"command": "tokenize", **told}, runtime.identity, len(clips), digest(of_all))
    part = None
    if shard is None:
        refuse_parts(output)
        refuse_moved(folders, output)
    elif is_merged(output, plan):
        return {}
    else:
        lengths = np.concatenate([lengths_of(members, views) for members in folders.values()])
        part = Part.begin(output, shard, plan, shard.span(lengths))
        folders = cut_folders(folders, part.span, output, part.folder)
        bad.settle(len(part.span))
    planned = [plan_views(members, views, runtime.identity.hop_samples) for members in folders.values()]
    total = math.fsum(len(starts) * clip.duration for plan in planned for clip, starts in plan)
    done = 0.0

    def on_clip(seconds: float) -> None:
        nonlocal done
        done += seconds
        if on_progress is not None:
            on_progress(min(1.0, done / total) if total else 1.0)

    results = {}
    for folder, own, corpus in zip(folders, planned, hashes, strict=True):
        if own or part is None:
            identity = replace(runtime.identity, manifest_hash=corpus)
            results[folder] = tokenize_clips(runtime, own, folder, clips_per_shard, format, on_clip, bad, identity)
    if part is None:
        others = (path for path in output.iterdir() if path.is_dir() and shards_in(path))
        write_index(output, plan, _described(output, {*folders, *others}), bad.reasons)
        return results
    for folder, result in results.items():
        if result.others:
            raise ValueError(f"{folder}: holds {result.others} clips that are not of this part; delete them")
    part.finish(_described(part.folder, results), bad.reasons)
    return results


def _described(place: Path, folders: Iterable[Path]) -> dict[str, Any]:
    return {folder.relative_to(place).as_posix(): describe_shards(folder) for folder in sorted(folders)}


def cut_folders(
    folders: Mapping[Path, Sequence[Clip]], span: range, output: Path, place: Path
) -> dict[Path, Sequence[Clip]]:
    """The clips of a part by the folders in which they go: those of `output`, in `place` instead.

    Args:
        folders: of the whole corpus, in its order.
        span: clips of the part.
        output: folder of the folders.
        place: folder of the part.
    """
    cut: dict[Path, Sequence[Clip]] = {}
    first = 0
    for folder, members in folders.items():
        own = slice(max(0, span.start - first), max(0, span.stop - first))
        cut[place / folder.relative_to(output)] = list(members[own])
        first += len(members)
    return cut


def describe(results: Mapping[Path, Tokenized]) -> list[str]:
    """What `tokenize_splits` did, as lines of text."""
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
    runtime: Runtime,
    planned: Sequence[tuple[Clip, Views]],
    folder: Path,
    clips_per_shard: int,
    format: ShardFormat,
    on_clip: Callable[[float], None],
    bad: BadRows,
    provenance: TokenProvenance,
) -> Tokenized:
    """Encode clips into shards in `folder`, resuming by clip id; what is stale or damaged there is made again.

    Args:
        runtime: the codec.
        planned: clips with their views.
        folder: for the shards.
        clips_per_shard: clips in one shard, the most that a kill can lose.
        format: of the shards.
        on_clip: called with the seconds of every clip that is read (or was done before), all its views together.
        bad: takes clips that cannot be read.
        provenance: of the shards: the codec, and the corpus.

    Raises:
        ValueError: the folder holds shards of another codec, or these clips with other texts; two rows with one id; too
            many unreadable clips, or no readable one.
    """
    done = Tokenized()
    sample_rate = runtime.identity.sample_rate
    with TokenShardWriter(folder, provenance, resume=True, clips_per_shard=clips_per_shard, format=format) as shards:
        missing = []
        texts = {
            name: later(clip.text, start / sample_rate) if start else clip.text
            for clip, starts in planned
            for name, start in starts.items()
        }
        changed = [name for name, text in texts.items() if shards.done.get(name, text) != text]
        if changed:
            raise ValueError(
                f"{folder}: {len(changed)} clips of the manifest are there with other texts "
                f"(the first: {changed[0]!r}); name another folder"
            )
        done.others = len(shards.done.keys() - texts.keys())
        done.again = [*shards.damaged, *drop_stale(shards, planned, sample_rate)]
        for clip, starts in planned:
            left = {name: start for name, start in starts.items() if name not in shards.done}
            known = len(starts) - len(left)
            done.known += known
            if left:
                missing.append((clip, left))
            if known:
                on_clip(known * clip.duration)
        find_missing([clip for clip, _ in missing], bad)
        for clip, name, view, codes_QT in encode_views(
            runtime, missing, bad, lambda clip, starts: on_clip(len(starts) * clip.duration)
        ):
            if name == clip.id and counted_as_other_sound(runtime, name, view.wavs[0]):
                done.sounds_new.append(name)
            tokens = vars(view.clip([codes_QT]))
            shards.add(TokenRow(**tokens, id=name, text=texts[name], speaker=clip.speaker, language=clip.language))
            done.clips += 1
            done.seconds += len(view.wavs[0]) / sample_rate
    if planned and not done.clips and not done.known:
        raise ValueError(
            f"tokenize: none of {len(planned)} clips could be read; the first: {bad.reasons[planned[0][0].id]}"
        )
    return done


def drop_stale(shards: TokenShardWriter, planned: Sequence[tuple[Clip, Views]], sample_rate: int) -> list[str]:
    """Take rows out of the shards whose clip has other audio by now; a line on every clip.

    Args:
        shards: the folder.
        planned: clips with their views.
        sample_rate: of the codec, in which views start.
    """
    lines: list[str] = []
    ids: list[str] = []
    for clip, starts in planned:
        known = {name: start for name, start in starts.items() if name in shards.origins}
        for name, start in known.items():
            origin = shards.origins[name]
            if clip.start is not None:  # a stretch: its length says nothing of the file's
                origin = replace(origin, num_samples=0)
            if reason := why_stale_row(clip.path, origin, round(start * origin.sample_rate / sample_rate)):
                lines.append(f"{clip.id}: {reason}")
                ids += known
                break
    shards.drop(ids)
    return lines


def counted_as_other_sound(runtime: Runtime, name: str, wav_S: np.ndarray) -> bool:
    """Whether the prior that a codec searches by has counted a clip of this name, but not this sound."""
    prior: Any = getattr(getattr(runtime, "codec", None), "prior", None)  # a token_prior.FoldedPrior needs torch
    return name in getattr(prior, "ids", ()) and not prior.folds_of(wav_S)


def plan_views(clips: Sequence[Clip], views: int, hop_samples: int) -> list[tuple[Clip, Views]]:
    """Every clip with the ids of its views and the samples where they start; held-out clips have one view.

    View v starts v / views of a frame later and is called `ID#SAMPLES`, by where it starts: the same speech in
    different tokens, if a codec's tokens depend on where frames begin.

    Raises:
        ValueError: a clip has the id of another clip's view.
    """
    late = sorted({view * hop_samples // views for view in range(views)})
    planned = [
        (clip, {f"{clip.id}#{start}" if start else clip.id: start for start in ([0] if clip.held_out else late)})
        for clip in clips
    ]
    owners: dict[str, Clip] = {}
    for clip, starts in planned:
        for name in starts:
            if (other := owners.setdefault(name, clip)) is not clip:
                raise ValueError(
                    f"tokenize: clips {other.id!r} and {clip.id!r} would both have the id {name!r} in the shards; "
                    "rename one in the manifest, or leave --views out"
                )
    return planned


def encode_views(
    runtime: Runtime,
    planned: Sequence[tuple[Clip, Views]],
    bad: BadRows,
    on_clip: Callable[[Clip, Views], None],
) -> Iterator[Encoded]:
    """Encode all clips that can be read.

    Args:
        runtime: the codec.
        planned: clips with the views of each.
        bad: takes clips that cannot be read.
        on_clip: called with every clip that was read, or could not be.
    """
    sample_rate = runtime.identity.sample_rate

    def readable() -> Iterator[tuple[tuple[Clip, str, Recording], np.ndarray]]:
        for clip, starts in planned:
            recording = read_clip(clip, sample_rate, bad)
            if recording is not None:
                for name, view in _views(recording, starts, sample_rate):
                    yield (clip, name, view), view.wavs[0]
            on_clip(clip, starts)

    for (clip, name, view), codes_QT in encode_many(runtime, readable()):
        yield clip, name, view, codes_QT


def read_clip(clip: Clip, sample_rate: int, bad: BadRows) -> Recording | None:
    """The mono recording of a clip at `sample_rate`; None, and a row of `bad`, if it cannot be read."""
    try:
        channels = audio.info(clip.path).num_channels
        wav, rate = clip.read()  # the header may claim more samples than there are
        return Recording([audio.resample(wav, rate, sample_rate)], rate, len(wav), channels)
    except (ValueError, OSError) as error:
        bad.add(clip.id, error)
        return None


def _views(recording: Recording, starts: Views, sample_rate: int) -> Iterator[tuple[str, Recording]]:
    """The recording from every start on, without those past its end."""
    wav, rate = recording.wavs[0], recording.original_sample_rate
    for name, start in starts.items():
        if start < len(wav):
            left = recording.original_num_samples - round(start * rate / sample_rate)
            yield name, replace(recording, wavs=[wav[start:]], original_num_samples=left)


def export_slamkit(path: str | Path, target: Path) -> int:
    """Write a folder of shards as JSONL for slamkit; returns the number of clips.

    One object per clip: `file_name`, `units` (flattened codes, repeats kept), `duration` (frames of each unit, all 1),
    `audio_repr` (`<Un17><Un4>..`, slamkit's unit tokens), `text`, `speaker`.
    """
    _, rows = flat_rows(path)
    count = 0
    with atomic_file(target, durable=True) as file:
        for row in rows:
            file.write((json.dumps(slamkit_row(row), ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def slamkit_row(row: FlatRow) -> dict[str, object]:
    """One line of the export."""
    units = [int(code) for code in row.codes]
    return {
        "file_name": row.id,
        "units": units,
        "duration": [1] * len(units),
        "audio_repr": "".join(f"<Un{unit}>" for unit in units),
        "text": row.text,
        "speaker": row.speaker,
    }
