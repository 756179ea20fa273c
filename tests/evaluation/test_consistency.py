"""Slices of a context-free codec keep every token; context at the edges costs exactly the edge frames."""

from __future__ import annotations

import pytest

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.consistency import slice_consistency

from ..fake_codec import LoudnessCodec


def test_a_context_free_codec_is_fully_consistent(clips: list[Clip]) -> None:
    result = slice_consistency(LoudnessCodec(), clips, slice_seconds=(0.2, 1.2), slices_per_clip=3)
    assert result.slice_seconds == [0.2, 1.2]
    assert result.share().value == 1.0
    assert [row.total for row in result.rows if row.slice_seconds == 0.2] == [10] * 12
    assert {row.id for row in result.rows if row.slice_seconds == 1.2} == {"clip-1", "clip-2", "clip-3"}


def test_context_makes_short_slices_less_consistent(clips: list[Clip]) -> None:
    result = slice_consistency(LoudnessCodec(context=3), clips, slice_seconds=(0.2, 0.8), slices_per_clip=8)
    short, long = result.share(0.2), result.share(0.8)
    assert short.value < long.value < 1.0
    assert long.value >= 1 - 6 / 40  # only the three frames at each end can differ
    assert short.low <= short.value <= short.high


def test_slices_depend_on_seed_and_clip_only(clips: list[Clip]) -> None:
    codec = LoudnessCodec(context=3)
    first = slice_consistency(codec, clips, (0.2,), seed=1)
    assert first == slice_consistency(codec, clips, (0.2,), seed=1)
    assert first != slice_consistency(codec, clips, (0.2,), seed=2)
    assert first.rows[2:4] == slice_consistency(codec, clips[1:2], (0.2,), seed=1).rows


def test_nothing_to_slice_is_an_error(clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match="shortest slice"):
        slice_consistency(LoudnessCodec(), clips, slice_seconds=(5.0,))
