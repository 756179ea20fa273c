"""Which clips of a manifest a sweep uses for what: five parts, disjoint by id, by sound and, if asked, by speaker.

    parts = divide(PartsConfig("train[:25%]", "train[25%:60%]", "train[60%:]", "valid", "test"), clips)
    check_disjoint(parts, sound_digests(clips))

A share of a split is drawn by a hash of the clip's id (or its speaker): a clip keeps its part when the corpus grows.
Test: tests/experiments/test_parts.py.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from llmcodec import assets
from llmcodec.data.manifest import (
    Clip,
    audio_states,
    leave_out_unreadable,
    manifest_hash,
    read_manifest,
    spread,
    total_seconds,
    write_manifest,
)
from llmcodec.evaluation.system import Corpus
from llmcodec.experiments.sweep_config import PartsConfig, SweepConfig
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.digests import digest, digest_number
from llmcodec.io.structured import read_object, write_json
from llmcodec.report.tables import TextTable

PARTS = {
    "priors": "priors",
    "codec": "codec training",
    "lm": "LM training",
    "tuning": "tuning",
    "reporting": "reporting",
}
"""Field of `PartsConfig` -> what the part is for."""
MOST_NAMED = 5
_SHARE = re.compile(r"(?P<split>[^\[\]]+?)(?:\[(?:(?P<start>\d+(?:\.\d+)?)%)?:(?:(?P<stop>\d+(?:\.\d+)?)%)?\])?")


def divide(config: PartsConfig, clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """The clips of every part, by field of `PartsConfig`.

    Raises:
        ValueError: a part that cannot be read, is empty, or shares a clip (if that is asked: a speaker) with another.
    """
    parts = {name: _take(getattr(config, name), name, clips, config.speaker_disjoint) for name in PARTS}
    check_disjoint(parts, {})
    if config.speaker_disjoint and (shared := shared_speakers(parts)):
        pairs = "; ".join(f"{PARTS[a]} and {PARTS[b]}: {_few(names)}" for (a, b), names in shared.items())
        raise ValueError(f"sweep: parts share speakers, who may be split by shares of one split only: {pairs}")
    return parts


def _take(spec: str, name: str, clips: Sequence[Clip], by_speaker: bool) -> list[Clip]:
    """The clips of one part."""
    found = _SHARE.fullmatch(spec)
    if found is None:
        raise ValueError(f"sweep: parts.{name} is a split, or a share of one such as train[25%:60%], not {spec!r}")
    start, stop = float(found["start"] or 0) / 100, float(found["stop"] or 100) / 100
    if not 0 <= start < stop <= 1:
        raise ValueError(f"sweep: parts.{name}: {spec!r} is no share between 0% and 100%")
    in_split = [clip for clip in clips if clip.split == found["split"]]
    nameless = [clip.id for clip in in_split if not clip.speaker]
    if by_speaker and nameless:
        raise ValueError(f"sweep: parts.speaker_disjoint: clips of {spec} have no speaker: {_few(nameless)}")
    part = [
        clip for clip in in_split if start <= digest_number(clip.speaker if by_speaker else clip.id) / 2.0**64 < stop
    ]
    if not part:
        why = f"split {found['split']!r} has {len(in_split)} clips"
        raise ValueError(f"sweep: parts.{name}: no clip is in {spec} ({why}{', shared by speakers' * by_speaker})")
    return part


def check_disjoint(parts: Mapping[str, Sequence[Clip]], sounds: Mapping[str, str]) -> None:
    """Refuse parts that share a clip, a recording, or a stretch of a file.

    Args:
        parts: clips by name.
        sounds: digests of the sound by clip id (`sound_digests`); empty compares ids alone.

    Raises:
        ValueError: it names the parts and the first clips.
    """
    for (a, clips_a), (b, clips_b) in combinations(parts.items(), 2):
        ids = {clip.id for clip in clips_a}
        if both := [clip.id for clip in clips_b if clip.id in ids]:
            raise ValueError(f"sweep: {PARTS[a]} and {PARTS[b]} overlap: {len(both)} clips are in both ({_few(both)})")
        heard = {sounds[clip.id]: clip.id for clip in clips_a if clip.id in sounds}
        pairs = [(heard[sounds[clip.id]], clip.id) for clip in clips_b if sounds.get(clip.id) in heard]
        stretches = defaultdict(list)
        for clip in clips_a:
            stretches[clip.path].append(clip)
        pairs += [(other.id, clip.id) for clip in clips_b for other in stretches[clip.path] if _overlap(clip, other)]
        if pairs:
            named = _few(f"{one} = {two}" for one, two in dict.fromkeys(pairs))
            raise ValueError(
                f"sweep: {PARTS[a]} and {PARTS[b]} hold the same recordings under other ids ({named}): "
                "keep one of each in the manifest"
            )


def _overlap(a: Clip, b: Clip) -> bool:
    """Whether two clips of one file have a stretch in common."""
    start_a, start_b = a.start or 0.0, b.start or 0.0
    return start_a < start_b + b.duration and start_b < start_a + a.duration


def sound_digests(clips: Sequence[Clip], kept: Path | None = None) -> dict[str, str]:
    """A digest of every clip's samples, by id; each clip is read once, in threads.

    Args:
        clips: what is read.
        kept: file in which the digests are kept as long as clips and files stay the same.

    Raises:
        ValueError: a clip that cannot be read.
    """
    key = digest(json.dumps([manifest_hash(clips), audio_states(clips)]))
    if kept is not None and kept.is_file():
        found = read_object(kept)
        if found.get("of") == key and isinstance(found.get("digests"), dict):
            return dict(found["digests"])

    def listen(clip: Clip) -> str:
        wav_S, sample_rate = clip.read()
        return digest(str(sample_rate), wav_S)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = dict(zip((clip.id for clip in clips), pool.map(listen, clips), strict=True))
    if kept is not None:
        write_json(kept, {"of": key, "digests": digests}, indent=None)
    return digests


def shared_speakers(parts: Mapping[str, Sequence[Clip]]) -> dict[tuple[str, str], list[str]]:
    """Speakers who stand in two parts, by pair of parts; clips without a speaker are not counted."""
    speakers = {name: {clip.speaker for clip in clips if clip.speaker} for name, clips in parts.items()}
    pairs = {(a, b): sorted(speakers[a] & speakers[b]) for a, b in combinations(parts, 2)}
    return {pair: names for pair, names in pairs.items() if names}


def parts_table(specs: Mapping[str, str], parts: Mapping[str, Sequence[Clip]], note: str) -> str:
    """Markdown: clips, seconds and speakers of every part, and who stands in two of them."""
    lines = []
    for name, clips in parts.items():
        speakers = len({clip.speaker for clip in clips if clip.speaker})
        nameless = sum(not clip.speaker for clip in clips)
        known = f"{speakers}{f' and {nameless} clips without one' if nameless else ''}"
        lines.append([PARTS[name], specs[name], f"{len(clips):,}", f"{total_seconds(clips):,.0f}", known])
    table = TextTable(["part", "clips of", "clips", "seconds", "speakers"], lines).markdown()
    shared = shared_speakers(parts)
    pairs = [f"{PARTS[a]} and {PARTS[b]} share {len(names)} ({_few(names)})" for (a, b), names in shared.items()]
    if len({tuple(names) for names in shared.values()}) == 1 and len(pairs) == len(parts) * (len(parts) - 1) / 2 > 1:
        pairs = [f"all parts share the same {len(next(iter(shared.values())))} ({_few(next(iter(shared.values())))})"]
    speakers_line = f"Speakers: {'; '.join(pairs)}." if shared else "No two parts share a named speaker."
    return f"{table}\n{note}\n{speakers_line}\n"


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more


@dataclass
class Speech:
    """What a sweep learns from and measures on, read once."""

    corpus: Corpus
    """For the measuring LM, and the clips of the table."""
    counted: list[Clip]
    """For the priors of rows that search."""
    training: str | None
    """Manifest of the clips that codecs train on; None: that of the sweep, as the recipe filters it."""
    facts: dict[str, Any]
    """Digests of the whole manifest and of the state of its audio, the filters, and the parts."""
    bad: BadRows
    table: str
    """Markdown of the parts."""

    @classmethod
    def read(cls, config: SweepConfig) -> Speech:
        """Raises ValueError for a corpus without clips, for more bad clips than allowed, for parts that overlap."""
        clips = read_manifest(config.manifest)
        bad = BadRows(config.max_bad, len(clips))
        readable = leave_out_unreadable(clips, bad) if bad.allowed else clips
        for line in bad.lines():
            print(line)
        facts = {"manifest": manifest_hash(clips), "audio": digest(json.dumps(audio_states(readable)))}
        facts |= {name: getattr(config, name) for name in ("sources", "languages", "train_clips")}
        if config.parts is None:
            return cls._of_splits(config, facts, bad)
        return cls._of_parts(config, config.parts, readable, facts, bad)

    @classmethod
    def _of_splits(cls, config: SweepConfig, facts: dict[str, Any], bad: BadRows) -> Speech:
        """A sweep file without parts."""
        train, valid, test = (
            [clip for clip in read_manifest(config.manifest, split, **_filters(config)) if clip.id not in bad.reasons]
            for split in assets.SPEECH_SPLITS
        )
        corpus = Corpus(spread(train, config.train_clips), valid, test)
        used = {"priors": corpus.train, "codec": train, "lm": corpus.train, "reporting": corpus.held_out}
        specs = dict.fromkeys(used, "train") | {"reporting": "valid, test"}
        note = (
            "This sweep names no `parts:`. The parts are not disjoint: priors, codecs and LM learn from the\n"
            "same clips, and there are no clips for tuning alone.\n"
        )
        return cls(corpus, list(corpus.train), None, facts, bad, parts_table(specs, used, note))

    @classmethod
    def _of_parts(
        cls, config: SweepConfig, specs: PartsConfig, clips: Sequence[Clip], facts: dict[str, Any], bad: BadRows
    ) -> Speech:
        """A sweep file with parts; they are written as manifests, `parts/NAME.jsonl`."""
        parts = divide(specs, clips)
        folder = Path(config.folder) / "parts"
        used = [clip for part in parts.values() for clip in part]
        check_disjoint(parts, sound_digests(used, folder / "sounds.json"))
        names = {name: getattr(specs, name) for name in PARTS}
        for name, part in parts.items():
            write_manifest(folder / f"{name}.jsonl", part)
            facts[f"part {name}"] = f"{names[name]} {manifest_hash(part)}"
        facts["stage"] = config.stage
        for name in ("lm", "tuning", "reporting"):
            parts[name] = _measurable(parts[name], config, name)
        parts["lm"] = spread(parts["lm"], config.train_clips)
        note = (
            "The parts are disjoint: no clip and no recording is in two of them. Codec training is counted before the\n"
            "filters of the recipe.\n"
        )
        table = parts_table(names, parts, note)
        if config.stage == "tuning":
            by_hash = sorted(parts["tuning"], key=lambda clip: digest(clip.id))
            corpus = Corpus(parts["lm"], by_hash[::2], by_hash[1::2])
        else:
            corpus = Corpus(parts["lm"], parts["tuning"], parts["reporting"], valid_only_selects=True)
        return cls(corpus, parts["priors"], str(folder / "codec.jsonl"), facts, bad, table)


def _filters(config: SweepConfig) -> dict[str, Any]:
    return {"sources": config.sources, "languages": config.languages, "min_seconds": 0.5}


def _measurable(clips: Sequence[Clip], config: SweepConfig, name: str) -> list[Clip]:
    """Clips of a part that pass the filters of the sweep. Raises ValueError if none does."""
    kept = [
        clip
        for clip in clips
        if (config.sources is None or clip.source in config.sources)
        and (config.languages is None or clip.language in config.languages)
        and clip.duration >= 0.5
    ]
    if not kept:
        raise ValueError(
            f"sweep: parts.{name}: none of its {len(clips)} clips passes sources, languages and 0.5 seconds"
        )
    return kept
