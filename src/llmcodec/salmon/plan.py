"""Which clips make a consistency suite: pairs inside one language and source, persons merged, held-out clips first.

Pairs come in mirrored twos ("quartets" of files): the second half of the negative in one pair is the second half of the
positive in the other, so a model that does not look across the joint gets exactly one of the two right. Every clip
belongs to fold 0 or 1 by a hash of its id and is only paired with clips of its fold.
Test: tests/salmon/test_plan.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from llmcodec.data.manifest import Clip
from llmcodec.io.digests import digest_number
from llmcodec.io.structured import read_object

T = TypeVar("T")
MIN_HALF_SECONDS = 0.6
MIN_CLIP_SECONDS = 1.6
"""Shorter recordings are not used: there must be speech on both sides of the joint."""


@dataclass(frozen=True)
class Voice:
    """The person behind a speaker label."""

    person: str
    gender: str = ""


@dataclass(frozen=True)
class VoicePlan:
    """Mirrored pairs (a1|a2 against a1|b2, b1|b2 against b1|a2) of persons A and B."""

    first_a: Clip
    second_a: Clip
    first_b: Clip
    second_b: Clip
    fold: int

    @property
    def clips(self) -> tuple[Clip, ...]:
        return self.first_a, self.second_a, self.first_b, self.second_b


def fold_of(clip: Clip) -> int:
    return digest_number("fold", clip.source, clip.id) % 2


def read_voices(path: str | None) -> dict[str, Voice | None]:
    """A JSON file of speaker labels: `"label": "person"`, `{"person": ..., "gender": "f"}`, or null to leave it out.

    Raises:
        ValueError: unreadable, or an entry of another kind.
    """
    if path is None:
        return {}
    try:
        rows = read_object(path, strict=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a JSON file of speakers, one JSON object label -> person ({error})") from error
    voices: dict[str, Voice | None] = {}
    for label, value in rows.items():
        if isinstance(value, str):
            voices[label] = Voice(value)
        elif isinstance(value, dict) and set(value) <= {"person", "gender"}:
            voices[label] = Voice(value.get("person") or label, value.get("gender") or "")
        elif value is None:
            voices[label] = None
        else:
            raise ValueError(f"{path}: {label!r} must be a person, {{person, gender}} or null, not {value!r}")
    return voices


def voice_of(clip: Clip, voices: Mapping[str, Voice | None]) -> Voice | None:
    """The person behind a clip's label; None if the label is empty or left out."""
    return voices.get(clip.speaker, Voice(clip.speaker) if clip.speaker else None)


class ClipQueue:
    """Clips of one person in random order, each used once, those of the preferred splits first."""

    def __init__(self, clips: Sequence[Clip], seed: int) -> None:
        self.waiting = sorted(clips, key=lambda clip: digest_number(seed, clip.source, clip.id))

    def take(self, splits: Sequence[str], usable: Callable[[Clip], bool] = lambda clip: True) -> Clip | None:
        for index, clip in enumerate(self.waiting):
            if clip.split in splits and usable(clip):
                return self.waiting.pop(index)
        return None


def phases(splits: Sequence[str]) -> list[list[str]]:
    """[test], [test, valid], ...: a later split is touched only when the earlier ones are used up."""
    return [list(splits[: number + 1]) for number in range(len(splits))]


