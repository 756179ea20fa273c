"""SALMon-style consistency suites from any corpus: pairs of clips, one of which changes in the middle.

    suite = build_suite(["corpus/manifest.jsonl"], "suite", SuiteSettings(pairs=200))

Layout of the original: `<part>/sample_<i>_<0 positive|1 negative>.wav`, 16 kHz; `suite.json` says what every pair is
made of. Construction after Maimon, Roth & Adi (arXiv 2409.07437), with both sides of a pair spliced alike. Same
settings, same bytes. Tests: tests/salmon/test_build.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from llmcodec.data.backgrounds import SAMPLE_RATE
from llmcodec.data.clip import is_held_out
from llmcodec.data.manifest import Clip, leave_out_unreadable, manifest_hash, read_manifest
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.digests import digest_number
from llmcodec.io.progress import OnProgress
from llmcodec.io.structured import write_json
from llmcodec.salmon.pairs import Made, Pair, Scenery, Splice, voice_pairs
from llmcodec.salmon.plan import MIN_CLIP_SECONDS, Voice, VoicePlan, plan_scenes, plan_voices, read_voices

SPEAKER, GENDER, BG_ALL, BG_DOMAIN, ROOM = (
    "speaker_consistency",
    "gender_consistency",
    "bg_all_consistency",
    "bg_domain_consistency",
    "rir_consistency",
)
PARTS = (SPEAKER, GENDER, BG_ALL, BG_DOMAIN, ROOM)
KINDS = {BG_ALL: "all", BG_DOMAIN: "domain", ROOM: "room"}
_VOICES = "it needs two persons of one language and source with several clips each"
_SCENES = f"it needs clips with {MIN_CLIP_SECONDS:g} s of speech"
NEEDS = {
    SPEAKER: _VOICES,
    GENDER: f"{_VOICES}, and their genders in a speakers file",
    **dict.fromkeys(KINDS, _SCENES),
}
LEFT_OUT = {
    "sentiment_consistency": "needs recordings whose emotion is known",
    "sentiment_alignment": "needs recordings whose emotion is known",
    "bg_alignment": "needs backgrounds that fit what is said",
}
"""Parts of SALMon that need labels beyond those of a manifest."""
MIN_PAIRS = 10
"""With fewer pairs a score means nothing: the 95 % interval of 10 pairs spans half the scale."""
VERSION = 1


@dataclass(frozen=True)
class SuiteSettings:
    """What is built; same settings and corpus, same bytes."""

    pairs: int = 200
    """Pairs of each part, at most; SALMon has 200."""
    parts: tuple[str, ...] | None = None
    """Parts to build; null builds what the corpus allows."""
    splits: tuple[str, ...] = ("test", "valid")
    """Splits of the manifest that clips may come from; earlier ones are used up first."""
    seed: int = 0
    """Seed of everything random."""
    max_seconds: float = 4.0
    """Longest clip of the suite."""
    snr_db: tuple[float, float] = (0.0, 15.0)
    """Range of speech-to-background ratios."""
    t60_seconds: tuple[float, float] = (0.15, 1.1)
    """Range of reverberation times of generated rooms; the two of a pair differ by half or more."""
    splice: Splice = "both"
    """Use `both`. The others spoil the voice parts on purpose, for the check of the splices: positives are uncut
    recordings, and negatives are spliced with the usual pause, or cut hard."""


@dataclass
class SuiteSummary:
    """What was built; `print` shows it."""

    folder: Path
    pairs: dict[str, list[Pair]]
    missing: dict[str, str]
    """Part -> why it is missing, or smaller than requested."""
    left_out: list[str] = field(default_factory=list)
    """Lines on clips that could not be read."""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {len(self.pairs)} parts"]
        for part, pairs in self.pairs.items():
            held = sum(all(map(is_held_out, pair.splits)) for pair in pairs)
            lines.append(f"  {part}: {len(pairs)} pairs, {held} of them from held-out clips only")
        lines += [f"  {part}: {why}" for part, why in {**self.missing, **LEFT_OUT}.items()]
        return "\n".join([*lines, *self.left_out])


def build_suite(
    manifests: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    settings: SuiteSettings | None = None,
    *,
    speakers: str | None = None,
    noises: str | None = None,
    rooms: str | None = None,
    max_bad: MaxBad = 0,
    on_progress: OnProgress | None = None,
) -> SuiteSummary:
    """Build a suite; the folder appears when it is complete.

    speakers: JSON file that says which labels are the same person, and their gender (`salmon_plan.read_voices`).
    noises: folder of recorded backgrounds, a subfolder per domain; None synthesises them. rooms: folder of recorded
    impulse responses; None generates rooms. max_bad: clips that may turn out unreadable; no pair is made of them.

    Raises:
        ValueError: the folder exists, unreadable input (more than `max_bad` clips), or the corpus is too small for a
            requested part.
    """
    settings = settings or SuiteSettings()
    _check(settings)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{folder}: exists already; give another folder or delete it")
    clips = [clip for path in manifests for clip in read_manifest(path, list(settings.splits))]
    bad = BadRows(max_bad, len(clips))
    if bad.allowed:
        clips = leave_out_unreadable(clips, bad)
    scenery = Scenery.open(clips, noises, rooms, settings.snr_db, settings.t60_seconds)
    builder = _Builder(clips, settings, read_voices(speakers), scenery, on_progress)
    with atomic_folder(target) as temporary:
        for part in settings.parts or PARTS:
            builder.part(part, temporary)
        if not builder.pairs:
            reasons = "; ".join(f"{part}: {why}" for part, why in builder.missing.items())
            splits = ", ".join(settings.splits)
            raise ValueError(f"no part could be built from the {len(clips)} clips of {splits} (--split): {reasons}")
        _write_description(temporary / "suite.json", builder, clips, bad)
    return SuiteSummary(target, builder.pairs, builder.missing, bad.lines())


def _check(settings: SuiteSettings) -> None:
    unknown = [part for part in settings.parts or () if part not in PARTS]
    if unknown:
        reasons = [f"{part} ({LEFT_OUT[part]})" if part in LEFT_OUT else part for part in unknown]
        raise ValueError(f"cannot build {', '.join(reasons)}; parts are {', '.join(PARTS)}")
    if settings.pairs < MIN_PAIRS:
        raise ValueError(f"pairs={settings.pairs}: give at least {MIN_PAIRS} pairs; the interval of fewer is too wide")
    if settings.max_seconds < MIN_CLIP_SECONDS:
        raise ValueError(f"max_seconds={settings.max_seconds:g} must be at least {MIN_CLIP_SECONDS:g}")
    for name, (low, high) in (("snr_db", settings.snr_db), ("t60_seconds", settings.t60_seconds)):
        if low > high or (name == "t60_seconds" and not 0 < 2 * low <= high):
            raise ValueError(f"{name}=({low:g}, {high:g}) is no usable range")


def _write_description(path: Path, builder: _Builder, clips: Sequence[Clip], bad: BadRows) -> None:
    content = {
        "version": VERSION,
        "settings": asdict(builder.settings),
        "manifest_hash": manifest_hash(clips),
        "clips": len(clips),
        "missing": {**builder.missing, **LEFT_OUT},
        "parts": {part: [asdict(pair) for pair in pairs] for part, pairs in builder.pairs.items()},
    }
    content |= {"left_out": bad.reasons} if bad.reasons else {}
    write_json(path, content, ensure_ascii=False)


@dataclass
class _Builder:
    """Builds part after part."""

    clips: list[Clip]
    settings: SuiteSettings
    voices: dict[str, Voice | None]
    scenery: Scenery
    on_progress: OnProgress | None
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def part(self, name: str, folder: Path) -> None:
        """Write one part, or note why it cannot be built; raises ValueError if it was requested by name."""
        wanted = self.settings.pairs
        why = self._impossible(name)
        plans = [] if why else self._plans(name, 2 * wanted)  # spares: some recordings hold too little speech
        made: list[Pair] = []
        for plan in plans:
            if len(made) >= wanted:
                break
            if self.on_progress is not None:
                self.on_progress(name, len(made) / wanted)
            for pair, sides in (self._make(name, plan) or [])[: wanted - len(made)]:
                pair.index = len(made)
                made.append(pair)
                for label, wav_S in enumerate(sides):
                    _write(folder / name / f"sample_{pair.index}_{label}.wav", wav_S)
        if len(made) < MIN_PAIRS:
            shutil.rmtree(folder / name, ignore_errors=True)
            reason = why or f"{len(made)} pairs can be made of its clips; {NEEDS[name]}"
            if self.settings.parts is not None:
                raise ValueError(f"{name}: the corpus is too small or lacks labels: {reason}")
            self.missing[name] = reason
            return
        self.pairs[name] = made
        if len(made) < wanted:
            splits = ", ".join(self.settings.splits)
            self.missing[name] = f"{len(made)} of {wanted} pairs: the splits {splits} have no more unused clips"

    def _impossible(self, name: str) -> str:
        """Why the supplied recordings are not enough for a part; empty if they are."""
        noises, rooms = self.scenery.noises, self.scenery.rooms
        if name == BG_ALL and noises is not None and len(noises) < 2:
            return "the folder of noises needs two subfolders, one per domain"
        if name == BG_DOMAIN and noises is not None and max(map(len, noises.values())) < 2:
            return "a subfolder of noises needs two recordings"
        if name == ROOM and rooms is not None and len(rooms) < 2:
            return "the folder of rooms needs two impulse responses"
        return ""

    def _plans(self, name: str, num: int) -> list[Any]:
        seed, splits = digest_number(self.settings.seed, name), self.settings.splits
        if name in KINDS:
            return plan_scenes(self.clips, self.voices, num, splits, seed)
        return plan_voices(self.clips, self.voices, num, splits, seed, across_gender=name == GENDER)

    def _make(self, name: str, plan: VoicePlan | Clip) -> list[Made] | None:
        seed, longest = self.settings.seed, self.settings.max_seconds
        if isinstance(plan, VoicePlan):
            return voice_pairs(plan, name, seed, longest, self.settings.splice)
        return self.scenery.scene_pairs(plan, name, KINDS[name], seed, longest)


def _write(path: Path, wav_S: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.clip(wav_S, -1, 1).astype(np.float32), SAMPLE_RATE, subtype="PCM_16")
