"""A manifest from a corpus on disk, whatever its layout: what `llmcodec data manifest FOLDER` does.

    summary = make_manifest("LibriSpeech", language="en", license="CC-BY-4.0")
    print(summary)      # by folder: layout, splits and the rule that gave them, texts; and what is left out, and why

Readers of the layouts are in `llmcodec.data.layouts`; only headers of audio files are read.
Tests: `pytest tests/data/test_corpus.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmcodec.data.files import walk
from llmcodec.data.layouts import LAYOUTS, plain
from llmcodec.data.layouts.base import Folder, Report, Utterance
from llmcodec.data.manifest import STRETCH_TOLERANCE, Clip, manifest_place, total_seconds, write_manifest
from llmcodec.data.splits import hashed_split, keep_speakers_together, split_of_folders
from llmcodec.io import audio

MOST_LISTED = 10


@dataclass(frozen=True)
class FolderSummary:
    """Clips of one folder below the corpus's root."""

    layout: str
    clips: int
    splits: dict[str, int]
    rules: tuple[str, ...]
    """How their splits were found."""
    with_text: int
    texts_from: tuple[str, ...]


@dataclass(frozen=True)
class ManifestSummary:
    """What a builder wrote and what it left out; print it."""

    path: Path
    num_clips: int
    seconds: float
    num_with_text: int
    splits: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)
    """File -> why it is not in the manifest."""
    lost_texts: dict[str, str] = field(default_factory=dict)
    """File -> why its clip has no text."""
    notes: tuple[str, ...] = ()
    folders: dict[str, FolderSummary] = field(default_factory=dict)

    def __str__(self) -> str:
        hours = f"{self.seconds / 3600:.2f} hours"
        lines = [
            f"{self.path}: {self.num_clips} clips, {hours}, {self.num_with_text} with text; {_counts(self.splits)}"
        ]
        for name, one in self.folders.items():
            texts = f"{one.with_text} with text" + (f" from {', '.join(one.texts_from)}" if one.texts_from else "")
            lines.append(
                f"  {name}: {one.layout}, {one.clips} clips; {_counts(one.splits)} (by {', '.join(one.rules)}); {texts}"
            )
        lines += self.notes
        for problems, what in ((self.skipped, "files skipped"), (self.lost_texts, "texts lost")):
            if problems:
                lines.append(f"{len(problems)} {what}:")
                lines += [f"  {why}" for why in list(problems.values())[:MOST_LISTED]]
                lines += [f"  ... and {len(problems) - MOST_LISTED} more"] if len(problems) > MOST_LISTED else []
        return audio.readable_name("\n".join(lines))


@dataclass(frozen=True)
class _Found:
    """A clip with what the summary says of it."""

    clip: Clip
    layout: str
    rule: str
    text_from: str


