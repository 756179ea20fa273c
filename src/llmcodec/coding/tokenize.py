"""Corpus to tokens: every clip of a manifest once through a codec, into shards that language models train on.

    llmcodec tokenize --manifest corpus/manifest.jsonl --codec runs/rate/codec -o tokens

A shard is written whole or not at all; started again, the command goes on behind the clips that are in shards already.
Shapes: S samples, Q codebooks, T frames. Test: `pytest tests/unit/test_lm_commands.py`.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from .. import audio
from ..data.manifest import Clip, manifest_hash
from ..data.shards import ShardFormat, TokenRow, TokenShardWriter, open_token_shards
from ..data.tokens import TokenProvenance
from .runtime import Runtime

NO_SPLIT = ""


@dataclass
class Tokenized:
    """What a run did. `unreadable`: one line per file that could not be read; nothing of it is in the shards."""

    clips: int = 0
    seconds: float = 0.0
    known: int = 0
    unreadable: list[str] | None = None


def split_folders(clips: Sequence[Clip], output: Path) -> dict[Path, list[Clip]]:
    """One folder of shards per split, or the output itself where the manifest knows no splits."""
    by_split = {name: list(group) for name, group in groupby(sorted(clips, key=_split), key=_split)}
    if list(by_split) == [NO_SPLIT]:
        return {output: list(clips)}
    return {output / (name or "unsplit"): [c for c in clips if c.split == name] for name in by_split}


def _split(clip: Clip) -> str:
    return clip.split


def tokenize_clips(
    runtime: Runtime,
    clips: Sequence[Clip],
    folder: Path,
    *,
    views: int = 1,
    clips_per_shard: int = 500,
    batch_clips: int = 32,
    format: ShardFormat = "arrow",
    on_clip: Callable[[float], None] | None = None,
) -> Tokenized:
    """Encode clips into shards in `folder`, resuming by clip id.

    Args:
        views: how often each clip is encoded. View v starts v / views of a frame later and is called `ID#v`: the same
            speech in other tokens, where a codec's tokens depend on where frames begin.
        on_clip: called with the seconds of every clip that is done (or was done before).

    Raises:
        ValueError: shards of another codec in the folder, or not one clip that can be read.
    """
    done = Tokenized(unreadable=[])
    assert done.unreadable is not None
    provenance = runtime.identity.provenance(manifest_hash(clips))
    with TokenShardWriter(folder, provenance, resume=True, clips_per_shard=clips_per_shard, format=format) as shards:
        wanted = [(clip, view, f"{clip.id}#{view}" if view else clip.id) for view in range(views) for clip in clips]
        missing = [one for one in wanted if one[2] not in shards.done]
        done.known = len(wanted) - len(missing)
        for clip, _, name in wanted:
            if name in shards.done and on_clip is not None:
                on_clip(clip.duration)
        for start in range(0, len(missing), batch_clips):
            batch = missing[start : start + batch_clips]
            usable = []
            for clip, view, name in batch:
                found = _read(clip, runtime.identity.sample_rate, done.unreadable if view == 0 else [])
                late = view * runtime.identity.hop_samples // views
                if found is not None and len(found[0]) > late:
                    cut = round(late * found[1].sample_rate / runtime.identity.sample_rate)
                    usable.append((clip, name, found[0][late:], found[1], found[1].num_frames - cut))
            codes = runtime.encode_batch([wav for _, _, wav, _, _ in usable]) if usable else []
            for (clip, name, wav, info, original), codes_QT in zip(usable, codes, strict=True):
                shards.add(
                    TokenRow(
                        codes_QT[None],
                        num_samples=len(wav),
                        original_sample_rate=info.sample_rate,
                        original_num_samples=original,
                        original_channels=info.num_channels,
                        id=name,
                        text=clip.text,
                        speaker=clip.speaker,
                        language=clip.language,
                    )
                )
                done.clips += 1
                done.seconds += len(wav) / runtime.identity.sample_rate
            for clip, _, _ in batch:
                if on_clip is not None:
                    on_clip(clip.duration)
    if clips and not done.clips and not done.known:
        raise ValueError(f"tokenize: none of {len(clips)} clips could be read; the first: {done.unreadable[0]}")
    return done


def _read(clip: Clip, sample_rate: int, unreadable: list[str]) -> tuple[np.ndarray, audio.AudioInfo] | None:
    try:
        return audio.load(clip.path, sample_rate), audio.info(clip.path)
    except (ValueError, OSError) as error:
        unreadable.append(f"{clip.id}: {error}")
        return None


@dataclass(frozen=True)
class FlatRow:
    """A row of shards as language models read it. codes: flattened (T Q,), see `lm.codec_text`."""

    id: str
    codes: np.ndarray
    text: str
    speaker: str
    language: str
    duration: float


def flat_rows(path: str | Path) -> tuple[TokenProvenance, Iterator[FlatRow]]:
    """Provenance and flattened rows of a folder of shards, first channel only; ValueError as `open_token_shards`."""
    provenance, rows = open_token_shards(path)
    shift_Q = np.arange(provenance.num_codebooks)[:, None] * provenance.codebook_size

    def flattened() -> Iterator[FlatRow]:
        for row in rows:
            codes = (row.codes[0] + shift_Q).T.reshape(-1)
            yield FlatRow(row.id, codes, row.text, row.speaker, row.language, row.num_samples / provenance.sample_rate)

    return provenance, flattened()


def export_slamkit(path: str | Path, target: Path) -> int:
    """Write a folder of shards as JSONL for slamkit; returns the number of clips.

    One object per clip: `file_name`, `units` (flattened codes, repeats kept), `duration` (frames of each unit, all 1),
    `audio_repr` (`<Un17><Un4>..`, slamkit's unit tokens), `text`, `speaker`.
    """
    _, rows = flat_rows(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(slamkit_row(row), ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
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
