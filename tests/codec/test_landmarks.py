"""Landmarks: a recording is known by them wherever it begins and ends."""

import numpy as np
import pytest

from llmcodec.assets import speech_manifest
from llmcodec.codec.landmarks import REACH, SPAN, find_landmarks
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.io.digests import digest


@pytest.fixture(scope="module")
def clips():
    return [audio.load(clip.path, 16_000) for clip in read_manifest(speech_manifest("train"))[:20]]


def test_every_landmark_is_the_loudest_sample_of_its_span(clips):
    wav_S = np.concatenate(clips[:3])
    wanted = set()
    for place, loud in enumerate(np.abs(wav_S)):
        if loud > 0 and loud == np.abs(wav_S[max(0, place - SPAN // 2) : place + SPAN // 2]).max():
            around = np.pad(np.rint(wav_S * 32768).astype("<i2"), REACH)[place : place + 2 * REACH + 1]
            wanted.add(int.from_bytes(bytes.fromhex(digest(around)), "big", signed=True))
    assert find_landmarks(wav_S).tolist() == sorted(wanted)
    assert len(wanted) >= 3


def test_a_clip_is_known_by_its_parts_and_by_a_late_start_and_other_clips_are_not(clips):
    known = [find_landmarks(wav_S) for wav_S in clips]
    assert all(len(one) for one in known)
    for number, wav_S in enumerate(clips):
        for part_S in (wav_S[160:], wav_S[: len(wav_S) - 160], np.concatenate([clips[number - 1], wav_S])):
            assert np.isin(find_landmarks(part_S), known[number]).any()
        others = np.concatenate([one for other, one in enumerate(known) if other != number])
        assert not np.isin(known[number], others).any()


@pytest.mark.parametrize("samples", [1, 100, 40_000])
def test_silence_has_no_landmarks_and_a_constant_has_few(samples):
    assert find_landmarks(np.zeros(samples, np.float32)).shape == (0,)
    assert 1 <= len(find_landmarks(np.full(samples, 0.5, np.float32))) <= 2 * REACH + 1