def make_manifest(
    folder: str,
    output: str = "",
    *,
    language: str = "",
    license: str = "",
    source: str = "",
    source_by: Literal["corpus", "folder"] = "corpus",
    valid_share: float = 0.05,
    test_share: float = 0.05,
    split_by: Literal["id", "speaker"] = "id",
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
) -> ManifestSummary:
    """Write the manifest of all audio below a folder, or of a NeMo manifest or lhotse cut set.

      llmcodec data manifest speech/ -o speech/manifest.jsonl --language en

    Splits: a table of the corpus decides, else the folder nearest to the root that is named train, dev, valid, test,
    eval or the like (`llmcodec.data.splits`), else a hash of `split_by`, so that a clip keeps its split when the corpus
    grows. What cannot be read is skipped, counted and listed.

    Args:
        folder: folder that is searched with all its subfolders; or a NeMo manifest, or a lhotse cut set.
        output: the manifest to write, or its folder; empty writes `manifest.jsonl` beside the audio.
        language: language code of every clip whose corpus names none, such as en.
        license: licence of the recordings, such as CC-BY-4.0.
        source: name of the corpus; the folder's name if empty.
        source_by: the source of a clip is the corpus, or the folder below its root that holds the clip, such as
            train-clean-100, by which --sources then chooses.
        valid_share: share of clips (or speakers) for validation where nothing else decides.
        test_share: share for testing.
        split_by: hash clip ids; or speakers, and then no speaker stands in two splits, whatever folders say.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out.

    Raises:
        ValueError: no such folder, shares that leave nothing to train on, or no usable audio.
    """
    root = Path(folder)
    if not root.exists():
        raise ValueError(f"{folder}: no such folder")
    if not (valid_share >= 0 and test_share >= 0 and valid_share + test_share < 1):
        raise ValueError(
            f"valid_share={valid_share} and test_share={test_share} must be positive and leave clips to train on"
        )
    base = root if root.is_dir() else root.parent
    target = manifest_place(output) if output else base / "manifest.jsonl"
    report = Report()
    found: dict[str, _Found] = {}
    places: set[tuple[Path, float]] = set()
    for layout, utterance in utterances_of(root, report):
        shown = audio.readable_name(_relative(utterance.path, base))
        try:
            seconds = _seconds(utterance)
        except ValueError as error:
            report.skip_row(shown, str(error))
            continue
        if utterance.said is not None and abs(utterance.said - seconds) > max(0.1, 0.02 * seconds):
            report.notes["files last longer or shorter than their corpus says; all of each is taken"] += 1
        if not seconds or not min_seconds <= seconds <= max_seconds:
            why = f"{seconds:.3f} seconds" if seconds else "no samples (empty or cut short)"
            report.skip_row(shown, f"{shown}: {why}")
            continue
        if (where := (utterance.path, utterance.start)) in places:
            report.skip_row(shown, f"{shown}: listed twice; the first row is taken")
            continue
        places.add(where)
        clip_id = _unique_id(utterance, base, found)
        split, rule = _split(utterance, base)
        clip = Clip(
            id=clip_id,
            audio=_relative(utterance.path, base),
            start=None if utterance.duration is None and not utterance.start else round(utterance.start, 4),
            duration=round(seconds, 4) or 0.0001,
            text=utterance.text,
            speaker=utterance.speaker,
            language=utterance.language or language,
            source=_source(utterance, base, source_by) or source or base.resolve().name,
            license=license,
            split=split,
            folder=str(base.resolve()),
        )
        found[clip_id] = _Found(clip, layout, rule, utterance.text_from)
    if not found:
        reason = next(iter(report.skipped.values()), f"no file ends in {', '.join(audio.AUDIO_ENDINGS[:6])}, ...")
        raise ValueError(f"{folder}: no usable audio ({reason})")
    notes = [f"{count} {note}" for note, count in report.notes.items()]
    placed, moved = _with_splits(list(found.values()), valid_share, test_share, split_by)
    notes += _empty_splits(placed)
    notes += [
        f"speaker {speaker}: stood in {', '.join(splits)}, is in {splits[-1] if 'test' not in splits else 'test'} alone"
        for speaker, splits in list(moved.items())[:MOST_LISTED]
    ]
    return _save(target, placed, report, notes, base)


def _empty_splits(placed: list[_Found]) -> list[str]:
    """A sentence about each split that a hash could have filled and did not: small corpora have such."""
    there = {one.clip.split for one in placed}
    if not any(one.rule.startswith("hash") for one in placed):
        return []
    return [
        f"no clip is in {split}, which `llmcodec compare` needs: give a larger --{split}-share"
        for split in ("valid", "test")
        if split not in there
    ]


def utterances_of(root: Path, report: Report) -> Iterator[tuple[str, Utterance]]:
    """(layout, utterance) of a folder, or of a file that lists utterances; audio that no reader took is reported."""
    if root.is_file():
        listing: list[Any] = [one for one in LAYOUTS if hasattr(one, "read_file")]
        reader = next((one for one in listing if one.recognises_file(root)), None)
        if reader is None:
            raise ValueError(f"{root}: neither a folder, a NeMo manifest (audio_filepath) nor a lhotse cut set (cuts)")
        yield from ((reader.NAME, one) for one in reader.read_file(root, report))
        return
    for place, subfolders, names in walk(root, report.skip):
        folder = Folder(place, root, tuple(names), tuple(subfolders))
        _report_unread(folder, report)
        layout = next((one for one in LAYOUTS if one.recognises(folder)), plain)
        for utterance in layout.read(folder, report):
            yield layout.NAME, replace(utterance, listed_in=place)
        if layout is not plain and layout.WHOLE_TREE:
            for below in list(folder.below(report))[1:]:
                _report_unread(below, report)
            subfolders.clear()


def _report_unread(folder: Folder, report: Report) -> None:
    """Audio and video files whose format needs a package that is not here, or that nobody reads."""
    for name in folder.files:
        if name.lower().endswith(audio.UNREAD_ENDINGS):
            path = folder.path / name
            report.skipped[str(path)] = f"{audio.readable_name(path)}: {audio.why_unread(path)}"


