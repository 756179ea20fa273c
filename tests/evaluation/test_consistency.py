"""Whose tokens stay: in slices of a codec without context, all but the edges with context; after inaudible changes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.consistency import (
    Change,
    ConsistencyResult,
    changed,
    compare_consistency,
    measure_consistency,
    rotated,
)
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.protocol import Codec

from ..fake_codec import LoudnessCodec
from ..speech import speech_like


def measured(codec: Codec, clips: list[Clip], *changes: Change, **more: int) -> ConsistencyResult:
    with EncodedCorpus(codec) as encoded:
        return measure_consistency(encoded, clips, changes, **more)


def cut(seconds: float) -> Change:
    return Change("slice", seconds)


def test_a_context_free_codec_is_fully_consistent(clips: list[Clip]) -> None:
    result = measured(LoudnessCodec(), clips, cut(0.2), cut(1.2), slices_per_clip=3)
    assert result.changes == [cut(0.2), cut(1.2)]
    assert result.share().value == 1.0
    assert [row.total for row in result.rows if row.change == cut(0.2)] == [10] * 12
    assert {row.id for row in result.rows if row.change == cut(1.2)} == {"clip-1", "clip-2", "clip-3"}


def test_context_makes_short_slices_less_consistent(clips: list[Clip]) -> None:
    result = measured(LoudnessCodec(context=3), clips, cut(0.2), cut(0.8), slices_per_clip=8)
    short, long = result.share(cut(0.2)), result.share(cut(0.8))
    assert short.value < long.value < 1.0
    assert long.value >= 1 - 6 / 40  # only the three frames at each end can differ
    assert short.low <= short.value <= short.high


def test_slices_depend_on_seed_and_clip_only(clips: list[Clip]) -> None:
    codec = LoudnessCodec(context=3)
    first = measured(codec, clips, cut(0.2), seed=1)
    assert first == measured(codec, clips, cut(0.2), seed=1)
    assert first.rows != measured(codec, clips, cut(0.2), seed=2).rows
    assert first.rows[2:4] == measured(codec, clips[1:2], cut(0.2), seed=1).rows


def test_nothing_to_slice_is_an_error(clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match="shortest slice"):
        measured(LoudnessCodec(), clips, cut(5.0), Change("phase", 90.0))


class SignCodec(LoudnessCodec):
    """Token: is the sum of the frame positive? Turned over by a phase of 180 degrees."""

    codebook_size = 2

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        wav_BS = input_values[:, 0]
        frames_BTW = wav_BS[:, : wav_BS.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        return SimpleNamespace(audio_codes=(frames_BTW.sum(-1) > 0).long()[:, None], audio_codes_mask=None)


def test_a_phase_rotation_keeps_every_magnitude() -> None:
    for size in (1000, 1001):
        wav = speech_like(1.0)[:size]
        turned = rotated(wav, 90.0)
        a, b = np.abs(np.fft.rfft(wav)), np.abs(np.fft.rfft(turned))
        np.testing.assert_allclose(a[1:-1], b[1:-1], atol=1e-4)
        np.testing.assert_allclose(rotated(wav, 180.0), -wav, atol=1e-6)
        np.testing.assert_allclose(rotated(wav, 0.0), wav, atol=1e-6)
    time = np.arange(320)
    cosine = np.cos(2 * np.pi * 5 * time / 320)
    np.testing.assert_allclose(rotated(cosine, -90.0), np.sin(2 * np.pi * 5 * time / 320), atol=1e-6)


def test_noise_has_the_level_that_was_asked_for_and_depends_on_seed_and_clip() -> None:
    wav = speech_like(2.0)
    noisy = changed(wav, Change("noise", 30.0), 320, 0, "a")
    noise = noisy.astype(np.float64) - wav
    assert 10 * np.log10(np.sum(wav.astype(float) ** 2) / np.sum(noise**2)) == pytest.approx(30.0, abs=0.2)
    assert np.array_equal(noisy, changed(wav, Change("noise", 30.0), 320, 0, "a"))
    for seed, name in ((1, "a"), (0, "b")):
        assert not np.array_equal(noisy, changed(wav, Change("noise", 30.0), 320, seed, name))


def test_a_shift_moves_the_frames() -> None:
    wav = speech_like(1.0)
    assert np.array_equal(changed(wav, Change("shift", 0.25), 320, 0, "a"), wav[80:])
    assert changed(wav[:100], Change("shift", 0.5), 320, 0, "a").size == 100


def test_shares_of_codecs_whose_answer_is_known(clips: list[Clip]) -> None:
    changes = [Change("phase", 180.0), Change("phase", 90.0), Change("shift", 0.5), Change("noise", 40.0)]
    loud = measured(LoudnessCodec(), clips, *changes)
    assert loud.share(changes[0]).value == 1.0  # the power does not see the sign
    assert 0.3 < loud.share(changes[2]).value < 1.0 and loud.changes == changes
    sign = measured(SignCodec(), clips, *changes)
    assert sign.share(changes[0]).value == 0.0  # every token turns over
    assert sign.share(changes[3]).value > sign.share(changes[1]).value
    assert [total for _, total in sign.by_clip(changes[0]).values()] == [50, 75, 100, 125]
    assert 0.5 <= sign.chance < 0.7 and loud == measured(LoudnessCodec(), clips, *changes)
    comparison = compare_consistency(sign, loud, changes[0])
    assert comparison.difference.value == 1.0 and comparison.num == 4


def test_bad_input_is_said(clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match="no clips"):
        measured(LoudnessCodec(), [], cut(0.2))
    for change, text in (
        (Change("shift", 0.7), "at most 0.5"),
        (Change("echo", 1.0), "choose slice, shift"),
        (Change("slice", -0.2), "of a slice above 0"),
        (Change("noise", math.nan), "give a finite number"),
    ):
        with pytest.raises(ValueError, match=text):
            measured(LoudnessCodec(), clips, change)
