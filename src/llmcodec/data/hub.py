"""A manifest from a Hugging Face data set: `llmcodec data hub NAME -o MANIFEST`.

Audio comes undecoded and is decoded by libsndfile; no torchcodec is needed. Files that
lie on this disk already are used in place, everything else is streamed to FLAC beside the manifest. Needs the extra
`datasets`. Tests: `pytest tests/data/test_hub.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.corpus import ManifestSummary, save
from llmcodec.data.layouts.base import first
from llmcodec.data.manifest import Clip, manifest_place
from llmcodec.data.splits import hashed_split, split_of_name
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.digests import digest
from llmcodec.io.waveform import scale_of


def make_hub_manifest(
    dataset: str,
    output: str,
    *,
    name: str | None = None,
    split: str = "train",
    audio_column: str = "audio",
    text_column: str = "text",
    id_column: str = "id",
    speaker_column: str = "speaker_id",
    language: str = "",
    license: str = "",
    limit: int | None = None,
    max_bad: MaxBad = "100%",
) -> ManifestSummary:
    """Write the manifest of one split of a Hugging Face data set, with its audio as FLAC where it is not on disk.

      llmcodec data hub openslr/librispeech_asr --name clean --split validation -o libri/manifest.jsonl

    Audio louder than full scale becomes WAV of floats. Columns other than the audio may be missing. Rows whose audio
    cannot be read are skipped, counted and listed, up to --max-bad; what is beyond stops the command before a manifest
    is written.

    Args:
        dataset: name on the Hub, or a folder: one written by save_to_disk, or one that datasets can load.
        output: the manifest to write, or its folder; audio goes to a folder of its own in `audio` beside it.
        name: configuration of the data set, such as clean.
        split: split of the data set; train, validation and test keep their meaning, others are split by hash of id.
        audio_column: column with the audio.
        text_column: column with the transcript.
        id_column: column with a unique id; rows are numbered where it is missing.
        speaker_column: column with the speaker.
        language: language code of every clip.
        license: licence of the recordings.
        limit: read only that many rows.
        max_bad: rows that may be bad, 20 or 1%.
    """
    target = manifest_place(output).resolve()
    folder = Path("audio") / digest("\n".join((target.stem, dataset, name or "", split, audio_column)))
    rows = _load(dataset, name, split, audio_column, (text_column, id_column, speaker_column))
    named_split = split_of_name(re.split(r"[\W_\d]", split)[0])
    clips: list[Clip] = []
    bad = BadRows(max_bad, what="rows")
    ids: set[str] = set()
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            break
        named = row.get(id_column)
        clip_id = str(named) if named not in (None, "") else f"{split}-{number:08d}"
        if clip_id in ids:
            raise ValueError(f"{dataset}: id {clip_id!r} in column {id_column!r} occurs twice; name another id_column")
        ids.add(clip_id)
        try:
            path, seconds = _place(row.get(audio_column), clip_id, number, target.parent, folder)
        except (ValueError, OSError) as error:
            bad.add(clip_id, error)
            continue
        clips.append(
            Clip(
                id=clip_id,
                audio=str(path),
                duration=round(seconds, 4),
                text=" ".join(first(row, (text_column,)).split()),
                speaker=first(row, (speaker_column,)),
                language=language,
                source=dataset,
                license=license,
                split=named_split or hashed_split(clip_id, 0.05, 0.05),
                folder="" if path.is_absolute() else str(target.parent),
            )
        )
    if not clips:
        reason = next(iter(bad.reasons.values()), "it is empty")
        raise ValueError(f"{dataset}: no usable audio in split {split!r}; {reason}")
    bad.settle(len(ids))
    return save(target, clips, bad.reasons)


def _load(
    dataset: str, name: str | None, split: str, audio_column: str, others: tuple[str, ...]
) -> Iterable[dict[str, Any]]:
    datasets = import_datasets()
    folder = Path(dataset)
    with readable(dataset):
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            rows = datasets.load_from_disk(dataset)
        else:
            rows = datasets.load_dataset(dataset, name, split=split, streaming=True)
    if isinstance(rows, datasets.DatasetDict):
        if split not in rows:
            raise ValueError(f"{dataset}: no split {split!r}; there is {', '.join(rows)}")
        rows = rows[split]
    if rows.features is not None and audio_column not in rows.features:
        raise ValueError(f"{dataset}: no column {audio_column!r}; there is {', '.join(rows.features)}")
    if rows.features is not None:  # other columns may hold audio too, which nobody asked to decode
        rows = rows.select_columns([audio_column, *sorted(set(others) & set(rows.features) - {audio_column})])
    if rows.features is None or isinstance(rows.features[audio_column], datasets.Audio):
        rows = rows.cast_column(audio_column, datasets.Audio(decode=False))
    return _read(dataset, rows)


def _read(dataset: str, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from read_rows(dataset, rows)
    except ImportError as error:  # `datasets` wants torchcodec for folders of audio files
        raise ValueError(
            f"{dataset}: {error} Or, where it is a folder of audio files: llmcodec data manifest FOLDER"
        ) from error


def import_datasets() -> Any:
    """The package `datasets`. Raises ValueError that says how to install it."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError("Hugging Face data sets need one more package: pip install 'llmcodec[datasets]'") from error
    return datasets