def _seconds(utterance: Utterance) -> float:
    """Length of the utterance; a stretch must lie inside its file."""
    header = audio.info(utterance.path)
    whole = header.seconds
    if utterance.duration is None:
        return whole - utterance.start if header.num_frames else 0.0
    if utterance.start < 0 or utterance.start + utterance.duration > whole + STRETCH_TOLERANCE:
        stop = utterance.start + utterance.duration
        raise ValueError(f"{utterance.path}: {utterance.start:g} to {stop:g} s is asked for, it lasts {whole:.3f} s")
    return min(utterance.duration, whole - utterance.start)


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path.resolve())


def _source(utterance: Utterance, base: Path, source_by: str) -> str:
    """The folder below the root that holds the clip, else its table, where that is asked for and there is one."""
    inside = _folders(utterance.path.parent, base) or _folders(utterance.listed_in, base)
    return audio.readable_name(inside[0]) if source_by == "folder" and inside else ""


def _unique_id(utterance: Utterance, base: Path, found: dict[str, _Found]) -> str:
    """The corpus's own name, the path without its ending, the path, or the path with the place in it."""
    relative = Path(_relative(utterance.path, base))
    names = [utterance.id, relative.with_suffix("").as_posix(), relative.as_posix()]
    names.append(f"{relative.as_posix()}@{utterance.start!r}")  # no two clips have one file and one start
    return next(shown for name in names if name and (shown := audio.readable_name(name)) not in found)


def _split(utterance: Utterance, base: Path) -> tuple[str, str]:
    """Split and the rule that gives it; empty where a hash has to decide."""
    if utterance.split:
        return utterance.split, "table"
    # The folders of its table come first: Kaldi's `dev/wav.scp` may name files of `train`, or of another disk.
    places = (*_folders(utterance.listed_in, base), *_folders(utterance.path.parent, base), base.resolve().name)
    split, name = split_of_folders(places)
    return (split, f"folder {name}") if split else ("", "")


def _folders(place: Path | None, base: Path) -> tuple[str, ...]:
    """Names of the folders from the root down to `place`; none where it lies elsewhere."""
    return place.relative_to(base).parts if place is not None and place.is_relative_to(base) else ()


def _with_splits(
    found: list[_Found], valid_share: float, test_share: float, split_by: str
) -> tuple[list[_Found], dict[str, list[str]]]:
    """Undecided clips by hash; by speaker, every speaker in one split."""
    placed = []
    for one in found:
        clip = one.clip
        if not clip.split:
            by_speaker = split_by == "speaker" and clip.speaker
            split = hashed_split(clip.speaker if by_speaker else clip.id, valid_share, test_share)
            one = replace(one, clip=replace(clip, split=split), rule=f"hash of {'speaker' if by_speaker else 'id'}")
        placed.append(one)
    if split_by != "speaker":
        return placed, {}
    clips = [one.clip for one in placed]
    splits, moved = keep_speakers_together([clip.speaker for clip in clips], [clip.split for clip in clips])
    together = [
        one if one.clip.split == split else replace(one, clip=replace(one.clip, split=split), rule="speaker")
        for one, split in zip(placed, splits, strict=True)
    ]
    return together, dict(moved)


def _save(target: Path, found: list[_Found], report: Report, notes: list[str], base: Path) -> ManifestSummary:
    by_folder: dict[str, list[_Found]] = {}
    for one in found:
        parts = Path(one.clip.audio).parts
        top = parts[0] if len(parts) > 1 and not Path(one.clip.audio).is_absolute() else "."
        by_folder.setdefault(audio.readable_name(top), []).append(one)
    folders = {
        name: FolderSummary(
            layout=", ".join(sorted({one.layout for one in group})),
            clips=len(group),
            splits=dict(Counter(one.clip.split for one in group)),
            rules=tuple(sorted({one.rule for one in group})),
            with_text=sum(bool(one.clip.text) for one in group),
            texts_from=tuple(sorted({one.text_from for one in group} - {""})),
        )
        for name, group in sorted(by_folder.items())
    }
    clips = [one.clip for one in found]
    summary = save(target, clips, report.skipped)
    return replace(summary, lost_texts=report.lost_texts, notes=tuple(notes), folders=folders)


def save(target: Path, clips: list[Clip], skipped: dict[str, str]) -> ManifestSummary:
    """Write the clips and sum them up."""
    path = write_manifest(target.resolve(), clips)
    return ManifestSummary(
        path=path,
        num_clips=len(clips),
        seconds=total_seconds(clips),
        num_with_text=sum(bool(clip.text) for clip in clips),
        splits=dict(Counter(clip.split for clip in clips)),
        skipped=skipped,
    )


def _counts(splits: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))
