"""Are rows of tokens that are there still those of the manifest's clips? Others are refused, or made again.

Imports no torch. Test: tests/cli/test_lm.py, tests/transcode/test_tokenize.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from llmcodec.data.manifest import Clip, values_of
from llmcodec.data.timed_text import later
from llmcodec.io import audio
from llmcodec.io.known_rows import said_number
from llmcodec.io.token_shards import Origin, TokenShardWriter
from llmcodec.transcode.freshness import count_frames, why_stale_row
from llmcodec.transcode.views import Starts, own_starts, view_name

MOST_ANSWERS = 1024
"""About files that are remembered while rows are compared with them."""


def text_of(text: str, start: int, sample_rate: int) -> str:
    """The transcript of a view that starts at sample `start`."""
    return later(text, start / sample_rate) if start else text


def refuse_other_texts(shards: TokenShardWriter, clips: Sequence[Clip], starts: Starts, sample_rate: int) -> None:
    """Raise ValueError where clips are in the shards with other texts, speakers or languages than the manifest's.

    A row without speaker or language, as `encode` makes them, agrees with any.
    """

    def changed() -> Iterator[str]:
        for clip_id, text, speaker, language, split in values_of(clips, "id", "text", "speaker", "language", "split"):
            for start in own_starts(split, starts):
                facts = shards.done.facts(name := view_name(clip_id, start))
                if facts is None:
                    continue
                ways = product((text_of(text, start, sample_rate),), (speaker, ""), (language, ""))
                if not any(facts.said == said_number(*one) for one in ways):
                    yield name

    if first := next(names := changed(), ""):
        raise ValueError(
            f"{shards.folder}: {1 + sum(1 for _ in names)} clips of the manifest are there with other texts, "
            f"speakers or languages (the first: {first!r}); name another folder"
        )


def drop_stale(shards: TokenShardWriter, clips: Sequence[Clip], starts: Starts, sample_rate: int) -> list[str]:
    """Take rows out of the shards whose clip has other audio by now; a line on every clip.

    Seen are a file that is newer or of another length, and a stretch of another length. Not seen: a stretch of the same
    length that starts elsewhere in its file, and another file of the same length that is older than its tokens.

    Args:
        shards: the folder.
        clips: those of which a view is there.
        starts: of views.
        sample_rate: of the codec, in which views start.
    """
    lines: list[str] = []
    ids: list[str] = []
    answers: dict[tuple[Any, ...], str] = {}  # the stretches of a long file ask the same
    for clip in clips:
        known = {view_name(clip.id, start): start for start in own_starts(clip.split, starts)}
        origins = {name: origin for name in known if (origin := shards.origin(name))}
        for name, origin in origins.items():
            made_of = origin
            if clip.start is not None:  # a stretch: its length says nothing of the file's
                origin = replace(origin, num_samples=0)
            question = clip.path, origin, round(known[name] * origin.sample_rate / sample_rate)
            if question not in answers:
                if len(answers) >= MOST_ANSWERS:
                    answers.clear()
                answers[question] = why_stale_row(*question)
            if reason := answers[question] or _other_length(clip, made_of, question[2]):
                lines.append(f"{clip.id}: {reason}")
                ids += origins
                break
    shards.drop(ids)
    return lines


def _other_length(clip: Clip, origin: Origin, first: int) -> str:
    """How a stretch is of another length than a row made of it from its sample `first` on; empty if it is not."""
    if clip.start is None or not origin.sample_rate or not origin.num_samples:
        return ""
    rate, known = origin.sample_rate, origin.num_samples + first
    wanted = max(1, round(clip.duration * rate))
    if abs(known - wanted) <= 1 or not clip.file.is_file():
        return ""
    try:
        for count in (lambda path: audio.info(path).num_frames, count_frames):  # the file may end before the stretch
            if abs(known - min(wanted, count(clip.path) - round(clip.start * rate))) <= 1:
                return ""
    except ValueError as error:
        return str(error)
    return f"it lasts {wanted / rate:.3f} s now, its tokens last {known / rate:.3f} s"