@contextmanager
def readable(dataset: str) -> Iterator[None]:
    """What the package `datasets` raises over a damaged data set, as one line that names it.

    Raises:
        ValueError: the data set cannot be read.
    """
    damage = (OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, SystemError)
    try:
        yield
    except (*damage, import_datasets().exceptions.DatasetsError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{dataset}: the data set cannot be loaded ({reason})") from error


def read_rows(dataset: str, rows: Iterable[Any]) -> Iterator[Any]:
    """The rows of a table of `datasets`, in its order; raises as `readable`."""
    with readable(dataset):
        yield from rows


def undecoded_audio(value: Any) -> Path | bytes:
    """The file or the bytes of a cell: of a column `Audio(decode=False)`, or the name of a file.

    Raises:
        ValueError: no audio, a file that is not there, or samples without their rate.
    """
    if value is None:
        raise ValueError("no audio in this row")
    if not isinstance(value, (dict, str)):
        raise ValueError("a list of samples without their sampling rate; store {array, sampling_rate}")
    content, place = (None, value) if isinstance(value, str) else (value.get("bytes"), value.get("path"))
    if content is not None:
        return bytes(content)
    if place and Path(place).is_file():
        return Path(place)
    raise ValueError(f"neither audio bytes nor a file at {place!r}")


def _place(value: Any, clip_id: str, number: int, home: Path, folder: Path) -> tuple[Path, float]:
    """Where the audio of a row lies (relative to `home` if written into `folder` there) and its seconds."""
    if isinstance(value, dict) and value.get("array") is not None:
        wav_S, sample_rate = _decoded(value["array"], value.get("sampling_rate"))
    else:
        source = undecoded_audio(value)
        if isinstance(source, Path):
            return source.resolve(), audio.info(source).seconds
        wav_S, sample_rate = audio.read_bytes(source, "its audio")
    safe = re.sub(r"[^\w.-]+", "_", clip_id)[-80:]
    loud = bool(np.abs(wav_S).max(initial=0) > 1)  # FLAC would clip it
    relative = folder / f"{number // 1000:05d}" / f"{number:08d}_{safe}.{'wav' if loud else 'flac'}"
    audio.write(home / relative, wav_S, sample_rate, "FLOAT" if loud else None)
    return relative, len(wav_S) / sample_rate


def _decoded(array: Any, sample_rate: Any) -> tuple[np.ndarray, int]:
    """float32 (S,) and rate of {array, sampling_rate}. Raises ValueError for no samples, NaN, or no rate."""
    if not isinstance(sample_rate, int) or sample_rate < 1:
        raise ValueError(f"samples with the sampling rate {sample_rate!r}")
    given = np.asarray(array)
    if given.ndim not in (1, 2):
        raise ValueError(f"samples of shape {given.shape}; (samples,) or (channels, samples) are known")
    if given.ndim == 2 and given.shape[0] < given.shape[1]:
        given = given.T
    silence, full = scale_of(given.dtype, "its samples")
    wav = (audio.to_mono(given.astype(np.float32)) - np.float32(silence)) / np.float32(full)
    if not len(wav) or not np.isfinite(wav).all():
        raise ValueError("NaN or infinite samples" if len(wav) else "no samples")
    if (peak := float(np.abs(wav).max())) > audio.LOUDEST:
        raise ValueError(f"a peak of {peak:.4g} where full scale is 1: integers kept as floats?")
    return wav, sample_rate