def plan_voices(
    clips: Sequence[Clip],
    voices: Mapping[str, Voice | None],
    num_quartets: int,
    splits: Sequence[str],
    seed: int,
    across_gender: bool = False,
) -> list[VoicePlan]:
    """Quartets of two persons of one source and language, folds alternating; fewer if clips run out.

    A recording gives its first half at most once and its second half at most once, never both in one quartet.
    """
    by_fold = []
    for fold in (0, 1):
        people = _people([clip for clip in clips if fold_of(clip) == fold], voices)
        couples = _couples(people, across_gender, seed)
        by_fold.append(_draw(people, couples, (num_quartets + 1 - fold) // 2, splits, seed, fold))
    return _alternate(by_fold, num_quartets)


Key = tuple[str, str, str]  # source, language, person


def _people(clips: Sequence[Clip], voices: Mapping[str, Voice | None]) -> dict[Key, tuple[list[Clip], str]]:
    people: dict[Key, tuple[list[Clip], str]] = {}
    for clip in clips:
        voice = voice_of(clip, voices)
        if voice is not None and clip.duration >= MIN_CLIP_SECONDS:
            entry = people.setdefault((clip.source, clip.language, voice.person), ([], voice.gender))
            entry[0].append(clip)
    return {key: entry for key, entry in sorted(people.items()) if len(entry[0]) >= 2}


def _couples(people: dict[Key, tuple[list[Clip], str]], across_gender: bool, seed: int) -> list[tuple[Key, Key]]:
    """Couples of persons, (source, language) groups in turn, in random order inside each."""
    groups: dict[tuple[str, str], list[Key]] = {}
    for key in people:
        groups.setdefault(key[:2], []).append(key)
    ordered = []
    for keys in groups.values():
        couples = [
            (a, b)
            for a, b in itertools.combinations(keys, 2)
            if not across_gender or (people[a][1] and people[b][1] and people[a][1] != people[b][1])
        ]
        ordered.append(sorted(couples, key=lambda couple: digest_number(seed, "couple", *couple)))
    return [couple for row in itertools.zip_longest(*ordered) for couple in row if couple is not None]


def _draw(
    people: dict[Key, tuple[list[Clip], str]],
    couples: list[tuple[Key, Key]],
    num_quartets: int,
    splits: Sequence[str],
    seed: int,
    fold: int,
) -> list[VoicePlan]:
    firsts = {key: ClipQueue(entry[0], digest_number(seed, "first")) for key, entry in people.items()}
    seconds = {key: ClipQueue(entry[0], digest_number(seed, "second")) for key, entry in people.items()}
    takes = [partial(_quartet, firsts, seconds, a, b, fold) for a, b in couples]
    return list(itertools.islice(_in_turn(takes, splits), num_quartets))


def _quartet(
    firsts: dict[Key, ClipQueue], seconds: dict[Key, ClipQueue], a: Key, b: Key, fold: int, allowed: Sequence[str]
) -> VoicePlan | None:
    taken: list[tuple[ClipQueue, Clip]] = []
    for queue, avoid in ((firsts[a], None), (seconds[a], 0), (firsts[b], None), (seconds[b], 2)):
        other = taken[avoid][1].id if avoid is not None else ""
        clip = queue.take(allowed, lambda clip, other=other: clip.id != other)  # type: ignore[misc]
        if clip is None:
            for owner, back in reversed(taken):
                owner.waiting.insert(0, back)
            return None
        taken.append((queue, clip))
    a1, a2, b1, b2 = (clip for _, clip in taken)
    return VoicePlan(a1, a2, b1, b2, fold)


def plan_scenes(
    clips: Sequence[Clip], voices: Mapping[str, Voice | None], num_clips: int, splits: Sequence[str], seed: int
) -> list[Clip]:
    """Clips whose background or room will change: persons in turn, the two folds in turn, held-out clips first."""
    by_fold = []
    for fold in (0, 1):
        groups: dict[Key, list[Clip]] = {}
        for clip in clips:
            voice = voice_of(clip, voices) or Voice(clip.speaker)
            if clip.duration >= MIN_CLIP_SECONDS and fold_of(clip) == fold:
                groups.setdefault((clip.source, clip.language, voice.person), []).append(clip)
        takes = [ClipQueue(group, seed).take for _, group in sorted(groups.items())]
        by_fold.append(list(itertools.islice(_in_turn(takes, splits), (num_clips + 1 - fold) // 2)))
    return _alternate(by_fold, num_clips)


def _in_turn(takes: Sequence[Callable[[Sequence[str]], T | None]], splits: Sequence[str]) -> Iterator[T]:
    """Round robin over `takes` until none has anything left in any of the splits."""
    for allowed in phases(splits):
        active = list(takes)
        while active:
            still = []
            for take in active:
                if (made := take(allowed)) is not None:
                    yield made
                    still.append(take)
            active = still


def _alternate(by_fold: Sequence[list[T]], limit: int) -> list[T]:
    """Alternate the folds while both have items; the other gives one more than the shorter has at most."""
    shortest = min(len(part) for part in by_fold)
    mixed = [entry for row in zip(*(part[: shortest + 1] for part in by_fold), strict=False) for entry in row]
    return mixed[:limit]


def choose_others(clips: Sequence[Clip], clip: Clip) -> list[Clip]:
    """Clips that may talk behind a clip: others of the same fold, any speaker."""
    return [other for other in clips if other.id != clip.id and fold_of(other) == fold_of(clip)]


def draw_others(clips: Sequence[Clip], clip: Clip, num: int, draw: np.random.Generator) -> list[Clip]:
    """Some of them, for babble."""
    candidates = choose_others(clips, clip)
    return [candidates[int(i)] for i in draw.choice(len(candidates), num, replace=False)]
