"""One small corpus in every form that `--manifest` reads, written by the packages whose formats they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import Clip, read_manifest, write_manifest
from llmcodec.io import audio


def some_clips(count: int = 6) -> list[Clip]:
    """Short training clips of the bundled speech, with durations as `llmcodec data manifest` writes them."""
    clips = read_manifest(speech_manifest("train"), min_seconds=0.6, max_seconds=1.6)[:count]
    return [
        dataclasses.replace(clip, id=clip.id.replace("/", "_"), duration=round(audio.info(clip.path).seconds, 4))
        for clip in clips
    ]


def as_folder(clips: Sequence[Clip], folder: Path) -> Path:
    """FLAC files and a JSONL manifest."""
    (folder / "audio").mkdir(parents=True)
    copies = []
    for clip in clips:
        (folder / "audio" / f"{clip.id}.flac").write_bytes(Path(clip.path).read_bytes())
        copies.append(
            Clip(
                clip.id,
                f"audio/{clip.id}.flac",
                clip.duration,
                clip.text,
                clip.speaker,
                clip.language,
                "speech",
                split=clip.split,
                folder=str(folder),
            )
        )
    return write_manifest(folder / "manifest.jsonl", copies)


def as_dataset(clips: Sequence[Clip]):
    """A data set of `datasets`, its audio as bytes."""
    datasets = pytest.importorskip("datasets")
    columns = {
        "id": [clip.id for clip in clips],
        "audio": [{"bytes": Path(clip.path).read_bytes(), "path": f"{clip.id}.flac"} for clip in clips],
        "text": [clip.text for clip in clips],
        "speaker_id": [clip.speaker for clip in clips],
        "language": [clip.language for clip in clips],
    }
    return datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))


def as_parquet(clips: Sequence[Clip], folder: Path, rows_per_group: int = 2) -> Path:
    folder.mkdir(parents=True)
    half = len(clips) // 2
    for number, part in enumerate((clips[:half], clips[half:])):
        as_dataset(part).to_parquet(folder / f"train-{number:05d}-of-00002.parquet", batch_size=rows_per_group)
    return folder


def as_saved(clips: Sequence[Clip], folder: Path) -> Path:
    """What `save_to_disk` writes: Arrow streams."""
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": as_dataset(clips)}).save_to_disk(str(folder))
    return folder


def as_tars(clips: Sequence[Clip], folder: Path) -> Path:
    webdataset = pytest.importorskip("webdataset")
    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "train-%04d.tar"), maxcount=len(clips) // 2, verbose=0) as writer:
        for clip in clips:
            facts = {"text": clip.text, "speaker": clip.speaker, "language": clip.language}
            writer.write({"__key__": clip.id, "flac": Path(clip.path).read_bytes(), "json": facts})
    return folder


def as_shar(clips: Sequence[Clip], folder: Path) -> Path:
    lhotse = pytest.importorskip("lhotse")
    (folder / "train").mkdir(parents=True)
    cuts = []
    for clip in clips:
        cut = lhotse.Recording.from_file(clip.path, recording_id=clip.id).to_cut()
        cut.id = clip.id
        cut.supervisions = [
            lhotse.SupervisionSegment(
                clip.id, clip.id, 0, cut.duration, text=clip.text, speaker=clip.speaker, language=clip.language
            )
        ]
        cuts.append(cut)
    lhotse.CutSet.from_cuts(cuts).to_shar(folder / "train", fields={"recording": "flac"}, shard_size=len(clips) // 2)
    return folder


FORMS = {"folder": as_folder, "parquet": as_parquet, "saved": as_saved, "tars": as_tars, "shar": as_shar}


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
